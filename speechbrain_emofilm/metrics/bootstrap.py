"""Confidence intervals of statistics over utterances."""

from collections.abc import Callable

import numpy as np


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    sums: np.ndarray,
    n_samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a statistic of utterances, by resampling them.

    Arguments
    ---------
    statistic : callable
        Of the sums over utterances (..., D), gives the statistic (...).
    sums : numpy.ndarray
        What each utterance adds (U, D).
    n_samples : int
        Number of resamplings.
    seed : int
        Seed of the resampling.

    Returns
    -------
    low : float
        2.5 % quantile.
    high : float
        97.5 % quantile.

    Example
    -------
    >>> bootstrap_interval(share, np.array([[3, 4], [4, 4]]))
    (0.75, 1.0)
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sums), size=(n_samples, len(sums)))
    low, high = np.quantile(statistic(sums[chosen].sum(1)), [0.025, 0.975])
    return float(low), float(high)


def estimate(
    name: str,
    statistic: Callable[[np.ndarray], np.ndarray],
    sums: np.ndarray,
    n_samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic of all utterances with its 95 % interval.

    Arguments
    ---------
    name : str
        What to call the statistic.
    statistic : callable
        Of the sums over utterances (..., D), gives the statistic (...).
    sums : numpy.ndarray
        What each utterance adds (U, D).
    n_samples : int
        Number of resamplings.
    seed : int
        Seed of the resampling.

    Returns
    -------
    dict
        The statistic under its name, and the bounds ``low`` and ``high``.

    Raises
    ------
    ValueError
        If there is no utterance.

    Example
    -------
    >>> estimate("accuracy", share, np.array([[3, 4], [4, 4]]))
    {'accuracy': 0.875, 'low': 0.75, 'high': 1.0}
    """
    if len(sums) == 0:
        raise ValueError("No utterance was measured: append some first.")
    low, high = bootstrap_interval(statistic, sums, n_samples, seed)
    return {name: float(statistic(sums.sum(0))), "low": low, "high": high}


def share(sums: np.ndarray) -> np.ndarray:
    """First column over second; 0 where nothing was counted.

    Arguments
    ---------
    sums : numpy.ndarray
        Counts (..., 2): hits and trials.

    Returns
    -------
    numpy.ndarray
        (...).

    Example
    -------
    >>> share(np.array([[1, 2], [0, 0]])).tolist()
    [0.5, 0.0]
    """
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Correlation of two centred variables; 0 where one does not vary.

    Arguments
    ---------
    sums : numpy.ndarray
        Sums (..., 3) of their squares and products: xx, xy, yy.

    Returns
    -------
    numpy.ndarray
        (...).

    Example
    -------
    >>> correlation(np.array([[1.0, 1.0, 4.0], [1.0, 0.0, 0.0]])).tolist()
    [0.5, 0.0]
    """
    xx, xy, yy = np.moveaxis(sums, -1, 0)
    return xy / np.sqrt(np.maximum(xx * yy, 1e-20))
