"""The emotion diarization error rate, by hand and against SpeechBrain's."""

import random

from speechbrain_emofilm.dataio.emotion_segments import (
    EmotionSegment,
    fill_gaps,
)
from speechbrain_emofilm.metrics.emotion_segments import EmotionDiarization

import pytest
from speechbrain.utils.EDER import EDER

EMOTIONS = ["neutral", "happy", "sad", "surprise"]


def segments(*items):
    return [EmotionSegment(*item) for item in items]


def summary_of(truth, found, duration):
    metric = EmotionDiarization(EMOTIONS, n_samples=50)
    metric.append("a", truth, found, duration)
    return metric.summarize()


def test_the_three_errors_by_hand():
    # neutral 0-2, happy 2-6, neutral 6-7, sad 7-9, neutral 9-10
    truth = segments((2.0, 6.0, "happy"), (7.0, 9.0, "sad"))
    # neutral 0-1, happy 1-4, sad 4-5, neutral 5-7.5, sad 7.5-10
    found = segments((1.0, 4.0, "happy"), (4.0, 5.0, "sad"), (7.5, 10.0, "sad"))
    summary = summary_of(truth, found, 10.0)
    # false alarm 1-2 and 9-10, missed 5-6 and 7-7.5, confusion 4-5
    assert summary["false_alarm"] == pytest.approx(0.2)
    assert summary["missed"] == pytest.approx(0.15)
    assert summary["confusion"] == pytest.approx(0.1)
    assert summary["eder"]["eder"] == pytest.approx(0.45)
    assert summary["mean_eder"]["mean_eder"] == pytest.approx(0.45, abs=1e-6)
    assert summary["all_neutral_eder"] == pytest.approx(0.6)
    happy, sad = (summary["emotions"][name] for name in ("happy", "sad"))
    assert happy["recall"]["recall"] == pytest.approx(2 / 4)
    assert happy["precision"]["precision"] == pytest.approx(2 / 3)
    assert happy["f1"]["f1"] == pytest.approx(4 / 7)
    assert sad["recall"]["recall"] == pytest.approx(1.5 / 2)
    assert sad["precision"]["precision"] == pytest.approx(1.5 / 3.5)
    assert sad["true_seconds"] == 2 and sad["found_seconds"] == 3.5
    assert summary["seconds"]["happy"] == {
        "neutral": 1.0,
        "happy": 2.0,
        "sad": 1.0,
    }
    assert "surprise" not in summary["emotions"]


def test_the_extremes():
    truth = segments((0.0, 2.0, "sad"))
    right = summary_of(truth, truth, 2.0)
    assert right["eder"]["eder"] == 0 and right["macro_f1"]["macro_f1"] == 1
    wrong = summary_of(truth, segments((0.0, 2.0, "surprise")), 2.0)
    # Both begin with the same letter, which is all that EDER looks at.
    assert wrong["eder"]["eder"] == 1 and wrong["confusion"] == 1
    assert wrong["mean_eder"]["mean_eder"] == pytest.approx(1)
    assert wrong["emotions"]["sad"]["precision"]["precision"] is None
    assert wrong["emotions"]["surprise"]["recall"]["recall"] is None
    quiet = summary_of([], [], 2.0)
    assert quiet["eder"]["eder"] == 0 and quiet["all_neutral_eder"] == 0


def test_it_agrees_with_speechbrain_on_one_segment_of_one_emotion():
    rng = random.Random(0)
    frame = 0.02
    for _ in range(30):
        n_frames = rng.randint(20, 200)
        duration = n_frames * frame
        names = ["neutral", "happy", "angry"]
        marks = sorted(rng.sample(range(n_frames + 1), 4))
        found = [
            EmotionSegment(start * frame, end * frame, rng.choice(names))
            for start, end in zip(marks, marks[1:])
        ]
        start, end = sorted(rng.sample(range(n_frames + 1), 2))
        truth = [EmotionSegment(start * frame, end * frame, "happy")]
        metric = EmotionDiarization(names, n_samples=2)
        metric.append("a", truth, found, duration)
        covering = fill_gaps(found, duration, "neutral")
        predictions = [
            next(s for s in covering if s.end > (index + 0.5) * frame).emotion[
                0
            ]
            for index in range(n_frames)
        ]
        expected = EDER(
            predictions,
            "a",
            duration,
            [{"emo": s.emotion, "start": s.start, "end": s.end} for s in truth],
            frame,
            frame,
        )
        row = metric.rows[0]
        assert row["eder"] == pytest.approx(expected, abs=1e-9)
        assert row["speechbrain_eder"] == pytest.approx(
            expected, abs=frame / duration
        )


def test_pooled_and_mean_rates_and_their_intervals():
    metric = EmotionDiarization(EMOTIONS)
    truth = segments((0.0, 1.0, "sad"))
    metric.append("short", truth, [], 1.0)
    metric.append("long", truth, truth, 9.0)
    summary = metric.summarize()
    assert summary["eder"] == pytest.approx(
        {"eder": 0.1, "low": 0.0, "high": 1.0}
    )
    assert summary["mean_eder"]["mean_eder"] == pytest.approx(0.5)
    sad = summary["emotions"]["sad"]["recall"]
    assert sad == {"recall": 0.5, "low": 0.0, "high": 1.0}
    assert summary["hours"] == pytest.approx(10 / 3600)


def test_failures_are_counted_and_left_out():
    metric = EmotionDiarization(EMOTIONS)
    metric.append("a", [], [], 1.0)
    metric.add_failure("b", "b.wav: no such audio file")
    summary = metric.summarize()
    assert summary["measured"] == 1 and list(summary["failures"]) == ["b"]
    assert summary["hours"] == pytest.approx(1 / 3600)


def test_errors_name_the_recording():
    metric = EmotionDiarization(["happy"], neutral="calm")
    metric.append("a", segments((0.0, 1.0, "happy")), [], 1.0)
    with pytest.raises(ValueError, match="Recording b: .*'sad' is not among"):
        metric.append("b", segments((0.0, 1.0, "sad")), [], 1.0)
    with pytest.raises(ValueError, match="Recording c: .* but lasts 1 s"):
        metric.append("c", segments((0.0, 2.0, "happy")), [], 1.0)
    with pytest.raises(ValueError, match="a was added before"):
        metric.append("a", [], [], 1.0)
    assert len(metric.rows) == len(metric.seconds) == 1
