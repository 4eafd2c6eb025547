"""Bootstrap confidence intervals of statistics over utterances."""

from collections.abc import Callable

import numpy as np


def estimate(
    name: str,
    statistic: Callable[[np.ndarray], np.ndarray],
    sums: np.ndarray,
    n_samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Compute a statistic of all utterances with its 95 % interval.

    Arguments
    ---------
    name : str
        Name of the statistic.
    statistic : callable
        Function from sums over utterances (..., D) to the statistic (...).
    sums : numpy.ndarray
        Contribution of each utterance to the sums (U, D).
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    dict
        The statistic under its name, and the bounds ``low`` (2.5 % quantile)
        and ``high`` (97.5 %) of its interval.

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
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sums), size=(n_samples, len(sums)))
    low, high = np.quantile(statistic(sums[chosen].sum(1)), [0.025, 0.975])
    value = float(statistic(sums.sum(0)))
    return {name: value, "low": float(low), "high": float(high)}


def share(sums: np.ndarray) -> np.ndarray:
    """Divide the first column by the second; 0 where nothing was counted.

    Arguments
    ---------
    sums : numpy.ndarray
        Counts (..., 2): hits and trials.

    Returns
    -------
    numpy.ndarray
        Shares (...).

    Example
    -------
    >>> share(np.array([[1, 2], [0, 0]])).tolist()
    [0.5, 0.0]
    """
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Correlate two centred variables; 0 where one does not vary.

    Arguments
    ---------
    sums : numpy.ndarray
        Sums (..., 3) of their squares and products: xx, xy, yy.

    Returns
    -------
    numpy.ndarray
        Correlations (...).

    Example
    -------
    >>> correlation(np.array([[1.0, 1.0, 4.0], [1.0, 0.0, 0.0]])).tolist()
    [0.5, 0.0]
    """
    xx, xy, yy = np.moveaxis(sums, -1, 0)
    return xy / np.sqrt(np.maximum(xx * yy, 1e-20))
