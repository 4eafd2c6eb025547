"""Word labels: files, checks, tensors."""

import json

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    check_words,
    read_label_textgrid,
    read_word_labels,
    sentence_labels,
    words_to_tensors,
    write_label_textgrid,
    write_word_labels,
)

import pytest
import torch

EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
LABELS = UtteranceLabels(
    [
        WordLabel("We", 0.1, 0.3, "happy", {"happy": 0.75, "sad": 0.25}, 0.6),
        WordLabel("won", 0.3, 0.7, "sad", None, 0.5, 0.9),
        WordLabel("again", 0.8, 1.0),
    ],
    {"labeler": "truth"},
)


def write(path, *words, **entry):
    path.write_text(json.dumps({"u1": {"words": list(words), **entry}}))
    return path


def test_written_labels_come_back(tmp_path):
    path = tmp_path / "labels.json"
    write_word_labels(path, {"u1": LABELS}, EMOTIONS)
    assert read_word_labels(path, EMOTIONS) == {"u1": LABELS}
    written = json.loads(path.read_text())["u1"]["words"][2]
    assert written == {"word": "again", "start": 0.8, "end": 1.0}


def test_labels_come_back_from_praat_tiers_without_probabilities(tmp_path):
    path = tmp_path / "u1.TextGrid"
    write_label_textgrid(path, LABELS, duration=1.2)
    back = read_label_textgrid(path, EMOTIONS)
    assert [(w.word, w.emotion, w.intensity) for w in back.words] == [
        ("We", "happy", 0.6),
        ("won", "sad", 0.5),
        ("again", None, None),
    ]
    assert [(w.start, w.end) for w in back.words] == [
        (w.start, w.end) for w in LABELS.words
    ]


def test_a_wrong_label_in_praat_tiers_is_named(tmp_path):
    path = tmp_path / "u1.TextGrid"
    write_label_textgrid(path, LABELS, duration=1.2)
    with pytest.raises(ValueError, match="u1.TextGrid, word 1 .'won'. has th"):
        read_label_textgrid(path, ["happy"])
    path.write_text(path.read_text().replace('"0.5"', '"half"'))
    with pytest.raises(ValueError, match="'won'.* has 'half' in place of a"):
        read_label_textgrid(path, EMOTIONS)
    path.write_text(path.read_text().replace('"emotion"', '"mood"'))
    with pytest.raises(ValueError, match="no tier 'emotion'"):
        read_label_textgrid(path, EMOTIONS)


WORD = {"word": "We", "start": 0.1, "end": 0.3, "emotion": "happy"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"emotion": "joy"}, "emotion 'joy': the taxonomy is neutral, angry"),
        ({"emotion": 3}, "the emotion 3"),
        ({"start": None}, "no 'start'"),
        ({"start": "soon"}, "'soon' in place of a number"),
        ({"start": -1.0}, "must follow each other"),
        ({"end": 0.1}, "must follow each other"),
        ({"end": float("nan")}, "must follow each other"),
        ({"intensity": 1.5}, "the intensity 1.5: give a number from 0 to 1"),
        ({"intensity": float("nan")}, "the intensity nan"),
        ({"confidence": -0.5}, "the confidence -0.5"),
        ({"probs": {"happy": 0.5}}, "probs that sum to 0.5"),
        ({"probs": {"joy": 1.0}}, "the emotion 'joy'"),
        ({"probs": {"happy": 1.5, "sad": -0.5}}, "probs of happy 1.5"),
        ({"probs": {"happy": 1.0}, "emotion": None}, "give the most likely"),
        ({"probs": [1, 0]}, r"the probs \[1, 0\]"),
        ({"emotions": "happy"}, "the field 'emotions'"),
    ],
)
def test_a_bad_label_names_file_utterance_word_and_correction(
    tmp_path, change, message
):
    path = write(tmp_path / "labels.json", {**WORD, **change})
    with pytest.raises(ValueError, match=message) as caught:
        read_word_labels(path, EMOTIONS)
    assert "labels.json, utterance u1, word 0 ('We')" in str(caught.value)


def test_words_that_overlap_in_time_are_refused(tmp_path):
    path = write(tmp_path / "a.json", WORD, {**WORD, "start": 0.2, "end": 0.5})
    with pytest.raises(ValueError, match="word 1 .'We'. goes from 0.2"):
        read_word_labels(path, EMOTIONS)


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "does not hold word labels"),
        ({"u1": []}, "utterance u1 has no list 'words'"),
        ({"u1": {"words": "We won"}}, "utterance u1 has no list 'words'"),
        ({"u1": {"words": ["We"]}}, "word 0 has no 'word'"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, content, message):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_word_labels(path, EMOTIONS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="labels.json"):
        read_word_labels(tmp_path / "labels.json", EMOTIONS)


def test_wrong_labels_are_not_written(tmp_path):
    path = tmp_path / "labels.json"
    with pytest.raises(ValueError, match="Utterance u1, word 0"):
        write_word_labels(path, {"u1": LABELS}, ["sad"])
    assert not path.exists()


def test_tensors_hold_soft_hard_and_missing_labels():
    word_emotions, word_intensity = words_to_tensors(LABELS, EMOTIONS)
    assert word_emotions.tolist() == [
        [0, 0, 0.75, 0.25, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert torch.allclose(word_intensity, torch.tensor([0.6, 0.5, 0.0]))


def test_a_label_without_intensity_counts_in_full_but_for_neutral():
    labels = UtteranceLabels(
        [WordLabel("We", 0, 1, "sad"), WordLabel("won", 1, 2, "neutral")]
    )
    assert words_to_tensors(labels, EMOTIONS)[1].tolist() == [1.0, 0.0]


def test_a_sentence_gives_its_emotion_to_each_word():
    words = [Word("We", 0.1, 0.3), Word("won", 0.3, 0.7)]
    labels = sentence_labels(words, "angry", intensity=0.5)
    assert [(w.word, w.emotion, w.intensity) for w in labels.words] == [
        ("We", "angry", 0.5),
        ("won", "angry", 0.5),
    ]
    assert labels.alignment() == words


@pytest.mark.parametrize(
    "text_words, message",
    [
        (["We", "lost", "again"], "word 1 is 'won' in .* but 'lost' in the"),
        (["We", "won"], "word 2 is 'again' in .* but missing in the text"),
        (
            ["We", "won", "again", "ok"],
            r"word 3 is missing in .* but 'ok' .* \(3 and 4 words\)",
        ),
    ],
)
def test_labels_of_another_text_are_one_clear_error(text_words, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_words(LABELS, text_words, "0011_000351")
    assert "Utterance 0011_000351" in str(caught.value)
    assert "Label the utterance again" in str(caught.value)


def test_case_and_punctuation_of_the_text_do_not_matter():
    check_words(LABELS, ["we", "WON!", "“again”"], "0011_000351")


def test_asked_prosody_is_written_and_read_and_must_be_in_range(tmp_path):
    path = tmp_path / "labels.json"
    labels = {
        "a": UtteranceLabels(
            [WordLabel("We", 0, 1, "happy", axes={"pitch": 2.0})]
        )
    }
    write_word_labels(path, labels, EMOTIONS)
    assert read_word_labels(path, EMOTIONS) == labels
    for axes, message in (
        ({"pich": 2.0}, "the axis 'pich' at 2.0: known are pitch"),
        ({"pace": 3.0}, r"pace \(0.5 to 2 x\)"),
    ):
        wrong = UtteranceLabels([WordLabel("We", 0, 1, axes=axes)])
        with pytest.raises(ValueError, match=message):
            write_word_labels(path, {"a": wrong}, EMOTIONS)
    for axes in ([1], {"pitch": None}, {"pitch": "x"}):
        write(path, {"word": "We", "start": 0, "end": 1, "axes": axes})
        with pytest.raises(ValueError, match="axes|in place of a number"):
            read_word_labels(path, EMOTIONS)
