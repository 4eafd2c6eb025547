"""A judge of words' emotions that has heard natural speech only.

Synthetic speech is judged by it, and so cannot teach it its own habits.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.evaluation.measuring import (
    Measurement,
    MeasuringPool,
    Reading,
)
from speechbrain_emofilm.evaluation.systems import Utterance
from speechbrain_emofilm.metrics.control import (
    WordEmotionAccuracy,
    WordEmotionClassifier,
)
from speechbrain_emofilm.processing.pooling import word_average_pooling

import numpy as np
import torch


@dataclass(frozen=True)
class NaturalReading:
    """Emotion features of a natural reading of a sentence.

    Arguments
    ---------
    frames : torch.Tensor
        Frames in the scale of their speaker (F, D).
    words : torch.Tensor
        Mean frames of the words (W, D); empty (0, D) if the times of the
        words are unknown.
    emotions : list of str
        Emotion of each word (W,).
    """

    frames: torch.Tensor
    words: torch.Tensor
    emotions: Sequence[str]


class WordEmotionJudge:
    """Classifier of words by their emotion features, and speakers' scales.

    Arguments
    ---------
    extractor : object
        Extractor of the emotion features, with ``frame_rate`` (Hz) and
        ``frame_offset`` (s). Frames are normalised per speaker if its
        ``speaker_normalization`` is true.
    emotions : list of str
        The taxonomy.
    window : float
        Length of the stretch around a frame that is judged as one, in
        seconds; about a word's.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> extractor = SimpleNamespace(speaker_normalization=True)
    >>> judge = WordEmotionJudge(extractor, ["neutral", "sad"], 0.3)
    >>> judge.learn_scales([("0011", torch.tensor([[1.0], [2.0], [3.0]]))])
    >>> judge.scaled(torch.tensor([[3.0]]), "0011").round(decimals=3)
    tensor([[1.]])
    """

    def __init__(self, extractor, emotions: Sequence[str], window: float):
        self.extractor = extractor
        self.emotions = list(emotions)
        self.window = window
        self.classifier: WordEmotionClassifier | None = None
        self.scales: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def learn(
        self,
        utterances: Sequence[Utterance],
        measured: Mapping[str, Measurement],
    ) -> None:
        """Learn the speakers' scales and train the classifier.

        Arguments
        ---------
        utterances : list of Utterance
            Natural training speech, with labelled and timed words.
        measured : dict
            Utterance id to Measurement.

        Raises
        ------
        ValueError
            If no word has one of the emotions.
        """
        self.learn_scales(
            (u.speaker, measured[u.id].features) for u in utterances
        )
        vectors, emotions = [], []
        for u in utterances:
            if measured[u.id].failure:
                continue
            frames = self.scaled(measured[u.id].features, u.speaker)
            labelled = [index for index, e in enumerate(u.emotions) if e]
            vectors.append(self.words(frames, u.labels.words)[labelled])
            emotions += [u.emotions[index] for index in labelled]
        # The classifier could never recognise an emotion without examples.
        missing = set(self.emotions) - set(emotions)
        if missing:
            raise ValueError(
                f"The training speech has no {', '.join(sorted(missing))}: "
                "the classifier of words needs all emotions; give more or "
                "other training speech, or shorten `emotions`."
            )
        self.classifier = WordEmotionClassifier.fit(
            torch.cat(vectors).numpy(), emotions
        )

    def learn_scales(self, spoken: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Learn the scales of speakers that have none yet.

        Arguments
        ---------
        spoken : iterable of (str, torch.Tensor)
            Speaker and frames (F, D) of natural speech.
        """
        if not getattr(self.extractor, "speaker_normalization", False):
            return
        by_speaker: dict[str, list[torch.Tensor]] = {}
        for speaker, frames in spoken:
            if frames.numel() and speaker not in self.scales:
                by_speaker.setdefault(speaker, []).append(frames)
        for speaker, parts in by_speaker.items():
            frames = torch.cat(parts)
            self.scales[speaker] = frames.mean(0), frames.std(0) + 1e-6

    def scaled(self, frames: torch.Tensor, speaker: str) -> torch.Tensor:
        """Normalise frames by the scale of their speaker, if it has one.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (F, D).
        speaker : str
            Name of the speaker.

        Returns
        -------
        torch.Tensor
            Frames (F, D).
        """
        if speaker not in self.scales or not frames.numel():
            return frames
        mean, std = self.scales[speaker]
        return (frames - mean) / std

    def words(self, frames: torch.Tensor, words: Sequence) -> torch.Tensor:
        """Average the frames of each word.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (F, D).
        words : sequence
            Words with ``start`` and ``end`` in seconds.

        Returns
        -------
        torch.Tensor
            Mean features (W, D).
        """
        times = torch.tensor([[[w.start, w.end] for w in words]])
        pooled, _ = word_average_pooling(
            frames[None],
            times,
            self.extractor.frame_rate,
            self.extractor.frame_offset,
        )
        return pooled[0]

    def posteriors(self, vectors: torch.Tensor) -> np.ndarray:
        """Compute the probabilities of the emotions.

        Arguments
        ---------
        vectors : torch.Tensor
            Features of words or frames (N, D).

        Returns
        -------
        numpy.ndarray
            Probabilities in the order of the taxonomy (N, K).
        """
        order = [self.classifier.emotions.index(e) for e in self.emotions]
        return self.classifier.probabilities(vectors.numpy())[:, order]

    def frame_posteriors(self, frames: torch.Tensor) -> np.ndarray:
        """Compute the probabilities of the emotions around each frame.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (F, D).

        Returns
        -------
        numpy.ndarray
            Probabilities (F, K).
        """
        half = max(1, round(self.window * self.extractor.frame_rate / 2))
        sums = torch.cat(
            [frames.new_zeros(1, frames.shape[1]), frames.cumsum(0)]
        )
        places = torch.arange(len(frames))
        start = (places - half).clamp(min=0)
        end = (places + half + 1).clamp(max=len(frames))
        means = (sums[end] - sums[start]) / (end - start)[:, None]
        return self.posteriors(means)


def choose_training(utterances: Iterable[Utterance], n: int) -> list[Utterance]:
    """Choose training speech; emotions and speakers take turns.

    Arguments
    ---------
    utterances : iterable of Utterance
        Natural speech.
    n : int
        Maximum number of utterances.

    Returns
    -------
    list of Utterance
        The first of each emotion and speaker, then the second of each, and
        so on.

    Example
    -------
    >>> speech = [Utterance(i, "", "s", "", i[0]) for i in ("a1", "a2", "b1")]
    >>> [u.id for u in choose_training(speech, 2)]
    ['a1', 'b1']
    """
    groups: dict[tuple, list[Utterance]] = {}
    for u in utterances:
        groups.setdefault((u.emotion, u.speaker), []).append(u)
    chosen = [
        group[index]
        for index in range(max(map(len, groups.values()), default=0))
        for group in groups.values()
        if index < len(group)
    ]
    return chosen[:n]


def train_judge(
    judge: WordEmotionJudge,
    utterances: Sequence[Utterance],
    pool: MeasuringPool,
    folder: str | Path,
) -> None:
    """Measure natural training speech and let a judge learn from it.

    Arguments
    ---------
    judge : WordEmotionJudge
        Untrained judge.
    utterances : list of Utterance
        Natural training speech, with labelled and timed words.
    pool : MeasuringPool
        Pool with a tool for emotion features.
    folder : str or Path
        Folder of the measurements.

    Raises
    ------
    ValueError
        If no word has one of the emotions.
    """
    measured = pool.measure(
        {u.id: features_only(u) for u in utterances},
        folder,
        "Measuring, natural training speech",
    )
    judge.learn(utterances, measured)


def features_only(utterance: Utterance) -> Reading:
    """Build the request to measure only the emotion features.

    Arguments
    ---------
    utterance : Utterance
        The recording.
    """
    return Reading(utterance.wav, utterance.text, only=("features",))


def measure_natural_readings(
    sentences: Mapping[Hashable, Mapping[str, Utterance]],
    judge: WordEmotionJudge,
    pool: MeasuringPool,
    folder: str | Path,
) -> dict[Hashable, dict[str, NaturalReading]]:
    """Measure the emotion features of a corpus's readings of sentences.

    Arguments
    ---------
    sentences : dict
        Sentence of a speaker to emotion to the natural reading, without
        labels if the times of its words are unknown.
    judge : WordEmotionJudge
        Judge that scales the frames; it learns the scales of new speakers.
    pool : MeasuringPool
        Pool with a tool for emotion features.
    folder : str or Path
        Folder of the measurements.

    Returns
    -------
    dict
        Sentence to emotion to NaturalReading; readings that cannot be
        measured are left out.
    """
    utterances = {
        (key, emotion): u
        for key, by_emotion in sentences.items()
        for emotion, u in by_emotion.items()
    }
    measured = pool.measure(
        {place: features_only(u) for place, u in utterances.items()},
        folder,
        "Measuring, readings of the same sentences",
    )
    judge.learn_scales(
        (u.speaker, measured[place].features) for place, u in utterances.items()
    )
    readings: dict[Hashable, dict[str, NaturalReading]] = {}
    for (key, emotion), u in utterances.items():
        m = measured[key, emotion]
        if not m.failure:
            frames = judge.scaled(m.features, u.speaker)
            words = frames[:0]
            if u.labels is not None:
                words = judge.words(frames, u.labels.words)
            readings.setdefault(key, {})[emotion] = NaturalReading(
                frames, words, u.emotions
            )
    return readings


def natural_word_accuracy(
    readings: Mapping[Iterable[str], Mapping[str, NaturalReading]],
    judge: WordEmotionJudge,
) -> WordEmotionAccuracy:
    """Score a judge on natural words, to know how far it can be trusted.

    Arguments
    ---------
    readings : dict
        (speaker, sentence) to emotion to NaturalReading.
    judge : WordEmotionJudge
        Trained judge.

    Returns
    -------
    WordEmotionAccuracy
        Accuracy on the words of all readings.
    """
    accuracy = WordEmotionAccuracy(judge.emotions)
    for sentence, by_emotion in readings.items():
        for emotion, reading in by_emotion.items():
            best = judge.posteriors(reading.words).argmax(1)
            accuracy.append(
                " ".join([*sentence, emotion]),
                reading.emotions,
                [judge.emotions[index] for index in best],
            )
    return accuracy
