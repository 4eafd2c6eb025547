"""Forced alignment by PocketSphinx."""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    UnusableInputError,
    resample,
)
from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    PocketsphinxAligner,
    arpabet,
    hibari_pronunciation,
)

import numpy as np
import pytest

# The recipes' scripts find their neighbours in their own folder.
sys.path.append(str(Path(__file__).parents[2] / "recipes" / "MiniESD"))

pytest.importorskip("pocketsphinx")
hibari = pytest.importorskip("hibari")

WORDS = ["the", "soft", "cushion", "broke", "the", "old", "fall"]


@pytest.fixture(scope="module")
def aligner():
    return PocketsphinxAligner(pronounce=hibari_pronunciation)


@pytest.fixture(scope="module")
def spoken():
    from voice import HibariVoice, WordProsody

    return HibariVoice().speak(WORDS, [WordProsody()] * len(WORDS))


def test_boundaries_are_near_the_true_ones(aligner, spoken):
    found = aligner.align(spoken.wav, 24000, " ".join(WORDS) + ".")
    assert [word.text for word in found] == WORDS
    starts = np.array([word.start for word in found])
    errors = np.abs(starts - [start for start, _ in spoken.words])
    assert np.median(errors) < 0.05
    assert all(0 <= word.confidence <= 1 for word in found)
    assert found[-1].end <= len(spoken.wav) / 24000


def test_the_same_sound_is_aligned_the_same_whatever_came_before(
    aligner, spoken
):
    text = " ".join(WORDS)
    alone = PocketsphinxAligner(pronounce=hibari_pronunciation)
    first = alone.align(spoken.wav, 24000, text)
    with pytest.raises(AlignmentError):
        aligner.align(np.zeros(6000), 24000, text)
    noise = np.random.default_rng(0).normal(0, 0.02, len(spoken.wav))
    aligner.align(spoken.wav + noise, 24000, text)
    assert aligner.align(spoken.wav, 24000, text) == first


def test_every_phoneme_of_the_mini_voice_has_an_english_phone():
    from speechbrain_emofilm.integrations.hibari import UNITS

    silent = set(" ,.ˈˌ")
    assert all(arpabet(unit) for unit in UNITS if unit not in silent)


def test_a_word_outside_the_dictionary_is_aligned_by_its_phonemes(spoken):
    # The sound of "cushion", spelled as no dictionary spells it.
    text = " ".join(WORDS).replace("cushion", "kushenn")
    aligner = PocketsphinxAligner(pronounce=lambda word: "kˈʊʃən")
    found = aligner.align(spoken.wav, 24000, text)
    assert found[2].text == "kushenn"
    assert abs(found[2].start - spoken.words[2][0]) < 0.1


def test_a_word_without_pronunciation_is_named(spoken):
    with pytest.raises(AlignmentError, match="'kushenn'.*pronounce"):
        PocketsphinxAligner().align(spoken.wav, 24000, "the kushenn")


@pytest.mark.parametrize(
    "wav",
    [np.zeros(0), np.zeros(100), np.full(24000, np.nan), np.zeros(24000)],
    ids=["empty", "short", "nan", "silent"],
)
def test_a_sound_that_holds_no_words_is_refused(aligner, wav):
    with pytest.raises(AlignmentError, match="soft cushion"):
        aligner.align(wav, 24000, "the soft cushion broke the old fall")


def test_a_word_that_is_not_spoken_has_low_confidence(aligner, spoken):
    found = aligner.align(spoken.wav, 24000, " ".join(WORDS))
    assert min(word.confidence for word in found) > 0.5
    swapped = " ".join(WORDS).replace("cushion", "elephant")
    found = aligner.align(spoken.wav, 24000, swapped)
    assert found[2].confidence < 0.2
    assert min(found[i].confidence for i in (0, 4, 5, 6)) > 0.5


@pytest.mark.parametrize("confident", [True, False])
def test_every_word_gets_times_where_the_search_is_not_strict(
    spoken, confident
):
    lenient = PocketsphinxAligner(hibari_pronunciation, strict=False)
    text = "Glue the sheet to the dark blue background it is easy to tell."
    if confident:
        text = " ".join(WORDS)
    found = lenient.align(spoken.wav, 24000, text)
    assert len(found) == len(split_words(text))
    times = [time for word in found for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.end > word.start for word in found)
    assert (np.median([w.confidence for w in found]) > 0.5) == confident


def test_a_strict_search_refuses_another_text(aligner, spoken):
    text = "Glue the sheet to the dark blue background it is easy to tell."
    with pytest.raises(AlignmentError, match="does not fit"):
        aligner.align(spoken.wav, 24000, text)


def test_telephone_speech_is_aligned(aligner, spoken):
    wav = resample(spoken.wav.astype(float), 24000, 8000)
    found = aligner.align(wav, 8000, " ".join(WORDS))
    starts = np.array([word.start for word in found])
    errors = np.abs(starts - [start for start, _ in spoken.words])
    assert np.median(errors) < 0.06


@pytest.mark.parametrize("text", ["我们赢了。", "42 1,000.5", "We 赢"])
def test_a_text_that_is_not_english_words_is_refused(aligner, spoken, text):
    with pytest.raises(UnusableInputError, match="another aligner|as words"):
        aligner.align(spoken.wav, 24000, text)


def test_one_number_in_a_sentence_is_no_reason_to_skip_it(aligner, spoken):
    with pytest.raises(AlignmentError, match="'42'") as error:
        aligner.align(spoken.wav, 24000, "the soft 42")
    assert not isinstance(error.value, UnusableInputError)


def test_another_language_and_an_empty_text_are_refused(aligner):
    with pytest.raises(AlignmentError, match="'zh'"):
        aligner.align(np.zeros(24000), 24000, "你好", language="zh")
    with pytest.raises(AlignmentError, match="No word"):
        aligner.align(np.zeros(24000), 24000, " ... ")
