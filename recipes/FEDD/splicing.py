"""Splice one utterance from several readings of a sentence."""

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import WordLabel

import numpy as np
from joining import MEASURES, JoinQuality, join, join_quality

SAMPLE_RATE = 24000
#: Maximum number of words of a neutral bridge.
LONGEST_BRIDGE = 3


@dataclass(frozen=True)
class Recording:
    """A reading of a sentence with timed and labelled words."""

    id: str
    wav: str
    speaker: str
    language: str
    text: str
    emotion: str
    words: tuple[WordLabel, ...]

    def boundary(self, word: int) -> int:
        """Return the sample before a word to cut at: the middle of a pause."""
        seconds = (self.words[word - 1].end + self.words[word].start) / 2
        return round(seconds * SAMPLE_RATE)

    def carries(self, first: int, last: int) -> bool:
        """Tell whether a word in first..last-1 has the reading's emotion."""
        return self.emotion in {w.emotion for w in self.words[first:last]}

    def sound(self) -> np.ndarray:
        """Return the samples (T,)."""
        return _sound(self.wav)


@functools.lru_cache(maxsize=64)
def _sound(path):
    return load_audio(path, SAMPLE_RATE).numpy()


@dataclass(frozen=True)
class Spliced:
    """A spliced item; a join is (index of the next word, sample, quality)."""

    wav: np.ndarray
    words: list[WordLabel]
    joins: list[tuple[int, int, JoinQuality]]
    sources: list[Recording]


def splice(
    parts: Sequence[tuple[Recording, int, int]],
) -> Spliced:
    """Join parts of readings: (reading, first word, end of its words)."""
    recording, _, last = parts[0]
    wav, offset = recording.sound(), 0
    words, places = list(recording.words[:last]), []
    for following, first, last in parts[1:]:
        cut = recording.boundary(first) + offset
        wav, offset = join(
            wav,
            following.sound(),
            cut,
            following.boundary(first),
            SAMPLE_RATE,
        )
        places.append((first, cut))
        words += [
            _moved(word, offset / SAMPLE_RATE, cut / SAMPLE_RATE)
            for word in following.words[first:last]
        ]
        recording = following
    joins = [
        (first, cut, join_quality(wav, cut, SAMPLE_RATE))
        for first, cut in places
    ]
    return Spliced(wav, _in_order(words), joins, [part[0] for part in parts])


def _moved(word, seconds, earliest):
    """Move a word to its time in the item."""
    start = max(word.start + seconds, earliest)
    end = max(word.end + seconds, start + 0.01)
    return replace(word, start=round(start, 4), end=round(end, 4))


def _in_order(words):
    """End a word before a join where the next one begins."""
    ordered = []
    for word, following in zip(words, [*words[1:], None]):
        end = word.end if following is None else min(word.end, following.start)
        ordered.append(replace(word, end=end))
    return ordered


def strong_cuts(n_words: int) -> list[tuple[int, ...]]:
    """List where a sentence may be cut once: index of the word behind."""
    margin = 2 if n_words >= 4 else 1
    return [(cut,) for cut in range(margin, n_words - margin + 1)]


def mild_cuts(n_words: int) -> list[tuple[int, ...]]:
    """List where a sentence may be cut for a bridge: pairs of word indices."""
    margin = 2 if n_words >= 5 else 1
    return [
        (first, second)
        for first in range(margin, n_words - margin)
        for second in range(first + 1, n_words - margin + 1)
        if second - first <= LONGEST_BRIDGE
    ]


def best_splice(
    readings: Sequence[Recording],
    cuts: Sequence[tuple[int, ...]],
    natural: Mapping[str, float],
    prepare: Callable | None = None,
) -> tuple[float, Spliced] | None:
    """Splice at the cut with the smallest jump; None if none is possible."""
    best = None
    for cut in cuts:
        ends = [0, *cut, len(readings[0].words)]
        parts = zip(readings, ends, ends[1:])
        if not all(reading.carries(*part) for reading, *part in parts):
            continue
        ready = prepare(readings, cut) if prepare else readings
        parts = list(zip(ready, ends, ends[1:]))
        spliced = splice(parts)
        if any(quality is None for _, _, quality in spliced.joins):
            continue
        worst = max(q.relative_to(natural) for _, _, q in spliced.joins)
        if best is None or worst < best[0]:
            best = worst, spliced
    return best


def natural_jumps(
    recordings: Sequence[Recording], n: int, seed: int
) -> dict[str, list[float]]:
    """Measure the jumps of natural speech at n of its word boundaries."""
    rng = random.Random(seed)
    jumps = {name: [] for name in MEASURES}
    chosen = rng.sample(recordings, min(n, len(recordings)))
    for recording in chosen:
        place = recording.boundary(rng.randrange(1, len(recording.words)))
        quality = join_quality(recording.sound(), place, SAMPLE_RATE)
        for name in MEASURES if quality else ():
            value = getattr(quality, name)
            if value is not None:
                jumps[name].append(value)
    fewest = min(len(values) for values in jumps.values())
    if fewest < 2:
        raise ValueError(
            f"Only {fewest} of {len(chosen)} natural word boundaries could be "
            "measured, too few to judge joins by: check that the recordings "
            "hold speech and the TextGrids are theirs."
        )
    return jumps
