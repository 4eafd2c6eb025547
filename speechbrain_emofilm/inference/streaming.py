"""Speech while it is being made, and while its text is being written."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import Break, MarkedText
from speechbrain_emofilm.dataio.splitting import sentence_ends, units_before
from speechbrain_emofilm.dataio.text import END_OF_INSTRUCTION
from speechbrain_emofilm.inference.joining import SoundJoiner
from speechbrain_emofilm.inference.long_text import (
    Piece,
    Planner,
    carry_history,
    piece_seed,
    pieces_and_gaps,
)
from speechbrain_emofilm.inference.prompting import LMPrompt
from speechbrain_emofilm.inference.text_feed import TextFeed

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
        start of the speech; the last ends with the chunk. The times are
        estimated from the numbers of text units, and the confidence is 0.
    """

    wav: torch.Tensor
    sample_rate: int
    words: list[Word]


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
    """

    gap: float | None = None
    tokens: Iterator[int] = field(default_factory=lambda: iter(()))
    piece: Piece | None = None


class ChunkMaker:
    """Turn utterances into chunks of sound with the words that have begun.

    Arguments
    ---------
    start_wav : callable
        Returns a new stream of an utterance's sound, see
        :meth:`~speechbrain_emofilm.inference.token_to_wav.TokenToWavBase.stream`.
    sample_rate : int
        Sampling rate in Hz.
    tokens_per_unit : float
        First guess of the number of speech tokens per text unit, for the
        times of words; it is corrected by what has been spoken.
    speed : float
        Speed of the speech.
    """

    def __init__(
        self,
        start_wav: Callable,
        sample_rate: int,
        tokens_per_unit: float,
        speed: float = 1.0,
    ):
        self._start_wav = start_wav
        self._rate = sample_rate
        self._joiner = SoundJoiner(sample_rate)
        self._seconds_per_token = _TOKEN_SECONDS / speed
        self._n_units = _GUESSED_UNITS
        self._n_tokens = _GUESSED_UNITS * tokens_per_unit
        self._n_samples = 0
        self._words: list[Word] = []

    def speak(self, utterance: Utterance) -> Iterator[SpeechChunk]:
        """Speak an utterance, chunk by chunk."""
        self._joiner.start(utterance.gap)
        n_before, n_words = len(self._joiner.places), len(self._words)
        if utterance.gap is None:
            n_before -= 1
        stream = self._start_wav()
        n_tokens, size = 0, stream.look_ahead + CHUNK_TOKENS // 2
        waiting: list[int] = []

        def chunk(wav: torch.Tensor, ended: bool = False):
            sound = self._joiner.push(wav.float().cpu().numpy())
            self._n_samples += len(sound)
            place = self._joiner.places[n_before:]
            if place:
                self._begin_words(
                    utterance, n_words, place[0].start, n_tokens * ended
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
        n_tokens += len(waiting)
        self._n_tokens += n_tokens
        if utterance.piece is not None:
            self._n_units += len(utterance.piece.units.ids)
        yield from chunk(stream.finish(), ended=True)

    def speak_all(
        self, source: "Utterances", utterances: Iterable[Utterance]
    ) -> Iterator[SpeechChunk]:
        """Speak the utterances of a source, and the silence at the end."""
        for utterance in utterances:
            yield from self.speak(utterance)
        sound = self._joiner.finish(source.last_gap)
        self._n_samples += len(sound)
        if len(sound):
            yield self._chunk(sound)

    def _begin_words(
        self, utterance: Utterance, n_before: int, start: int, n_tokens: int
    ) -> None:
        """Add the words of an utterance that have begun by now.

        These are all of them if it has ended, with so many tokens.
        """
        if utterance.piece is None:
            return
        rate = self._n_tokens / self._n_units
        if n_tokens:
            rate = n_tokens / len(utterance.piece.units.ids)
        rate *= self._seconds_per_token
        now, start_time = self._n_samples / self._rate, start / self._rate
        owners = utterance.piece.units.word_of_unit
        words = utterance.piece.marked.words
        for index in range(len(self._words) - n_before, len(words)):
            time = start_time
            if index in owners:
                time += owners.index(index) * rate
            if time > now and not n_tokens:
                break
            if self._words:
                last = self._words[-1]
                time = min(max(time, last.start), max(now, last.start))
                if index:
                    self._words[-1] = replace(last, end=time)
            self._words.append(Word(words[index].word, time, time, 0.0))
        if self._words and len(self._words) > n_before:
            last = self._words[-1]
            self._words[-1] = replace(last, end=max(last.start, now))

    def _chunk(self, sound) -> SpeechChunk:
        return SpeechChunk(
            torch.from_numpy(sound), self._rate, list(self._words)
        )


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
        self._break = 0.0  # silence asked for behind the last utterance
        self._pause = 0.0  # the natural pause there

    @property
    def last_gap(self) -> float | None:
        """Seconds of silence asked for at the end; None if none were."""
        return self._break or None

    def of_plan(self, plan: list[Piece | Break]) -> Iterator[Utterance]:
        """Speak the pieces of a plan."""
        pieces, gaps = pieces_and_gaps(plan)
        for index, piece in enumerate(pieces):
            before = gaps[index] or 0.0
            if index:
                self._break, self._pause = 0.0, before
            else:
                self._break += before
            seed = piece_seed(self._seed, self._n_spoken)
            tokens = self._generate(piece, self._current, seed)
            yield from self._speak(Utterance(piece=piece), tokens)
        self._break = gaps[-1] or 0.0

    def of_pieces(self, texts: Iterable[str]) -> Iterator[Utterance]:
        """Speak a text whose pieces arrive one by one."""
        pieces, feed = iter(texts), TextFeed(self._planner.tags)
        if self._generate_growing is None:
            yield from self._sentences(pieces, feed)
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
            yield from self._speak(utterance, tokens)

    def _sentences(
        self, pieces: Iterator[str], feed: TextFeed
    ) -> Iterator[Utterance]:
        """Speak every sentence as soon as it is known."""
        while not feed.finished:
            _add_next(feed, pieces)
            text = feed.take() if feed.finished else ""
            marked = self._read(feed)
            if marked is not None:
                ends = sentence_ends(marked)[:-1]
                text = feed.take(ends[-1]) if ends else ""
            if text.strip() or (feed.finished and not self._n_spoken):
                plan = self._planner.plan(text, self._unmarked, self._intensity)
                yield from self.of_plan(plan)

    def _grow(
        self, utterance: Utterance, pieces: Iterator[str], feed: TextFeed
    ) -> Iterator[tuple[Piece, int]]:
        """Yield what is known of the next utterance until it is complete."""
        n_final, begun = 0, False
        while True:
            marked = self._read(feed)
            if marked is not None:
                end = self._end(marked, feed.finished)
                if end is not None:
                    text = feed.take(None if end == len(marked.words) else end)
                    marked = self._planner.parse(text, self._unmarked)
                utterance.piece = self._planner.piece(marked, self._intensity)
                sizes = units_before(utterance.piece.units)
                # The last word is held back: what follows changes its reading.
                n_known = sizes[-1 if end is not None else -2]
                if not begun:
                    begun = True
                    self._break += sum(
                        b.seconds for b in marked.breaks if b.word == 0
                    )
                if n_known > n_final:
                    n_final = n_known
                    yield utterance.piece, n_known
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

    def _end(self, marked: MarkedText, finished: bool) -> int | None:
        """Choose the end of the utterance among the known words, if any."""
        n_words = len(marked.words)
        ends = [b.word for b in marked.breaks if 0 < b.word < n_words]
        splitter = self._planner.splitter
        sizes = self._sizes(marked)
        for end in sentence_ends(marked)[:-1]:
            if sizes[end] >= splitter.min_units:
                ends.append(end)
                break
        if finished:
            ends.append(n_words)
        elif sizes[n_words - 1] > splitter.max_sentence_units:
            ends.append(n_words - 1)
        return min(ends, default=None)

    def _sizes(self, marked: MarkedText) -> list[int]:
        """Count the units before each word, and all."""
        piece = self._planner.piece(marked)
        read = units_before(piece.units)
        n_words, n_read = len(marked.words), len(read) - 1
        # The normaliser may have written other words: then about so many.
        return [read[i * n_read // n_words] for i in range(n_words + 1)]

    def _speak(
        self, utterance: Utterance, tokens: Iterable[int]
    ) -> Iterator[Utterance]:
        """Yield an utterance and remember what was spoken."""
        spoken: list[int] = []

        def record() -> Iterator[int]:
            for token in tokens:
                spoken.append(token)
                yield token

        if self._n_spoken or self._break:
            utterance.gap = self._break or self._pause
        utterance.tokens = record()
        yield utterance
        piece = utterance.piece
        assert piece is not None
        self._n_spoken += 1
        n_words = len(piece.marked.words)
        self._break = 0.0
        self._pause = self._planner.splitter.pause(piece.marked, n_words)
        if self._history:
            self._current = carry_history(
                self._prompt, piece, torch.tensor(spoken)
            )


def _add_next(feed: TextFeed, pieces: Iterator[str]) -> None:
    """Wait for the next piece of a text, or its end."""
    piece = next(pieces, None)
    if piece is None:
        feed.finish()
    elif not isinstance(piece, str):
        raise ValueError(f"A piece of the text is {piece!r}: give strings.")
    elif END_OF_INSTRUCTION in piece:
        raise ValueError(
            f"{END_OF_INSTRUCTION} stands in a text that is given in pieces: "
            "give the instruction as instruction=."
        )
    else:
        feed.add(piece)
