"""Forced alignment of English words with PocketSphinx.

The wheel of ``pocketsphinx`` includes its acoustic model and the CMU
dictionary, so nothing is downloaded. Word boundaries are multiples of 10 ms.

The confidence of a word is the probability that it is the word spoken there.
The library's own posterior is no measure of it: a forced path has no
alternatives, so the posterior is about 1 for any word. The confidence is based
on the score per frame of the word's states relative to the best of all states
that the search considers.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache, partial

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import is_ideograph
from speechbrain_emofilm.integrations.aligner.base import (
    Aligner,
    AlignmentError,
    UnusableInputError,
    check_alignment_input,
    fit_times,
    resample,
)
from speechbrain_emofilm.utils.guarded import Guarded

import numpy as np
from scipy.special import expit

SAMPLE_RATE = 16000  # of the acoustic model
FRAME_RATE = 100  # frames per second of the boundaries
PADDING = 20  # frames of silence on either side

# Logistic map from a word's score (natural logarithm, mean over its frames)
# to its confidence, fitted on MiniESD: the spoken words against as many
# substituted words. Other voices may need other values.
SCORE_MIDPOINT = -3.9
SCORE_SLOPE = 1.6
# Without the lattice, the library returns scores divided by 2 ** 10.
UNSCALED = 1024

# Phonetic symbols to the 39 phones of the CMU dictionary. The capital
# letters and the syllabic schwa belong to the misaki alphabet, which
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
    """Convert a phonetic transcription to the phones of CMU's dictionary.

    Stress, length and non-English symbols are dropped.

    Arguments
    ---------
    phones : str
        Transcription in the International Phonetic Alphabet, or its misaki
        variant.

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
    """Pronounce any English word by hibari's grapheme-to-phoneme rules.

    Arguments
    ---------
    word : str
        The word.

    Returns
    -------
    str
        Phonemes of the word, in the misaki alphabet.

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


class PocketsphinxAligner(Aligner):
    """Aligner for English.

    Threads may share an aligner: they align one after another. A copy, also
    one in another process, has a decoder of its own.

    Arguments
    ---------
    pronounce : callable, optional
        Function that returns the phonetic transcription of words missing in
        the dictionary, such as :func:`hibari_pronunciation`; it raises
        ValueError or returns an empty string if it cannot. Without this
        function such words are an error.
    beam : float
        Width of the search over states and phones, as the least likelihood
        ratio to the best path. The library's default loses expressive and
        synthetic speech.
    word_beam : float
        Width of the search at word ends, likewise.
    strict : bool
        Whether to raise an error if the search loses the words, which means
        that they are not the spoken ones. If False, the search is exhaustive
        (`beam` and `word_beam` are ignored) and every word gets times, those
        not spoken with a low confidence. Memory then grows with the square
        of the duration: use it for utterances, not for long recordings.

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
        make_decoder = partial(
            Decoder,
            lm=None,
            loglevel="FATAL",
            beam=beam if strict else 0.0,
            pbeam=beam if strict else 0.0,
            wbeam=word_beam if strict else 0.0,
            bestpath=strict,  # the lattice search may lose words
        )
        self._decoder = Guarded(make_decoder)

    def align(
        self, wav, sample_rate: int, text: str, language: str = "en"
    ) -> list[Word]:
        """Find the times of the words, see :meth:`Aligner.align`.

        Raises
        ------
        UnusableInputError
            If the sound or the text cannot be used, or the text is not
            English.
        AlignmentError
            If a word has no pronunciation, or the sound does not match
            the words: it is too short or, if `strict`, the search loses them.
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
        pcm = _pcm16(wav, sample_rate)
        with self._decoder as decoder:
            keys = self._dictionary_keys(decoder, words, text)
            segments = self._segments(decoder, pcm, keys, text)
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

    def _dictionary_keys(
        self, decoder, words: list[str], text: str
    ) -> list[str]:
        """Return the dictionary keys of words, adding missing words."""
        keys = [self._add_to_dictionary(decoder, word) for word in words]
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

    def _add_to_dictionary(self, decoder, word: str) -> str | None:
        """Return a word's key, adding it if needed; None if unknown."""
        key = word.lower().replace("’", "'")
        if decoder.lookup_word(key) is not None:
            return key
        try:
            phones = arpabet(self.pronounce(word)) if self.pronounce else []
        except ValueError:  # an unreadable character
            phones = []
        if not phones:
            return None
        decoder.add_word(key, " ".join(phones), True)
        return key

    def _segments(
        self, decoder, pcm: bytes, keys: list[str], text: str
    ) -> list[tuple]:
        """Run the search; return (start, end, confidence) of each word."""
        found = []
        try:
            decoder.set_align_text(" ".join(keys))
            decoder.start_stream()  # reset the noise estimate
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
        """Estimate the probability that the word is the one spoken."""
        if not segment.ascore:  # a likelihood too small for a float
            return 0.0
        frames = segment.end_frame - segment.start_frame + 1
        score = math.log(segment.ascore) / frames
        if not self.strict:
            score *= UNSCALED
        return float(expit(SCORE_SLOPE * (score - SCORE_MIDPOINT)))


def _pcm16(wav: np.ndarray, sample_rate: int) -> bytes:
    """Resample to 16 kHz and convert to 16-bit little-endian samples.

    Silence is added at both ends for the silence models to match, and faint
    noise because the search fails on the digital silence of synthetic speech.
    """
    wav = resample(wav, sample_rate, SAMPLE_RATE)
    wav = np.pad(wav, PADDING * SAMPLE_RATE // FRAME_RATE)
    wav = wav + np.random.default_rng(0).normal(0.0, 1e-4, len(wav))
    return (np.clip(wav, -1.0, 1.0) * 32767).astype("<i2").tobytes()
