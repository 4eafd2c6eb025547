"""Switches of emotion: whether, when, and what leaks."""

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.metrics.transitions import (
    EmotionLeakage,
    EmotionTransitions,
    change_point,
)

import numpy as np
import pytest

EMOTIONS = ["neutral", "happy", "sad"]
RATE, OFFSET = 50.0, 0.0125


def words(*emotions, seconds=0.4):
    return [
        WordLabel(f"w{i}", seconds * i, seconds * (i + 1), emotion)
        for i, emotion in enumerate(emotions)
    ]


def posteriors(labels, shift=0.0, n_frames=None):
    """What a perfect frame classifier says, with the switches moved."""
    end = labels[-1].end
    n_frames = n_frames or int(end * RATE)
    times = np.arange(n_frames) / RATE + OFFSET
    result = np.full((n_frames, len(EMOTIONS)), 0.05)
    for row, time in zip(result, times):
        place = min(max(time - shift, 0.0), end - 1e-3)
        word = next(w for w in labels if w.start <= place < w.end)
        row[EMOTIONS.index(word.emotion)] = 0.9
    return result


def transitions_of(labels, frames):
    transitions = EmotionTransitions(EMOTIONS, RATE, OFFSET)
    transitions.append("a", labels, frames)
    return transitions.summarize()


def test_exact_switches_are_right_and_in_time():
    labels = words("happy", "happy", "sad", "neutral", "neutral")
    summary = transitions_of(labels, posteriors(labels))
    assert summary["accuracy"] == 1.0 and summary["found"] == 1.0
    assert summary["switches"] == 2
    assert summary["boundary_error_ms"]["mean"] <= 1000 / RATE


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_boundary_shifted_by_100_ms_errs_by_100_ms(shift):
    labels = words("happy", "happy", "sad", "sad")
    summary = transitions_of(labels, posteriors(labels, shift))
    error = summary["boundary_error_ms"]
    assert error["mean"] == pytest.approx(100, abs=1000 / RATE)
    assert error["bias"] == pytest.approx(1000 * shift, abs=1000 / RATE)
    assert summary["accuracy"] == 1.0


def test_swapped_emotions_are_wrong_and_have_no_time():
    labels = words("happy", "happy", "sad", "sad")
    swapped = posteriors(words("sad", "sad", "happy", "happy"))
    summary = transitions_of(labels, swapped)
    assert summary["accuracy"] == 0.0 and summary["found"] == 0.0
    assert summary["boundary_error_ms"]["mean"] is None


def test_a_degenerate_classifier_gets_no_credit():
    labels = words("happy", "sad")
    for constant in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1 / 3] * 3):
        frames = np.tile(constant, (40, 1))
        summary = transitions_of(labels, frames)
        assert summary["accuracy"] == 0.0 and summary["found"] == 0.0


def test_utterances_that_could_not_be_measured_count_as_wrong():
    labels = words("happy", "sad")
    transitions = EmotionTransitions(EMOTIONS, RATE, OFFSET)
    transitions.append("good", labels, posteriors(labels))
    transitions.append("lost", labels, None)
    transitions.append("nan", labels, np.full((40, 3), np.nan))
    summary = transitions.summarize()
    assert summary["accuracy"] == pytest.approx(1 / 3)
    assert set(summary["failures"]) == {"lost", "nan"}
    assert [row["id"] for row in transitions.transition_rows] == [
        "good", "lost", "nan",
    ]  # fmt: skip


def test_a_short_word_is_recognised_by_itself():
    """Where each frame's window holds a neighbour's speech, too."""
    labels = words("happy", "neutral", "sad", seconds=0.2)
    frames = posteriors(labels)
    blurred = frames.copy()
    blurred[8:22] = [0.1, 0.2, 0.7]  # of neutral none is left
    by_word = frames[[5, 15, 25]]
    assert transitions_of(labels, blurred)["accuracy"] == 0.0
    transitions = EmotionTransitions(EMOTIONS, RATE, OFFSET)
    transitions.append("a", labels, blurred, by_word)
    assert transitions.summarize()["accuracy"] == 1.0


def test_words_without_emotion_make_no_switch():
    labels = words("happy", None, "sad")
    summary = transitions_of(labels, np.full((60, 3), 1 / 3))
    assert summary["switches"] == 0


def test_a_single_emotion_has_no_transition_and_no_figure():
    labels = words("happy", "happy")
    summary = transitions_of(labels, posteriors(labels))
    assert summary["switches"] == 0
    assert summary["boundary_error_ms"]["mean"] is None


def test_the_most_likely_split_wins_over_a_stray_frame():
    evidence = np.array([2.0, 2, -1, 2, 2, -2, -2, 1, -2])
    assert change_point(evidence) == 5


# --- Leakage --------------------------------------------------------------


def leakage_of(asked, heard):
    leakage = EmotionLeakage(EMOTIONS)
    leakage.append("a", asked, np.asarray(heard, dtype=float))
    return leakage.summarize()


def test_clean_words_leak_nothing():
    asked = ["happy"] * 3 + ["sad"] * 3
    heard = np.eye(3)[[1, 1, 1, 2, 2, 2]]
    assert leakage_of(asked, heard)["leakage"] == 0.0


def test_a_switch_one_word_late_leaks_into_that_word():
    asked = ["happy"] * 3 + ["sad"] * 3
    heard = np.eye(3)[[1, 1, 1, 1, 2, 2]]
    summary = leakage_of(asked, heard)
    assert summary["near"] == 0.5 and summary["far"] == 0.0
    assert summary["leakage"] == 0.5


def test_a_blurred_reading_is_no_leakage():
    """As much of the other emotion everywhere: not a matter of the switch."""
    asked = ["happy"] * 3 + ["sad"] * 3
    summary = leakage_of(asked, np.tile([0.0, 0.5, 0.5], (6, 1)))
    assert summary["near"] == summary["far"] == 0.5
    assert summary["leakage"] == 0.0


def test_leakage_without_far_words_is_none():
    summary = leakage_of(["happy", "sad"], np.eye(3)[[1, 2]])
    assert summary["leakage"] is None and summary["near"] == 0.0


def test_posteriors_of_other_words_are_refused():
    with pytest.raises(ValueError, match="2 words but 3 posteriors"):
        EmotionLeakage(EMOTIONS).append("a", ["happy", "sad"], np.eye(3))
