"""What natural speech teaches: speakers' scales, and how emotions sound.

A classifier that has heard natural speech only is the judge of synthetic
speech, which therefore cannot teach it its own habits.
"""

from speechbrain_emofilm.metrics.control import WordEmotionClassifier
from speechbrain_emofilm.processing.pooling import word_average_pooling

import torch
from fedd_prepare import read_recordings
from measuring import Recorded
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


class Listener:
    """What was learnt from natural readings: scales, and words' emotions.

    Arguments
    ---------
    extractor : object
        The emotion features, with ``frame_rate`` and ``frame_offset``.
    emotions : list of str
        The taxonomy.
    window : float
        Seconds of frames that are judged together, like a word's.
    """

    def __init__(self, extractor, emotions, window):
        self.extractor = extractor
        self.emotions = list(emotions)
        self.window = window
        self.classifier = None
        self.scales = {}

    def learn(self, recordings, measured):
        """Takes the speakers' scales and trains the classifier.

        Arguments
        ---------
        recordings : list of Recording
            Natural training speech.
        measured : dict
            Recording id to Measures.
        """
        self.learn_scales(
            (r.speaker, measured[r.id].features) for r in recordings
        )
        vectors, emotions = [], []
        for r in recordings:
            if measured[r.id].failure:
                continue
            frames = self.scaled(measured[r.id].features, r.speaker)
            vectors.append(self.words(frames, r.words))
            emotions += [word.emotion for word in r.words]
        # A classifier with a classless emotion could never be right on it.
        missing = set(self.emotions) - set(emotions)
        if missing:
            raise ValueError(
                f"The training speech has no {', '.join(sorted(missing))}: "
                "the classifier of words needs all emotions; give another "
                "classifier_manifest, or shorten `emotions`."
            )
        vectors = torch.cat(vectors).numpy()
        self.classifier = WordEmotionClassifier.fit(vectors, emotions)

    def learn_scales(self, spoken):
        """Takes the scales of speakers that have none yet.

        Arguments
        ---------
        spoken : iterable of (str, torch.Tensor)
            A speaker and frames (F, D) of natural speech.
        """
        if not getattr(self.extractor, "speaker_normalization", False):
            return
        by_speaker = {}
        for speaker, frames in spoken:
            if frames.numel() and speaker not in self.scales:
                by_speaker.setdefault(speaker, []).append(frames)
        for speaker, frames in by_speaker.items():
            frames = torch.cat(frames)
            self.scales[speaker] = frames.mean(0), frames.std(0) + 1e-6

    def scaled(self, frames, speaker):
        """Frames in the scale of their speaker.

        Arguments
        ---------
        frames : torch.Tensor
            (F, D).
        speaker : str
            Who speaks.

        Returns
        -------
        torch.Tensor
            (F, D).
        """
        if speaker not in self.scales or not frames.numel():
            return frames
        mean, std = self.scales[speaker]
        return (frames - mean) / std

    def words(self, frames, words):
        """Mean features of words.

        Arguments
        ---------
        frames : torch.Tensor
            (F, D).
        words : sequence
            With ``start`` and ``end``.

        Returns
        -------
        torch.Tensor
            (W, D).
        """
        times = torch.tensor([[[w.start, w.end] for w in words]])
        pooled, _ = word_average_pooling(
            frames[None],
            times,
            self.extractor.frame_rate,
            self.extractor.frame_offset,
        )
        return pooled[0]

    def posteriors(self, vectors):
        """Probabilities of the taxonomy's emotions.

        Arguments
        ---------
        vectors : torch.Tensor
            Of words or frames (N, D).

        Returns
        -------
        numpy.ndarray
            (N, K).
        """
        order = [self.classifier.emotions.index(e) for e in self.emotions]
        return self.classifier.probabilities(vectors.numpy())[:, order]

    def frame_posteriors(self, frames):
        """Probabilities around each frame.

        Arguments
        ---------
        frames : torch.Tensor
            (F, D).

        Returns
        -------
        numpy.ndarray
            (F, K).
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


def choose_training(sentences, n):
    """Natural readings for the classifier: emotions and speakers take turns.

    Arguments
    ---------
    sentences : dict
        From `read_recordings`.
    n : int
        How many at most.
    """
    groups = {}
    for _, readings in sorted(sentences.items()):
        for emotion, recording in sorted(readings.items()):
            groups.setdefault((emotion, recording.speaker), []).append(
                recording
            )
    chosen = []
    longest = max(map(len, groups.values()), default=0)
    for index in range(longest):
        chosen += [
            group[index] for group in groups.values() if index < len(group)
        ]
    return chosen[:n]


def natural_speech(
    measurer,
    data_folder,
    alignment_folder,
    emotions,
    classifier_manifest,
    reading_manifest,
    n_classifier,
    window,
    word_labels=None,
):
    """Learns from the corpus's own speech.

    Arguments
    ---------
    measurer : Measurer
        What measures.
    data_folder : str
        The corpus.
    alignment_folder : str
        Its TextGrids.
    emotions : list of str
        The taxonomy.
    classifier_manifest : str
        Natural training speech.
    reading_manifest : str
        Where the readings of the set's sentences are.
    n_classifier : int
        Training utterances at most.
    window : float
        As `Listener` takes it.
    word_labels : str, optional
        Word labels of the corpus, if a word may differ from its sentence.

    Returns
    -------
    listener : Listener
        Trained.
    sentences : dict
        (speaker, sentence) to emotion to Recording, of `reading_manifest`.
    """
    training, sentences = (
        _read(data_folder, manifest, alignment_folder, emotions, word_labels)
        for manifest in (classifier_manifest, reading_manifest)
    )
    listener = Listener(measurer.emotion_features, emotions, window)
    chosen = choose_training(training, n_classifier)
    measured = measurer.measure_all(
        {r.id: Recorded(r.wav, r.text) for r in chosen},
        "Measuring, natural training speech",
        features_only=True,
    )
    listener.learn(chosen, measured)
    return listener, sentences


def _read(data_folder, manifest, alignment_folder, emotions, word_labels):
    """Recordings of a manifest; says how many cannot be used."""
    sentences, skipped = read_recordings(
        data_folder, [manifest], alignment_folder, emotions, word_labels
    )
    if not sentences:
        reason = skipped[0]["reason"] if skipped else "it is empty."
        raise ValueError(f"{manifest}: no utterance can be used: {reason}")
    if skipped:
        logger.warning(
            "%s: %d utterances cannot be used, the first: %s",
            manifest,
            len(skipped),
            skipped[0]["reason"],
        )
    return sentences


def measured_readings(sentences, wanted, measurer, listener):
    """Features of the corpus's readings of some sentences.

    Arguments
    ---------
    sentences : dict
        From `read_recordings`.
    wanted : set
        (speaker, sentence).
    measurer : Measurer
        What measures.
    listener : Listener
        For the speakers' scales.

    Returns
    -------
    dict
        (speaker, sentence) to emotion to the features of its frames (F, D)
        and words (W, D), and the emotions of the words.
    """
    recordings = {
        (key, emotion): r
        for key in sorted(wanted & sentences.keys())
        for emotion, r in sorted(sentences[key].items())
    }
    measured = measurer.measure_all(
        {place: Recorded(r.wav, r.text) for place, r in recordings.items()},
        "Measuring, readings of the same sentences",
        features_only=True,
    )
    # Speakers that the training speech lacks.
    listener.learn_scales(
        (r.speaker, measured[place].features) for place, r in recordings.items()
    )
    readings = {}
    for (key, emotion), r in recordings.items():
        m = measured[key, emotion]
        if not m.failure:
            frames = listener.scaled(m.features, r.speaker)
            words = listener.words(frames, r.words)
            carried = [word.emotion for word in r.words]
            readings.setdefault(key, {})[emotion] = frames, words, carried
    return readings
