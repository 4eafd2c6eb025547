from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.metrics.labels import (
    WordLabelMetrics,
    boundary_errors,
    emotion_diarization_error,
    expected_calibration_error,
    macro_f1,
    majority_emotion,
    majority_labels,
    pearson,
)

import numpy as np
import pytest

EMOTIONS = ["neutral", "angry", "sad", "surprise"]


def labels(*emotions, length=0.5, probability=1.0, intensity=None):
    words = []
    for index, emotion in enumerate(emotions):
        probs = None
        if emotion is not None:
            rest = (1 - probability) / (len(EMOTIONS) - 1)
            probs = dict.fromkeys(EMOTIONS, rest) | {emotion: probability}
        words.append(
            WordLabel(
                f"word{index}",
                index * length,
                (index + 1) * length,
                emotion,
                probs,
                None if intensity is None else intensity[index],
            )
        )
    return UtteranceLabels(words)


def summarize(truth, found):
    metrics = WordLabelMetrics(EMOTIONS)
    metrics.append("0011_000351", truth, found)
    return metrics.summarize()


def test_perfect_labels():
    truth = labels("neutral", "sad", intensity=[0.0, 0.7])
    summary = summarize(truth, truth)
    assert summary["accuracy"] == summary["macro_f1"] == 1
    assert summary["intensity_correlation"] == pytest.approx(1)
    assert summary["ece"] == summary["eder"] == summary["unlabelled"] == 0
    assert summary["boundary_error_ms"] == {"median": 0, "p90": 0}
    assert summary["missed_boundaries"] == 0
    assert summary["majority"] == 0.5


def test_an_unlabelled_word_counts_as_wrong():
    summary = summarize(labels("sad", "sad"), labels("sad", None))
    assert summary["accuracy"] == summary["unlabelled"] == 0.5


def test_words_are_weighted_alike_and_utterances_are_summed():
    metrics = WordLabelMetrics(EMOTIONS)
    metrics.append("a", labels("sad"), labels("sad"))
    metrics.append("b", labels(*["sad"] * 3), labels(*["angry"] * 3))
    assert metrics.summarize()["accuracy"] == 0.25
    expected = np.zeros((4, 5), dtype=int)
    expected[2, 2], expected[2, 1] = 1, 3
    assert (metrics.confusion() == expected).all()


def test_unlabelled_words_have_a_column_of_the_confusion():
    metrics = WordLabelMetrics(EMOTIONS)
    metrics.append("a", labels("sad"), labels(None))
    assert metrics.confusion()[2].tolist() == [0, 0, 0, 0, 1]


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="Utterance a"):
        WordLabelMetrics(EMOTIONS).append("a", labels("sad"), labels(*"ss"[:0]))


def test_nothing_compared_is_an_error():
    with pytest.raises(ValueError, match="No utterance"):
        WordLabelMetrics(EMOTIONS).summarize()


def test_macro_f1_counts_classes_that_occur():
    truth, found = np.array([0, 0, 2]), np.array([0, -1, 2])
    assert macro_f1(truth, found, 4) == pytest.approx((2 / 3 + 1) / 2)


def test_calibration_error_of_probabilities_that_are_true_is_small():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, 20000)
    right = generator.random(20000) < confidence
    assert expected_calibration_error(confidence, right) < 0.02
    assert expected_calibration_error(confidence / 2, right) > 0.25


def test_correlation_over_pairs_that_are_known():
    one = np.array([0.0, 1.0, 2.0, np.nan])
    assert pearson(one, np.array([0.0, 2.0, 4.0, 9.0])) == pytest.approx(1)
    assert pearson(one, np.ones(4)) is None


def test_boundary_errors_of_a_late_and_a_missed_change():
    truth = labels("sad", "angry", "angry", "sad")
    late = labels("sad", "sad", "angry", "angry")
    errors, missed = boundary_errors(truth, late)
    assert errors == [0.5] and missed == 1
    assert boundary_errors(truth, labels(*["sad"] * 4)) == ([], 2)


def test_diarization_error_is_a_share_of_time():
    # EDER itself would take sad and surprise for the same.
    truth = labels("sad", "surprise", "neutral", "neutral")
    found = labels("surprise", "surprise", "neutral", "neutral")
    assert emotion_diarization_error(truth, found) == pytest.approx(0.25)


def test_diarization_error_of_shifted_word_times():
    truth = UtteranceLabels(
        [WordLabel("a", 0, 1, "sad"), WordLabel("b", 1, 2, "angry")]
    )
    shifted = UtteranceLabels(
        [WordLabel("a", 0, 1.2, "sad"), WordLabel("b", 1.2, 2, "angry")]
    )
    error = emotion_diarization_error(truth, shifted)
    assert error == pytest.approx(0.1, abs=0.01)


def test_majority():
    truth = {"a": labels("sad", "angry", "angry"), "b": labels("angry")}
    assert majority_emotion(truth) == "angry"
    guess = majority_labels(truth, "angry")
    assert summarize(truth["a"], guess["a"])["accuracy"] == pytest.approx(2 / 3)
