"""Metrics that keep one row per utterance, and say what they lack."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
from speechbrain.utils.metric_stats import MetricStats


class RowStats(MetricStats):
    """Base of metrics with rows, intervals and counted failures.

    A subclass calls :meth:`add_row` or :meth:`add_failure` for each utterance
    in its ``append``, and makes its figures of the rows in ``figures``. What
    could not be measured stays visible: it has a row with its reason, and
    every summary counts it.

    Arguments
    ---------
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Example
    -------
    >>> class Scores(RowStats):
    ...     def append(self, ids, scores):
    ...         for utterance, score in zip(ids, scores):
    ...             self.add_row(utterance, score=score)
    ...
    ...     def figures(self):
    ...         return self.mean("score")
    >>> scores = Scores()
    >>> scores.append(["a", "b"], [1.0, 3.0])
    >>> scores.add_failure("c", "silent")
    >>> summary = scores.summarize()
    >>> summary["score"], summary["measured"], summary["failures"]
    (2.0, 2, {'c': 'silent'})
    """

    def __init__(self, n_samples: int = 1000, seed: int = 0):
        self.bootstrap = {"n_samples": n_samples, "seed": seed}
        self.clear()

    def clear(self) -> None:
        """Forgets all utterances."""
        self.ids: list[str] = []
        self.rows: list[dict] = []
        self.failures: dict[str, str] = {}
        self.summary: dict = {}
        self._seen: set[str] = set()

    def add_row(self, utterance: str, **values) -> None:
        """Keeps what was measured of an utterance.

        Arguments
        ---------
        utterance : str
            Its id.
        **values
            Columns of its row.

        Raises
        ------
        ValueError
            If the utterance was added before.
        """
        if utterance in self._seen:
            raise ValueError(
                f"Utterance {utterance} was added before: give each once."
            )
        self._seen.add(utterance)
        self.ids.append(utterance)
        self.rows.append({"id": utterance, **values})

    def add_failure(self, utterance: str, reason: str, **values) -> None:
        """Keeps that an utterance could not be measured.

        Arguments
        ---------
        utterance : str
            Its id.
        reason : str
            Why.
        **values
            Columns of its row that are known all the same.
        """
        self.add_row(utterance, **values, failure=reason)
        self.failures[utterance] = reason

    def measured_rows(self) -> list[dict]:
        """Rows of the utterances that could be measured."""
        return [row for row in self.rows if row["id"] not in self.failures]

    def mean(
        self, column: str, rows: Iterable[Mapping] | None = None
    ) -> dict[str, float | None]:
        """Mean of a column with its 95 % interval.

        Arguments
        ---------
        column : str
            Name of the column.
        rows : iterable of dict, optional
            Of these rows; by default of all that were measured.

        Returns
        -------
        dict
            The mean under the column's name, ``low`` and ``high``; None for
            each if nothing was measured.
        """
        rows = self.measured_rows() if rows is None else rows
        values = [[row[column], 1.0] for row in rows]
        return self.estimate(column, share, values)

    def estimate(
        self,
        name: str,
        statistic: Callable[[np.ndarray], np.ndarray],
        sums: Iterable,
    ) -> dict[str, float | None]:
        """A statistic with its 95 % interval; None of nothing.

        Arguments
        ---------
        name : str
            What to call the statistic.
        statistic : callable
            Of the sums over utterances (..., D), gives the statistic (...).
        sums : iterable
            What each utterance adds (U, D).

        Returns
        -------
        dict
            See :func:`~speechbrain_emofilm.metrics.bootstrap.estimate`.
        """
        sums = np.asarray(list(sums), dtype=np.float64)
        if len(sums) == 0:
            return {name: None, "low": None, "high": None}
        return estimate(name, statistic, sums, **self.bootstrap)

    def figures(self) -> dict:
        """What the metric says of its rows."""
        raise NotImplementedError(f"{type(self).__name__} has no figures.")

    def summarize(self, field: str | None = None):
        """Figures of the utterances so far.

        Arguments
        ---------
        field : str, optional
            Give only this one.

        Returns
        -------
        dict or object
            The figures; how many ``utterances`` there were, how many of them
            were ``measured``, and the ``failures``: id to reason.

        Raises
        ------
        ValueError
            If no utterance was added.
        """
        if not self.ids:
            raise ValueError("No utterance was measured: append some first.")
        self.summary = {
            **self.figures(),
            "utterances": len(self.ids),
            "measured": len(self.ids) - len(self.failures),
            "failures": dict(self.failures),
        }
        return self.summary if field is None else self.summary[field]

    def write_stats(self, filestream, verbose: bool = False) -> None:
        """Writes the summary as JSON.

        Arguments
        ---------
        filestream : file-like object
            Where to write it.
        verbose : bool
            Also print it.
        """
        text = json.dumps(self.summarize(), indent=1, ensure_ascii=False)
        filestream.write(text + "\n")
        if verbose:
            print(text)

    def write_rows(self, path: str | Path) -> None:
        """Writes a CSV file, one row per utterance.

        Arguments
        ---------
        path : str or Path
            The file.
        """
        write_csv(path, self.rows)


def write_csv(path: str | Path, rows: Iterable[Mapping]) -> None:
    """Writes rows as CSV; a column that a row lacks is empty there.

    Arguments
    ---------
    path : str or Path
        The file; written whole or not at all.
    rows : iterable of dict
        Column name to value.

    Example
    -------
    >>> path = getfixture("tmp_path") / "rows.csv"
    >>> write_csv(path, [{"id": "a", "score": 1.5}, {"id": "b"}])
    >>> path.read_text().split()
    ['id,score', 'a,1.5', 'b,']
    """
    rows = list(rows)
    columns = dict.fromkeys(column for row in rows for column in row)
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
