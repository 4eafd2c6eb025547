"""Does more intensity sound like more?"""

import math
from collections.abc import Sequence

from speechbrain_emofilm.metrics.row_stats import RowStats

import numpy as np
from scipy.stats import spearmanr

INTENSITIES = (0.2, 0.5, 1.0)


class IntensityMonotonicity(RowStats):
    """Order of a score of the same sentence spoken at rising intensities.

    The score is the caller's: the posterior of the asked emotion, or how far
    the prosody moved in the asked direction. A sentence that could not be
    measured at every intensity counts as one that does not rise.

    Arguments
    ---------
    intensities : sequence of float
        Rising, within 0 and 1.
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    ValueError
        If the intensities do not rise.

    Example
    -------
    >>> monotonicity = IntensityMonotonicity()
    >>> monotonicity.append(["a", "b"], [[0.1, 0.4, 0.9], [0.3, 0.2, 0.9]])
    >>> summary = monotonicity.summarize()
    >>> summary["share"], summary["rank_correlation"]["rank_correlation"]
    (0.5, 0.75)
    """

    def __init__(
        self,
        intensities: Sequence[float] = INTENSITIES,
        n_samples: int = 1000,
        seed: int = 0,
    ):
        super().__init__(n_samples, seed)
        self.intensities = list(intensities)
        if len(intensities) < 2 or (np.diff(self.intensities) <= 0).any():
            raise ValueError(
                f"The intensities {self.intensities} do not rise: give two or "
                "more in rising order."
            )

    def append(
        self, ids: Sequence[str], scores: Sequence[Sequence[float]]
    ) -> None:
        """Adds sentences.

        Arguments
        ---------
        ids : sequence of str
            Their ids.
        scores : sequence
            The score at each intensity (B, L); not a number where it could
            not be measured.

        Raises
        ------
        ValueError
            If there is not one score per intensity.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(ids), len(self.intensities)):
            raise ValueError(
                f"Scores of shape {scores.shape} for {len(ids)} ids and "
                f"{len(self.intensities)} intensities: give one for each."
            )
        for utterance, values in zip(ids, scores):
            row = {
                f"score_{level:g}": float(value)
                for level, value in zip(self.intensities, values)
                if np.isfinite(value)
            }
            if not np.isfinite(values).all():
                self.add_failure(utterance, "not measured", **row)
                continue
            # Equal scores have no rank correlation: nothing rises.
            constant = (values == values[0]).all()
            rank = 0.0 if constant else spearmanr(self.intensities, values)[0]
            self.add_row(
                utterance,
                **row,
                rises=float((np.diff(values) > 0).all()),
                rank_correlation=float(rank),
            )

    def figures(self) -> dict:
        """Share of sentences that rise.

        Returns
        -------
        dict
            ``share`` of all sentences whose score rises at every step, with
            ``low`` and ``high``; ``chance`` of that; ``rank_correlation`` of
            intensity and score, the mean over all sentences.
        """
        rises = [[row.get("rises", 0.0), 1.0] for row in self.rows]
        ranks = [[row.get("rank_correlation", 0.0), 1.0] for row in self.rows]
        return {
            **self.estimate("share", _mean, rises),
            "chance": 1 / math.factorial(len(self.intensities)),
            "rank_correlation": self.estimate("rank_correlation", _mean, ranks),
        }


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]
