"""Emotion diarization: segments of emotion compared with the true ones."""

from collections.abc import Iterable, Sequence
from functools import partial

from speechbrain_emofilm.dataio.emotion_segments import (
    EmotionSegment,
    fill_gaps,
)
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.metrics.labels import emotion_diarization_error
from speechbrain_emofilm.metrics.row_stats import RowStats

import numpy as np
from speechbrain.utils.EDER import getOverlap


class EmotionDiarization(RowStats):
    """Emotion diarization error rate (EDER) and scores of each emotion.

    EDER (Wang et al., 2023) is the share of time with a wrong emotion:
    neutral time that is labelled as emotional (`false_alarm`), emotional time
    that is labelled as neutral (`missed`), and time labelled with another
    emotion than the true one (`confusion`).

    It is computed exactly, from the boundaries of the segments. SpeechBrain's
    ``EDER`` works on frames, returns only the sum of the three errors, names
    true emotions by their first letter (sad and surprise would be the same),
    and accepts recordings with a single emotional segment only. It is called
    for `mean_eder`, which can be compared with published scores: for one true
    segment at a time, and with a unique letter for each emotion.

    Arguments
    ---------
    emotions : sequence of str
        The emotions that may occur.
    neutral : str
        Name of the neutral state; added to the emotions if it is missing.
    **bootstrap
        Number of samples and seed, see
        :class:`~speechbrain_emofilm.metrics.row_stats.RowStats`.

    Example
    -------
    >>> metric = EmotionDiarization(["neutral", "happy", "sad"])
    >>> metric.append(
    ...     "a",
    ...     truth=[EmotionSegment(1.0, 3.0, "happy")],
    ...     found=[EmotionSegment(2.0, 3.5, "happy")],
    ...     duration=4.0,
    ... )
    >>> summary = metric.summarize()
    >>> summary["eder"]["eder"], summary["missed"], summary["false_alarm"]
    (0.375, 0.25, 0.125)
    >>> summary["emotions"]["happy"]["recall"]["recall"]
    0.5
    """

    def __init__(
        self, emotions: Sequence[str], neutral: str = "neutral", **bootstrap
    ):
        self.emotions = list(dict.fromkeys([neutral, *emotions]))
        self.neutral = neutral
        super().__init__(**bootstrap)

    def clear(self) -> None:
        """Forget all recordings."""
        super().clear()
        self.seconds: list[np.ndarray] = []

    def append(
        self,
        recording: str,
        truth: Iterable[EmotionSegment],
        found: Iterable[EmotionSegment],
        duration: float,
        **values,
    ) -> None:
        """Add a recording.

        Arguments
        ---------
        recording : str
            Id of the recording.
        truth : iterable of EmotionSegment
            True segments, in order of time. The rest is neutral.
        found : iterable of EmotionSegment
            Segments to judge.
        duration : float
            Duration of the recording, in seconds.
        **values
            Further columns of the recording's row.

        Raises
        ------
        ValueError
            If an emotion is not known, a segment ends after the recording, or
            the recording was added before.
        """
        try:
            true = fill_gaps(truth, duration, self.neutral)
            labelled = fill_gaps(found, duration, self.neutral)
            seconds = self._seconds(true, labelled)
        except ValueError as error:
            raise ValueError(f"Recording {recording}: {error}") from error
        false_alarm, missed, confusion = error_seconds(seconds)
        self.add_row(
            recording,
            duration=duration,
            eder=float((false_alarm + missed + confusion) / duration),
            false_alarm=float(false_alarm),
            missed=float(missed),
            confusion=float(confusion),
            speechbrain_eder=emotion_diarization_error(
                _as_words(true), _as_words(labelled)
            ),
            **values,
        )
        self.seconds.append(seconds)

    def _seconds(self, true, labelled) -> np.ndarray:
        """Measure the seconds (K, K) of each true and labelled emotion."""
        seconds = np.zeros((len(self.emotions),) * 2)
        for one in true:
            for other in labelled:
                both = self._index(one.emotion), self._index(other.emotion)
                seconds[both] += getOverlap(
                    [one.start, one.end], [other.start, other.end]
                )
        return seconds

    def _index(self, emotion: str) -> int:
        if emotion not in self.emotions:
            raise ValueError(
                f"the emotion {emotion!r} is not among "
                f"{', '.join(self.emotions)}; map it to one of them."
            )
        return self.emotions.index(emotion)

    def results(self) -> dict:
        """Summarize the recordings so far.

        Returns
        -------
        dict
            ``eder`` over all time and its parts ``false_alarm``, ``missed``
            and ``confusion``, as shares of time; ``mean_eder``, the mean over
            recordings of SpeechBrain's ``EDER``; ``all_neutral_eder``, the
            error of labels that are neutral throughout; ``macro_f1`` over
            the emotions that occur; ``emotions``, with ``precision``,
            ``recall``, ``f1`` (None where they are undefined) and
            ``true_seconds`` and ``found_seconds`` of each; ``seconds`` of each
            true emotion by labelled emotion; and the ``hours`` of audio.
            Scores have 95 % intervals from resampling the recordings.
        """
        size = len(self.emotions)
        flat = np.array(self.seconds).reshape(len(self.seconds), size * size)
        total = flat.sum(0).reshape(size, size)
        duration = max(float(total.sum()), 1e-9)
        parts = [float(part) / duration for part in error_seconds(total)]
        occurring = np.flatnonzero(total.sum(0) + total.sum(1)).tolist()
        rate = partial(_error_rate, size=size)
        macro = partial(_macro_f1, size=size, chosen=occurring)
        return {
            "eder": self.estimate("eder", rate, flat),
            "false_alarm": parts[0],
            "missed": parts[1],
            "confusion": parts[2],
            "mean_eder": self._renamed_mean("speechbrain_eder", "mean_eder"),
            "all_neutral_eder": float(total[1:].sum()) / duration,
            "macro_f1": self.estimate("macro_f1", macro, flat),
            "emotions": {
                self.emotions[index]: self._scores(index, flat, total)
                for index in occurring
            },
            "seconds": {
                self.emotions[i]: {
                    self.emotions[j]: round(float(total[i, j]), 3)
                    for j in occurring
                }
                for i in occurring
            },
            "hours": float(total.sum()) / 3600,
        }

    def _renamed_mean(self, column: str, name: str) -> dict:
        mean = self.mean(column)
        return {name: mean.pop(column), **mean}

    def _scores(self, index: int, flat: np.ndarray, total: np.ndarray) -> dict:
        """Compute the scores of one emotion."""
        size = len(self.emotions)
        table = flat.reshape(-1, size, size)
        hits = table[:, index, index]
        true, found = table[:, index].sum(-1), table[:, :, index].sum(-1)
        scores = {
            "precision": (hits, found),
            "recall": (hits, true),
            "f1": (2 * hits, true + found),
        }
        return {
            **{
                name: (
                    self.estimate(name, _ratio, np.stack([part, whole], -1))
                    if whole.sum() > 0
                    else {name: None, "low": None, "high": None}
                )
                for name, (part, whole) in scores.items()
            },
            "true_seconds": round(float(total[index].sum()), 3),
            "found_seconds": round(float(total[:, index].sum()), 3),
        }


def error_seconds(seconds: np.ndarray) -> tuple:
    """Sum the three kinds of errors.

    Arguments
    ---------
    seconds : numpy.ndarray
        Seconds (..., K, K) of each true (row) and labelled (column) emotion;
        index 0 is neutral.

    Returns
    -------
    false_alarm, missed, confusion : numpy.ndarray
        Seconds (...).

    Example
    -------
    >>> false_alarm, missed, confusion = error_seconds(
    ...     np.array([[5, 1, 0], [2, 7, 3], [0, 0, 9]])
    ... )
    >>> int(false_alarm), int(missed), int(confusion)
    (1, 2, 3)
    """
    emotional = seconds[..., 1:, 1:]
    right = np.trace(emotional, axis1=-2, axis2=-1)
    return (
        seconds[..., 0, 1:].sum(-1),
        seconds[..., 1:, 0].sum(-1),
        emotional.sum((-2, -1)) - right,
    )


def _error_rate(sums: np.ndarray, size: int) -> np.ndarray:
    """Compute EDER (...) from flat seconds (..., K * K)."""
    table = sums.reshape(*sums.shape[:-1], size, size)
    return sum(error_seconds(table)) / np.maximum(sums.sum(-1), 1e-9)


def _macro_f1(sums: np.ndarray, size: int, chosen: list[int]) -> np.ndarray:
    """Average F1 (...) over some emotions, from flat seconds (..., K * K)."""
    table = sums.reshape(*sums.shape[:-1], size, size)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    whole = table.sum(-1) + table.sum(-2)
    return _ratio(np.stack([2 * hits, whole], -1))[..., chosen].mean(-1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Divide the first column by the second; 0 where that is 0."""
    whole = sums[..., 1]
    return sums[..., 0] / np.where(whole > 0, whole, 1.0)


def _as_words(segments: Sequence[EmotionSegment]) -> UtteranceLabels:
    """Represent segments as labels, for the metrics of word labels."""
    return UtteranceLabels(
        [WordLabel(s.emotion, s.start, s.end, s.emotion) for s in segments]
    )
