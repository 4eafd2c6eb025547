"""Prosodic difference of each word from a neutral reading.

The same speaker's neutral reading of the same sentence is the baseline, so
the effect of its phones on pitch and loudness cancels. The two readings are
matched frame by frame with dynamic time warping on spectral shape, which
is independent of pitch and loudness; the word boundaries of the neutral reading
are mapped to the other one. On speech with known word times the error of
the mapped boundaries is 5 ms, that of a second forced alignment 20 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechbrain_emofilm.processing.prosody_axes import AXES

import numpy as np
from scipy.fft import dct
from scipy.signal import resample_poly

FRAME_RATE = 200  # frames per second
SAMPLE_RATE = 24000
HOP = SAMPLE_RATE // FRAME_RATE
WINDOW = 1024
F0_RANGE = (60.0, 800.0)  # Hz
FEWEST_VOICED = 3  # frames of a word needed for a reliable pitch
DOUBLED = 0.1  # gain in similarity after two periods that shows an octave error
PROSODY_CHANGES = (
    "f0",
    "energy",
    "duration",
    "f0_slope",
    "tilt",
    "breathiness",
)
"""Names of the columns of :func:`prosody_change`."""


@dataclass(frozen=True)
class ProsodyTrack:
    """Prosody of an utterance, frame by frame.

    Arguments
    ---------
    log_f0 : numpy.ndarray
        Natural logarithm of the fundamental frequency in Hz (T,), NaN where
        unvoiced.
    energy : numpy.ndarray
        Level (T,), in dB relative to full scale.
    tilt : numpy.ndarray
        Level above 1 kHz minus the level below it (T,), in dB.
    breathiness : numpy.ndarray
        Aperiodicity between 2 and 6 kHz (T,): level of the noise in that
        band relative to the whole band, in dB; NaN where unvoiced.
    cepstrum : numpy.ndarray
        Spectral shape (T, C): mel cepstrum without the coefficient of the
        level.
    """

    log_f0: np.ndarray
    energy: np.ndarray
    tilt: np.ndarray
    breathiness: np.ndarray
    cepstrum: np.ndarray

    def __len__(self):
        return len(self.energy)


def prosody_track(wav, sample_rate: int) -> ProsodyTrack:
    """Measure the prosody of an utterance.

    Arguments
    ---------
    wav : numpy.ndarray or torch.Tensor
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sample rate of the sound, in Hz.

    Returns
    -------
    ProsodyTrack
        200 frames per second.

    Raises
    ------
    ValueError
        If the sound is shorter than 50 ms or not finite.

    Example
    -------
    >>> t = np.arange(24000) / 24000
    >>> pulses = np.sin(2 * np.pi * np.outer(np.arange(1, 20) * 200, t)).sum(0)
    >>> track = prosody_track(0.03 * pulses, 24000)
    >>> len(track)
    201
    >>> round(float(np.exp(np.nanmedian(track.log_f0))))
    200
    """
    wav = np.asarray(wav, dtype=np.float64).reshape(-1)
    if sample_rate != SAMPLE_RATE:
        step = np.gcd(SAMPLE_RATE, sample_rate)
        wav = resample_poly(wav, SAMPLE_RATE // step, sample_rate // step)
    if len(wav) < SAMPLE_RATE // 20 or not np.isfinite(wav).all():
        raise ValueError(
            f"The sound has {len(wav)} samples at 24 kHz: prosody needs at "
            "least 50 ms of finite samples."
        )
    n_frames = len(wav) // HOP + 1
    log_f0, breathiness = _voice(wav, n_frames)
    power = _power_spectra(wav, n_frames)
    high = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE) > 1000
    return ProsodyTrack(
        log_f0=log_f0,
        energy=_decibel(power.sum(1)),
        tilt=_decibel(power[:, high].sum(1)) - _decibel(power[:, ~high].sum(1)),
        breathiness=breathiness,
        cepstrum=_mel_cepstrum(power),
    )


def warp(neutral: ProsodyTrack, reading: ProsodyTrack) -> np.ndarray:
    """Align two readings of a sentence by dynamic time warping.

    Arguments
    ---------
    neutral : ProsodyTrack
        Neutral reading.
    reading : ProsodyTrack
        Other reading of the same sentence.

    Returns
    -------
    numpy.ndarray
        Pairs of frames (N, 2) in order of time, from the first frames to
        the last; each frame of either reading occurs.
    """
    a, b = neutral.cepstrum, reading.cepstrum
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    distance = np.sqrt(np.maximum(square, 0.0))
    n, m = distance.shape
    cost = np.full((n + 1, m + 1), np.inf)
    cost[0, 0] = 0.0
    for diagonal in range(2, n + m + 1):  # cells depend on earlier diagonals
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        before = np.minimum(cost[i - 1, j], cost[i, j - 1])
        before = np.minimum(before, cost[i - 1, j - 1])
        cost[i, j] = distance[i - 1, j - 1] + before
    path = [(n, m)]
    while path[-1] != (1, 1):
        i, j = path[-1]
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        path.append(min(steps, key=lambda step: cost[step]))
    return np.array(path[::-1]) - 1


def prosody_change(
    neutral: ProsodyTrack, words: Sequence, reading: ProsodyTrack
) -> np.ndarray:
    """Measure how each word differs from the neutral reading.

    Arguments
    ---------
    neutral : ProsodyTrack
        The neutral reading.
    words : sequence
        Words of the neutral reading, in order, with ``start`` and ``end`` in
        seconds.
    reading : ProsodyTrack
        The reading to measure.

    Returns
    -------
    numpy.ndarray
        Changes (W, 6), columns as in :data:`PROSODY_CHANGES`: logarithm of
        the F0 ratio; level in dB; logarithm of the duration ratio, positive
        when longer; change of log F0 from the first to the second half;
        tilt in dB; breathiness in dB.
    """
    return _word_changes(neutral, words, reading)[0]


def axis_changes(
    neutral: ProsodyTrack, words: Sequence, reading: ProsodyTrack
) -> list[dict[str, float | None]]:
    """Measure the pitch, pace and level of each word of a reading.

    Arguments
    ---------
    neutral, words, reading
        As for :func:`prosody_change`.

    Returns
    -------
    list of dict
        For each word the value of each axis of
        :mod:`speechbrain_emofilm.processing.prosody_axes`, in natural units
        and limited to the axis's range. The pitch is None where the word is
        unvoiced in either reading.
    """
    changes, voiced = _word_changes(neutral, words, reading)
    columns = {name: changes[:, i] for i, name in enumerate(PROSODY_CHANGES)}
    measured = {
        "pitch": 12 / np.log(2) * columns["f0"],
        "pace": np.exp(-columns["duration"]),
        "level": columns["energy"],
    }
    for name, values in measured.items():
        axis = AXES[name]
        measured[name] = values.clip(axis.low, axis.high).round(4)
    return [
        {
            name: float(values[index])
            if name != "pitch" or voiced[index]
            else None
            for name, values in measured.items()
        }
        for index in range(len(words))
    ]


def _word_changes(
    neutral: ProsodyTrack, words: Sequence, reading: ProsodyTrack
) -> tuple[np.ndarray, list[bool]]:
    """Return the changes (W, 6), and which words are voiced in both."""
    path = warp(neutral, reading)
    pairs = _Pairs(neutral, reading, path)
    changes = np.zeros((len(words), len(PROSODY_CHANGES)))
    voiced = []
    for row, word in zip(changes, words):
        frames = _frames(word, len(neutral))
        row[:] = pairs.change(*frames)
        row[PROSODY_CHANGES.index("duration")] = _duration_change(path, word)
        voiced.append(pairs.is_voiced(*frames))
    return changes, voiced


def _frames(word, n_frames: int) -> tuple[int, int]:
    """Return the first frame of a word and the one after its last."""
    start = min(round(word.start * FRAME_RATE), n_frames - 1)
    return start, max(start + 1, min(round(word.end * FRAME_RATE), n_frames))


class _Pairs:
    """Differences between two readings at each pair of matched frames."""

    def __init__(self, neutral, reading, path):
        i, j = path.T
        self.frame = i
        self.energy = reading.energy[j] - neutral.energy[i]
        self.tilt = reading.tilt[j] - neutral.tilt[i]
        self.breathiness = reading.breathiness[j] - neutral.breathiness[i]
        self.f0 = _filled(reading.log_f0)[j] - _filled(neutral.log_f0)[i]
        self.voiced = np.isfinite(neutral.log_f0[i] + reading.log_f0[j])
        # Pitch is most reliable where both readings are loud. Where one is
        # unvoiced it is interpolated, and only used as a last resort.
        loudness = np.minimum(neutral.energy[i], reading.energy[j])
        weight = 10 ** ((loudness - loudness.max()) / 40)
        self.f0_weight = np.where(self.voiced, weight, 1e-4 * weight)

    def is_voiced(self, start: int, end: int) -> bool:
        """Tell whether a word in these frames has a reliable pitch."""
        word = (self.frame >= start) & (self.frame < end)
        return bool((word & self.voiced).sum() >= FEWEST_VOICED)

    def change(self, start: int, end: int) -> list[float]:
        """Return the changes of the word in these frames; duration is 0."""
        word = (self.frame >= start) & (self.frame < end)
        breath = self.breathiness[word & self.voiced]
        near = word
        if (word & self.voiced).sum() < FEWEST_VOICED:
            margin = int(0.1 * FRAME_RATE)
            near = self.frame >= start - margin
            near &= self.frame < end + margin
        f0, weight = self.f0[near], self.f0_weight[near]
        half = len(f0) // 2
        begins = _mean(f0[:half], weight[:half])
        ends = _mean(f0[half:], weight[half:])
        return [
            _weighted_median(f0, weight),
            float(np.median(self.energy[word])),
            0.0,
            ends - begins,
            float(np.median(self.tilt[word])),
            float(np.median(breath)) if len(breath) else 0.0,
        ]


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Compute the weighted mean; 0 without values."""
    return float(np.average(values, weights=weights)) if len(values) else 0.0


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the value with half of the weight on either side."""
    order = np.argsort(values, kind="stable")
    summed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(summed, summed[-1] / 2)])


def _duration_change(path: np.ndarray, word) -> float:
    """Return the log duration ratio after mapping the word along the path."""
    frames, first = np.unique(path[:, 0], return_index=True)
    counts = np.diff(np.append(first, len(path)))
    matched = np.add.reduceat(path[:, 1], first) / counts
    times = np.array([word.start, word.end])
    start, end = np.interp(times * FRAME_RATE, frames, matched) / FRAME_RATE
    shortest = 1 / FRAME_RATE
    return float(
        np.log(max(end - start, shortest))
        - np.log(max(word.end - word.start, shortest))
    )


def _filled(log_f0: np.ndarray) -> np.ndarray:
    """Interpolate an F0 contour linearly where it is unvoiced."""
    voiced = np.flatnonzero(np.isfinite(log_f0))
    if len(voiced) == 0:
        return np.zeros_like(log_f0)
    return np.interp(np.arange(len(log_f0)), voiced, log_f0[voiced])


def _voice(wav: np.ndarray, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log F0 and breathiness, NaN where unvoiced.

    F0 below 0.6 times the utterance's median is taken for a subharmonic and
    set to unvoiced.
    """
    import pyworld

    f0, times = pyworld.dio(
        wav,
        SAMPLE_RATE,
        f0_floor=F0_RANGE[0],
        f0_ceil=F0_RANGE[1],
        frame_period=1000 / FRAME_RATE,
    )
    f0 = pyworld.stonemask(wav, f0, times, SAMPLE_RATE)
    if (f0 > 0).any():
        f0[f0 < 0.6 * np.median(f0[f0 > 0])] = 0.0
    f0 = _halve_doubled(wav, f0)
    aperiodicity = pyworld.d4c(wav, f0, times, SAMPLE_RATE)
    band = slice(*(int(f * aperiodicity.shape[1] / 12000) for f in (2e3, 6e3)))
    breathiness = _decibel((aperiodicity[:, band] ** 2).mean(1))
    voiced = f0 > 0
    log_f0 = np.full(n_frames, np.nan)
    breath = np.full(n_frames, np.nan)
    n = min(n_frames, len(f0))
    log_f0[:n][voiced[:n]] = np.log(f0[:n][voiced[:n]])
    breath[:n][voiced[:n]] = breathiness[:n][voiced[:n]]
    return log_f0, breath


def _halve_doubled(wav: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """Halve the F0 of voiced stretches that were found an octave too high.

    This is common in low, breathy voices, whose first harmonic is weak. Such
    a sound is more similar to itself after two periods than after one.
    """
    f0 = f0.copy()
    jumps = np.abs(np.diff(np.log(np.maximum(f0, 1.0)))) > 0.2
    for stretch in np.split(np.arange(len(f0)), np.flatnonzero(jumps) + 1):
        if np.median(f0[stretch]) < 2 * F0_RANGE[0]:
            continue
        better = [
            _similarity(wav, frame * HOP, 2 * period, 2 * period)
            - _similarity(wav, frame * HOP, period, 2 * period)
            for frame, period in zip(
                stretch, np.rint(SAMPLE_RATE / f0[stretch]).astype(int)
            )
        ]
        if np.mean(better) > DOUBLED:
            f0[stretch] /= 2
    return f0


def _similarity(wav: np.ndarray, centre: int, lag: int, length: int) -> float:
    """Correlate two pieces around `centre`; 0 outside the sound."""
    start = centre - (lag + length) // 2
    if start < 0 or start + lag + length > len(wav):
        return 0.0
    a = wav[start : start + length]
    b = wav[start + lag : start + lag + length]
    power = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / power) if power > 0 else 0.0


def _power_spectra(wav: np.ndarray, n_frames: int) -> np.ndarray:
    """Compute power spectra (T, F) of windows centred on the frames."""
    padded = np.pad(wav, WINDOW // 2 + HOP)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    window = np.hanning(WINDOW)
    spectra = np.fft.rfft(
        windows[HOP::HOP][:n_frames] * (window / window.sum()), axis=1
    )
    return np.abs(spectra) ** 2


def _decibel(power: np.ndarray) -> np.ndarray:
    """Convert power to decibels, at least -90."""
    return 10 * np.log10(np.maximum(power, 1e-9))


def _mel_cepstrum(power: np.ndarray, n_mels: int = 26, order: int = 12):
    """Compute the mel cepstrum (T, order), minus its mean over time."""
    hertz = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    low, high = 2595 * np.log10(1 + np.array([100, 7600]) / 700)
    mel = np.linspace(low, high, n_mels + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    bands = power @ np.clip(np.minimum(rising, falling), 0.0, None).T
    # The floor keeps digital silence from having a spectral shape.
    log_bands = np.log(bands + 1e-7 * bands.max() + 1e-30)
    cepstrum = dct(log_bands, axis=1, norm="ortho")[:, 1 : order + 1]
    return cepstrum - cepstrum.mean(0)
