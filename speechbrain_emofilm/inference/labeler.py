"""Labelling of words with emotion, intensity and confidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.dataio.word_features import word_features
from speechbrain_emofilm.inference.trained_model import TrainedModel

import torch
from torch.nn.utils.rnn import pad_sequence

#: Where the intensity of a word comes from.
INTENSITY_SOURCES = ("evidence", "attribute")
#: Number of decimals of times and probabilities.
_DECIMALS = 4
_TINY = 1e-6


class WordEmotionLabeler(TrainedModel):
    """Find the emotion of each word in speech whose text is known.

    Created by :meth:`from_hparams` from a folder with ``labeler.yaml``, which
    the training recipe writes. That file defines, besides SpeechBrain's
    ``pretrainer``:

    * ``modules``: ``word_emotion``, a
      :class:`~speechbrain_emofilm.lobes.word_emotion.WordEmotionTransformer`,
      ``frame_normalization``, a
      :class:`~speechbrain_emofilm.lobes.word_emotion.FrameNormalization`,
      and ``emotion_features``, a
      :class:`~speechbrain_emofilm.integrations.emotion_features.base.FrameFeatureExtractor`;
    * ``emotions``: list of the emotions in the taxonomy;
    * ``background`` (optional): emotion of intensity 0, such as ``neutral``;
    * ``attributes`` (optional): names of the regression head's outputs;
    * ``intensity_source``: ``evidence``, the log odds of the emotions against
      the background, or ``attribute``, the head's output named ``intensity``
      or else ``arousal``, if it was trained on ratings;
    * ``intensity_temperature``: nats of evidence for an intensity of 0.73;
    * ``smoothing``: share of a word's distribution that is taken from its
      neighbours, 0 to 1;
    * ``min_confidence``: words with less confidence stay unlabelled;
    * ``word_timing``: whether the features include the timing of words;
    * ``aligner`` (optional): creates an aligner, for :meth:`label_file`;
    * ``note`` (optional): what users should know about the labels.

    Arguments
    ---------
    *args, **kwargs
        Arguments of :class:`speechbrain.inference.interfaces.Pretrained`.

    Raises
    ------
    ValueError
        If hparams are missing or inconsistent.

    Example
    -------
    >>> labeler = WordEmotionLabeler.from_hparams(
    ...     "results/word_emotion_labeling/mini/1986"
    ... )  # doctest: +SKIP
    >>> labels = labeler.label_file("a.wav", "We won!")  # doctest: +SKIP
    >>> labels.words[0].emotion  # doctest: +SKIP
    'happy'
    """

    HPARAMS_FILE = "labeler.yaml"
    MODULES_NEEDED = [
        "word_emotion",
        "frame_normalization",
        "emotion_features",
    ]
    HPARAMS_NEEDED = [
        "emotions",
        "intensity_source",
        "intensity_temperature",
        "smoothing",
        "min_confidence",
        "word_timing",
    ]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.emotions = list(self.hparams.emotions)
        self.background = getattr(self.hparams, "background", None)
        self.attributes = list(getattr(self.hparams, "attributes", ()))
        self._check_options()
        self._aligner = None

    def _check_options(self):
        """Raise an error for inconsistent hparams."""
        if self.background not in (*self.emotions, None):
            raise ValueError(
                f"The background {self.background!r} is not in the taxonomy "
                f"{', '.join(self.emotions)}: name one of them, or none."
            )
        if self.hparams.intensity_source not in INTENSITY_SOURCES:
            raise ValueError(
                f"intensity_source is {self.hparams.intensity_source!r}: set "
                f"it to {' or '.join(INTENSITY_SOURCES)}."
            )
        from_attribute = self.hparams.intensity_source == "attribute"
        if from_attribute and self._intensity_index() is None:
            raise ValueError(
                "intensity_source is 'attribute', but the attributes "
                f"{self.attributes} hold neither intensity nor arousal."
            )
        for name in ("smoothing", "min_confidence"):
            if not 0 <= getattr(self.hparams, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self.hparams, name)}: give a number "
                    "from 0 to 1."
                )

    def _intensity_index(self):
        for name in ("intensity", "arousal"):
            if name in self.attributes:
                return self.attributes.index(name)
        return None

    def label_file(
        self,
        path: str | Path,
        text: str,
        language: str = "en",
        words: Sequence[Word] | None = None,
        statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> UtteranceLabels:
        """Label the words of an audio file.

        Arguments
        ---------
        path : str or Path
            Audio file in a format that libsndfile reads.
        text : str
            Transcript.
        language : str
            Language of the transcript, for the aligner.
        words : sequence of Word, optional
            Words with their times; by default from the aligner.
        statistics : tuple of torch.Tensor, optional
            Mean (D,) and standard deviation (D,) of the speaker's frames,
            from :meth:`speaker_statistics`. By default those of the training
            speech, which suit similar voices.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file cannot be used, or does not match the text.
        """
        sample_rate = self.mods.emotion_features.sample_rate
        wav = load_audio(path, sample_rate)
        if words is None:
            words = self.aligner.align(wav, sample_rate, text, language)
        try:
            return self.label_wav(wav, words, statistics)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def label_wav(
        self,
        wav: torch.Tensor,
        words: Sequence[Word],
        statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> UtteranceLabels:
        """Label the words of a sound, see :meth:`label_file`.

        Arguments
        ---------
        wav : torch.Tensor
            Sound (T,) at the sample rate of the module ``emotion_features``.
        words : sequence of Word
            Words with their times.
        statistics : tuple of torch.Tensor, optional
            Mean (D,) and standard deviation (D,) of the speaker's frames.

        Raises
        ------
        ValueError
            If there is no word, or a word lies outside the sound.
        """
        frames = self._frames(wav)
        if statistics is None:
            frames = self.mods.frame_normalization(frames)
        else:
            mean, std = statistics
            frames = (frames - mean.to(frames)) / std.to(frames)
        return self.label_frames([frames], [words])[0]

    def speaker_statistics(
        self, paths: Sequence[str | Path]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean (D,) and standard deviation (D,) of a voice's frames.

        Arguments
        ---------
        paths : sequence of str or Path
            Recordings of the speaker, in various emotions.
        """
        sample_rate = self.mods.emotion_features.sample_rate
        frames = torch.cat(
            [self._frames(load_audio(path, sample_rate)) for path in paths]
        )
        return frames.mean(0), frames.std(0).clamp(min=1e-3)

    def label_frames(
        self,
        frames: Sequence[torch.Tensor],
        words: Sequence[Sequence[Word]],
        source: Mapping | None = None,
    ) -> list[UtteranceLabels]:
        """Label utterances whose frames and word times are known.

        Arguments
        ---------
        frames : sequence of torch.Tensor
            Normalised frames (F, D) of each utterance.
        words : sequence of sequence of Word
            Words of each utterance; their confidence scales that of the
            labels.
        source : mapping, optional
            Origin of the labels; the class's name if None.

        Raises
        ------
        ValueError
            If an utterance has no word, or a word lies outside its frames.
        """
        features = []
        for utterance_frames, utterance_words in zip(frames, words):
            if not utterance_words:
                raise ValueError("it has no words: leave it out.")
            features.append(
                self.word_features(utterance_frames, utterance_words)
            )
        probs, attributes = self._predict(features)
        source = dict(source or {"labeler": type(self).__name__})
        return [
            UtteranceLabels(self._labels(utterance_words, p, a), source)
            for utterance_words, p, a in zip(words, probs, attributes)
        ]

    def forward(self, frames, words, source=None) -> list[UtteranceLabels]:
        """Label utterances, see :meth:`label_frames`."""
        return self.label_frames(frames, words, source)

    @property
    def aligner(self):
        """Aligner of the hparams, created on first use."""
        if self._aligner is None:
            make = getattr(self.hparams, "aligner", None)
            if make is None:
                raise ValueError(
                    "The labeler has no aligner: give `words`, or add "
                    "`aligner` to its hparams file."
                )
            self._aligner = make()
        return self._aligner

    def _frames(self, wav):
        """Extract unnormalised frames (F, D) of a sound (T,)."""
        with torch.no_grad(), self.inference_ctx:
            frames, _ = self.mods.emotion_features(
                wav.unsqueeze(0).to(self.device),
                torch.ones(1, device=self.device),
            )
        return frames[0].float()

    def word_features(
        self, frames: torch.Tensor, words: Sequence[Word]
    ) -> torch.Tensor:
        """Compute the model's input features of words.

        They are (W, D) for normalised frames (F, D), or (W, D + 2) with the
        timing of words.
        """
        extractor = self.mods.emotion_features
        return word_features(
            frames.cpu(),
            words,
            extractor.frame_rate,
            extractor.frame_offset,
            self.hparams.word_timing,
        )

    @torch.no_grad()
    def _predict(self, features):
        """Predict distribution (W, K) and attributes (W, R) per utterance."""
        n_words = torch.tensor([len(item) for item in features])
        padded = pad_sequence(features, batch_first=True).to(self.device)
        lens = (n_words / n_words.max()).to(self.device)
        with self.inference_ctx:
            output = self.mods.word_emotion(padded, lens)
        probs = output.logits.float().softmax(-1).cpu()
        attributes = output.attributes.float().cpu()
        share, n_words = self.hparams.smoothing, n_words.tolist()
        return (
            [smooth(item[:n], share) for item, n in zip(probs, n_words)],
            [item[:n] for item, n in zip(attributes, n_words)],
        )

    def _labels(self, words, probs, attributes):
        """Build the labels of an utterance's words."""
        intensity = self._intensity(probs, attributes)
        certainty = 1 - entropy(probs)
        labels = []
        for index, word in enumerate(words):
            confidence = float(certainty[index]) * word.confidence
            label = WordLabel(
                word.text,
                round(word.start, _DECIMALS),
                round(word.end, _DECIMALS),
                confidence=round(min(max(confidence, 0.0), 1.0), _DECIMALS),
            )
            if confidence >= self.hparams.min_confidence:
                distribution = dict(zip(self.emotions, probs[index].tolist()))
                label = replace(
                    label,
                    emotion=max(distribution, key=distribution.get),
                    probs={
                        emotion: round(share, _DECIMALS)
                        for emotion, share in distribution.items()
                    },
                    intensity=(
                        None
                        if intensity is None
                        else round(float(intensity[index]), _DECIMALS)
                    ),
                )
            labels.append(label)
        return labels

    def _intensity(self, probs, attributes):
        """Compute the intensity of each word (W,); None if unknown."""
        if self.hparams.intensity_source == "attribute":
            return attributes[:, self._intensity_index()]
        if self.background is None:
            return None
        neutral = probs[:, self.emotions.index(self.background)]
        evidence = torch.logit(1 - neutral, eps=_TINY)
        return torch.sigmoid(evidence / self.hparams.intensity_temperature)


def smooth(probs: torch.Tensor, share: float) -> torch.Tensor:
    """Take a share of each word's distribution from its neighbours.

    Arguments
    ---------
    probs : torch.Tensor
        Distributions (W, K).
    share : float
        Share of the neighbours, 0 to 1.

    Example
    -------
    >>> smooth(torch.eye(2), share=0.5)
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    if share == 0 or len(probs) < 2:
        return probs
    before = torch.cat([probs[:1], probs[:-1]])
    after = torch.cat([probs[1:], probs[-1:]])
    return (1 - share) * probs + share * (before + after) / 2


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Compute the entropy (W,) of distributions (W, K), as share of log K.

    Example
    -------
    >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0., 1.])
    """
    nats = torch.special.entr(probs).sum(-1)
    return nats / math.log(probs.shape[-1])
