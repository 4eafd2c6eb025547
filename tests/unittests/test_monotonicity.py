"""Scores at rising intensities."""

from speechbrain_emofilm.metrics.monotonicity import IntensityMonotonicity

import pytest


def measure(*scores):
    monotonicity = IntensityMonotonicity()
    ids = [str(index) for index in range(len(scores))]
    monotonicity.append(ids, scores)
    return monotonicity.summarize()


def test_rising_scores_rise():
    summary = measure([0.1, 0.2, 0.3], [0.0, 0.5, 0.6])
    assert summary["share"] == 1.0
    assert summary["rank_correlation"]["rank_correlation"] == pytest.approx(1)
    assert summary["chance"] == pytest.approx(1 / 6)


def test_constant_and_falling_scores_do_not():
    summary = measure([0.2, 0.2, 0.2], [0.3, 0.2, 0.1])
    assert summary["share"] == 0.0
    assert summary["rank_correlation"]["rank_correlation"] == -0.5


def test_a_missing_score_counts_as_not_rising():
    summary = measure([0.1, 0.2, 0.3], [0.1, float("nan"), 0.3])
    assert summary["share"] == 0.5
    assert summary["failures"] == {"1": "not measured"}


def test_scores_must_fit_the_intensities():
    with pytest.raises(ValueError, match="one for each"):
        measure([0.1, 0.2])
    with pytest.raises(ValueError, match="do not rise"):
        IntensityMonotonicity([0.5, 0.2])
