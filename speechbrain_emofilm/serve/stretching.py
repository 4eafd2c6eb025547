"""Change of the speed of speech without change of its pitch."""

import numpy as np

#: Length of the overlapping windows, and greatest shift of one, in seconds.
WINDOW, SEARCH = 0.03, 0.008


def change_speed(wav: np.ndarray, sample_rate: int, speed: float) -> np.ndarray:
    """Make speech faster or slower; its pitch stays.

    Windows of the sound are added at other distances. Each is shifted so
    that it continues the one before it (WSOLA).

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,).
    sample_rate : int
        Sampling rate in Hz.
    speed : float
        Greater than 1 is faster; 1 returns the sound itself.

    Returns
    -------
    numpy.ndarray
        Sound (round(T / speed),), float32.

    Example
    -------
    >>> wave = np.sin(np.arange(24000) * 0.05).astype(np.float32)
    >>> len(change_speed(wave, 24000, 2.0))
    12000
    >>> change_speed(wave, 24000, 1.0) is wave
    True
    """
    if speed == 1:
        return wav
    n = round(len(wav) / speed)
    hop = round(WINDOW * sample_rate) // 2
    search = round(SEARCH * sample_rate)
    window = np.hanning(2 * hop + 1)[:-1]
    n_windows = n // hop + 2
    room = round((n_windows + 1) * hop * speed) + 4 * hop + 2 * search
    margin = hop + search
    padded = np.pad(wav.astype(np.float64), (margin, room))
    out = np.zeros((n_windows + 2) * hop)
    continued = None  # what followed the last window
    for index in range(n_windows):
        place = search + round(index * hop * speed)
        if continued is not None:
            near = padded[place - search : place + search + hop]
            place += int(np.correlate(near, continued).argmax()) - search
        out[index * hop : (index + 2) * hop] += (
            window * padded[place : place + 2 * hop]
        )
        continued = padded[place + hop : place + 2 * hop]
    return out[hop : hop + n].astype(np.float32)
