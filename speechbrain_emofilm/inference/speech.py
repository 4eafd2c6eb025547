"""Synthesized speech, and joining it from pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import TextUnits, is_ideograph

import numpy as np
import torch

#: Frames below this level, relative to the loudest of the piece, at its start
#: and end are its silence.
SILENCE_DB = -40.0
#: Length of these frames, and of the fade where silence is cut, in seconds.
_FRAME = 0.005
#: Seconds of memory that are reserved for each piece.
_RESERVED = 30


@dataclass(frozen=True)
class SynthesisResult:
    """Synthesized text.

    Arguments
    ---------
    wav : torch.Tensor
        Wave (T,), on the CPU.
    sample_rate : int
        Sampling rate of the wave in Hz.
    words : list of Word
        Words with their times. The confidence is the aligner's, or 0 if the
        times are proportional.
    word_times_source : str
        Name of the aligner's class, or ``"proportional"``: the utterance's
        duration, divided between the words by their numbers of text units.
        That is a rough guess, used if no aligner is installed or it fails.
        Both with " and " between them if the pieces of a long text differ.
    text : str
        Spoken text, without marks.
    word_emotions : torch.Tensor
        Requested emotions (W, K); zeros for unlabelled words.
    word_intensity : torch.Tensor
        Requested intensities (W,).
    speech_tokens : torch.Tensor
        Tokens (S,) that the language model generated.
    """

    wav: torch.Tensor
    sample_rate: int
    words: list[Word]
    word_times_source: str
    text: str
    word_emotions: torch.Tensor
    word_intensity: torch.Tensor
    speech_tokens: torch.Tensor


class SpeechJoiner:
    """Join the speech of pieces, with silence of given lengths between.

    A gap is counted from the end of a piece's sound to the start of the next
    one's. Sound is what lies between the first and the last 5 ms whose level
    is within 40 dB of the piece's loudest 5 ms. Of the pieces' own silence as
    much is kept as the gap allows, faded over 5 ms where it is cut.

    The wave of each piece is copied to one array and not kept.

    Arguments
    ---------
    gaps : list of float or None
        Seconds before each of the N pieces, and behind the last. None, for
        the first and the last, leaves the piece's own silence.

    Example
    -------
    >>> tone = torch.ones(2400)
    >>> piece = SynthesisResult(
    ...     tone, 24000, [Word("a", 0.0, 0.1)], "x", "A.", torch.zeros(1, 2),
    ...     torch.zeros(1), torch.ones(3).long())
    >>> joiner = SpeechJoiner([None, 0.3, None])
    >>> joiner.add(piece)
    >>> joiner.add(piece)
    >>> speech = joiner.finish()
    >>> speech.text, len(speech.wav), speech.words[1].start
    ('A. A.', 12000, 0.4)
    """

    def __init__(self, gaps: Sequence[float | None]):
        self._gaps = list(gaps)
        self._parts: list[SynthesisResult] = []
        # Memory that is reserved and not yet written costs nothing.
        self._reserved = np.empty(0, dtype=np.float32)
        self._size = 0
        self._tail = 0  # samples of silence at the end of the wave
        self._shifts: list[int] = []  # place of each piece's first sample
        self._starts: list[int] = []  # place of what is left of it
        self._ends: list[int] = []

    def add(self, piece: SynthesisResult) -> None:
        """Append a piece.

        Arguments
        ---------
        piece : SynthesisResult
            Speech of the next piece.
        """
        gap = self._gaps[len(self._parts)]
        alone = self._gaps == [None, None]
        self._parts.append(
            piece if alone else replace(piece, wav=torch.zeros(0))
        )
        if alone:
            return
        if not len(self._reserved):
            seconds = _RESERVED * len(self._gaps) + sum(
                filter(None, self._gaps)
            )
            n_samples = round(seconds * piece.sample_rate)
            self._reserved = np.empty(n_samples, dtype=np.float32)
        wav = piece.wav.numpy()
        lead, tail = _silence(wav, piece.sample_rate)
        cut = 0
        if gap is not None:
            left = self._close(gap, piece.sample_rate, lead)
            cut, lead = lead - left, left
        size = len(self._wav)
        self._append(len(wav) - cut)
        self._wav[size:] = wav[cut:]
        if cut:
            _fade(self._wav[size:], piece.sample_rate)
        self._tail = tail
        self._shifts.append(size - cut)
        self._starts.append(size)
        self._ends.append(len(self._wav))

    def finish(self) -> SynthesisResult:
        """Return the whole.

        Returns
        -------
        SynthesisResult
            Word times and speech tokens are those of the pieces in order.
        """
        first = self._parts[0]
        if self._gaps == [None, None]:
            return first
        if self._gaps[-1] is not None:
            self._close(self._gaps[-1], first.sample_rate, 0)
        self._reserved.resize(self._size, refcheck=False)
        words: list[Word] = []
        rate = first.sample_rate
        for part, shift, start, end in zip(
            self._parts, self._shifts, self._starts, self._ends
        ):
            # A word may reach into silence that was cut.
            words += [
                replace(
                    word,
                    start=min(
                        max(word.start + shift / rate, start / rate), end / rate
                    ),
                    end=min(
                        max(word.end + shift / rate, start / rate), end / rate
                    ),
                )
                for word in part.words
            ]
        sources = dict.fromkeys(part.word_times_source for part in self._parts)
        return SynthesisResult(
            torch.from_numpy(self._reserved),
            rate,
            words,
            " and ".join(sources),
            _join_texts([part.text for part in self._parts]),
            torch.cat([part.word_emotions for part in self._parts]),
            torch.cat([part.word_intensity for part in self._parts]),
            torch.cat([part.speech_tokens for part in self._parts]),
        )

    def _close(self, gap: float, sample_rate: int, lead: int) -> int:
        """Make the silence of a gap; return the samples left of `lead`."""
        n_gap = round(gap * sample_rate)
        lead = min(lead, n_gap // 2 if len(self._wav) else n_gap)
        tail = min(self._tail, n_gap - lead)
        cut = self._tail - tail
        if cut:
            self._append(-cut)
        if self._ends:
            self._ends[-1] = len(self._wav)
            if cut or n_gap > lead + tail:
                _fade(self._wav[::-1], sample_rate)
        self._append(n_gap - lead - tail)
        self._tail = 0
        return lead

    @property
    def _wav(self) -> np.ndarray:
        """What is joined so far."""
        return self._reserved[: self._size]

    def _append(self, n_samples: int) -> None:
        """Change the size; what is new is silent."""
        size = self._size + n_samples
        if size > len(self._reserved):
            self._reserved.resize(2 * size, refcheck=False)
        self._reserved[self._size : size] = 0
        self._size = size


def _silence(wav: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """Measure the silence at the start and the end of a wave, in samples."""
    size = round(_FRAME * sample_rate)
    n_frames = len(wav) // size
    frames = wav[: n_frames * size].reshape(n_frames, size)
    power = np.einsum("ij,ij->i", frames, frames)
    loudest = power.max(initial=0.0)
    if loudest == 0:
        return 0, 0
    (sound,) = np.nonzero(power >= loudest * 10 ** (SILENCE_DB / 10))
    return int(sound[0]) * size, len(wav) - int(sound[-1] + 1) * size


def _fade(wav: np.ndarray, sample_rate: int) -> None:
    """Fade in the start of a wave, in place."""
    size = min(round(_FRAME * sample_rate), len(wav))
    wav[:size] *= np.linspace(0, 1, size, endpoint=False, dtype=np.float32)


def _join_texts(texts: Sequence[str]) -> str:
    """Join texts, with a space unless Chinese characters are at the seam."""
    whole = texts[0]
    for text in texts[1:]:
        seam = whole[-1] + text[0]
        chinese = any(
            is_ideograph(c) or "\u3000" <= c <= "\uffef" for c in seam
        )
        whole += text if chinese else f" {text}"
    return whole


def proportional_times(
    words: Sequence[str], units: TextUnits, duration: float
) -> list[Word]:
    """Divide a duration between words by their numbers of text units.

    Arguments
    ---------
    words : list of str
        Words of the utterance.
    units : TextUnits
        Units of the words, each of the same duration.
    duration : float
        Duration of the utterance, in seconds.

    Returns
    -------
    list of Word
        Words with times and confidence 0.

    Example
    -------
    >>> units = TextUnits([5, 6, 7, 8], [0, -1, 1, 1], ["a", "be"])
    >>> proportional_times(["a", "be"], units, 2.0)
    [Word(text='a', start=0.0, end=0.5, confidence=0.0),
     Word(text='be', start=1.0, end=2.0, confidence=0.0)]
    """
    step = duration / len(units.ids)
    times, end = [], 0.0
    for index, word in enumerate(words):
        own = [u for u, w in enumerate(units.word_of_unit) if w == index]
        start = own[0] * step if own else end
        end = (own[-1] + 1) * step if own else end
        times.append(Word(word, start, end, 0.0))
    return times
