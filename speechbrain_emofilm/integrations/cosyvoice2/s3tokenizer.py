"""CosyVoice2's speech tokenizer, through the package ``s3tokenizer``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MAX_SECONDS = 30  # longest input of the encoder


class S3SpeechTokenizer:
    """Tokenizer of speech to 25 Hz tokens, 0 to 6560 (S3 tokens, v2).

    The weights are loaded at first use: training, which reads its tokens from
    a cache, never needs them.

    Arguments
    ---------
    path : str or Path
        ``speech_tokenizer_v2.onnx`` of a CosyVoice2 snapshot.
    n_state : int
        Width of the encoder.
    n_heads : int
        Number of attention heads, of 64 channels each.
    n_layers : int
        Number of layers.

    Raises
    ------
    ImportError
        If s3tokenizer is missing; the message names the extra.

    Example
    -------
    >>> tokenizer = S3SpeechTokenizer(
    ...     "pretrained/CosyVoice2-0.5B/speech_tokenizer_v2.onnx"
    ... )  # doctest: +SKIP
    >>> wavs = [torch.randn(16000), torch.randn(24000)]  # doctest: +SKIP
    >>> [len(t) for t in tokenizer.tokenize_batch(wavs)]  # doctest: +SKIP
    [25, 38]
    """

    sample_rate = 16000
    token_rate = 25

    def __init__(
        self,
        path: str | Path,
        n_state: int = 1280,
        n_heads: int = 20,
        n_layers: int = 6,
    ):
        self.path = Path(path)
        self._sizes = (n_state, n_heads, n_layers)
        self._device = torch.device("cpu")
        self._model: Any = None

    def to(self, device: str | torch.device) -> "S3SpeechTokenizer":
        """Move the model, now or when it is loaded."""
        self._device = torch.device(device)
        if self._model is not None:
            self._model.to(self._device)
        return self

    def eval(self) -> "S3SpeechTokenizer":
        """Do nothing: there is no training mode."""
        return self

    def tokenize(self, wav: torch.Tensor) -> torch.Tensor:
        """Tokenize utterances of one length.

        Arguments
        ---------
        wav : torch.Tensor
            Sounds (B, T) at 16 kHz.

        Returns
        -------
        torch.Tensor
            Tokens (B, S).
        """
        return torch.stack(self.tokenize_batch(list(wav)))

    @torch.inference_mode()
    def tokenize_batch(
        self, wavs: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Tokenize a batch; no utterance affects another's tokens.

        Arguments
        ---------
        wavs : sequence of torch.Tensor
            Sounds (T_i,) at 16 kHz, within -1 and 1, of at most 30 s.

        Returns
        -------
        list of torch.Tensor
            Tokens (S_i,) of each utterance, long.

        Raises
        ------
        ValueError
            If a sound is too long, or the weights do not fit.
        """
        library = _library()
        for index, wav in enumerate(wavs):
            seconds = len(wav) / self.sample_rate
            if not 0.04 <= seconds <= MAX_SECONDS:
                raise ValueError(
                    f"Item {index} of the batch lasts {seconds:.2f} s: the "
                    f"speech tokenizer reads 0.04 to {MAX_SECONDS} s."
                )
        if self._model is None:
            self._model = self._load().to(self._device)
        # The level is relative to each utterance's own peak.
        mels, lens = library.padding(
            [library.log_mel_spectrogram(wav.to(self._device)) for wav in wavs]
        )
        tokens, n_tokens = self._model.quantize(mels, lens.to(self._device))
        return [row[:n].long() for row, n in zip(tokens, n_tokens.tolist())]

    def _load(self) -> torch.nn.Module:
        """Build the model and load its weights, tensors only."""
        library = _library()
        n_state, n_heads, n_layers = self._sizes
        config = library.model_v2.ModelConfig(
            n_audio_state=n_state, n_audio_head=n_heads, n_audio_layer=n_layers
        )
        model = library.S3TokenizerV2("speech_tokenizer_v2_25hz", config)
        model.eval().requires_grad_(False)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path} does not exist: give speech_tokenizer_v2.onnx "
                "of a CosyVoice2-0.5B snapshot."
            )
        try:
            model.init_from_onnx(str(self.path))
        # The ONNX parser raises errors of its own.
        except Exception as error:
            raise ValueError(
                f"{self.path} is not CosyVoice2's speech tokenizer "
                f"({' '.join(str(error).split())[:200]}): get "
                "speech_tokenizer_v2.onnx of a CosyVoice2-0.5B snapshot again."
            ) from error
        return model


def _library():
    """Import the package."""
    try:
        import s3tokenizer
    except ImportError as error:
        raise ImportError(
            f"CosyVoice2's speech tokenizer needs the package {error.name}: "
            "pip install 'speechbrain-emofilm[cosyvoice]'."
        ) from error
    return s3tokenizer
