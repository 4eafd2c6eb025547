"""Texts as the model's pieces, and their speech put together again."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import MarkedText
from speechbrain_emofilm.inference.long_text import (
    Gaps,
    Piece,
    Planner,
    pieces_and_gaps,
)
from speechbrain_emofilm.inference.pointing import POINTER
from speechbrain_emofilm.inference.streaming import Passage, SentenceReader
from speechbrain_emofilm.serve.engine import Said

import numpy as np
import torch

#: Longest silence that the breaks of a text may ask for, in seconds: it costs
#: a client nothing and the server memory.
MAX_SILENCE = 300.0


@dataclass(frozen=True)
class Reading:
    """A text as it is spoken.

    Arguments
    ---------
    pieces : list of Piece
        Pieces of the model's size.
    gaps : list of float or None
        Seconds before each piece; None leaves its own silence.
    last_gap : float, optional
        Seconds behind the last one.
    words : list of str
        Words of the text as they were written.
    origins : list of int
        For each word of the pieces, the index of the word that it is a
        reading of; -1 if there is none.
    """

    pieces: list[Piece]
    gaps: list[float | None]
    last_gap: float | None
    words: list[str]
    origins: list[int]


def read_text(planner: Planner, text: str) -> Reading:
    """Read a text in whole.

    Arguments
    ---------
    planner : Planner
        The model's planner.
    text : str
        Text with marks and breaks.

    Returns
    -------
    Reading
        What is spoken.

    Raises
    ------
    ValueError
        If it cannot be read, or asks for too much silence.
    """
    marked = planner.parse(text)
    _check_silence(sum(pause.seconds for pause in marked.breaks))
    pieces, gaps = pieces_and_gaps(planner.plan(text))
    return _reading(planner, marked, pieces, gaps[:-1], gaps[-1])


class StreamReader:
    """Read a text that is being written, sentence by sentence.

    Arguments
    ---------
    planner : Planner
        The model's planner.
    """

    def __init__(self, planner: Planner):
        self._planner = planner
        self._reader = SentenceReader(planner)
        self._gaps = Gaps(planner.splitter)
        self._silence = 0.0

    def add(self, text: str) -> Reading | None:
        """Add a piece of text; return the sentences that it completes.

        Raises
        ------
        ValueError
            If they cannot be read, or ask for too much silence.
        """
        passage = self._reader.add(text)
        return None if passage is None else self._read(passage)

    def finish(self) -> Reading:
        """Return the rest of the text.

        Raises
        ------
        ValueError
            As :meth:`add`, or if the whole text has no word.
        """
        return self._read(self._reader.finish())

    def _read(self, passage: Passage) -> Reading:
        marked = passage.marked
        self._silence += sum(pause.seconds for pause in marked.breaks)
        _check_silence(self._silence)
        spoken = self._gaps.add_plan(passage.plan)
        pieces = [piece for _, piece in spoken]
        gaps = [gap for gap, _ in spoken]
        return _reading(self._planner, marked, pieces, gaps, self._gaps.last)


def _reading(
    planner: Planner,
    marked: MarkedText,
    pieces: list[Piece],
    gaps: list[float | None],
    last_gap: float | None,
) -> Reading:
    words = [word.word for word in marked.words]
    origins = planner.origins(marked) if words else []
    return Reading(pieces, gaps, last_gap, words, origins)


def _check_silence(seconds: float) -> None:
    if seconds > MAX_SILENCE:
        raise ValueError(
            f"The breaks of the text take {seconds:g} s, more than the "
            f"{MAX_SILENCE:g} s that are accepted: shorten them."
        )


class Speech:
    """Speech of a text, put together from that of its pieces.

    The sound is that of the synthesizer's ``synthesize`` or ``stream``.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    speed : float
        Speed of the speech.
    aligner : Executor, optional
        Where the words of each piece are looked for, for :meth:`timed_words`,
        in its sound if the model has no word pointer; they are not if None.
    """

    def __init__(
        self, synthesizer, speed: float = 1.0, aligner: Executor | None = None
    ):
        self._synthesizer = synthesizer
        self._track = synthesizer.track(speed)
        self._aligner = aligner
        self._pieces: list[Piece] = []
        self._gaps: list[float | None] = []
        self._last_gap: float | None = None
        self._words: list[str] = []
        self._origins: list[int] = []
        self._index = 0  # of the present piece
        self._begun = False
        self._n_seen = 0  # spoken words that have begun
        self._n_told = 0  # the text's words that have begun
        self._finished = False
        self._heard: list[np.ndarray] = []  # sound of the present piece
        self._found: list[Future] = []

    def expect(self, reading: Reading) -> None:
        """Say what will be spoken, in addition to what is known."""
        n_words = len(self._words)
        self._pieces += reading.pieces
        self._gaps += reading.gaps
        self._last_gap = reading.last_gap
        self._words += reading.words
        self._origins += [
            n_words + origin if origin >= 0 else -1
            for origin in reading.origins
        ]

    def add(self, said: Said) -> np.ndarray:
        """Add a part of the speech.

        Arguments
        ---------
        said : Said
            What follows in the order of the text.

        Returns
        -------
        numpy.ndarray
            Sound (T,) that is ready.
        """
        piece = self._pieces[self._index]
        if not self._begun:
            self._track.start(self._gaps[self._index])
            self._begun = True
        n_tokens = len(said.tokens) if said.last else 0
        sound = self._track.push(
            torch.from_numpy(said.wav), piece, n_tokens, said.pointing
        )
        if self._aligner is not None:
            self._heard.append(said.wav)
        if said.last:
            if self._aligner is not None:
                heard = torch.from_numpy(np.concatenate(self._heard))
                find = self._synthesizer.word_times
                rate = self._track.sample_rate
                self._found.append(
                    self._aligner.submit(
                        find, piece, heard, rate, n_tokens, said.pointing
                    )
                )
            self._index += 1
            self._begun, self._heard = False, []
        return sound

    def finish(self) -> np.ndarray:
        """Return the rest of the sound (T,)."""
        self._finished = True
        return self._track.finish(self._last_gap)

    def close(self) -> None:
        """Give up the search for words."""
        for found in self._found:
            found.cancel()

    @property
    def duration(self) -> float:
        """Duration of the sound so far, in seconds."""
        return self._track.n_samples / self._track.sample_rate

    def new_words(self) -> list[Word]:
        """Return the text's words that have begun since the last call.

        Without a word pointer their times are estimated; the end of the last
        one is so in any case, and may be one of sound to come.
        """
        new: list[Word] = []
        begun = self._track.words
        points = self._track.word_times_source == POINTER
        for word in self._track.words[self._n_seen :]:
            origin = self._origins[self._n_seen]
            piece, start = self._piece_of(self._n_seen)
            n_units = sum(
                owner >= 0 and self._origins[start + owner] == origin
                for owner in piece.units.word_of_unit
            )
            end = word.start + self._track.seconds(n_units)
            if points:
                last = self._n_seen
                while self._origins[last + 1 : last + 2] == [origin]:
                    last += 1
                found = begun[min(last, len(begun) - 1)].end
                # What goes on is cut off where the sound ends so far.
                goes_on = last >= len(begun) - 1 and self._begun
                end = max(end, found) if goes_on else found
            self._n_seen += 1
            while self._n_told <= origin:
                is_read = self._n_told == origin
                new.append(
                    Word(
                        self._words[self._n_told],
                        word.start,
                        end if is_read else word.start,
                        word.confidence if is_read else 0.0,
                    )
                )
                self._n_told += 1
        if self._finished:  # words without a reading behind all others
            end = self.duration
            new += [Word(w, end, end, 0.0) for w in self._words[self._n_told :]]
            self._n_told = len(self._words)
        return new

    def _piece_of(self, spoken: int) -> tuple[Piece, int]:
        """Find the piece of a spoken word, and the words before it."""
        index, start = 0, 0
        while spoken >= start + len(self._pieces[index].marked.words):
            start += len(self._pieces[index].marked.words)
            index += 1
        return self._pieces[index], start

    def timed_words(self, timeout: float | None = None) -> tuple:
        """Return all words with the times that were found.

        Arguments
        ---------
        timeout : float, optional
            Seconds to wait for each piece.

        Returns
        -------
        words : list of Word
            One for each word of the text.
        source : str
            Where the times are from, as ``word_times_source`` of a result of
            ``synthesize``.
        """
        rate, spoken = self._track.sample_rate, []
        sources: dict[str, None] = {}
        for found, place in zip(self._found, self._track.places):
            words, source = found.result(timeout)
            sources[source] = None
            spoken += [
                replace(
                    word,
                    start=place.clamp(word.start, rate),
                    end=place.clamp(word.end, rate),
                )
                for word in words
            ]
        words = words_of_text(self._words, self._origins, spoken)
        return words, " and ".join(sources)


def words_of_text(
    words: Sequence[str], origins: Sequence[int], spoken: Sequence[Word]
) -> list[Word]:
    """Find the times of a text's own words from those of its reading.

    A reading may have several words for one ("21" is "twenty one").

    Arguments
    ---------
    words : list of str
        Words of the text.
    origins : list of int
        For each spoken word, the index of its word of the text, or -1.
    spoken : list of Word
        Words of the reading with their times.

    Returns
    -------
    list of Word
        One for each word of the text; one without a reading takes no time.

    Example
    -------
    >>> spoken = [Word("twenty", 0.0, 0.4, 0.9), Word("one", 0.4, 0.6, 0.8)]
    >>> words_of_text(["21"], [0, 0], spoken)
    [Word(text='21', start=0.0, end=0.6, confidence=0.8)]
    """
    parts: dict[int, list[Word]] = {}
    for origin, word in zip(origins, spoken):
        parts.setdefault(origin, []).append(word)
    timed, end = [], 0.0
    for index, name in enumerate(words):
        own = parts.get(index) or [Word(name, end, end, 0.0)]
        start = min(part.start for part in own)
        end = max(part.end for part in own)
        confidence = min(part.confidence for part in own)
        timed.append(Word(name, start, end, confidence))
    return timed
