"""Join two recordings of a sentence at a word boundary, and measure joins."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

#: Range of the fundamental frequency, in Hz.
LOWEST_F0, HIGHEST_F0 = 60.0, 500.0
#: Minimum autocorrelation of voiced sound at its period.
VOICED = 0.6
#: Seconds analysed on either side of a join: pitch needs three periods.
PITCH_SPAN, SPECTRUM_SPAN = 0.04, 0.03
#: Seconds next to a join that are not analysed, due to the cross-fade.
GUARD = 0.005
#: Seconds of an unvoiced cross-fade, and limit of a voiced one.
UNVOICED_FADE, LONGEST_FADE = 0.01, 0.02
#: Seconds over which a correction of level dies away.
LEVEL_RAMP = 0.08
#: Largest correction of the level on either side, in dB.
LARGEST_CORRECTION = 6.0
N_BANDS = 24
MEASURES = ("spectral_jump", "f0_jump", "level_jump")


@dataclass(frozen=True)
class JoinQuality:
    """Jumps of spectrum (dB), F0 (semitones; None if unvoiced), level (dB)."""

    spectral_jump: float
    f0_jump: float | None
    level_jump: float

    def relative_to(self, natural: dict[str, float]) -> float:
        """Return the largest jump relative to the limits of natural ones."""
        jumps = {name: getattr(self, name) for name in MEASURES}
        return max(
            jump / max(natural[name], 1e-6)
            for name, jump in jumps.items()
            if jump is not None
        )


def pitch_period(wav: np.ndarray, sample_rate: int) -> float | None:
    """Estimate the pitch period in samples; None if unvoiced."""
    wav = wav - wav.mean() if len(wav) else wav
    shortest = int(sample_rate / HIGHEST_F0)
    longest = min(int(sample_rate / LOWEST_F0), int(0.6 * len(wav)))
    if longest <= shortest + 2 or np.abs(wav).max() < 1e-3:
        return None
    size = 2 * len(wav)
    spectrum = np.fft.rfft(wav, size)
    product = np.fft.irfft(np.abs(spectrum) ** 2, size)[: len(wav)]
    squares = np.concatenate([[0.0], np.cumsum(wav**2)])
    lags = np.arange(len(wav))
    # Energies of the parts that overlap at each lag.
    head = squares[len(wav) - lags]
    tail = squares[-1] - squares[lags]
    likeness = product / np.sqrt(np.maximum(head * tail, 1e-12))
    window = likeness[shortest : longest + 1]
    peaks = np.flatnonzero(
        (window[1:-1] >= window[:-2]) & (window[1:-1] > window[2:])
    )
    peaks = peaks + 1
    if len(peaks) == 0 or window[peaks].max() < VOICED:
        return None
    # Two periods on, speech is as alike: the first good peak is the period.
    good = peaks[window[peaks] > 0.9 * window[peaks].max()]
    peak = good[0]
    left, top, right = window[peak - 1 : peak + 2]
    shift = 0.5 * (left - right) / (left - 2 * top + right - 1e-12)
    return float(shortest + peak + shift)


def join_quality(
    wav: np.ndarray, place: int, sample_rate: int
) -> JoinQuality | None:
    """Measure the jumps at a sample; None if a side is too short."""
    guard = int(GUARD * sample_rate)
    long = int(PITCH_SPAN * sample_rate)
    short = int(SPECTRUM_SPAN * sample_rate)
    before, after = wav[: max(0, place - guard)], wav[place + guard :]
    if min(len(before), len(after)) < long:
        return None
    a = _band_levels(before[-short:], sample_rate)
    b = _band_levels(after[:short], sample_rate)
    shape = (a - a.mean()) - (b - b.mean())
    periods = [
        pitch_period(before[-long:], sample_rate),
        pitch_period(after[:long], sample_rate),
    ]
    f0_jump = None
    if None not in periods:
        f0_jump = abs(12 * float(np.log2(periods[0] / periods[1])))
    return JoinQuality(
        float(np.sqrt((shape**2).mean())),
        f0_jump,
        float(abs(_level(before[-short:]) - _level(after[:short]))),
    )


def join(
    before: np.ndarray,
    after: np.ndarray,
    cut_before: int,
    cut_after: int,
    sample_rate: int,
) -> tuple[np.ndarray, int]:
    """Join the start of one recording to the rest of another.

    Where both are voiced, the second is moved by up to half a pitch period,
    so that their periods fall together, and two periods are cross-faded.
    Their levels are brought together at the join, half from either side, and
    left as they are 80 ms away from it.

    Arguments
    ---------
    before : numpy.ndarray
        (T,), of which the part before its cut is kept.
    after : numpy.ndarray
        (U,), of which the part behind its cut is kept.
    cut_before : int
        A sample of `before`: a word boundary.
    cut_after : int
        A sample of `after`: the same boundary.
    sample_rate : int
        Samples per second.

    Returns
    -------
    wav : numpy.ndarray
        (V,), float64; the join lies at `cut_before`.
    shift : int
        Sample i of `after` is sample i + shift of it.

    Raises
    ------
    ValueError
        If a cut is not within its recording.

    Example
    -------
    >>> tone = np.sin(2 * np.pi * 200 * np.arange(24000) / 24000)
    >>> wav, shift = join(tone, tone, 12000, 11940, 24000)
    >>> len(wav), shift, bool(np.abs(wav - tone).max() < 1e-9)
    (24000, 0, True)
    """
    for wav, cut in ((before, cut_before), (after, cut_after)):
        if not 0 < cut < len(wav):
            raise ValueError(
                f"Cannot cut {len(wav)} samples at {cut}: check that the "
                "alignment is that of the recording."
            )
    before, after = before.astype(np.float64), after.astype(np.float64)
    span = int(PITCH_SPAN * sample_rate)
    periods = [
        pitch_period(
            before[max(0, cut_before - span) : cut_before], sample_rate
        ),
        pitch_period(after[cut_after : cut_after + span], sample_rate),
    ]
    voiced = None not in periods
    fade = UNVOICED_FADE * sample_rate
    if voiced:
        fade = min(2 * max(periods), LONGEST_FADE * sample_rate)
    half = int(fade / 2)
    half = min(
        half,
        cut_before,
        cut_after,
        len(before) - cut_before,
        len(after) - cut_after,
    )
    if voiced and half:
        reach = int(np.ceil(max(periods) / 2))
        cut_after += _best_offset(
            before[cut_before - half : cut_before + half],
            after,
            cut_after - half,
            reach,
        )
    before, after = _level_together(
        before, after, cut_before, cut_after, sample_rate
    )
    start, end = cut_before - half, cut_before + half
    fading = _fade(2 * half, voiced)
    middle = (
        before[start:end] * fading[::-1]
        + after[cut_after - half : cut_after + half] * fading
    )
    wav = np.concatenate([before[:start], middle, after[cut_after + half :]])
    return wav, cut_before - cut_after


def _best_offset(pattern, wav, start, reach):
    """Find the offset from `start` where a recording is most like a pattern."""
    first = max(0, start - reach)
    last = min(len(wav) - len(pattern), start + reach)
    if last <= first:
        return 0
    stretch = wav[first : last + len(pattern)]
    product = np.correlate(stretch, pattern, "valid")
    squares = np.concatenate([[0.0], np.cumsum(stretch**2)])
    energy = squares[len(pattern) :] - squares[: -len(pattern)]
    likeness = product / np.sqrt(energy + 1e-9)
    return first + int(likeness.argmax()) - start


def _fade(size, alike):
    """Return the rising gain of a cross-fade: equal gain, else equal power."""
    rising = (np.arange(size) + 0.5) / max(1, size)
    rising = 0.5 - 0.5 * np.cos(np.pi * rising)
    return rising if alike else np.sqrt(rising)


def _level_together(before, after, cut_before, cut_after, sample_rate):
    """Bring both recordings to one level at their cuts.

    Level may jump at a boundary because the words do; only the difference
    between the two readings is corrected.
    """
    span = int(SPECTRUM_SPAN * sample_rate)
    sides = [
        (wav[max(0, cut - span) : cut], wav[cut : cut + span])
        for wav, cut in ((before, cut_before), (after, cut_after))
    ]
    levels = [[_level(part) for part in parts] for parts in sides]
    louder = np.mean(levels[1]) - np.mean(levels[0])
    step = float(np.clip(louder / 2, -LARGEST_CORRECTION, LARGEST_CORRECTION))
    distance_before = np.maximum(cut_before - np.arange(len(before)), 0)
    distance_after = np.maximum(np.arange(len(after)) - cut_after, 0)
    ramp = LEVEL_RAMP * sample_rate
    return (
        before * 10 ** (step / 20 * np.clip(1 - distance_before / ramp, 0, 1)),
        after * 10 ** (-step / 20 * np.clip(1 - distance_after / ramp, 0, 1)),
    )


def _level(wav):
    """Return the level in dB, at least -80, so that silence does not jump."""
    power = float(np.mean(wav**2)) if len(wav) else 0.0
    return 10 * np.log10(power + 1e-8)


@lru_cache(maxsize=8)
def _bands(size, sample_rate):
    """Return triangular mel filters (24, F) up to 8 kHz."""
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    highest = min(8000.0, sample_rate / 2)
    mel = np.linspace(
        *(2595 * np.log10(1 + np.array([80.0, highest]) / 700)), N_BANDS + 2
    )
    edges = 700 * (10 ** (mel / 2595) - 1)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    return np.clip(np.minimum(rising, falling), 0.0, None)


def _band_levels(wav, sample_rate):
    """Return the levels of mel bands in dB (24,), at least -80."""
    power = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2 / len(wav)
    return 10 * np.log10(_bands(len(wav), sample_rate) @ power + 1e-8)
