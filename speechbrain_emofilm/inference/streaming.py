"""Speech while it is being made, and while its text is being written."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import Break, MarkedText
from speechbrain_emofilm.dataio.splitting import sentence_ends, units_before
from speechbrain_emofilm.dataio.text import END_OF_INSTRUCTION
from speechbrain_emofilm.inference.joining import PiecePlace, SoundJoiner
from speechbrain_emofilm.inference.long_text import (
    Gaps,
    Piece,
    Planner,
    carry_history,
    piece_seed,
)
from speechbrain_emofilm.inference.pointing import POINTER, Pointing
from speechbrain_emofilm.inference.prompting import LMPrompt
from speechbrain_emofilm.inference.text_feed import TextFeed
from speechbrain_emofilm.inference.token_to_wav import WavStream

import numpy as np
import torch

#: Speech tokens between two chunks of sound; each is 40 ms.
CHUNK_TOKENS = 10
_TOKEN_SECONDS = 0.04
#: Text units as which the first guess of the speaking rate counts.
_GUESSED_UNITS = 20


@dataclass(frozen=True)
class SpeechChunk:
    """Part of a speech that is still being made.

    Arguments
    ---------
    wav : torch.Tensor
        Wave (T,), on the CPU; it follows that of the chunk before.
    sample_rate : int
        Sampling rate of the wave in Hz.
    words : list of Word
        Words that have begun by the end of this chunk, with times from the
        start of the speech; the last ends with the chunk, or before it. A
        start is not changed later.
    word_times_source : str
        ``"pointer"``, or ``"estimated"`` from the numbers of text units, with
        confidence 0, by a model without a word pointer.
    """

    wav: torch.Tensor
    sample_rate: int
    words: list[Word]
    word_times_source: str = "estimated"


@dataclass
class Utterance:
    """What is spoken without a cut.

    Arguments
    ---------
    gap : float, optional
        Seconds of silence before it; None leaves its own.
    tokens : Iterator of int
        Its speech tokens, as they are drawn.
    piece : Piece, optional
        Its text as far as it is known.
    find_words : callable, optional
        ``(is_whole) -> Pointing or None``: its words among the tokens so far.
    """

    gap: float | None = None
    tokens: Iterator[int] = field(default_factory=lambda: iter(()))
    piece: Piece | None = None
    find_words: Callable[[bool], Pointing | None] | None = None


class SpeechTrack:
    """Join the sound of utterances and tell which words have begun.

    Arguments
    ---------
    sample_rate : int
        Sampling rate in Hz.
    tokens_per_unit : float
        First guess of the number of speech tokens per text unit, for the
        times of words; it is corrected by what has been spoken.
    speed : float
        Speed of the speech.

    Example
    -------
    >>> track = SpeechTrack(24000, 5.0)
    >>> track.start(None)
    >>> sound = track.push(torch.ones(4800))
    >>> len(sound) + len(track.finish(None)), track.n_samples, track.words
    (4800, 4800, [])
    """

    def __init__(
        self, sample_rate: int, tokens_per_unit: float, speed: float = 1.0
    ):
        self.sample_rate = sample_rate
        #: Number of samples so far.
        self.n_samples = 0
        #: Words that have begun.
        self.words: list[Word] = []
        self._joiner = SoundJoiner(sample_rate)
        self._seconds_per_token = _TOKEN_SECONDS / speed
        self._n_units = _GUESSED_UNITS
        self._n_tokens = _GUESSED_UNITS * tokens_per_unit
        self._n_places = self._n_words = 0  # before this utterance
        self._rate = 0.0  # seconds per unit, of this utterance
        #: Where the times of the words are from.
        self.word_times_source = "estimated"

    @property
    def places(self) -> list[PiecePlace]:
        """Places of the utterances whose sound has begun."""
        return self._joiner.places

    def start(self, gap: float | None) -> None:
        """Begin an utterance, so many seconds after the one before."""
        self._joiner.start(gap)
        self._n_places, self._n_words = len(self.places), len(self.words)
        if gap is None:
            self._n_places -= 1

    def push(
        self,
        wav: torch.Tensor,
        piece: Piece | None = None,
        n_tokens: int = 0,
        pointing: Pointing | None = None,
    ) -> np.ndarray:
        """Add sound of the utterance and return what is ready.

        Arguments
        ---------
        wav : torch.Tensor
            Sound (T,), on the CPU.
        piece : Piece, optional
            Text of the utterance as far as it is known.
        n_tokens : int
            With the last sound, the number of the utterance's speech tokens.
        pointing : Pointing, optional
            Where the words are among the tokens so far; estimated if None.
        """
        if n_tokens:
            self._n_tokens += n_tokens
            if piece is not None:
                self._n_units += len(piece.units.ids)
        sound = self._joiner.push(wav.numpy())
        self.n_samples += len(sound)
        place = self.places[self._n_places :]
        if place and piece is not None and pointing is not None:
            self._point_words(piece, place[0], pointing, n_tokens > 0)
        elif place and piece is not None:
            self._begin_words(piece, place[0].start, n_tokens)
        return sound

    def finish(self, gap: float | None) -> np.ndarray:
        """Return the rest of the sound, with so many seconds of silence."""
        sound = self._joiner.finish(gap)
        self.n_samples += len(sound)
        return sound

    def seconds(self, n_units: int) -> float:
        """Estimate the duration of text units of the present utterance."""
        return n_units * self._rate

    def _begin_words(self, piece: Piece, start: int, n_tokens: int) -> None:
        """Add the words of the utterance that have begun by now.

        These are all of them if it has ended, with so many tokens.
        """
        rate = self._n_tokens / self._n_units
        if n_tokens:
            rate = n_tokens / len(piece.units.ids)
        self._rate = rate = rate * self._seconds_per_token
        now = self.n_samples / self.sample_rate
        start_time = start / self.sample_rate
        owners = piece.units.word_of_unit
        words = piece.marked.words
        for index in range(len(self.words) - self._n_words, len(words)):
            time = start_time
            if index in owners:
                time += owners.index(index) * rate
            if time > now and not n_tokens:
                break
            if self.words:
                last = self.words[-1]
                time = min(max(time, last.start), max(now, last.start))
                if index:
                    self.words[-1] = replace(last, end=time)
            self.words.append(Word(words[index].word, time, time, 0.0))
        if len(self.words) > self._n_words:
            last = self.words[-1]
            self.words[-1] = replace(last, end=max(last.start, now))

    def _point_words(
        self, piece: Piece, place: PiecePlace, found: Pointing, is_whole: bool
    ) -> None:
        """Add the utterance's words that were found and have begun by now."""
        self.word_times_source = POINTER
        rate = self.sample_rate
        # Of a word that goes on; what has been spoken says more than a guess.
        guess = self._n_tokens / self._n_units
        self._rate = guess * self._seconds_per_token
        now, shift = self.n_samples / rate, place.shift / rate
        names = [word.word for word in piece.marked.words]
        words = found.words(names, self._seconds_per_token)
        n_told = len(self.words) - self._n_words
        earliest = place.start / rate
        for index, word in enumerate(words):
            reached = found.spans[index, 0] >= 0
            start = max(word.start + shift, earliest)
            if index < n_told:
                start = self.words[self._n_words + index].start
                if not reached:
                    continue
            elif not is_whole and (not reached or start >= now):
                break
            start = min(start, max(now, earliest))
            end = max(start, min(word.end + shift, now))
            word = replace(word, start=start, end=end)
            self.words[self._n_words + index : self._n_words + index + 1] = [
                word
            ]
            earliest = start


class ChunkMaker:
    """Turn utterances into chunks of sound with the words that have begun.

    Arguments
    ---------
    start_wav : callable
        Returns a new stream of an utterance's sound, see
        :meth:`~speechbrain_emofilm.inference.token_to_wav.TokenToWavBase.stream`.
    track : SpeechTrack
        Joins the sound.
    """

    def __init__(self, start_wav: Callable, track: SpeechTrack):
        self._start_wav = start_wav
        self._track = track

    def speak(self, utterance: Utterance) -> Iterator[SpeechChunk]:
        """Speak an utterance, chunk by chunk."""
        self._track.start(utterance.gap)
        stream = self._start_wav()
        n_tokens, size = 0, first_chunk_tokens(stream)
        waiting: list[int] = []

        def chunk(wav: torch.Tensor, n_tokens: int = 0):
            pointing = None
            if utterance.find_words is not None:
                pointing = utterance.find_words(n_tokens > 0)
            sound = self._track.push(
                wav.float().cpu(), utterance.piece, n_tokens, pointing
            )
            if len(sound):
                yield self._chunk(sound)

        for token in utterance.tokens:
            waiting.append(token)
            if len(waiting) == size:
                yield from chunk(stream.push(torch.tensor(waiting)))
                n_tokens, waiting, size = n_tokens + size, [], CHUNK_TOKENS
        if waiting:
            yield from chunk(stream.push(torch.tensor(waiting)))
        yield from chunk(stream.finish(), n_tokens + len(waiting))

    def speak_all(
        self, source: "Utterances", utterances: Iterable[Utterance]
    ) -> Iterator[SpeechChunk]:
        """Speak the utterances of a source, and the silence at the end."""
        for utterance in utterances:
            yield from self.speak(utterance)
        sound = self._track.finish(source.last_gap)
        if len(sound):
            yield self._chunk(sound)

    def _chunk(self, sound: np.ndarray) -> SpeechChunk:
        track = self._track
        return SpeechChunk(
            torch.from_numpy(sound),
            track.sample_rate,
            list(track.words),
            track.word_times_source,
        )


def first_chunk_tokens(stream: WavStream) -> int:
    """Choose after how many tokens an utterance's sound is first made."""
    return stream.look_ahead + CHUNK_TOKENS // 2


@dataclass(frozen=True)
class Passage:
    """Complete sentences of a text.

    Arguments
    ---------
    marked : MarkedText
        The words as they were written, and their emotions.
    plan : list of Piece or Break
        What is spoken.
    """

    marked: MarkedText
    plan: list[Piece | Break]


class SentenceReader:
    """Read a text that is being written, and plan every complete sentence.

    Arguments
    ---------
    planner : Planner
        Reads text.
    unmarked : str or dict
        Emotion of words outside of marks, as in ``Planner.plan``.
    intensity : float
        Intensity of labelled words whose mark gives none.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.text import TextUnits
    >>> class Frontend:
    ...     language = "en"
    ...     def encode(self, text):
    ...         words = text.split()
    ...         places = list(range(len(words)))
    ...         return TextUnits(places, places, words)
    >>> reader = SentenceReader(Planner(["happy"], Frontend()))
    >>> reader.add("<happy>We won! He")
    >>> reader.add(" left.</happy> No").marked.text
    'We won!'
    >>> reader.finish().marked.text
    'He left. No'
    """

    def __init__(
        self,
        planner: Planner,
        unmarked: str | Mapping[str, float] = "unlabelled",
        intensity: float = 1.0,
    ):
        self._planner = planner
        self._unmarked, self._intensity = unmarked, intensity
        self._feed = TextFeed(planner.tags)
        self._known = ""
        self._any = False

    def add(self, text: str) -> Passage | None:
        """Add a piece of text; return the sentences that it completes.

        Raises
        ------
        ValueError
            If what is known by now cannot be read.
        """
        _add(self._feed, text)
        known = self._feed.known
        if known == self._known or not self._feed.count(known):
            return None
        self._known = known
        marked = self._planner.parse(known, self._unmarked)
        ends = sentence_ends(marked)[:-1]
        return self._read(self._feed.take(ends[-1])) if ends else None

    def finish(self) -> Passage:
        """End the text and return the rest, which may have no word.

        Raises
        ------
        ValueError
            If it cannot be read, or the text had no word at all.
        """
        self._feed.finish()
        text = self._feed.take()
        if self._any and not self._feed.count(text):
            # The parser wants a word, also to say what is wrong with marks.
            rest = self._planner.parse(f"{text} a", self._unmarked)
            return Passage(
                replace(rest, text="", words=[]),
                [Break(0, sum(b.seconds for b in rest.breaks))],
            )
        return self._read(text)

    def _read(self, text: str) -> Passage:
        self._any = True
        plan = self._planner.plan(text, self._unmarked, self._intensity)
        return Passage(self._planner.parse(text, self._unmarked), plan)


class Utterances:
    """Cut text into utterances and let a language model speak them.

    Each one must be spoken before the next is taken.

    Arguments
    ---------
    planner : Planner
        Reads text.
    generate : callable
        ``(piece, prompt, seed) -> tokens`` of a whole piece.
    generate_growing : callable, optional
        ``(growing, prompt, seed) -> tokens`` of a piece that is still being
        written: `growing` yields the piece so far and the number of its units
        that will not change. None for a language model that reads whole texts
        only; a text that is being written is then spoken sentence by sentence.
    prompt : LMPrompt
        Prompt of the language model.
    unmarked : str or dict
        Emotion of words outside of marks, as in ``Planner.plan``.
    intensity : float
        Intensity of labelled words whose mark gives none.
    seed : int
        Seed of the first utterance.
    history : bool
        Whether an utterance continues the one before it.
    """

    def __init__(
        self,
        planner: Planner,
        generate: Callable,
        generate_growing: Callable | None,
        prompt: LMPrompt,
        unmarked: str | Mapping[str, float],
        intensity: float,
        seed: int,
        history: bool,
    ):
        self._planner = planner
        self._generate = generate
        self._generate_growing = generate_growing
        self._prompt = self._current = prompt
        self._unmarked, self._intensity = unmarked, intensity
        self._seed, self._history = seed, history
        self._n_spoken = 0
        self._gaps = Gaps(planner.splitter)

    @property
    def last_gap(self) -> float | None:
        """Seconds of silence asked for at the end; None if none were."""
        return self._gaps.last

    def of_plan(self, plan: list[Piece | Break]) -> Iterator[Utterance]:
        """Speak the pieces of a plan."""
        for gap, piece in self._gaps.add_plan(plan):
            seed = piece_seed(self._seed, self._n_spoken)
            tokens = self._generate(piece, self._current, seed)
            yield from self._speak(Utterance(gap, piece=piece), tokens)

    def of_pieces(self, texts: Iterable[str]) -> Iterator[Utterance]:
        """Speak a text whose pieces arrive one by one."""
        pieces, feed = iter(texts), TextFeed(self._planner.tags)
        if self._generate_growing is None:
            yield from self._sentences(pieces)
            return
        while True:
            utterance = Utterance()
            growing = self._grow(utterance, pieces, feed)
            first = next(growing, None)
            if first is None:
                return
            seed = piece_seed(self._seed, self._n_spoken)
            tokens = self._generate_growing(
                itertools.chain([first], growing), self._current, seed
            )
            utterance.gap = self._gaps.before
            yield from self._speak(utterance, tokens)
            assert utterance.piece is not None
            self._gaps.add_piece(utterance.piece)

    def _sentences(self, pieces: Iterator[str]) -> Iterator[Utterance]:
        """Speak every sentence as soon as it is known."""
        reader = SentenceReader(self._planner, self._unmarked, self._intensity)
        for piece in pieces:
            passage = reader.add(piece)
            if passage is not None:
                yield from self.of_plan(passage.plan)
        yield from self.of_plan(reader.finish().plan)

    def _grow(
        self, utterance: Utterance, pieces: Iterator[str], feed: TextFeed
    ) -> Iterator[tuple[Piece, int]]:
        """Yield what is known of the next utterance until it is complete."""
        n_final, begun = 0, False
        while True:
            marked = self._read(feed)
            if marked is not None:
                piece = self._planner.piece(marked, self._intensity)
                end = self._end(marked, piece, feed.finished)
                if end is not None:
                    text = feed.take(None if end == len(marked.words) else end)
                    marked = self._planner.parse(text, self._unmarked)
                    piece = self._planner.piece(marked, self._intensity)
                utterance.piece = piece
                sizes = units_before(piece.units)
                # The last word is held back: what follows changes its reading.
                n_known = sizes[-1 if end is not None else -2]
                if not begun:
                    begun = True
                    self._gaps.add_break(
                        sum(b.seconds for b in marked.breaks if b.word == 0)
                    )
                if n_known > n_final:
                    n_final = n_known
                    yield piece, n_known
                if end is not None:
                    return
            elif feed.finished:
                if not self._n_spoken:  # says what is wrong with the text
                    self._planner.parse(feed.take(), self._unmarked)
                return
            _add_next(feed, pieces)

    def _read(self, feed: TextFeed) -> MarkedText | None:
        """Read the known words of a text; None if there are none."""
        known = feed.known
        if not feed.count(known):
            return None
        return self._planner.parse(known, self._unmarked)

    def _end(
        self, marked: MarkedText, piece: Piece, finished: bool
    ) -> int | None:
        """Choose the end of the utterance among the known words, if any."""
        n_words = len(marked.words)
        ends = [b.word for b in marked.breaks if 0 < b.word < n_words]
        splitter = self._planner.splitter
        read = units_before(piece.units)
        n_read = len(read) - 1
        # The normaliser may have written other words: then about so many.
        sizes = [read[i * n_read // n_words] for i in range(n_words + 1)]
        for end in sentence_ends(marked)[:-1]:
            if sizes[end] >= splitter.min_units:
                ends.append(end)
                break
        if finished:
            ends.append(n_words)
        elif sizes[n_words - 1] > splitter.max_sentence_units:
            ends.append(n_words - 1)
        return min(ends, default=None)

    def _speak(
        self, utterance: Utterance, tokens: Iterable[int]
    ) -> Iterator[Utterance]:
        """Yield an utterance and remember what was spoken."""
        spoken: list[int] = []

        def record() -> Iterator[int]:
            for token in tokens:
                spoken.append(token)
                yield token

        utterance.tokens = record()
        utterance.find_words = getattr(tokens, "find_words", None)
        yield utterance
        piece = utterance.piece
        assert piece is not None
        self._n_spoken += 1
        if self._history:
            self._current = carry_history(
                self._prompt, piece, torch.tensor(spoken)
            )


def _add_next(feed: TextFeed, pieces: Iterator[str]) -> None:
    """Wait for the next piece of a text, or its end."""
    piece = next(pieces, None)
    if piece is None:
        feed.finish()
    else:
        _add(feed, piece)


def _add(feed: TextFeed, piece: str) -> None:
    """Add a piece of text; refuse what is none."""
    if not isinstance(piece, str):
        raise ValueError(f"A piece of the text is {piece!r}: give strings.")
    if END_OF_INSTRUCTION in piece:
        raise ValueError(
            f"{END_OF_INSTRUCTION} stands in a text that is given in pieces: "
            "give the instruction as instruction=."
        )
    feed.add(piece)
