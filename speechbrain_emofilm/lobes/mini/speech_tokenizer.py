"""Speech tokenizer of the mini backbone: 25 Hz, 6,561 codes.

It has the same rate and codebook as CosyVoice2's S3 tokenizer v2, a speech
recogniser with finite scalar quantisation between its layers. This one is a
small convolutional network supervised by phonemes and prosody, not text.
"""

from typing import NamedTuple

from speechbrain_emofilm.lobes.mini.fsq import FSQ
from speechbrain_emofilm.processing.mel import log_mel

import torch
from torch import nn

#: Number of prosody values per token: log F0, voicing logit and level.
N_PROSODY = 3


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time and a pointwise MLP, with a residual.

    Arguments
    ---------
    channels : int
        Number of channels.
    kernel_size : int
        Kernel size of the convolution; odd.
    expansion : int
        Width of the MLP, as a multiple of the channels.

    Example
    -------
    >>> ConvNeXtBlock(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, channels: int, kernel_size: int = 7, expansion: int = 3):
        super().__init__()
        self.depthwise = nn.Conv1d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=channels,
        )
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.GELU(),
            nn.Linear(expansion * channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform (B, T, C) to (B, T, C)."""
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.residual(y)

    def residual(self, y: torch.Tensor) -> torch.Tensor:
        """Transform what the convolution returns, (B, T, C) to (B, T, C)."""
        return self.scale * self.mlp(self.norm(y))


class SameConv(nn.Conv1d):
    """Convolution on (B, T, C) that keeps T for stride 1."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(kernel_size - stride) // 2
            if stride > 1
            else kernel_size // 2,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (B, T, C) to (B, T / stride, C')."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TokenizerTraining(NamedTuple):
    """Codes and predictions of :meth:`FSQSpeechTokenizer.forward`.

    Arguments
    ---------
    codes : torch.Tensor
        (B, S, 8) quantised to -1, 0, 1, with straight-through gradient.
    phonemes : torch.Tensor
        (B, 2 S, n_phonemes) logits: a token lasts longer than many consonants.
    prosody : torch.Tensor
        (B, S, 3): normalised log F0, voicing logit, normalised level.
    """

    codes: torch.Tensor
    phonemes: torch.Tensor
    prosody: torch.Tensor


class FSQSpeechTokenizer(nn.Module):
    """Tokenizer of log-mel frames at 50 Hz to speech tokens at 25 Hz.

    Arguments
    ---------
    channels : int
        Width of the encoder.
    n_blocks : int
        Number of encoder blocks at the token rate.
    n_phonemes : int
        Classes of the training-only phoneme head; 0 builds no training
        heads (inference).
    n_mels : int
        Number of mel bands.

    Example
    -------
    >>> tokenizer = FSQSpeechTokenizer(channels=16)
    >>> tokenizer.tokenize(torch.randn(1, 24000)).shape
    torch.Size([1, 25])
    """

    sample_rate = 24000
    token_rate = 25

    def __init__(
        self,
        channels: int = 160,
        n_blocks: int = 3,
        n_phonemes: int = 0,
        n_mels: int = 80,
    ):
        super().__init__()
        self.register_buffer("mean", torch.full((n_mels,), -6.0))
        self.register_buffer("std", torch.full((n_mels,), 2.5))
        self.encoder = nn.Sequential(
            SameConv(n_mels, channels, 5),
            ConvNeXtBlock(channels),
            ConvNeXtBlock(channels),
            SameConv(channels, channels, 4, stride=2),
            *(ConvNeXtBlock(channels) for _ in range(n_blocks)),
            nn.LayerNorm(channels),
            nn.Linear(channels, 8),
        )
        self.fsq = FSQ()
        self.heads = None
        if n_phonemes:
            self.heads = nn.ModuleDict(
                {
                    "shared": nn.Sequential(
                        SameConv(8, channels, 3), nn.GELU()
                    ),
                    "phonemes": nn.Linear(channels, 2 * n_phonemes),
                    "prosody": nn.Linear(channels, N_PROSODY),
                }
            )

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        """Encode log-mel (B, N, 80), N even, as unquantised (B, N / 2, 8)."""
        return self.encoder((mel - self.mean) / self.std)

    def forward(self, mel: torch.Tensor) -> TokenizerTraining:
        """Quantise, and predict phonemes and prosody (training).

        Arguments
        ---------
        mel : torch.Tensor
            (B, N, 80) log-mel, N even.
        """
        codes, _ = self.fsq(self.encode(mel))
        shared = self.heads["shared"](codes)
        phonemes = self.heads["phonemes"](shared).unflatten(2, (2, -1))
        return TokenizerTraining(
            codes, phonemes.flatten(1, 2), self.heads["prosody"](shared)
        )

    @torch.no_grad()
    def tokenize_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """Convert log-mel (B, N, 80) to token ids (B, N // 2)."""
        mel = mel[:, : mel.shape[1] // 2 * 2]
        return self.fsq(self.encode(mel))[1]

    @torch.no_grad()
    def tokenize(self, wav: torch.Tensor) -> torch.Tensor:
        """Tokenize utterances of equal length.

        Arguments
        ---------
        wav : torch.Tensor
            (B, T) at 24 kHz.

        Returns
        -------
        torch.Tensor
            (B, T // 960) in 0..6560.
        """
        return self.tokenize_mel(log_mel(wav))


class MelDecoder(nn.Module):
    """Decoder layers from 25 Hz codes and a speaker to 50 Hz mel frames.

    Arguments
    ---------
    speaker : torch.nn.Module
        Module that maps the speaker input to a vector (B, channels).
    channels : int
        Width of the layers.
    n_blocks : int
        Number of blocks at the token rate.
    n_mels : int
        Number of mel bands.

    Example
    -------
    >>> decoder = MelDecoder(nn.Embedding(2, 16), channels=16)
    >>> decoder.decode(torch.zeros(1, 5, 8), torch.tensor([1])).shape
    torch.Size([1, 10, 80])
    """

    def __init__(
        self,
        speaker: nn.Module,
        channels: int = 192,
        n_blocks: int = 3,
        n_mels: int = 80,
    ):
        super().__init__()
        self.input = SameConv(8, channels, 5)
        self.speaker = speaker
        self.at_25 = nn.Sequential(
            *(ConvNeXtBlock(channels) for _ in range(n_blocks))
        )
        self.upsample = nn.Linear(channels, 2 * channels)
        self.at_50 = nn.Sequential(
            ConvNeXtBlock(channels),
            ConvNeXtBlock(channels),
            nn.LayerNorm(channels),
            nn.Linear(channels, n_mels),
        )

    def decode(
        self, codes: torch.Tensor, speaker: torch.Tensor
    ) -> torch.Tensor:
        """Decode codes (B, S, 8), for a speaker, to (B, 2 S, n_mels)."""
        x = self.at_25(self.input(codes) + self.speaker(speaker)[:, None])
        return self.at_50(self.split_frames(self.upsample(x)))

    def split_frames(self, x: torch.Tensor) -> torch.Tensor:
        """Split vectors (B, S, 2 C) of tokens into frames (B, 2 S, C)."""
        return x.unflatten(2, (2, -1)).flatten(1, 2)


class TokenDecoder(MelDecoder):
    """Decoder of codes that is trained jointly with the tokenizer.

    Its weights can initialise the training of ``RegressionDecoder``.

    Arguments
    ---------
    n_speakers : int
        Number of training speakers.
    channels, n_blocks, n_mels : int
        As in ``MelDecoder``.

    Example
    -------
    >>> decoder = TokenDecoder(n_speakers=2, channels=16)
    >>> decoder(torch.zeros(1, 5, 8), torch.tensor([1])).shape
    torch.Size([1, 10, 80])
    """

    def __init__(
        self,
        n_speakers: int,
        channels: int = 192,
        n_blocks: int = 3,
        n_mels: int = 80,
    ):
        speaker = nn.Embedding(n_speakers, channels)
        super().__init__(speaker, channels, n_blocks, n_mels)

    def forward(
        self, codes: torch.Tensor, speaker: torch.Tensor
    ) -> torch.Tensor:
        """Decode codes (B, S, 8) of speakers (B,) to log-mel (B, 2 S, 80).

        The log-mel is normalised.
        """
        return self.decode(codes, speaker)


def pool_prosody(
    f0: torch.Tensor, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pool frame prosody at 50 Hz to token prosody at 25 Hz.

    Arguments
    ---------
    f0 : torch.Tensor
        (B, N) log F0 relative to the speaker; NaN where unvoiced.
    level : torch.Tensor
        (B, N) level.

    Returns
    -------
    f0 : torch.Tensor
        (B, N / 2) mean over voiced frames, 0 where there is none.
    voiced : torch.Tensor
        (B, N / 2) 1 where any frame is voiced.
    level : torch.Tensor
        (B, N / 2) mean.

    Example
    -------
    >>> f0 = torch.tensor([[1.0, float("nan"), float("nan"), float("nan")]])
    >>> pool_prosody(f0, torch.zeros(1, 4))[:2]
    (tensor([[1., 0.]]), tensor([[1., 0.]]))
    """
    pairs = f0.unflatten(1, (-1, 2))
    voiced = (~pairs.isnan()).float()
    mean = pairs.nan_to_num().sum(-1) / voiced.sum(-1).clamp(min=1)
    return mean, voiced.amax(-1), level.unflatten(1, (-1, 2)).mean(-1)
