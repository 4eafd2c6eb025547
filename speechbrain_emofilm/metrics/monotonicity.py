"""Order of a score over rising emotion intensities."""

import math
from collections.abc import Sequence

from speechbrain_emofilm.metrics.bootstrap import share
from speechbrain_emofilm.metrics.row_stats import RowStats

import numpy as np
from scipy.stats import spearmanr

INTENSITIES = (0.2, 0.5, 1.0)


class IntensityMonotonicity(RowStats):
    """Check that a score rises with the intensity asked of a sentence.

    The caller chooses the score, such as the posterior of the asked emotion
    or the change of prosody in the asked direction. A sentence that could not
    be measured at every intensity counts as not rising.

    Arguments
    ---------
    intensities : sequence of float
        Intensities in rising order, within 0 and 1.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

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
        **bootstrap: int,
    ):
        super().__init__(**bootstrap)
        self.intensities = list(intensities)
        steps = np.diff(np.array(self.intensities))
        if len(steps) == 0 or steps.min() <= 0:
            raise ValueError(
                f"The intensities {self.intensities} do not rise: give two or "
                "more in rising order."
            )

    def append(
        self, ids: Sequence[str], scores: Sequence[Sequence[float]]
    ) -> None:
        """Add sentences.

        Arguments
        ---------
        ids : sequence of str
            Sentence ids.
        scores : sequence of sequence of float
            Scores (B, L) at the L intensities; NaN if not measured.

        Raises
        ------
        ValueError
            If there is not one score per intensity.
        """
        table = np.asarray(scores, dtype=np.float64)
        if table.shape != (len(ids), len(self.intensities)):
            raise ValueError(
                f"Scores of shape {table.shape} for {len(ids)} ids and "
                f"{len(self.intensities)} intensities: give one for each."
            )
        for utterance, values in zip(ids, table):
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

    def results(self) -> dict:
        """Compute the share of sentences that rise.

        Returns
        -------
        dict
            ``share`` of all sentences whose score rises at every step, with
            ``low`` and ``high``; ``chance``, the share for random scores;
            ``rank_correlation`` of intensity and score, averaged over all
            sentences.
        """
        rises = [[row.get("rises", 0.0), 1.0] for row in self.rows]
        ranks = [[row.get("rank_correlation", 0.0), 1.0] for row in self.rows]
        return {
            **self.estimate("share", share, rises),
            "chance": 1 / math.factorial(len(self.intensities)),
            "rank_correlation": self.estimate("rank_correlation", share, ranks),
        }
