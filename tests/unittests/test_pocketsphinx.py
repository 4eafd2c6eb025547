"""Forced alignment by PocketSphinx."""

from speechbrain_emofilm.integrations.pocketsphinx import (
    AlignmentError,
    PocketsphinxAligner,
    arpabet,
    hibari_pronunciation,
)

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")
hibari = pytest.importorskip("hibari")

WORDS = ["the", "soft", "cushion", "broke", "the", "old", "fall"]


@pytest.fixture(scope="module")
def aligner():
    return PocketsphinxAligner(pronounce=hibari_pronunciation)


@pytest.fixture(scope="module")
def spoken():
    from speechbrain_emofilm.integrations.hibari import (
        HibariVoice,
        WordProsody,
    )

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
    first = aligner.align(spoken.wav, 24000, text)
    with pytest.raises(AlignmentError):
        aligner.align(np.zeros(6000), 24000, text)
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


def test_another_language_and_an_empty_text_are_refused(aligner):
    with pytest.raises(AlignmentError, match="'zh'"):
        aligner.align(np.zeros(24000), 24000, "你好", language="zh")
    with pytest.raises(AlignmentError, match="No word"):
        aligner.align(np.zeros(24000), 24000, " ... ")
