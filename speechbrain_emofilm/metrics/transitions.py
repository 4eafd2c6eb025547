"""Switches of emotion within an utterance: accuracy, time and leakage.

The metrics take the posteriors of a classifier trained on natural speech only,
so that it does not learn the artefacts of synthetic speech.
"""

from collections.abc import Sequence
from itertools import groupby

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.metrics.bootstrap import share
from speechbrain_emofilm.metrics.row_stats import RowStats

import numpy as np


def emotion_runs(
    emotions: Sequence[str | None],
) -> list[tuple[str | None, range]]:
    """Group neighbouring words of the same emotion.

    Arguments
    ---------
    emotions : sequence of str or None
        Emotion of each word.

    Returns
    -------
    list of (str or None, range)
        Emotion of each run and the indices of its words.

    Example
    -------
    >>> emotion_runs(["sad", "sad", "happy"])
    [('sad', range(0, 2)), ('happy', range(2, 3))]
    """
    runs: list[tuple[str | None, range]] = []
    start = 0
    for emotion, words in groupby(emotions):
        end = start + len(list(words))
        runs.append((emotion, range(start, end)))
        start = end
    return runs


def change_point(evidence: np.ndarray) -> int | None:
    """Split frames between two classes at the most likely place.

    Arguments
    ---------
    evidence : numpy.ndarray
        Log probability of the first class minus that of the second (F,).

    Returns
    -------
    int or None
        First frame of the second class; None if the frames are more likely
        to be all of one class.

    Example
    -------
    >>> change_point(np.array([1.0, 2.0, -0.5, 1.0, -3.0, -1.0]))
    4
    >>> change_point(np.ones(5)) is None
    True
    """
    gains = np.concatenate([[0.0], np.cumsum(evidence)])
    best = int(gains.argmax())
    unsplit = max(gains[0], gains[-1])
    return best if gains[best] > unsplit else None


class EmotionTransitions(RowStats):
    """Accuracy and time of the switches of emotion within utterances.

    A switch is correct if the words on both sides of it, up to the next
    switch, are recognised as their asked emotions. Its time is the best split
    of these words' frames by the posteriors of the two emotions; the error is
    the distance from the word boundary. If no split is likely, the switch has
    no time, which lowers ``found``.

    Arguments
    ---------
    emotions : sequence of str
        The taxonomy, in the order of the posteriors.
    frame_rate : float
        Frames per second.
    frame_offset : float
        Centre of frame 0, in seconds.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

    Example
    -------
    >>> words = [WordLabel("we", 0.0, 0.5, "happy")]
    >>> words += [WordLabel("lost", 0.5, 1.0, "sad")]
    >>> posteriors = np.full((50, 2), 0.1)
    >>> posteriors[:30, 0] = posteriors[30:, 1] = 0.9  # 100 ms late
    >>> transitions = EmotionTransitions(["happy", "sad"], 50.0, 0.01)
    >>> transitions.append("a", words, posteriors)
    >>> summary = transitions.summarize()
    >>> summary["accuracy"], round(summary["boundary_error_ms"]["mean"])
    (1.0, 100)
    """

    def __init__(
        self,
        emotions: Sequence[str],
        frame_rate: float,
        frame_offset: float = 0.0,
        **bootstrap: int,
    ):
        self.emotions = list(emotions)
        self.frame_rate = frame_rate
        self.frame_offset = frame_offset
        super().__init__(**bootstrap)

    def clear(self) -> None:
        """Forget all utterances."""
        super().clear()
        self.transition_rows: list[dict] = []

    def append(
        self,
        utterance: str,
        words: Sequence[WordLabel],
        posteriors: np.ndarray | None,
        word_posteriors: np.ndarray | None = None,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        words : sequence of WordLabel
            Asked emotions, with the times of the words in this speech.
        posteriors : numpy.ndarray or None
            Probabilities of the emotions in each frame (F, K); None if they
            or the words' times are unknown: all switches count as wrong.
        word_posteriors : numpy.ndarray, optional
            Probabilities of the emotions in each word (W, K), by which the
            words are recognised instead of by the frames. Use them where
            frames are judged by windows: windows across a switch hold both
            emotions, and a short word has no others.
        """
        runs = emotion_runs([word.emotion for word in words])
        pairs = [
            (before, after)
            for before, after in zip(runs, runs[1:])
            if before[0] is not None and after[0] is not None
        ]
        if posteriors is None or not np.isfinite(posteriors).all():
            rows = [
                {"before": a[0], "after": b[0], "correct": 0} for a, b in pairs
            ]
            self.add_failure(utterance, "not measured", switches=len(rows))
        else:
            rows = [
                self._switch(words, posteriors, word_posteriors, *pair)
                for pair in pairs
            ]
            self.add_row(utterance, switches=len(rows))
        self.transition_rows += [
            {"id": utterance, "index": index, **row}
            for index, row in enumerate(rows)
        ]

    def _switch(self, words, frames, by_word, before, after) -> dict:
        """Compute the row of one switch."""
        (first, words_before), (second, words_after) = before, after
        asked = (words[words_before[-1]].end + words[words_after[0]].start) / 2
        start = self._frame(words[words_before[0]].start)
        middle = self._frame(asked)
        end = self._frame(words[words_after[-1]].end)
        a, b = self.emotions.index(first), self.emotions.index(second)
        if by_word is None:
            sides = frames[start:middle], frames[middle:end]
        else:
            sides = by_word[list(words_before)], by_word[list(words_after)]
        heard = [
            self.emotions[side.mean(0).argmax()] if len(side) else ""
            for side in sides
        ]
        row = {
            "before": first,
            "after": second,
            "heard_before": heard[0],
            "heard_after": heard[1],
            "correct": int(heard == [first, second]),
            "asked_time": round(asked, 4),
        }
        log_probs = np.log(np.maximum(frames[start:end], 1e-12))
        split = change_point(log_probs[:, a] - log_probs[:, b])
        if split is not None:
            # The border lies between two frames' centres.
            time = (start + split - 0.5) / self.frame_rate + self.frame_offset
            row["measured_time"] = round(time, 4)
            row["error_ms"] = 1000 * (time - asked)
        return row

    def _frame(self, time: float) -> int:
        """Return the first frame whose centre is not before a time."""
        position = (time - self.frame_offset) * self.frame_rate
        return max(0, int(np.ceil(position - 1e-6)))

    def results(self) -> dict:
        """Compute accuracy and boundary error.

        Returns
        -------
        dict
            ``accuracy`` with ``low`` and ``high``, over all switches;
            ``boundary_error_ms``: ``mean`` of the absolute error with its
            bounds, ``median``, and ``bias`` (positive: late); ``found``, the
            share of switches that have a time; the number of ``switches``.
        """
        groups: dict[str, list[dict]] = {name: [] for name in self.ids}
        for row in self.transition_rows:
            groups[row["id"]].append(row)
        counts, errors = [], []
        for rows in groups.values():
            counts.append([sum(row["correct"] for row in rows), len(rows)])
            found = [row["error_ms"] for row in rows if "error_ms" in row]
            errors.append([np.abs(found).sum() if found else 0.0, len(found)])
        every = [
            row["error_ms"] for row in self.transition_rows if "error_ms" in row
        ]
        mean = self.estimate("mean", share, errors if every else [])
        return {
            **self.estimate("accuracy", share, counts),
            "boundary_error_ms": {
                **mean,
                "median": float(np.median(np.abs(every))) if every else None,
                "bias": float(np.mean(every)) if every else None,
            },
            "found": len(every) / max(1, len(self.transition_rows)),
            "switches": len(self.transition_rows),
        }


class EmotionLeakage(RowStats):
    """Leakage of an emotion into the neighbouring word across a switch.

    ``near`` is the probability of the emotion beyond the switch in the word
    next to it, ``far`` that in words of the same run at least two words
    further, which should not carry it. The leakage is their difference.

    Arguments
    ---------
    emotions : sequence of str
        The taxonomy, in the order of the posteriors.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

    Example
    -------
    >>> leakage = EmotionLeakage(["happy", "sad"])
    >>> asked = ["happy"] * 3 + ["sad"]
    >>> posteriors = np.array([[1, 0], [1, 0], [0.6, 0.4], [0, 1]])
    >>> leakage.append("a", asked, posteriors)
    >>> summary = leakage.summarize()
    >>> summary["near"], summary["far"], summary["leakage"]
    (0.2, 0.0, 0.2)
    """

    def __init__(self, emotions: Sequence[str], **bootstrap: int):
        super().__init__(**bootstrap)
        self.emotions = list(emotions)

    def append(
        self,
        utterance: str,
        asked: Sequence[str | None],
        posteriors: np.ndarray | None,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        asked : sequence of str or None
            Emotion asked of each word.
        posteriors : numpy.ndarray or None
            Probabilities of the emotions in each word (W, K); None if
            unknown.

        Raises
        ------
        ValueError
            If there is not one row per word.
        """
        if posteriors is None or not np.isfinite(posteriors).all():
            return self.add_failure(utterance, "not measured")
        if len(posteriors) != len(asked):
            raise ValueError(
                f"Utterance {utterance} has {len(asked)} words but "
                f"{len(posteriors)} posteriors: use the words of its text."
            )
        near, far = [], []
        runs = emotion_runs(asked)
        for here, there in [*zip(runs, runs[1:]), *zip(runs[1:], runs)]:
            if here[0] is None or there[0] is None:
                continue
            column = self.emotions.index(there[0])
            words = list(here[1])
            if there[1].start < words[0]:  # the neighbour comes before
                words.reverse()
            near.append(posteriors[words[-1], column])
            far += [posteriors[word, column] for word in words[:-2]]
        self.add_row(
            utterance,
            near=float(np.sum(near)),
            n_near=len(near),
            far=float(np.sum(far)),
            n_far=len(far),
        )

    def results(self) -> dict:
        """Compute the leakage and its parts.

        Returns
        -------
        dict
            ``leakage`` with ``low`` and ``high``, ``near`` and ``far``; None
            where no utterance has such words.
        """
        sums = np.array(
            [
                [row["near"], row["n_near"], row["far"], row["n_far"]]
                for row in self.measured_rows()
            ]
        ).reshape(-1, 4)
        total = sums.sum(0)
        near = float(total[0] / total[1]) if total[1] else None
        far = float(total[2] / total[3]) if total[3] else None
        comparable = near is not None and far is not None
        return {
            **self.estimate(
                "leakage", _near_less_far, sums if comparable else []
            ),
            "near": near,
            "far": far,
        }


def _near_less_far(sums: np.ndarray) -> np.ndarray:
    return share(sums[..., :2]) - share(sums[..., 2:])
