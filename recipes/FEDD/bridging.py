"""Make a bridge between two emotions from a neutral reading.

Two words of the neutral reading lead from the one emotion to the other: their
pitch, level and duration lie one and two thirds of the way from what they are
in the one reading of the sentence to what they are in the other. The vocoder
WORLD speaks them; the timbre stays that of the neutral reading.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.processing.prosody import (
    PROSODY_CHANGES,
    prosody_change,
    prosody_track,
)

import numpy as np
from splicing import SAMPLE_RATE, Recording

#: Words of a bridge: an even number, as a word that is half of each emotion
#: would have no dominant one.
BRIDGE_WORDS = 2
#: Milliseconds between WORLD's frames.
FRAME_PERIOD = 5.0
#: Largest factor by which a word becomes longer or shorter.
LARGEST_STRETCH = 2.0
DIMENSIONS = [PROSODY_CHANGES.index(n) for n in ("f0", "energy", "duration")]


@dataclass(frozen=True)
class Bridge(Recording):
    """A reading that the vocoder has changed; `samples` (T,) are at 24 kHz."""

    samples: np.ndarray

    def sound(self) -> np.ndarray:
        """Return the samples (T,)."""
        return self.samples


def bridge_cuts(n_words: int) -> list[tuple[int, ...]]:
    """List where a sentence may be cut for a bridge: pairs of word indices."""
    margin = 2 if n_words >= 4 + BRIDGE_WORDS else 1
    return [
        (first, first + BRIDGE_WORDS)
        for first in range(margin, n_words - margin - BRIDGE_WORDS + 1)
    ]


def with_bridge(
    readings: Sequence[Recording], cut: tuple[int, int]
) -> list[Recording]:
    """Replace the neutral reading by one that leads from emotion to emotion."""
    before, neutral, after = readings
    first, last = cut
    places = np.arange(len(neutral.words)) - first + 1
    # Words next to the bridge are changed as well, for cross-fades.
    shares = np.clip(places / (last - first + 1), 0, 1)[:, None]
    changes = (1 - shares) * _changes(neutral, before)
    changes += shares * _changes(neutral, after)
    samples, times = _speak(neutral, changes)
    words = tuple(
        replace(mixed, start=round(start, 4), end=round(end, 4))
        for mixed, (start, end) in zip(
            map(_mixed_label, before.words, after.words, shares[:, 0]), times
        )
    )
    bridge = Bridge(
        neutral.id,
        neutral.wav,
        neutral.speaker,
        neutral.language,
        neutral.text,
        "interpolated",
        words,
        samples,
    )
    return [before, bridge, after]


def _mixed_label(before: WordLabel, after: WordLabel, share: float):
    """Mix two labels, the second one with the given share."""
    parts = [(before, 1 - float(share)), (after, float(share))]
    # A word that carries nothing takes from the intensity alone.
    carrying = [(w, s) for w, s in parts if s > 0 and w.intensity != 0]
    carrying = carrying or [max(parts, key=lambda part: part[1])]
    total = sum(share for _, share in carrying)
    probs = {word.emotion: round(s / total, 4) for word, s in carrying}
    intensity = None
    if None not in (before.intensity, after.intensity):
        intensity = float(
            (1 - share) * before.intensity + share * after.intensity
        )
    return replace(
        before,
        emotion=max(probs, key=probs.get),
        probs=probs,
        intensity=intensity,
    )


@functools.lru_cache(maxsize=64)
def _changes(neutral: Recording, reading: Recording) -> np.ndarray:
    """Measure how words differ from neutral ones (W, 3), see `DIMENSIONS`."""
    changes = prosody_change(_track(neutral), neutral.words, _track(reading))
    return changes[:, DIMENSIONS]


@functools.lru_cache(maxsize=64)
def _track(recording: Recording):
    """Measure the prosody of a reading."""
    return prosody_track(recording.sound(), SAMPLE_RATE)


@functools.lru_cache(maxsize=16)
def _analysis(neutral: Recording):
    """Analyse F0, spectral envelope and aperiodicity with WORLD."""
    import pyworld

    return pyworld.wav2world(
        neutral.sound().astype(np.float64),
        SAMPLE_RATE,
        frame_period=FRAME_PERIOD,
    )


def _speak(neutral: Recording, changes: np.ndarray):
    """Speak a reading with changes (W, 3): samples (T,), word times (W, 2)."""
    import pyworld

    f0, envelope, aperiodicity = _analysis(neutral)
    log_f0, level, log_duration = changes.T
    seconds = FRAME_PERIOD / 1000
    edges = np.array([[word.start, word.end] for word in neutral.words])
    knots, moved = _stretch(edges, log_duration, len(f0) * seconds)
    sources = np.interp(np.arange(0, moved[-1], seconds), moved, knots)
    frames = np.minimum(np.rint(sources / seconds), len(f0) - 1).astype(int)
    middles = edges.mean(1)
    ratio = np.exp(np.interp(sources, middles, log_f0))
    gain = 10 ** (np.interp(sources, middles, level) / 10)
    samples = pyworld.synthesize(
        f0[frames] * ratio,
        np.ascontiguousarray(envelope[frames] * gain[:, None]),
        np.ascontiguousarray(aperiodicity[frames]),
        SAMPLE_RATE,
        FRAME_PERIOD,
    )
    return samples, np.interp(edges, knots, moved)


def _stretch(edges: np.ndarray, log_duration: np.ndarray, end: float):
    """Map times of a reading to those after stretching its words (N,)."""
    limit = np.log(LARGEST_STRETCH)
    stretched = np.exp(np.clip(log_duration, -limit, limit))
    knots = np.concatenate([[0.0], edges.ravel(), [end]])
    knots = np.maximum.accumulate(knots)
    factors = np.ones(len(knots) - 1)
    factors[1::2] = stretched
    return knots, np.concatenate([[0.0], np.cumsum(np.diff(knots) * factors)])
