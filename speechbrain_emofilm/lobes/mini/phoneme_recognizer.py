"""Phoneme-recognition loss for vocoders.

A spectral loss weighs all parts of the spectrum alike, so that an average of
all likely consonants already has a small loss. A recogniser trained on natural
speech attends to what distinguishes phonemes.
"""

from typing import NamedTuple

from speechbrain_emofilm.lobes.mini.speech_tokenizer import (
    ConvNeXtBlock,
    SameConv,
)
from speechbrain_emofilm.utils.torchaudio_compat import import_torchaudio

import torch
import torch.nn.functional as F
from torch import nn

SAMPLE_RATE = 24000
_HOP, _WINDOW, _N_FFT, _F_MAX = 240, 600, 1024, 11000.0
_PAD = (_N_FFT - _HOP) // 2
_MAGNITUDE_EPS = 1e-9
_FLOOR = 1e-4


class PhonemeRecognizer(nn.Module):
    """Convolutional recogniser of one phoneme per 20 ms.

    Its log-mel has windows of 25 ms every 10 ms, which resolve the bursts of
    plosives; the mel spectrogram of a vocoder (80 ms) blurs them.

    Arguments
    ---------
    n_phonemes : int
        Number of phoneme classes.
    channels : int
        Width of the layers.
    n_blocks : int
        Number of ConvNeXt blocks at 50 Hz; two more run at 100 Hz.
    n_mels : int
        Number of mel bands up to 11 kHz.

    Example
    -------
    >>> recognizer = PhonemeRecognizer(n_phonemes=5, channels=8)
    >>> logits, features = recognizer(torch.randn(2, 4800))
    >>> logits.shape
    torch.Size([2, 10, 5])
    """

    def __init__(
        self,
        n_phonemes: int,
        channels: int = 160,
        n_blocks: int = 3,
        n_mels: int = 80,
    ):
        super().__init__()
        basis = import_torchaudio().functional.melscale_fbanks(
            _N_FFT // 2 + 1,
            0.0,
            _F_MAX,
            n_mels,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("basis", basis, persistent=False)
        window = torch.hann_window(_WINDOW)
        self.register_buffer("window", window, persistent=False)
        self.layers = nn.ModuleList(
            [
                SameConv(n_mels, channels, 5),
                ConvNeXtBlock(channels),
                ConvNeXtBlock(channels),
                SameConv(channels, channels, 4, stride=2),
                *(ConvNeXtBlock(channels) for _ in range(n_blocks)),
            ]
        )
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, n_phonemes)

    def forward(
        self, wav: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Recognise the phonemes of waves.

        Arguments
        ---------
        wav : torch.Tensor
            Waves at 24 kHz, shape (B, T), T a multiple of 480.

        Returns
        -------
        logits : torch.Tensor
            Shape (B, T / 480, n_phonemes).
        features : list of torch.Tensor
            The log-mel and the output of each layer, (B, frames, channels).
        """
        x = self._log_mel(wav)
        features = [x]
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.classifier(self.norm(x)), features

    def _log_mel(self, wav):
        padded = F.pad(wav.unsqueeze(1), (_PAD, _PAD), mode="reflect")
        spectrum = torch.stft(
            padded.squeeze(1),
            _N_FFT,
            _HOP,
            _WINDOW,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        magnitude = (power + _MAGNITUDE_EPS).sqrt().transpose(1, 2)
        return ((magnitude @ self.basis).clamp(min=_FLOOR).log() + 6) / 2


class PhoneticLosses(NamedTuple):
    """Scalar losses and accuracy of :class:`PhoneticLoss`.

    Arguments
    ---------
    features : torch.Tensor
        Relative L1 distance of the recogniser's features, mean over layers.
    phonemes : torch.Tensor
        Cross-entropy of the phonemes in the synthetic speech.
    accuracy : torch.Tensor
        Share of frames whose phoneme is recognised; no gradient.
    """

    features: torch.Tensor
    phonemes: torch.Tensor
    accuracy: torch.Tensor


class PhoneticLoss(nn.Module):
    """Distance of synthetic from natural speech in a phoneme recogniser.

    Arguments
    ---------
    recognizer : PhonemeRecognizer
        Trained on natural speech; it is frozen here.

    Example
    -------
    >>> loss = PhoneticLoss(PhonemeRecognizer(n_phonemes=5, channels=8))
    >>> wav, phonemes = torch.randn(2, 4800), torch.zeros(2, 10).long()
    >>> loss(wav, wav, phonemes).features.item()
    0.0
    """

    def __init__(self, recognizer: PhonemeRecognizer):
        super().__init__()
        self.recognizer = recognizer.requires_grad_(False)

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        phonemes: torch.Tensor,
    ) -> PhoneticLosses:
        """Compare synthetic with natural speech.

        Arguments
        ---------
        predicted : torch.Tensor
            Synthetic waves at 24 kHz, shape (B, T).
        target : torch.Tensor
            Natural waves, shape (B, T).
        phonemes : torch.Tensor
            Phoneme class of each 20 ms, shape (B, T / 480).
        """
        logits, features = self.recognizer(predicted)
        with torch.no_grad():
            _, natural = self.recognizer(target)
        distances = [
            (x - y).abs().mean() / y.abs().mean()
            for x, y in zip(features, natural)
        ]
        hits = logits.argmax(-1) == phonemes
        return PhoneticLosses(
            sum(distances) / len(distances),
            F.cross_entropy(logits.transpose(1, 2), phonemes),
            hits.float().mean(),
        )
