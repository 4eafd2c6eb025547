"""Errors of word times against the true ones."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def boundary_errors(found: npt.ArrayLike, true: npt.ArrayLike) -> list[float]:
    """Compute the distances of words' starts and ends from the true ones.

    Arguments
    ---------
    found : array_like
        Start and end of each word in seconds, shape (W, 2).
    true : array_like
        The true times, shape (W, 2).

    Returns
    -------
    list of float
        The 2 W distances in seconds.

    Example
    -------
    >>> boundary_errors([[0.5, 1.0]], [[0.625, 0.75]])
    [0.125, 0.25]
    """
    difference = np.subtract(np.asarray(found, float), np.asarray(true, float))
    return np.abs(difference).ravel().tolist()


def summarize_errors(errors: Sequence[float]) -> dict[str, float]:
    """Summarize distances.

    Arguments
    ---------
    errors : list of float
        Distances, at least one.

    Returns
    -------
    dict
        Their ``mean``, ``median`` and 90th percentile ``p90``.

    Example
    -------
    >>> summarize_errors([0.0, 1.0, 2.0])
    {'mean': 1.0, 'median': 1.0, 'p90': 1.8}
    """
    values = np.asarray(errors, float)
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)),
    }
