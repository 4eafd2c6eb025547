"""Synthesized speech, and joining it from pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import TextUnits, is_ideograph
from speechbrain_emofilm.inference.joining import SoundJoiner
from speechbrain_emofilm.inference.pointing import WordCoverage

import numpy as np
import torch

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
        Words with their times. The confidence is the word pointer's or the
        aligner's, or 0 if the times are proportional.
    word_times_source : str
        ``"pointer"``, if the model has a word pointer; the name of the
        aligner's class; or ``"proportional"``: the utterance's duration,
        divided between the words by their numbers of text units. That is a
        rough guess, used if no aligner is installed or it fails.
        Both with " and " between them if the pieces of a long text differ.
    text : str
        Spoken text, without marks.
    word_emotions : torch.Tensor
        Requested emotions (W, K); zeros for unlabelled words.
    word_intensity : torch.Tensor
        Requested intensities (W,).
    speech_tokens : torch.Tensor
        Tokens (S,) that the language model generated.
    coverage : list of WordCoverage, optional
        For each word, whether it was spoken, lost, cut or repeated; None
        without a word pointer.
    """

    wav: torch.Tensor
    sample_rate: int
    words: list[Word]
    word_times_source: str
    text: str
    word_emotions: torch.Tensor
    word_intensity: torch.Tensor
    speech_tokens: torch.Tensor
    coverage: list[WordCoverage] | None = None


class SpeechJoiner:
    """Join the speech of pieces, with silence of given lengths between.

    The sound is that of
    :class:`~speechbrain_emofilm.inference.joining.SoundJoiner`. The wave of
    each piece is copied to one array and not kept.

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
        self._joiner: SoundJoiner | None = None
        # Memory that is reserved and not yet written costs nothing.
        self._reserved = np.empty(0, dtype=np.float32)
        self._size = 0

    def add(self, piece: SynthesisResult) -> None:
        """Append a piece.

        Arguments
        ---------
        piece : SynthesisResult
            Speech of the next piece.
        """
        gap = self._gaps[len(self._parts)]
        if self._gaps == [None, None]:
            self._parts.append(piece)
            return
        self._parts.append(replace(piece, wav=torch.zeros(0)))
        if self._joiner is None:
            self._joiner = SoundJoiner(piece.sample_rate)
            seconds = _RESERVED * len(self._gaps) + sum(
                filter(None, self._gaps)
            )
            self._reserved = np.empty(
                round(seconds * piece.sample_rate), dtype=np.float32
            )
        self._joiner.start(gap)
        self._append(self._joiner.push(piece.wav.numpy()))

    def finish(self) -> SynthesisResult:
        """Return the whole.

        Returns
        -------
        SynthesisResult
            Word times and speech tokens are those of the pieces in order.
        """
        first = self._parts[0]
        if self._joiner is None:
            return first
        self._append(self._joiner.finish(self._gaps[-1]))
        self._reserved.resize(self._size, refcheck=False)
        rate = first.sample_rate
        words: list[Word] = []
        for part, place in zip(self._parts, self._joiner.places):
            words += [
                replace(
                    word,
                    start=place.clamp(word.start, rate),
                    end=place.clamp(word.end, rate),
                )
                for word in part.words
            ]
        coverage: list[WordCoverage] | None = []
        for part in self._parts:
            if coverage is None or part.coverage is None:
                coverage = None
            else:
                coverage += part.coverage
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
            coverage,
        )

    def _append(self, wav: np.ndarray) -> None:
        """Copy sound behind what is joined so far."""
        size = self._size + len(wav)
        if size > len(self._reserved):
            self._reserved.resize(2 * size, refcheck=False)
        self._reserved[self._size : size] = wav
        self._size = size


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
