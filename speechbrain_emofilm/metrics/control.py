"""Word-level control: do prosody and emotion of each word change as asked?

All metrics compare a reading with the same speaker's neutral reading of the
sentence. The asked changes are given with the words; nothing here knows what
an emotion sounds like. An utterance that cannot be aligned counts as one that
did nothing as asked; it is never left out.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from speechbrain_emofilm.metrics.bootstrap import correlation, share
from speechbrain_emofilm.metrics.row_stats import RowStats
from speechbrain_emofilm.processing.prosody import (
    PROSODY_CHANGES,
    prosody_change,
    prosody_track,
)
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np

TRANSITION_THRESHOLDS = {"f0": 0.1, "energy": 1.5, "duration": 0.1}
"""Smallest asked change (log F0, dB, log duration) for which a transition is
tested; the direction of smaller ones is inaudible."""


class NeutralBaseline:
    """Neutral reading to which other readings of a sentence are compared.

    Arguments
    ---------
    wav : numpy.ndarray or torch.Tensor
        Sound (T,).
    sample_rate : int
        Sample rate in Hz.
    text : str
        Text of the sentence.
    aligner : object
        Aligner with ``align(wav, sample_rate, text) -> list of Word``.
    words : sequence, optional
        True times of the words (``start`` and ``end`` in seconds), if known;
        by default the aligner finds them.
    """

    def __init__(self, wav, sample_rate: int, text: str, aligner, words=None):
        self.text = text
        self.aligner = aligner
        self.words = words or aligner.align(wav, sample_rate, text)
        self.track = prosody_track(wav, sample_rate)

    def change(self, wav, sample_rate: int) -> np.ndarray:
        """Measure how each word of another reading differs from this one.

        Arguments
        ---------
        wav : numpy.ndarray or torch.Tensor
            Sound (T,) of the other reading.
        sample_rate : int
            Sample rate in Hz.

        Returns
        -------
        numpy.ndarray
            Changes (W, 6), see
            :func:`~speechbrain_emofilm.processing.prosody.prosody_change`.

        Raises
        ------
        AlignmentError
            If the words of the sentence are not found in the reading.
        """
        # The aligner only checks that the words are there: their times are
        # carried over from the neutral reading, which is more precise.
        self.aligner.align(wav, sample_rate, self.text)
        return prosody_change(
            self.track, self.words, prosody_track(wav, sample_rate)
        )


class WordProsodyControl(RowStats):
    """Compare asked and measured changes of F0, energy and duration by word.

    Arguments
    ---------
    thresholds : dict
        Dimensions to measure, each with the smallest asked change for which
        a transition is tested.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

    Example
    -------
    >>> asked = [{"emotion": e, "f0": f, "energy": 0.0, "duration": 0.0}
    ...     for e, f in [("neutral", 0.0), ("happy", 0.3), ("happy", 0.3)]]
    >>> change = np.zeros((3, 6))
    >>> change[1:, 0] = 0.2
    >>> control = WordProsodyControl()
    >>> control.append("a", asked, change)
    >>> round(control.summarize()["f0"]["correlation"], 3)
    1.0
    >>> control.append("b", asked, None)  # its alignment failed
    >>> round(control.summarize()["f0"]["correlation"], 3)
    0.707
    >>> control.summarize()["transitions_as_asked"]["share"]
    0.5
    """

    def __init__(
        self,
        thresholds: Mapping[str, float] = TRANSITION_THRESHOLDS,
        **bootstrap: int,
    ):
        self.thresholds = dict(thresholds)
        super().__init__(**bootstrap)

    def clear(self) -> None:
        """Forget all utterances."""
        super().clear()
        self._products: list[np.ndarray] = []
        self._transitions: list[np.ndarray] = []

    def append(
        self,
        utterance: str,
        words: Sequence[Mapping],
        change: np.ndarray | None,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        words : sequence of dict
            ``emotion`` of each word and the asked change in each dimension:
            ``f0`` (log ratio), ``energy`` (dB), ``duration`` (log ratio,
            positive when longer).
        change : numpy.ndarray or None
            Measured changes (W, 6); None if the alignment failed.

        Raises
        ------
        ValueError
            If there is not one change per word.
        """
        if change is not None and len(change) != len(words):
            raise ValueError(
                f"Utterance {utterance} has {len(words)} words but "
                f"{len(change)} measured changes: use the words of its text."
            )
        aligned = change is not None
        if not aligned:
            change = np.zeros((len(words), len(PROSODY_CHANGES)))
        columns = [PROSODY_CHANGES.index(name) for name in self.thresholds]
        measured = np.asarray(change, dtype=np.float64)[:, columns]
        asked = np.array([[w[k] for k in self.thresholds] for w in words])
        self._products.append(self._sums_of_products(asked, measured))
        emotions = [word["emotion"] for word in words]
        self._transitions.append(self._moves(emotions, asked, measured))
        row = self._row(self._products[-1], self._transitions[-1])
        if aligned:
            self.add_row(utterance, **row)
        else:
            self.add_failure(utterance, "not aligned", **row)

    def _row(self, products, moves) -> dict:
        """Return the columns of an utterance: correlation and transitions."""
        row = {}
        for name, sums, (right, tested) in zip(
            self.thresholds, products, moves.astype(int).tolist()
        ):
            row[f"{name}_correlation"] = float(correlation(sums))
            row[f"{name}_transitions"] = tested
            row[f"{name}_transitions_as_asked"] = right
        return row

    @staticmethod
    def _sums_of_products(asked, measured) -> np.ndarray:
        """Sum xx, xy and yy (D, 3) after removing the utterance's means."""
        x = asked - asked.mean(0)
        y = measured - measured.mean(0)
        return np.stack([(x * x).sum(0), (x * y).sum(0), (y * y).sum(0)], 1)

    def _moves(self, emotions, asked, measured) -> np.ndarray:
        """Count transitions that move as asked and all tested (D, 2)."""
        runs = [
            [index for index, _ in run]
            for _, run in groupby(enumerate(emotions), key=lambda e: e[1])
        ]
        moves = np.zeros((len(self.thresholds), 2))
        least = np.array(list(self.thresholds.values()))
        for before, after in zip(runs, runs[1:]):
            wanted = asked[after].mean(0) - asked[before].mean(0)
            got = measured[after].mean(0) - measured[before].mean(0)
            tested = np.abs(wanted) > least
            moves += np.stack([tested & (wanted * got > 0), tested], 1)
        return moves

    def results(self) -> dict:
        """Compute the control of each dimension, failures included.

        Returns
        -------
        dict
            For each dimension the within-utterance ``correlation`` of asked
            and measured changes; ``transitions_as_asked``: the ``share`` of
            emotion switches at which a dimension moves in the asked
            direction, over all dimensions and for each; all with the bounds
            ``low`` and ``high`` of the 95 % interval.
        """
        products = np.stack(self._products)
        moves = np.stack(self._transitions)
        by_dimension = {
            name: self.estimate("share", share, moves[:, index])
            for index, name in enumerate(self.thresholds)
        }
        return {
            **{
                name: self.estimate(
                    "correlation", correlation, products[:, index]
                )
                for index, name in enumerate(self.thresholds)
            },
            "transitions_as_asked": {
                **self.estimate("share", share, moves.sum(1)),
                "tested": int(moves[:, :, 1].sum()),
                **by_dimension,
            },
        }


class WordEmotionClassifier:
    """Classify a word's emotion by its change from a neutral reading.

    A perceptron with one hidden layer on the six changes of prosody. Train it
    on natural words only, to judge synthetic ones.

    Arguments
    ---------
    emotions : sequence of str
        Names of the K classes.
    weights : dict
        ``mean`` and ``scale`` of the changes (6,), ``weight_0`` (6, H),
        ``bias_0`` (H,), ``weight_1`` (H, K) and ``bias_1`` (K,).
    """

    def __init__(
        self, emotions: Sequence[str], weights: Mapping[str, np.ndarray]
    ):
        self.emotions = list(emotions)
        self.weights = dict(weights)

    @classmethod
    def fit(
        cls,
        changes: np.ndarray,
        emotions: Sequence[str],
        hidden: int = 32,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> "WordEmotionClassifier":
        """Train a classifier.

        Arguments
        ---------
        changes : numpy.ndarray
            Changes of natural words (N, 6).
        emotions : sequence of str
            Emotions of these words (N,).
        hidden : int
            Size H of the hidden layer.
        alpha : float
            Weight decay.
        seed : int
            Seed of the initialisation.

        Raises
        ------
        ValueError
            If there are fewer than two emotions.
        """
        from sklearn.neural_network import MLPClassifier

        if len(set(emotions)) < 2:
            raise ValueError(
                f"The words have {len(set(emotions))} emotion(s): a "
                "classifier needs words of at least two."
            )
        mean, scale = changes.mean(0), changes.std(0) + 1e-6
        model = MLPClassifier(
            (hidden,),
            alpha=alpha,
            solver="lbfgs",
            max_iter=500,
            random_state=seed,
        )
        model.fit((changes - mean) / scale, list(emotions))
        layers = zip(model.coefs_, model.intercepts_)
        weights = {"mean": mean, "scale": scale}
        for index, (weight, bias) in enumerate(layers):
            weights[f"weight_{index}"] = weight
            weights[f"bias_{index}"] = bias
        if len(model.classes_) == 2:  # one logit, of the second class
            weights["weight_1"] = weights["weight_1"] * [[-0.5, 0.5]]
            weights["bias_1"] = weights["bias_1"] * [-0.5, 0.5]
        return cls(model.classes_.tolist(), weights)

    def probabilities(self, changes: np.ndarray) -> np.ndarray:
        """Compute the probabilities of the emotions.

        Arguments
        ---------
        changes : numpy.ndarray
            Changes of words (W, 6).

        Returns
        -------
        numpy.ndarray
            Probabilities (W, K).
        """
        w = self.weights
        x = (np.asarray(changes) - w["mean"]) / w["scale"]
        x = np.maximum(x @ w["weight_0"] + w["bias_0"], 0.0)
        logits = x @ w["weight_1"] + w["bias_1"]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def predict(self, changes: np.ndarray) -> list[str]:
        """Return the most probable emotion of each word.

        Arguments
        ---------
        changes : numpy.ndarray
            Changes of words (W, 6).
        """
        best = self.probabilities(changes).argmax(1)
        return [self.emotions[index] for index in best]

    def save(self, path: str | Path) -> None:
        """Write the classifier as a safetensors file.

        Arguments
        ---------
        path : str or Path
            File to write.
        """
        from safetensors.numpy import save_file

        tensors = {
            name: np.ascontiguousarray(value, dtype=np.float32)
            for name, value in self.weights.items()
        }
        metadata = {"emotions": json.dumps(self.emotions)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> "WordEmotionClassifier":
        """Read a classifier.

        Arguments
        ---------
        path : str or Path
            File written by :meth:`save`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """
        from safetensors import safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: no word emotion classifier there; train one first."
            )
        with safe_open(path, "numpy") as file:
            emotions = json.loads(file.metadata()["emotions"])
            weights = {key: file.get_tensor(key) for key in file.keys()}
        return cls(emotions, weights)


class WordEmotionAccuracy(RowStats):
    """Compute the share of words whose emotion a classifier recognises.

    Arguments
    ---------
    emotions : sequence of str
        Emotions in the order of the confusion matrix.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

    Example
    -------
    >>> accuracy = WordEmotionAccuracy(["happy", "sad"])
    >>> accuracy.append("a", ["sad", "happy"], ["sad", "sad"])
    >>> accuracy.append("b", ["sad", "happy"], None)  # alignment failed
    >>> accuracy.summarize()["accuracy"]
    0.25
    >>> accuracy.summarize()["confusion"]  # last column: not aligned
    [[0, 1, 1], [0, 1, 1]]
    """

    def __init__(self, emotions: Sequence[str], **bootstrap: int):
        self.emotions = list(emotions)
        super().__init__(**bootstrap)

    def clear(self) -> None:
        """Forget all utterances."""
        super().clear()
        size = len(self.emotions)
        self.confusion = np.zeros((size, size + 1), dtype=int)

    def append(
        self,
        utterance: str,
        asked: Sequence[str],
        predicted: Sequence[str] | None,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        asked : sequence of str
            Emotion asked of each word.
        predicted : sequence of str or None
            Emotion recognised in each word; None if the alignment failed.

        Raises
        ------
        ValueError
            If the numbers of words differ or an emotion is unknown.
        """
        if predicted is None:
            columns = [len(self.emotions)] * len(asked)
        else:
            columns = [self._index(utterance, name) for name in predicted]
        if len(columns) != len(asked):
            raise ValueError(
                f"Utterance {utterance} has {len(asked)} words but "
                f"{len(columns)} predictions: use the words of its text."
            )
        rows = [self._index(utterance, name) for name in asked]
        np.add.at(self.confusion, (rows, columns), 1)
        hits = sum(row == column for row, column in zip(rows, columns))
        if predicted is None:
            self.add_failure(utterance, "not aligned", right=0, words=len(rows))
        else:
            self.add_row(utterance, right=hits, words=len(rows))

    def _index(self, utterance: str, emotion: str) -> int:
        if emotion not in self.emotions:
            raise ValueError(
                f"Utterance {utterance} has the emotion {emotion!r}: known "
                f"are {', '.join(self.emotions)}."
            )
        return self.emotions.index(emotion)

    def results(self) -> dict:
        """Compute the accuracy, failures included.

        Returns
        -------
        dict
            ``accuracy`` with the bounds ``low`` and ``high`` of its 95 %
            interval, ``confusion`` (asked, recognised; a last column for
            words that could not be aligned) and the number of ``words``.
        """
        counts = [[row["right"], row["words"]] for row in self.rows]
        return {
            **self.estimate("accuracy", share, counts),
            "emotions": self.emotions,
            "confusion": self.confusion.tolist(),
            "words": sum(words for _, words in counts),
        }
