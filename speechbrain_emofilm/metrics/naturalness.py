"""Predicted mean opinion scores."""

import math
from collections.abc import Sequence

from speechbrain_emofilm.metrics.row_stats import RowStats


class PredictedMOS(RowStats):
    """Mean opinion scores as a model predicts them.

    The scores come from a predictor such as
    :class:`~speechbrain_emofilm.integrations.distillmos.DistillMOS`.

    Arguments
    ---------
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Example
    -------
    >>> mos = PredictedMOS()
    >>> mos.append(["a", "b"], [3.0, 4.0])
    >>> mos.summarize()["mos"]
    3.5
    """

    def append(
        self, ids: Sequence[str], scores: Sequence[float | None]
    ) -> None:
        """Adds utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        scores : sequence of float or None
            From 1 to 5; None or not a number if there is none.

        Raises
        ------
        ValueError
            If there is not one score per id.
        """
        if len(ids) != len(scores):
            raise ValueError(
                f"{len(ids)} ids and {len(scores)} scores: give one for each."
            )
        for utterance, score in zip(ids, scores):
            if score is None or not math.isfinite(score):
                self.add_failure(utterance, "not scored")
            else:
                self.add_row(utterance, mos=float(score))

    def figures(self) -> dict:
        """Mean score with its interval.

        Returns
        -------
        dict
            ``mos``, ``low`` and ``high``.
        """
        return self.mean("mos")
