"""Emotion features of any self-supervised model that SpeechBrain wraps.

SpeechBrain's wrappers of WavLM, wav2vec 2.0 and HuBERT return frames without
their times, and normalise waveforms and outputs over their padding, so that an
utterance's frames depend on its batch. The adapter here provides the times
and excludes the padding.
"""

from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
    convolution_span,
    weights_fingerprint,
)

import torch

SAMPLE_RATE = 16000


class SSLFeatures(FrameFeatureExtractor):
    """Extractor for a SpeechBrain wrapper such as ``WavLM`` or ``Wav2Vec2``.

    Arguments
    ---------
    wrapper : torch.nn.Module
        A ``speechbrain.integrations.huggingface.wav2vec2.Wav2Vec2`` or a
        subclass of it.
    layer : int, optional
        Layer whose frames are used, 0 being the input of the transformer; by
        default the last. Selecting a layer requires a wrapper with
        ``output_all_hiddens=True``.
    max_duration : float
        Longest piece that is encoded at once, in seconds.
    speaker_normalization : bool
        Whether frames should be normalised per speaker, see the base class.

    Raises
    ------
    ValueError
        If the wrapper's options are unsuitable.
    """

    def __init__(
        self,
        wrapper: torch.nn.Module,
        layer: int | None = None,
        max_duration: float = 30.0,
        speaker_normalization: bool = False,
    ):
        if wrapper.output_norm:
            raise ValueError(
                "The wrapper's output_norm normalises over the padding: set "
                "it to False."
            )
        if wrapper.output_all_hiddens != (layer is not None):
            raise ValueError(
                f"layer is {layer}, but the wrapper's output_all_hiddens is "
                f"{wrapper.output_all_hiddens}: set it to True for a layer, "
                "to False for the last one."
            )
        config = wrapper.config
        span, hop = convolution_span(config.conv_kernel, config.conv_stride)
        super().__init__(
            model_name=config.model_type,
            revision=weights_fingerprint(wrapper.model),
            config={"layer": layer},
            dim=config.hidden_size,
            receptive_field=span,
            frame_offset=span / 2 / SAMPLE_RATE,
            hop=hop,
            sample_rate=SAMPLE_RATE,
            normalize_wav=wrapper.normalize_wav,
            speaker_normalization=speaker_normalization,
            # A group norm computes statistics over time, including padding.
            padded_batches=config.feat_extract_norm != "group",
            max_duration=max_duration,
        )
        wrapper.normalize_wav = False  # done here, without the padding
        self.layer = layer
        self.wrapper = wrapper.eval().requires_grad_(False)

    def train(self, mode: bool = True):
        """Keep the model in evaluation mode: it is frozen."""
        return super().train(False)

    def encode(
        self, wavs: torch.Tensor, n_samples: torch.Tensor
    ) -> torch.Tensor:
        """Compute the frames of a batch, see the base class."""
        lens = (n_samples / wavs.shape[1]).to(wavs.device)
        hidden = self.wrapper.extract_features(wavs, lens)
        return hidden if self.layer is None else hidden[self.layer]
