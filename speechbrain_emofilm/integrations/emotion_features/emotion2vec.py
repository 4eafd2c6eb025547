"""Emotion features of emotion2vec, in funasr's implementation.

emotion2vec: Self-Supervised Pre-Training for Speech Emotion Representation
(https://arxiv.org/abs/2312.15185).

funasr does not pad batches, as its positional convolutions would read the
padding and corrupt the last frames of the shorter utterances. Here the padding
is set to zero before each of these convolutions, so that batches give the same
frames as single utterances.
"""

import pickle
import re
from pathlib import Path
from typing import Any

from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
    convolution_span,
    weights_fingerprint,
)
from speechbrain_emofilm.utils.files import read_json

import torch
import yaml
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.fetching import FetchConfig, fetch

SAMPLE_RATE = 16000
#: Characters allowed in the configuration's list of convolutions, which funasr
#: evaluates as Python.
CONVOLUTIONS = re.compile(r"[\d\s()\[\],+*]+")


class Emotion2vec(FrameFeatureExtractor):
    """Extractor of emotion2vec frames, 50 Hz.

    Arguments
    ---------
    source : str
        A local folder as funasr keeps it, with ``configuration.json``,
        ``config.yaml``, the weights and, for a model with a classifier,
        ``tokens.txt``; or the name of such a model on the Hugging Face hub.
    revision : str, optional
        Revision on the hub.
    max_duration : float
        Longest piece that is encoded at once, in seconds. The memory of
        attention grows with its square.
    speaker_normalization : bool
        Whether frames should be normalised per speaker, see the base class.

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file.
    ImportError
        If funasr is missing.
    ValueError
        If a file has invalid content.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        max_duration: float = 30.0,
        speaker_normalization: bool = False,
    ):
        def path(filename):
            return _fetch(filename, source, revision)

        names = _read_file_names(path("configuration.json"))
        config = _read_config(path(names["config"]))
        n_classes = 0
        if names["labels"]:
            labels = path(names["labels"]).read_text("utf-8")
            n_classes = len(labels.splitlines())
        model = _build_model(config, n_classes)
        _load_weights(model, path(names["weights"]))
        encoder = model.modality_encoders["AUDIO"]
        _, kernels, strides = zip(*encoder.feature_enc_layers)
        receptive_field, hop = convolution_span(kernels, strides)
        super().__init__(
            model_name="emotion2vec",
            revision=weights_fingerprint(model),
            config={"model_conf": config},
            dim=config["embed_dim"],
            receptive_field=receptive_field,
            # Frame 0 spans the first `receptive_field` samples: this is the
            # middle of their time.
            frame_offset=receptive_field / 2 / SAMPLE_RATE,
            hop=hop,
            sample_rate=SAMPLE_RATE,
            normalize_wav=bool(config.get("normalize", False)),
            speaker_normalization=speaker_normalization,
            # The other mode normalises over time, including the padding.
            padded_batches=encoder.modality_cfg.extractor_mode == "layer_norm",
            max_duration=max_duration,
        )
        self.model = model.eval().requires_grad_(False)
        self._valid_frames = None
        self._alibi = torch.zeros(1, 0, 0, 0)
        self._adapt(encoder)

    def _adapt(self, encoder):
        """Adapt funasr's encoder to padded batches."""
        for module in encoder.relative_positional_encoder.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.register_forward_pre_hook(self._without_padding)
        if encoder.modality_cfg.extractor_mode == "layer_norm":
            encoder.local_encoder = _ChannelsLastConvolutions(
                encoder.local_encoder.conv_layers
            )
        learned = encoder.modality_cfg.learned_alibi
        if encoder.modality_cfg.use_alibi_encoder and not learned:
            encoder.get_alibi_bias = self._alibi_bias

    def _without_padding(self, convolution, inputs):
        """Set padded frames (B, C, F) to 0."""
        return (inputs[0] * self._valid_frames[:, None],)

    def _alibi_bias(self, batch_size, time_steps, heads, dtype, device):
        """Return the attention bias by distance, shared by the whole batch.

        funasr keeps a copy per item, of the largest batch and the longest
        utterance that it has seen.
        """
        from funasr.models.emotion2vec.base import get_alibi

        if self._alibi.shape[-1] < time_steps or self._alibi.device != device:
            bias = get_alibi(time_steps, heads)[None]
            self._alibi = bias.to(device=device, dtype=dtype)
        return self._alibi[..., :time_steps, :time_steps]

    def train(self, mode: bool = True):
        """Keep the model in evaluation mode: it is frozen."""
        return super().train(False)

    def encode(
        self, wavs: torch.Tensor, n_samples: torch.Tensor
    ) -> torch.Tensor:
        """Compute the frames of a batch, see the base class."""
        n_frames = self.n_frames(n_samples).to(wavs.device)
        self._valid_frames = length_to_mask(n_frames, dtype=wavs.dtype)
        padding = None
        if n_samples.min() < wavs.shape[1]:
            padding = ~length_to_mask(n_samples.to(wavs.device)).bool()
        return self.model.extract_features(wavs, padding_mask=padding)["x"]


class _ChannelsLastConvolutions(torch.nn.Module):
    """funasr's convolutions over waveforms, with the channels last in memory.

    The norm after each convolution is over the channels and so needs no
    transposed copies. This is a fifth faster on CPUs, and equal to 1e-5.

    Arguments
    ---------
    conv_layers : torch.nn.ModuleList
        Blocks of convolution, dropout, norm (between transpositions), GELU.
    """

    def __init__(self, conv_layers: torch.nn.ModuleList):
        super().__init__()
        self.conv_layers = conv_layers

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Compute features (B, C, F) of waveforms (B, T)."""
        x = wavs[:, None, None]
        for block in self.conv_layers:
            convolution, norm = block[0], block[2][1]
            # conv2d supports this layout, conv1d does not.
            x = torch.nn.functional.conv2d(
                x.contiguous(memory_format=torch.channels_last),
                convolution.weight[:, :, None],
                convolution.bias,
                stride=(1, *convolution.stride),
            )
            x = torch.nn.functional.gelu(norm(x.permute(0, 2, 3, 1)))
            x = x.permute(0, 3, 1, 2)
        return x[:, :, 0]


def _fetch(filename: str, source: str, revision: str | None) -> Path:
    """Return the path of a file of a local folder or the Hugging Face hub."""
    path = fetch(filename, source, fetch_config=FetchConfig(revision=revision))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a folder of emotion2vec as funasr "
            "keeps it, or the name of one on the Hugging Face hub."
        )
    return path


def _read_file_names(path: Path) -> dict[str, str | None]:
    """Read the file names of the model; None without labels."""
    files = read_json(path).get("file_path_metas", {})
    return {
        "config": files.get("config", "config.yaml"),
        "weights": files.get("init_param", "model.pt"),
        "labels": files.get("tokenizer_conf", {}).get("token_list"),
    }


def _read_config(path: Path) -> dict[str, Any]:
    """Read the model's configuration."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not YAML ({error}): download the file again."
        ) from error
    if not isinstance(content, dict) or content.get("model") != "Emotion2vec":
        raise ValueError(
            f"{path} is not the configuration of an Emotion2vec: give the "
            "folder or the name of one."
        )
    config = content["model_conf"]
    convolutions = config["modalities"]["audio"]["feature_encoder_spec"]
    if not CONVOLUTIONS.fullmatch(convolutions):
        raise ValueError(
            f"{path}: feature_encoder_spec is {convolutions!r}, but must "
            "be a list of (channels, kernel, stride)."
        )
    return config


def _build_model(config: dict[str, Any], n_classes: int) -> torch.nn.Module:
    """Build an emotion2vec without the modules used only in pretraining."""
    try:
        from funasr.models.emotion2vec.model import Emotion2vec as FunASRModel
    except ImportError as error:
        raise ImportError(
            f"emotion2vec needs the package {error.name}: "
            "pip install 'speechbrain-emofilm[emotion2vec]'."
        ) from error
    model = FunASRModel(model_conf=config, vocab_size=n_classes or -1)
    model.modality_encoders["AUDIO"].remove_pretraining_modules()
    return model


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint of funasr, which may have further entries."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged, or has other content than tensors "
            f"({error}): download it again, or save its state dict alone."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        state = state.get(key, state)
    state = {
        name.removeprefix("d2v_model."): values
        for name, values in state.items()
    }
    try:
        missing = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:  # shapes
        raise ValueError(
            f"{path} does not fit its config.yaml ({error}): use both from "
            "the same model."
        ) from error
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} tensors of the model of its "
            f"config.yaml, such as {missing[0]}: use both from the same "
            "model."
        )
