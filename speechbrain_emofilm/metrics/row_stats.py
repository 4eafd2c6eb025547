"""Base class of metrics with one row per utterance, failures included."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
from speechbrain.utils.metric_stats import MetricStats


class SummaryFiles:
    """Mixin that writes ``summarize()`` as JSON and ``rows`` as CSV."""

    rows: list[dict]

    def summarize(self, field: str | None = None):
        """Summarize the utterances so far, to be implemented."""
        raise NotImplementedError

    def write_stats(self, filestream, verbose: bool = False) -> None:
        """Write the summary as JSON.

        Arguments
        ---------
        filestream : file-like object
            Open text file.
        verbose : bool
            Whether to print the summary, too.
        """
        text = json.dumps(self.summarize(), indent=1, ensure_ascii=False)
        filestream.write(text + "\n")
        if verbose:
            print(text)

    def write_rows(self, path: str | Path) -> None:
        """Write a CSV file, one row per utterance.

        Arguments
        ---------
        path : str or Path
            File to write.
        """
        write_csv(path, self.rows)


class RowStats(SummaryFiles, MetricStats):
    """Base class of metrics with rows, intervals and counted failures.

    A subclass calls :meth:`add_row` or :meth:`add_failure` for each utterance
    in its ``append``, and summarizes the rows in ``results``. An utterance
    that could not be measured has a row with the reason, and every summary
    counts it.

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
    ...     def results(self):
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
        """Forget all utterances."""
        self.ids: list[str] = []
        self.rows: list[dict] = []
        self.failures: dict[str, str] = {}
        self.summary: dict = {}
        self._seen: set[str] = set()

    def add_row(self, utterance: str, **values) -> None:
        """Add the measurements of an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
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
        """Add an utterance that could not be measured.

        Arguments
        ---------
        utterance : str
            Utterance id.
        reason : str
            Reason, for the summary.
        **values
            Columns of its row that are known nevertheless.
        """
        self.add_row(utterance, **values, failure=reason)
        self.failures[utterance] = reason

    def measured_rows(self) -> list[dict]:
        """Return the rows of the utterances that could be measured."""
        return [row for row in self.rows if row["id"] not in self.failures]

    def mean(
        self, column: str, rows: Iterable[Mapping] | None = None
    ) -> dict[str, float | None]:
        """Average a column, with the 95 % interval.

        Arguments
        ---------
        column : str
            Name of the column.
        rows : iterable of dict, optional
            Rows to average; by default all that were measured.

        Returns
        -------
        dict
            The mean under the column's name, ``low`` and ``high``; all None
            if there is no row.
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
        """Call :func:`~speechbrain_emofilm.metrics.bootstrap.estimate`.

        Arguments
        ---------
        name : str
            Name of the statistic.
        statistic : callable
            Function from sums over utterances (..., D) to the statistic (...).
        sums : iterable
            Contribution of each utterance to the sums (U, D).

        Returns
        -------
        dict
            The statistic under its name, ``low`` and ``high``; all None if
            there is no utterance.
        """
        table = np.asarray(list(sums), dtype=np.float64)
        if len(table) == 0:
            return {name: None, "low": None, "high": None}
        return dict(estimate(name, statistic, table, **self.bootstrap))

    def results(self) -> dict:
        """Compute the scores from the rows, to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} has no results().")

    def summarize(self, field: str | None = None):
        """Summarize the utterances so far.

        Arguments
        ---------
        field : str, optional
            Entry to return; by default all.

        Returns
        -------
        dict or object
            The results; the numbers of ``utterances`` and of those
            ``measured``; the ``failures``, id to reason.

        Raises
        ------
        ValueError
            If no utterance was added.
        """
        if not self.ids:
            raise ValueError("No utterance was measured: append some first.")
        self.summary = {
            **self.results(),
            "utterances": len(self.ids),
            "measured": len(self.ids) - len(self.failures),
            "failures": dict(self.failures),
        }
        return self.summary if field is None else self.summary[field]


def write_csv(path: str | Path, rows: Iterable[Mapping]) -> None:
    """Write rows as CSV; a column that a row lacks is empty there.

    Arguments
    ---------
    path : str or Path
        File, written atomically.
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
