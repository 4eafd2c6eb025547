"""Speech whose pitch, pace and level are changed word by word."""

from collections.abc import Mapping, Sequence

from speechbrain_emofilm.processing.prosody_axes import AXES

import numpy as np

FRAME_RATE = 200  # frames of the vocoder per second
SMOOTHING = 9  # frames over which pitch and level go from word to word
PEAK = 0.99  # largest sample; louder speech is scaled down as a whole


def vary_prosody(
    wav: np.ndarray,
    sample_rate: int,
    words: Sequence,
    changes: Sequence[Mapping[str, float]],
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Change the prosody of words with the vocoder WORLD.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sampling rate in Hz.
    words : sequence
        The W words in order, with ``start`` and ``end`` in seconds.
    changes : list of dict
        For each word, axis of
        :mod:`speechbrain_emofilm.processing.prosody_axes` to the change in
        natural units; what is left out stays.

    Returns
    -------
    wav : numpy.ndarray
        Sound (T',).
    times : list of (float, float)
        Start and end of each word in seconds.

    Raises
    ------
    ValueError
        If there is not one change per word.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.alignments import Word
    >>> wav = np.sin(np.arange(24000) / 24000 * 2 * np.pi * 200) / 10
    >>> words = [Word("a", 0.2, 0.4), Word("b", 0.4, 0.8)]
    >>> slow, times = vary_prosody(wav, 24000, words, [{}, {"pace": 0.5}])
    >>> [round(time, 1) for time in times[1]], round(len(slow) / 24000, 1)
    ([0.4, 1.2], 1.4)
    """
    import pyworld

    if len(words) != len(changes):
        raise ValueError(
            f"{len(changes)} changes were given for {len(words)} words: give "
            "one for each."
        )
    wav = np.asarray(wav, dtype=np.float64)
    period = 1000 / FRAME_RATE
    f0, times = pyworld.dio(wav, sample_rate, frame_period=period)
    f0 = pyworld.stonemask(wav, f0, times, sample_rate)
    spectrum = pyworld.cheaptrick(wav, f0, times, sample_rate)
    aperiodicity = pyworld.d4c(wav, f0, times, sample_rate)
    curves = {name: np.zeros(len(f0)) for name in AXES}
    for word, change in zip(words, changes):
        start, end = (
            round(word.start * FRAME_RATE),
            round(word.end * FRAME_RATE),
        )
        for name, value in change.items():
            curves[name][start:end] = AXES[name].to_steps(value)
    kernel = np.hanning(SMOOTHING + 2)[1:-1]
    kernel /= kernel.sum()
    for name in ("pitch", "level"):
        curves[name] = np.convolve(curves[name], kernel, mode="same")
    # Where each frame begins in the changed speech, and the reverse.
    begins = np.append(0.0, np.cumsum(2.0 ** -curves["pace"]))
    places = np.interp(
        np.arange(int(begins[-1])), begins, np.arange(len(begins))
    )
    source = places.astype(int).clip(0, len(f0) - 1)
    f0 = f0[source] * 2 ** (curves["pitch"][source] / 12)
    spectrum = spectrum[source] * 10 ** (curves["level"][source] / 10)[:, None]
    varied = pyworld.synthesize(
        f0, spectrum, aperiodicity[source], sample_rate, period
    )
    varied *= min(1.0, PEAK / max(np.abs(varied).max(), 1e-9))
    frames = np.arange(len(begins))

    def moved(time: float) -> float:
        return float(np.interp(time * FRAME_RATE, frames, begins)) / FRAME_RATE

    return varied, [(moved(w.start), moved(w.end)) for w in words]
