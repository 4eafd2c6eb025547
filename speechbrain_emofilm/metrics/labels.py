"""Quality of word labels, compared with the truth word by word.

The words' times may differ, since labels may use an aligner's times.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from speechbrain_emofilm.dataio.labels import UtteranceLabels, check_words

import numpy as np
from speechbrain.utils.EDER import EDER

#: Time step of the emotion diarization error, in seconds.
EDER_STRIDE = 0.01


class WordLabelMetrics:
    """Compare labels with the truth, utterance by utterance.

    Arguments
    ---------
    emotions : list of str
        The taxonomy.
    n_bins : int
        Number of bins of the expected calibration error.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.labels import WordLabel
    >>> def labels(*emotions):
    ...     return UtteranceLabels([
    ...         WordLabel("a", i, i + 1, e, {e: 1.0}, float(e != "neutral"))
    ...         for i, e in enumerate(emotions)
    ...     ])
    >>> metrics = WordLabelMetrics(["neutral", "sad"])
    >>> metrics.append(
    ...     "0011_000351",
    ...     labels("neutral", "sad", "sad"),
    ...     labels("neutral", "neutral", "sad"),
    ... )
    >>> summary = metrics.summarize()
    >>> round(summary["accuracy"], 3), summary["boundary_error_ms"]["median"]
    (0.667, 1000.0)
    """

    def __init__(self, emotions: Sequence[str], n_bins: int = 10):
        self.emotions = list(emotions)
        self.n_bins = n_bins
        self.ids: list[str] = []
        self.rows: list[dict] = []

    def append(
        self,
        utterance: str,
        truth: UtteranceLabels,
        labels: UtteranceLabels,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        truth : UtteranceLabels
            True labels.
        labels : UtteranceLabels
            Labels to judge. A word without an emotion counts as wrong.

        Raises
        ------
        ValueError
            If the words differ.
        """
        check_words(labels, [word.word for word in truth.words], utterance)
        edges, missed = boundary_errors(truth, labels)
        self.ids.append(utterance)
        self.rows.append(
            {
                "truth": [self._index(word.emotion) for word in truth.words],
                "found": [self._index(word.emotion) for word in labels.words],
                "confidence": [
                    max(word.probs.values()) if word.probs else 1.0
                    for word in labels.words
                ],
                "true_intensity": [w.intensity for w in truth.words],
                "intensity": [w.intensity for w in labels.words],
                "boundary_errors": edges,
                "missed_boundaries": missed,
                "eder": emotion_diarization_error(truth, labels),
                "duration": truth.words[-1].end - truth.words[0].start,
            }
        )

    def _index(self, emotion):
        return -1 if emotion is None else self.emotions.index(emotion)

    def _words(self, name, dtype=None):
        """Collect a column of all words; NaN for unknown numbers."""
        values = [value for row in self.rows for value in row[name]]
        return np.array(values, dtype)

    def confusion(self) -> np.ndarray:
        """Count words by true and labelled emotion.

        Returns
        -------
        numpy.ndarray
            Counts (K, K + 1); the last column is of unlabelled words.
        """
        n_emotions = len(self.emotions)
        counts = np.zeros((n_emotions, n_emotions + 1), dtype=int)
        np.add.at(counts, (self._words("truth"), self._words("found")), 1)
        return counts

    def summarize(self) -> dict:
        """Summarize the utterances so far.

        Returns
        -------
        dict
            ``accuracy``, ``macro_f1``, ``intensity_correlation`` (Pearson,
            over all words with an intensity; None where it does not vary),
            ``intensity_correlation_emotional`` (over the truly emotional
            words), ``ece``, ``eder``, ``boundary_error_ms`` (median and 90th
            percentile over the true changes of emotion near a labelled one),
            ``missed_boundaries`` (share of the other true changes),
            ``unlabelled`` (share of words), ``majority`` (share of the most
            frequent true emotion), and the numbers of ``words`` and
            ``utterances``.

        Raises
        ------
        ValueError
            If no utterance was added.
        """
        if not self.rows:
            raise ValueError("No utterance was compared: append some first.")
        truth, found = self._words("truth"), self._words("found")
        right = truth == found
        wanted, given = (
            self._words(name, float) for name in ("true_intensity", "intensity")
        )
        emotional = wanted > 0
        labelled = found >= 0
        errors = self._words("boundary_errors", float) * 1000
        n_missed = sum(row["missed_boundaries"] for row in self.rows)
        durations = np.array([row["duration"] for row in self.rows])
        eder = np.array([row["eder"] for row in self.rows])
        return {
            "accuracy": float(right.mean()),
            "macro_f1": macro_f1(truth, found, len(self.emotions)),
            "intensity_correlation": pearson(wanted, given),
            "intensity_correlation_emotional": pearson(
                wanted[emotional], given[emotional]
            ),
            "ece": expected_calibration_error(
                self._words("confidence")[labelled],
                right[labelled],
                self.n_bins,
            ),
            "eder": float((eder * durations).sum() / durations.sum()),
            "boundary_error_ms": {
                "median": _percentile(errors, 50),
                "p90": _percentile(errors, 90),
            },
            "missed_boundaries": n_missed / max(n_missed + len(errors), 1),
            "unlabelled": float((~labelled).mean()),
            "majority": float(np.bincount(truth).max() / len(truth)),
            "words": len(truth),
            "utterances": len(self.rows),
        }


def macro_f1(truth: np.ndarray, found: np.ndarray, n_classes: int) -> float:
    """Average F1 over the classes that occur in the truth or the labels.

    Arguments
    ---------
    truth : numpy.ndarray
        True classes (N,).
    found : numpy.ndarray
        Labelled classes (N,), -1 for none.
    n_classes : int
        Number of classes.

    Example
    -------
    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    0.7333333333333334
    """
    scores = []
    for index in range(n_classes):
        hits = ((truth == index) & (found == index)).sum()
        total = (truth == index).sum() + (found == index).sum()
        if total:
            scores.append(2 * hits / total)
    return float(np.mean(scores)) if scores else 0.0


def expected_calibration_error(
    confidence: np.ndarray, right: np.ndarray, n_bins: int = 10
) -> float:
    """Compute the mean distance between confidence and accuracy.

    Arguments
    ---------
    confidence : numpy.ndarray
        Probability of the chosen class (N,), 0 to 1.
    right : numpy.ndarray
        Whether the chosen class is true (N,).
    n_bins : int
        Number of bins of equal width.

    Returns
    -------
    float
        Mean over the bins, weighted by their numbers of words.

    Example
    -------
    >>> expected_calibration_error(
    ...     np.array([0.9, 0.9]), np.array([True, False])
    ... )
    0.4
    """
    if len(confidence) == 0:
        return 0.0
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    error = 0.0
    for index in np.unique(bins):
        inside = bins == index
        gap = abs(confidence[inside].mean() - right[inside].mean())
        error += gap * inside.mean()
    return float(round(error, 10))


def boundary_errors(
    truth: UtteranceLabels, labels: UtteranceLabels
) -> tuple[list[float], int]:
    """Measure the distance of labelled changes of emotion to the true ones.

    Arguments
    ---------
    truth : UtteranceLabels
        True labels.
    labels : UtteranceLabels
        Labels to judge.

    Returns
    -------
    errors : list of float
        For each true change, the distance in seconds to the nearest labelled
        change, if that is nearer to it than to the other true changes.
    missed : int
        Number of true changes without such a labelled change.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.labels import WordLabel
    >>> truth = UtteranceLabels(
    ...     [WordLabel("a", 0, 1, "sad"), WordLabel("b", 1, 2, "happy")]
    ... )
    >>> labels = UtteranceLabels(
    ...     [WordLabel("a", 0, 1.1, "sad"), WordLabel("b", 1.1, 2, "angry")]
    ... )
    >>> errors, missed = boundary_errors(truth, labels)
    >>> round(errors[0], 3), missed
    (0.1, 0)
    """
    true, found = changes(truth), changes(labels)
    nearest: dict[int, float] = {}
    for time in found:
        if not true:
            break
        distances = np.abs(np.array(true) - time)
        index = int(distances.argmin())
        error = float(distances[index])
        nearest[index] = min(error, nearest.get(index, error))
    return list(nearest.values()), len(true) - len(nearest)


def changes(labels: UtteranceLabels) -> list[float]:
    """List the times at which the emotion changes.

    Arguments
    ---------
    labels : UtteranceLabels
        Labels of an utterance.

    Returns
    -------
    list of float
        Times in seconds: the middle between two words of different emotion.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.labels import WordLabel
    >>> words = [WordLabel("a", 0, 1, "sad"), WordLabel("b", 1.5, 2, "happy")]
    >>> changes(UtteranceLabels(words))
    [1.25]
    """
    return [
        (before.end + after.start) / 2
        for before, after in zip(labels.words, labels.words[1:])
        if before.emotion != after.emotion
    ]


def emotion_diarization_error(
    truth: UtteranceLabels, labels: UtteranceLabels
) -> float:
    """Compute the share of speech with a wrong emotion.

    SpeechBrain's ``EDER``, which is for utterances of one emotion, judges each
    stretch of one true emotion; the results are averaged by duration.

    Arguments
    ---------
    truth : UtteranceLabels
        True labels.
    labels : UtteranceLabels
        Labels to judge; a pause belongs to the nearer word.

    Returns
    -------
    float
        Error from 0 to 1.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.labels import WordLabel
    >>> truth = UtteranceLabels(
    ...     [WordLabel("a", 0, 1, "sad"), WordLabel("b", 1, 2, "happy")]
    ... )
    >>> labels = UtteranceLabels(
    ...     [WordLabel("a", 0, 1, "sad"), WordLabel("b", 1, 2, "surprise")]
    ... )
    >>> round(emotion_diarization_error(truth, labels), 3)
    0.5
    """
    # EDER names a true emotion by its first letter: sad would be surprise.
    names = sorted({str(w.emotion) for w in [*truth.words, *labels.words]})
    letters = {name: chr(ord("a") + i) for i, name in enumerate(names)}
    wrong = total = 0.0
    for emotion, words in groupby(truth.words, key=lambda w: w.emotion):
        run = list(words)
        start, duration = run[0].start, run[-1].end - run[0].start
        n_frames = max(round(duration / EDER_STRIDE), 1)
        stride = duration / n_frames
        predictions = [
            letters[str(_emotion_at(labels, start + (frame + 0.5) * stride))]
            for frame in range(n_frames)
        ]
        reference = [
            {"emo": letters[str(emotion)], "start": 0.0, "end": duration}
        ]
        error = EDER(predictions, "", duration, reference, stride, stride)
        wrong += duration * min(max(error, 0.0), 1.0)
        total += duration
    return wrong / total


def _emotion_at(labels, time):
    """Return the emotion of the word spoken at, or nearest to, a time."""
    return min(
        labels.words,
        key=lambda word: max(word.start - time, time - word.end, 0.0),
    ).emotion


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Compute the Pearson correlation over the known pairs.

    Arguments
    ---------
    one : numpy.ndarray
        Values (N,), NaN where unknown.
    other : numpy.ndarray
        Values to compare with (N,), NaN where unknown.

    Returns
    -------
    float or None
        Correlation; None for fewer than two pairs or without variation.

    Example
    -------
    >>> round(pearson(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])), 3)
    1.0
    """
    known = np.isfinite(one) & np.isfinite(other)
    one, other = one[known], other[known]
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def majority_labels(
    truth: Mapping[str, UtteranceLabels], emotion: str
) -> dict[str, UtteranceLabels]:
    """Label every word with one emotion, as a baseline.

    Arguments
    ---------
    truth : mapping
        Utterance id to labels, whose words and times are kept.
    emotion : str
        Emotion of all words.

    Returns
    -------
    dict
        Utterance id to labels.
    """
    return {
        utterance: UtteranceLabels(
            [
                replace(word, emotion=emotion, probs=None, intensity=None)
                for word in labels.words
            ],
            {"labeler": "majority"},
        )
        for utterance, labels in truth.items()
    }


def majority_emotion(truth: Mapping[str, UtteranceLabels]) -> str:
    """Find the most frequent emotion of words.

    Arguments
    ---------
    truth : mapping
        Utterance id to labels.
    """
    emotions = [w.emotion for labels in truth.values() for w in labels.words]
    return Counter(emotions).most_common(1)[0][0]


def _percentile(values, percent):
    return float(np.percentile(values, percent)) if len(values) else None
