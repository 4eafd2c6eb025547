"""Forced alignment of English words by PocketSphinx.

The wheel of ``pocketsphinx`` carries its acoustic model and the CMU
dictionary, so nothing is downloaded. Word boundaries are multiples of 10 ms.

The confidence of a word is the probability that it is the word spoken there.
The library's own posterior cannot tell: a forced path has no rival, so that
it is about 1 for any word. What tells is how far the word's states score, per
frame, below the best of all states that the search considers.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import is_ideograph
from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    UnusableInputError,
    check_alignment_input,
    fit_times,
    resample,
)

import numpy as np
from scipy.special import expit

SAMPLE_RATE = 16000  # of the acoustic model
FRAME_RATE = 100  # of its boundaries
PADDING = 20  # frames of silence on either side

# Logistic map from a word's score (natural logarithm, mean over its frames)
# to its confidence, fitted on MiniESD: the words spoken against words put in
# their place, as many of these as of those. Other voices may need others.
SCORE_MIDPOINT = -3.9
SCORE_SLOPE = 1.6
# Without the lattice, the library leaves scores divided by 2 ** 10.
UNSCALED = 1024

# Phonetic symbols to the 39 phones of the CMU dictionary. The capital
# letters and the syllabic schwa are those of the misaki alphabet, which
# English grapheme-to-phoneme converters of neural TTS use.
IPA_TO_ARPABET = {
    "eɪ": "EY", "aɪ": "AY", "oʊ": "OW", "əʊ": "OW", "aʊ": "AW",
    "ɔɪ": "OY", "tʃ": "CH", "dʒ": "JH", "ɜɹ": "ER", "əɹ": "ER",
    "A": "EY", "I": "AY", "O": "OW", "Q": "OW", "W": "AW", "Y": "OY",
    "ʧ": "CH", "ʤ": "JH", "ɜ": "ER", "ɚ": "ER", "ɝ": "ER",
    "i": "IY", "ɪ": "IH", "ᵻ": "IH", "e": "EH", "ɛ": "EH", "æ": "AE",
    "a": "AE", "ɑ": "AA", "ɒ": "AA", "ɔ": "AO", "ʌ": "AH", "ə": "AH",
    "ɐ": "AH", "ᵊ": "AH", "u": "UW", "ʊ": "UH",
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "ɡ": "G", "g": "G",
    "T": "D", "ɾ": "D", "ʔ": "T", "f": "F", "v": "V", "θ": "TH",
    "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH",
    "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɹ": "R", "r": "R",
    "j": "Y", "w": "W",
}  # fmt: skip


def arpabet(phones: str) -> list[str]:
    """Rewrite a phonetic transcription in the phones of CMU's dictionary.

    Stress, length and symbols that English lacks are left out.

    Arguments
    ---------
    phones : str
        International Phonetic Alphabet, or its misaki variant.

    Returns
    -------
    list of str
        Phones, without stress.

    Example
    -------
    >>> arpabet("zˈæfɑd")
    ['Z', 'AE', 'F', 'AA', 'D']
    """
    phones = re.sub("[ˈˌː]", "", phones)
    longest_first = sorted(IPA_TO_ARPABET, key=len, reverse=True)
    symbols = re.findall("|".join(map(re.escape, longest_first)), phones)
    return [IPA_TO_ARPABET[symbol] for symbol in symbols]


def hibari_pronunciation(word: str) -> str:
    """Phonemes of any English word, by the grapheme-to-phoneme rules of hibari.

    Arguments
    ---------
    word : str
        The word.

    Returns
    -------
    str
        Its phonemes, in the misaki alphabet.

    Example
    -------
    >>> arpabet(hibari_pronunciation("Zaphod"))
    ['Z', 'AE', 'F', 'AA', 'D']
    """
    from speechbrain_emofilm.integrations.hibari import UNITS

    ids = _hibari_frontend().encode(word).ids
    return "".join(UNITS[i % len(UNITS)] for i in ids)


@lru_cache(maxsize=1)
def _hibari_frontend():
    from speechbrain_emofilm.integrations.hibari import HibariTextFrontend

    return HibariTextFrontend()


class PocketsphinxAligner:
    """Aligns an English transcript with its sound.

    Arguments
    ---------
    pronounce : callable, optional
        Gives the phonetic transcription of a word that the dictionary
        lacks, as :func:`hibari_pronunciation` does; ValueError or an empty
        string if it cannot. Without it such a word is an error.
    beam : float
        Width of the search over states and phones, as the least likelihood
        ratio to the best path. The library's default loses expressive and
        synthetic speech.
    word_beam : float
        The same, at word ends.
    strict : bool
        Whether it is an error if the search loses the words, which tells
        that they are not the ones spoken. False: the search drops nothing
        (`beam` and `word_beam` count for nothing), and every word gets times,
        with low confidence those that are not spoken. Its memory grows with
        the square of the duration: for utterances, not for whole recordings.

    Raises
    ------
    ImportError
        If the package is missing.

    Example
    -------
    >>> aligner = PocketsphinxAligner()
    >>> aligner.align(np.ones(16000), 16000, "We rhyzome.")
    Traceback (most recent call last):
    ...
    speechbrain_emofilm.integrations.aligner.base.AlignmentError: The word \
'rhyzome' is not in the pronunciation dictionary: respell it, or give the \
aligner a `pronounce` function.
    """

    def __init__(
        self,
        pronounce: Callable[[str], str] | None = None,
        beam: float = 1e-100,
        word_beam: float = 1e-80,
        strict: bool = True,
    ):
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ImportError(
                "Alignment by PocketSphinx needs the package pocketsphinx: "
                "pip install 'speechbrain-emofilm[demo]'."
            ) from error
        self.pronounce = pronounce
        self.strict = strict
        self.decoder = Decoder(
            lm=None,
            loglevel="FATAL",
            beam=beam if strict else 0.0,
            pbeam=beam if strict else 0.0,
            wbeam=word_beam if strict else 0.0,
            bestpath=strict,  # a search of the lattice, which loses words
        )

    def align(
        self, wav, sample_rate: int, text: str, language: str = "en"
    ) -> list[Word]:
        """Find where each word of the transcript is spoken.

        Arguments
        ---------
        wav : numpy.ndarray or torch.Tensor
            Sound (T,), within -1 and 1.
        sample_rate : int
            Its samples per second.
        text : str
            Transcript; punctuation separates words.
        language : str
            Only ``"en"``.

        Returns
        -------
        list of Word
            One for each word of the text.

        Raises
        ------
        UnusableInputError
            If the sound or the text cannot be used, or the text is not
            English.
        AlignmentError
            If a word has no pronunciation, or the sound does not fit the
            words: it is too short for them or, if `strict`, the search loses
            them.
        """
        if language != "en":
            raise UnusableInputError(
                f"PocketSphinx aligns English, not {language!r}: use another "
                "aligner."
            )
        wav, words = check_alignment_input(wav, sample_rate, text)
        if any(is_ideograph(character) for character in text):
            raise UnusableInputError(
                f"{text!r} is Chinese, and PocketSphinx aligns English: use "
                "another aligner."
            )
        keys = self._dictionary_keys(words, text)
        segments = self._segments(_pcm16(wav, sample_rate), keys, text)
        times = fit_times(
            [(start, end) for start, end, _ in segments],
            len(wav) / sample_rate,
        )
        return [
            Word(word, start, end, confidence)
            for word, (start, end), (_, _, confidence) in zip(
                words, times, segments
            )
        ]

    def _dictionary_keys(self, words: list[str], text: str) -> list[str]:
        """Dictionary keys of the words, all of which it has afterwards."""
        keys = [self._add_to_dictionary(word) for word in words]
        if not any(keys):
            raise UnusableInputError(
                f"No word of {text!r} has a pronunciation: write numbers and "
                "symbols as words."
            )
        if not all(keys):
            raise AlignmentError(
                f"The word {words[keys.index(None)]!r} is not in the "
                "pronunciation dictionary: respell it, or give the aligner a "
                "`pronounce` function."
            )
        return keys

    def _add_to_dictionary(self, word: str) -> str | None:
        """The word's dictionary key, with a new entry if needed and known."""
        key = word.lower().replace("’", "'")
        if self.decoder.lookup_word(key) is not None:
            return key
        try:
            phones = arpabet(self.pronounce(word)) if self.pronounce else []
        except ValueError:  # a character that it cannot read
            phones = []
        if not phones:
            return None
        self.decoder.add_word(key, " ".join(phones), True)
        return key

    def _segments(self, pcm: bytes, keys: list[str], text: str) -> list[tuple]:
        """Run the search; gives (start, end, confidence) of each word."""
        decoder = self.decoder
        found = []
        try:
            decoder.set_align_text(" ".join(keys))
            decoder.start_stream()  # forgets the noise of other recordings
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            if decoder.hyp() is not None:
                found = [s for s in decoder.seg() if s.word[0] not in "<["]
        except RuntimeError as error:
            raise AlignmentError(f"{text!r}: {error}") from error
        if len(found) != len(keys):
            raise AlignmentError(
                f"The sound does not fit the words {text!r}: check that the "
                "transcript is the utterance's own."
            )
        return [
            (
                (segment.start_frame - PADDING) / FRAME_RATE,
                (segment.end_frame + 1 - PADDING) / FRAME_RATE,
                self._confidence(segment),
            )
            for segment in found
        ]

    def _confidence(self, segment) -> float:
        """Probability that the word is the one spoken."""
        if not segment.ascore:  # a likelihood too small for a float
            return 0.0
        frames = segment.end_frame - segment.start_frame + 1
        score = math.log(segment.ascore) / frames
        if not self.strict:
            score *= UNSCALED
        return float(expit(SCORE_SLOPE * (score - SCORE_MIDPOINT)))


def _pcm16(wav: np.ndarray, sample_rate: int) -> bytes:
    """Resample to 16 kHz and gives 16-bit little-endian samples.

    Silence is added at both ends, for the models of silence to match, and
    faint noise, as the search is lost where a synthetic pause is all zeros.
    """
    wav = resample(wav, sample_rate, SAMPLE_RATE)
    wav = np.pad(wav, PADDING * SAMPLE_RATE // FRAME_RATE)
    wav = wav + np.random.default_rng(0).normal(0.0, 1e-4, len(wav))
    return (np.clip(wav, -1.0, 1.0) * 32767).astype("<i2").tobytes()
