"""Predicted mean opinion scores."""

import math
from collections.abc import Sequence

from speechbrain_emofilm.metrics.row_stats import RowStats


class PredictedMOS(RowStats):
    """Mean opinion scores by a predictor such as
    :class:`~speechbrain_emofilm.integrations.distillmos.DistillMOS`.

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
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        scores : sequence of float or None
            Scores from 1 to 5; None or NaN if there is none.

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

    def results(self) -> dict:
        """Compute the mean score with its interval.

        Returns
        -------
        dict
            ``mos``, ``low`` and ``high``.
        """
        return self.mean("mos")
