"""Base class, input checks and errors of the forced aligners."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import split_words

import numpy as np
from scipy.signal import resample_poly

#: Shortest sound that can be aligned, in seconds.
MIN_DURATION = 0.05
#: Shortest duration that a word gets, in seconds.
MIN_WORD_DURATION = 0.01
#: Sound below this fraction of full scale is silence (-80 dB).
SILENCE_LEVEL = 1e-4


class AlignmentError(ValueError):
    """Error of an utterance whose words cannot be aligned with its sound."""


class UnusableInputError(AlignmentError):
    """Error of a sound or a text that no aligner can use."""


@dataclass(frozen=True)
class AlignmentInput:
    """Audio file and transcript of an utterance to align.

    Arguments
    ---------
    id : str
        Utterance id, the name of its files.
    wav : str
        Path of the audio file.
    text : str
        Transcript.
    speaker : str
        Speaker, the name of the folder.
    language : str
        Language code, for instance ``"en"``.
    duration : float
        Duration in seconds.
    """

    id: str
    wav: str
    text: str
    speaker: str
    language: str
    duration: float


class Aligner:
    """Base class of forced aligners."""

    def align(
        self, wav, sample_rate: int, text: str, language: str = "en"
    ) -> list[Word]:
        """Find the times of the words of a transcript.

        Arguments
        ---------
        wav : numpy.ndarray or torch.Tensor
            Sound (T,), within -1 and 1.
        sample_rate : int
            Sample rate of the sound, in Hz.
        text : str
            Transcript; punctuation separates words.
        language : str
            Language of the transcript; must be the aligner's.

        Returns
        -------
        list of Word
            One for each word of :func:`~speechbrain_emofilm.dataio.text.\
split_words` of the text, in order of time (seconds), with a confidence from 0
            to 1.

        Raises
        ------
        UnusableInputError
            If the sound or the text cannot be used.
        AlignmentError
            If no alignment is found.
        """
        raise NotImplementedError


def check_alignment_input(
    wav, sample_rate: int, text: str
) -> tuple[np.ndarray, list[str]]:
    """Check the input of an aligner.

    Arguments
    ---------
    wav : numpy.ndarray or torch.Tensor
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sample rate of the sound, in Hz.
    text : str
        Transcript.

    Returns
    -------
    wav : numpy.ndarray
        Sound (T,), float64.
    words : list of str
        Words of the text, at least one.

    Raises
    ------
    UnusableInputError
        If the sound has several channels, is shorter than 50 ms, silent or
        not finite, or the text has no word.

    Example
    -------
    >>> check_alignment_input(np.ones(8000), 16000, "We won!")[1]
    ['We', 'won']
    """
    words = [word.text for word in split_words(text)]
    if not words:
        raise UnusableInputError(
            f"No word to align in {text!r}: give a text of letters."
        )
    wav = np.asarray(wav, dtype=np.float64)
    if wav.size != max(wav.shape, default=0):
        raise UnusableInputError(
            f"The sound of {text!r} has the shape {wav.shape}: average its "
            "channels, an aligner takes one."
        )
    wav = wav.reshape(-1)
    if len(wav) < MIN_DURATION * sample_rate or not np.isfinite(wav).all():
        raise UnusableInputError(
            f"The sound of {text!r} has {len(wav)} samples: an alignment "
            f"needs at least {1000 * MIN_DURATION:.0f} ms of finite samples."
        )
    if np.abs(wav).max() < SILENCE_LEVEL:
        raise UnusableInputError(
            f"The sound of {text!r} is silent throughout: record it again."
        )
    return wav, words


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a sound.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,).
    from_rate : int
        Sample rate of the sound, in Hz.
    to_rate : int
        Sample rate of the result, in Hz.

    Returns
    -------
    numpy.ndarray
        Sound (T * to_rate / from_rate,), rounded up.

    Example
    -------
    >>> resample(np.zeros(24000), 24000, 16000).shape
    (16000,)
    """
    if from_rate == to_rate:
        return wav
    step = math.gcd(from_rate, to_rate)
    return resample_poly(wav, to_rate // step, from_rate // step)


def fit_times(
    times: Sequence[tuple[float, float]], duration: float
) -> list[tuple[float, float]]:
    """Move word times as little as needed to lie inside an utterance.

    Arguments
    ---------
    times : list of (float, float)
        Start and end of each word in seconds, in order.
    duration : float
        Duration of the utterance, in seconds.

    Returns
    -------
    list of (float, float)
        Start and end of each word without overlap, at least 10 ms apart
        unless the utterance is too short for that.

    Example
    -------
    >>> fit_times([(-0.2, -0.1), (-0.1, 0.5), (1.0, 1.2)], duration=1.0)
    [(0.0, 0.01), (0.01, 0.5), (0.99, 1.0)]
    """
    shortest = min(MIN_WORD_DURATION, duration / max(1, len(times)))
    fitted: list[tuple[float, float]] = []
    free = 0.0
    for start, end in times:
        start = max(start, free)
        free = max(end, start + shortest)
        fitted.append((start, free))
    limit = duration
    for index in reversed(range(len(fitted))):
        start, end = fitted[index]
        end = min(end, limit)
        limit = max(0.0, min(start, end - shortest))
        fitted[index] = (limit, end)
    return fitted


def proportional_alignment(words: Sequence[str], duration: float) -> list[Word]:
    """Guess word times: each letter gets the same duration.

    Arguments
    ---------
    words : list of str
        Words of the utterance.
    duration : float
        Duration of the utterance, in seconds.

    Returns
    -------
    list of Word
        Words with their guessed times, with confidence 0.

    Example
    -------
    >>> proportional_alignment(["We", "lost"], 3.0)
    [Word(text='We', start=0.0, end=1.0, confidence=0.0),
     Word(text='lost', start=1.0, end=3.0, confidence=0.0)]
    """
    ends = np.cumsum([len(word) for word in words])
    times = [0.0, *(duration * ends / ends[-1]).tolist()]
    return [
        Word(word, start, end, 0.0)
        for word, start, end in zip(words, times, times[1:])
    ]
