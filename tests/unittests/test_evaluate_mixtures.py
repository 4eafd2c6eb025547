"""What evaluate_mixtures.py asks for, and where it says that mixtures lie."""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.evaluation.systems import Utterance

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))
import evaluate_mixtures as mixtures  # noqa: E402

sys.path.remove(str(RECIPE))

EMOTIONS = ["happy", "sad"]
TEXTS = ["We won & left.", "Come and see.", "He left us."]


def reading(speaker, text):
    labels = UtteranceLabels(
        [WordLabel(w.text, 0.0, 0.1, "neutral") for w in split_words(text)]
    )
    return Utterance(
        f"{speaker}_{TEXTS.index(text)}",
        "neutral.wav",
        speaker,
        text,
        "neutral",
        labels,
        [],
    )


@pytest.fixture
def sentences():
    return [reading("0011", text) for text in TEXTS]


def test_sentences_differ_and_the_speakers_take_turns():
    neutral = {
        (speaker, text): reading(speaker, text)
        for speaker in ("0011", "0012")
        for text in TEXTS
    }
    chosen = mixtures.choose_sentences(neutral, 3)
    assert {u.text for u in chosen} == set(TEXTS)
    assert [u.speaker for u in chosen] == ["0011", "0012", "0011"]
    assert len(mixtures.choose_sentences(neutral, 2)) == 2
    # Another speaker reads what one has not.
    del neutral["0011", chosen[0].text]
    assert mixtures.choose_sentences(neutral, 1)[0].speaker == "0012"


def test_each_emotion_and_each_mixture_is_asked_of_each_sentence(sentences):
    requests = mixtures.list_requests(sentences, EMOTIONS, [0.25, 0.5])
    assert [r.name for r in requests[:4]] == [
        "happy=1",
        "sad=1",
        "happy=0.75 sad=0.25",
        "happy=0.5 sad=0.5",
    ]
    assert len(requests) == 12
    assert len({r.utterance.id for r in requests}) == 12
    marked = parse_markup(requests[2].utterance.marked_text, EMOTIONS)
    assert marked.text == TEXTS[0]
    assert {tuple(word.probs) for word in marked.words} == {(0.75, 0.25)}


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5])
def test_a_weight_that_mixes_nothing_is_refused(sentences, weight):
    with pytest.raises(ValueError, match="between 0 and 1"):
        mixtures.list_requests(sentences, EMOTIONS, [weight])


def test_one_emotion_makes_no_mixture(sentences):
    with pytest.raises(ValueError, match="needs two"):
        mixtures.list_requests(sentences, ["sad"], [0.5])


def test_mixtures_in_training_labels_are_counted():
    words = [
        WordLabel("a", 0.0, 0.1, "sad", {"sad": 0.6, "happy": 0.4}),
        WordLabel("b", 0.1, 0.2, "sad", {"sad": 1.0, "happy": 0.0}),
        WordLabel("c", 0.2, 0.3, "sad"),
        WordLabel("d", 0.3, 0.4),
    ]
    assert mixtures.count_mixed_words({"x": UtteranceLabels(words)}) == 1


def measured(requests, position, noise=0.0, aside=0.0):
    """Changes where sad is 1 and happy is 0 in F0, and mixtures between."""
    rng = np.random.default_rng(0)
    changes = {}
    for request in requests:
        change = rng.normal(0, noise, 6) if noise else np.zeros(6)
        weights = request.weights
        change[0] += {1: weights.get("sad", 0.0)}.get(len(weights), position)
        if len(weights) == 2:
            change[1] += aside
        elif request.neutral.text == TEXTS[0]:
            change[1] += 1.0  # so that energy varies, equally in both
        changes[request.utterance.id] = change
    return changes


@pytest.mark.parametrize("position", [-0.5, 0.3, 1.0])
def test_a_mixture_is_found_where_it_was_put(sentences, position):
    requests = mixtures.list_requests(sentences, EMOTIONS, [0.5])
    (row,) = mixtures.compare(requests, measured(requests, position))
    assert row["position"] == pytest.approx(position, abs=1e-6)
    assert row["low"] <= row["position"] <= row["high"]
    assert row["f0"] == pytest.approx([0.0, position, 1.0])
    assert row["sentences"] == 3


def test_what_leads_away_from_the_line_is_told(sentences):
    requests = mixtures.list_requests(sentences, EMOTIONS, [0.5])
    (near,) = mixtures.compare(requests, measured(requests, 0.5, aside=1 / 3))
    (far,) = mixtures.compare(requests, measured(requests, 0.5, aside=3.0))
    assert near["distance"] == pytest.approx(0.0, abs=1e-6)
    assert far["distance"] > 1
    assert far["position"] == pytest.approx(0.5)


def test_the_interval_grows_with_the_noise(sentences):
    requests = mixtures.list_requests(sentences, EMOTIONS, [0.5])
    (row,) = mixtures.compare(requests, measured(requests, 0.5, noise=0.2))
    assert row["high"] - row["low"] > 0.01


def test_sentences_that_were_not_found_are_left_out_and_counted(sentences):
    requests = mixtures.list_requests(sentences, EMOTIONS, [0.5])
    changes = measured(requests, 0.5)
    changes[requests[0].utterance.id] = None
    (row,) = mixtures.compare(requests, changes)
    assert row["sentences"] == 2
    assert "| happy=0.5 sad=0.5 | 2 | 0.50 (" in mixtures.table([row])
    assert "f0" not in mixtures.utterance_row(requests[0], None)
    (nothing,) = mixtures.compare(requests, dict.fromkeys(changes))
    assert nothing == {"mixture": "happy=0.5 sad=0.5", "sentences": 0}
    assert "| happy=0.5 sad=0.5 | 0 |  |" in mixtures.table([nothing])


def test_the_command_line_reaches_script_and_hparams(monkeypatch):
    monkeypatch.chdir(RECIPE)
    options, hparams = mixtures.read_options(
        [
            "hparams/evaluate_mini.yaml",
            "--n_sentences=3",
            "--weights",
            "0.5",
            "--data_folder=corpus",
            "--guidance=1.5",
        ]
    )
    assert (options.n_sentences, options.weights) == (3, [0.5])
    assert hparams["guidance"] == 1.5
    assert hparams["data_folder"] == "corpus"
