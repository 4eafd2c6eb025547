"""Asked against measured changes, with known answers."""

import csv
import io
import json
from types import SimpleNamespace

from speechbrain_emofilm.integrations.aligner.pocketsphinx import AlignmentError
from speechbrain_emofilm.metrics.control import (
    NeutralBaseline,
    WordEmotionAccuracy,
    WordEmotionClassifier,
    WordProsodyControl,
)
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES

import numpy as np
import pytest

STYLES = {
    "neutral": {"f0": 0.0, "energy": 0.0, "duration": 0.0},
    "happy": {"f0": 0.35, "energy": 3.0, "duration": -0.15},
    "sad": {"f0": -0.25, "energy": -6.0, "duration": 0.4},
}
DIMENSIONS = ("f0", "energy", "duration")


def ask(*emotions):
    return [{"emotion": emotion, **STYLES[emotion]} for emotion in emotions]


def obey(words, factor=1.0):
    """Changes (W, 6) of a reader who does what is asked, times a factor."""
    change = np.zeros((len(words), len(PROSODY_CHANGES)))
    for row, word in zip(change, words):
        for name in DIMENSIONS:
            row[PROSODY_CHANGES.index(name)] = factor * word[name]
    return change


SWITCHES = [
    ask("happy", "happy", "sad", "sad"),
    ask("neutral", "sad", "sad"),
    ask("sad", "neutral", "neutral", "happy"),
]


def control_of(reader):
    control = WordProsodyControl()
    for index, words in enumerate(SWITCHES):
        control.append(str(index), words, reader(words))
    return control.summarize()


def test_obedience_is_correlation_one_and_every_transition():
    summary = control_of(lambda words: obey(words, 0.3))
    for name in DIMENSIONS:
        assert summary[name]["correlation"] == pytest.approx(1.0)
    assert summary["transitions_as_asked"]["share"] == 1.0
    assert summary["failures"] == {}


def test_swapped_emotions_are_seen_as_the_opposite():
    swap = {"happy": "sad", "sad": "happy", "neutral": "neutral"}
    summary = control_of(
        lambda words: obey(ask(*(swap[word["emotion"]] for word in words)))
    )
    for name in DIMENSIONS:
        assert summary[name]["correlation"] < -0.5
    assert summary["transitions_as_asked"]["share"] == 0.0


def test_identical_audio_gets_no_credit():
    summary = control_of(lambda words: obey(words, 0.0))
    for name in DIMENSIONS:
        assert summary[name]["correlation"] == 0.0
    assert summary["transitions_as_asked"]["share"] == 0.0


def test_following_only_the_utterance_mean_gets_no_credit():
    def reader(words):
        return np.repeat(obey(words).mean(0)[None], len(words), axis=0)

    summary = control_of(reader)
    for name in DIMENSIONS:
        assert summary[name]["correlation"] == pytest.approx(0.0, abs=1e-9)
    assert summary["transitions_as_asked"]["share"] == 0.0


def test_a_failed_alignment_counts_as_nothing_done():
    words = ask("happy", "happy", "sad", "sad")
    control = WordProsodyControl()
    control.append("aligned", words, obey(words))
    control.append("failed", words, None)
    summary = control.summarize()
    assert summary["failures"] == {"failed": "not aligned"}
    assert summary["utterances"] == 2
    assert summary["f0"]["correlation"] == pytest.approx(0.5**0.5)
    assert summary["transitions_as_asked"]["share"] == 0.5
    assert summary["transitions_as_asked"]["tested"] == 6


def test_each_utterance_has_a_row_and_the_summary_is_written(tmp_path):
    words = ask("happy", "happy", "sad", "sad")
    control = WordProsodyControl()
    control.append("aligned", words, obey(words))
    control.append("failed", words, None)
    control.write_rows(tmp_path / "control.csv")
    with open(tmp_path / "control.csv", newline="") as file:
        aligned, failed = csv.DictReader(file)
    assert float(aligned["f0_correlation"]) == pytest.approx(1)
    assert aligned["f0_transitions_as_asked"] == "1"
    assert aligned["failure"] == "" and failed["failure"] == "not aligned"
    assert failed["f0_transitions"] == "1"
    assert failed["f0_transitions_as_asked"] == "0"
    accuracy = WordEmotionAccuracy(list(STYLES))
    accuracy.append("a", ["happy", "sad"], ["happy", "happy"])
    assert accuracy.rows == [{"id": "a", "right": 1, "words": 2}]
    for metric in (control, accuracy):
        stream = io.StringIO()
        metric.write_stats(stream)
        assert json.loads(stream.getvalue()) == metric.summarize()
        metric.clear()
        with pytest.raises(ValueError, match="No utterance"):
            metric.summarize()


def test_all_alignments_failed_is_zero_not_an_error():
    summary = control_of(lambda words: None)
    assert summary["energy"]["correlation"] == 0.0
    assert summary["transitions_as_asked"]["share"] == 0.0
    assert len(summary["failures"]) == len(SWITCHES)


def test_transitions_are_tested_only_where_enough_is_asked():
    words = ask("neutral", "happy")
    words[1].update(f0=0.05, energy=3.0, duration=0.05)
    control = WordProsodyControl()
    control.append("a", words, obey(words))
    moves = control.summarize()["transitions_as_asked"]
    assert moves["tested"] == 1
    assert moves["energy"]["share"] == 1.0
    assert moves["f0"]["share"] == 0.0  # nothing tested


def test_a_transition_compares_whole_runs_of_words():
    words = ask("neutral", "neutral", "happy", "happy")
    change = obey(words)
    change[1, 0], change[2, 0] = 0.3, 0.2  # the words at the switch disagree
    control = WordProsodyControl()
    control.append("a", words, change)
    assert control.summarize()["transitions_as_asked"]["f0"]["share"] == 1.0


def test_intervals_hold_the_value_and_narrow_with_more_utterances():
    def width(n):
        rng = np.random.default_rng(0)
        control = WordProsodyControl()
        for index in range(n):
            words = SWITCHES[index % 3]
            noise = rng.normal(0, 0.3, (len(words), len(PROSODY_CHANGES)))
            control.append(str(index), words, obey(words) + noise)
        f0 = control.summarize()["f0"]
        assert f0["low"] <= f0["correlation"] <= f0["high"]
        return f0["high"] - f0["low"]

    assert width(120) < 0.6 * width(15)


def test_words_and_changes_must_match():
    control = WordProsodyControl()
    with pytest.raises(ValueError, match="Utterance a has 2 words but 3"):
        control.append("a", ask("happy", "sad"), np.zeros((3, 6)))
    with pytest.raises(ValueError, match="No utterance"):
        control.summarize()


class Aligner:
    """Finds the words at fixed times, or fails."""

    def __init__(self, fails=False):
        self.fails = fails

    def align(self, wav, sample_rate, text):
        if self.fails:
            raise AlignmentError("The sound does not fit the words.")
        return [SimpleNamespace(start=0.1, end=0.4)]


def test_a_baseline_measures_no_change_of_itself():
    t = np.arange(24000) / 24000
    wav = sum(np.sin(2 * np.pi * 150 * h * t) for h in range(1, 9)) / 20
    baseline = NeutralBaseline(wav, 24000, "ah", Aligner())
    assert (baseline.change(wav, 24000) == 0).all()
    assert baseline.change(0.5 * wav, 24000)[0, 1] == pytest.approx(
        -6.02, abs=0.05
    )


def test_a_baseline_prefers_known_word_times_and_passes_failures_on():
    wav = np.random.default_rng(0).normal(0, 0.1, 24000)
    known = [SimpleNamespace(start=0.0, end=0.2)] * 2
    baseline = NeutralBaseline(wav, 24000, "a b", Aligner(True), words=known)
    with pytest.raises(AlignmentError):
        baseline.change(wav, 24000)
    baseline.aligner = Aligner()
    assert baseline.change(wav, 24000).shape == (2, len(PROSODY_CHANGES))


def natural_words(n, seed=0):
    rng = np.random.default_rng(seed)
    emotions = rng.choice(list(STYLES), n).tolist()
    noise = rng.normal(0, [0.05, 1.0, 0.1, 0.1, 1.0, 1.0], (n, 6))
    return obey(ask(*emotions)) + noise, emotions


def test_a_classifier_learns_words_and_survives_saving(tmp_path):
    classifier = WordEmotionClassifier.fit(*natural_words(300))
    changes, emotions = natural_words(200, seed=1)
    predicted = classifier.predict(changes)
    assert np.mean([p == e for p, e in zip(predicted, emotions)]) > 0.95
    np.testing.assert_allclose(classifier.probabilities(changes).sum(1), 1.0)

    classifier.save(tmp_path / "words.safetensors")
    loaded = WordEmotionClassifier.load(tmp_path / "words.safetensors")
    assert loaded.emotions == classifier.emotions
    assert loaded.predict(changes) == predicted


def test_two_emotions_are_enough_and_one_is_not():
    changes, emotions = natural_words(200)
    pair = np.array([emotion != "neutral" for emotion in emotions])
    pair_emotions = np.array(emotions)[pair]
    classifier = WordEmotionClassifier.fit(changes[pair], pair_emotions)
    assert classifier.probabilities(changes).shape == (200, 2)
    assert np.mean(classifier.predict(changes[pair]) == pair_emotions) > 0.95
    with pytest.raises(ValueError, match="at least two"):
        WordEmotionClassifier.fit(changes, ["sad"] * 200)


def test_a_missing_classifier_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        WordEmotionClassifier.load(tmp_path / "none.safetensors")


def test_a_degenerate_classifier_scores_at_chance():
    accuracy = WordEmotionAccuracy(list(STYLES))
    asked = ["neutral", "happy", "sad"]
    for utterance in "abcd":
        accuracy.append(utterance, asked, ["sad"] * 3)
    summary = accuracy.summarize()
    assert summary["accuracy"] == pytest.approx(1 / 3)
    assert np.array(summary["confusion"])[:, 2].tolist() == [4, 4, 4]


def test_words_that_cannot_be_aligned_are_wrong_words():
    accuracy = WordEmotionAccuracy(list(STYLES))
    accuracy.append("a", ["happy", "sad"], ["happy", "sad"])
    accuracy.append("b", ["happy", "sad"], None)
    summary = accuracy.summarize()
    assert summary["accuracy"] == 0.5
    assert summary["words"] == 4
    assert summary["failures"] == {"b": "not aligned"}
    assert np.array(summary["confusion"])[:, -1].tolist() == [0, 1, 1]
    assert summary["low"] == 0.0 and summary["high"] == 1.0


def test_unknown_emotions_and_missing_predictions_are_refused():
    accuracy = WordEmotionAccuracy(["happy", "sad"])
    with pytest.raises(ValueError, match="Utterance a.*'bored'"):
        accuracy.append("a", ["bored"], ["happy"])
    with pytest.raises(ValueError, match="Utterance a has 2 words but 1"):
        accuracy.append("a", ["happy", "sad"], ["happy"])
    with pytest.raises(ValueError, match="No utterance"):
        accuracy.summarize()
