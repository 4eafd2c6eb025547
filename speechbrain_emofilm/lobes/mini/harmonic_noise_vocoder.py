"""Small vocoder: pulses and noise, each filtered as the mel predicts.

Speech is a pulse train at F0 through one filter plus white noise through
another. A network predicts both filters' magnitudes from the mel spectrogram;
they are applied in the short-time Fourier domain. With this much prior
knowledge, a multi-resolution STFT loss alone trains it in minutes on one CPU
core.

Reference
---------
The decomposition is that of Serra and Smith, "Spectral modeling synthesis",
Computer Music Journal 14(4), 1990; a network drives it as in Engel et al.,
"DDSP: Differentiable digital signal processing", ICLR 2020.
"""

import math

from speechbrain_emofilm.lobes.mini.speech_tokenizer import (
    ConvNeXtBlock,
    SameConv,
)
from speechbrain_emofilm.lobes.vocoder import MelVocoder, seeded_noise

import torch
import torch.nn.functional as F
from torch import nn

_LOG_MEAN_F0 = math.log(220.0)
_LOG_F0_SCALE = 0.4
_VOICED_HZ = 10.0
_START_LOG_GAIN = -3.0
_MAX_LOG_GAIN = 4.0
_VOICING_WEIGHT = 0.25


def pulse_train(
    f0: torch.Tensor,
    hop_length: int,
    sampling_rate: int,
    max_frequency: float = 11000.0,
) -> torch.Tensor:
    """Generate band-limited pulses of unit power.

    All harmonics of F0 below the limit are summed in closed form, in cosine
    phase; F0 is interpolated linearly between frame centres.

    Arguments
    ---------
    f0 : torch.Tensor
        F0 in Hz, 0 where unvoiced; shape (B, N).
    hop_length : int
        Samples per frame of F0.
    sampling_rate : int
        Sampling rate in Hz.
    max_frequency : float
        Upper limit of the harmonics, in Hz.

    Returns
    -------
    pulses : torch.Tensor
        Pulses, shape (B, N * hop_length); silent in unvoiced frames.

    Example
    -------
    >>> pulses = pulse_train(torch.tensor([[200.0, 200.0, 0.0]]), 480, 24000)
    >>> pulses.shape, pulses[:, 960:].abs().max().item()
    (torch.Size([1, 1440]), 0.0)
    """
    voiced = (f0 > _VOICED_HZ).double()
    # Double precision: the phase is a running sum over all samples. Dividing
    # by the interpolated voicing keeps F0 level where voicing begins and ends.
    frames = torch.stack([f0.double() * voiced, voiced], 1)
    height, weight = F.interpolate(
        frames, scale_factor=float(hop_length), mode="linear"
    ).unbind(1)
    frequency = torch.where(weight > 0, height / weight.clamp(min=1e-9), 200.0)
    phase = (frequency / sampling_rate).cumsum(-1) % 1.0 * 2 * math.pi
    n_harmonics = (max_frequency / frequency).floor().clamp(min=1)
    # Dirichlet kernel: sum of cos(k phase) = sin((n + 1/2) phase) /
    # (2 sin(phase / 2)) - 1/2, which tends to n at phase 0.
    denominator = 2 * (phase / 2).sin()
    singular = denominator.abs() < 2e-3
    ratio = ((n_harmonics + 0.5) * phase).sin() / denominator.where(
        ~singular, torch.ones_like(denominator)
    )
    pulses = ratio.where(~singular, n_harmonics + 0.5) - 0.5
    voiced = voiced.repeat_interleave(hop_length, 1)
    return (pulses * voiced * (2 / n_harmonics).sqrt()).to(f0.dtype)


def mel_band_interpolation(
    n_bands: int, n_bins: int, sampling_rate: int
) -> torch.Tensor:
    """Build the linear interpolation from mel bands to spectral bins.

    Arguments
    ---------
    n_bands : int
        Number of bands, equally spaced on the mel scale from 0 Hz to half the
        sampling rate.
    n_bins : int
        Number of equally spaced bins over the same range.
    sampling_rate : int
        Sampling rate in Hz.

    Returns
    -------
    matrix : torch.Tensor
        Shape (n_bands, n_bins); each column holds at most two weights and
        sums to one.

    Example
    -------
    >>> matrix = mel_band_interpolation(96, 481, 24000)
    >>> matrix.shape, torch.allclose(matrix.sum(0), torch.ones(481))
    (torch.Size([96, 481]), True)
    """
    bins = torch.linspace(0, sampling_rate / 2, n_bins)
    mel = (1 + bins / 700).log()
    position = mel / mel[-1] * (n_bands - 1)
    distance = position - torch.arange(n_bands)[:, None]
    return (1 - distance.abs()).clamp(min=0)


class HarmonicNoiseVocoder(MelVocoder):
    """Vocoder that filters pulses at F0 and white noise as the mel predicts.

    Arguments
    ---------
    in_channels : int
        Number of mel bands.
    channels : int
        Width of the networks.
    n_f0_blocks : int
        ConvNeXt blocks that predict F0 and voicing.
    n_filter_blocks : int
        ConvNeXt blocks that predict the filters.
    n_bands : int
        Mel-spaced points that describe a filter.
    hop_length : int
        Samples per mel frame; filters change twice as often.
    sampling_rate : int
        Sampling rate in Hz.
    mel_mean, mel_std : float
        Mean and standard deviation of natural-log mel spectrograms, to
        normalise the input.

    Example
    -------
    >>> vocoder = HarmonicNoiseVocoder(channels=16)
    >>> vocoder(torch.randn(2, 10, 80)).shape
    torch.Size([2, 4800])
    """

    def __init__(
        self,
        in_channels: int = 80,
        channels: int = 128,
        n_f0_blocks: int = 2,
        n_filter_blocks: int = 3,
        n_bands: int = 96,
        hop_length: int = 480,
        sampling_rate: int = 24000,
        mel_mean: float = -6.0,
        mel_std: float = 2.5,
    ):
        super().__init__(hop_length)
        self.sampling_rate = sampling_rate
        self.n_bands = n_bands
        self.mel_mean, self.mel_std = mel_mean, mel_std
        self.n_fft, self.filter_hop = 2 * hop_length, hop_length // 2

        def network(n_blocks, n_out):
            return nn.Sequential(
                SameConv(in_channels, channels, 5),
                *(ConvNeXtBlock(channels) for _ in range(n_blocks)),
                nn.LayerNorm(channels),
                nn.Linear(channels, n_out),
            )

        self.f0_predictor = network(n_f0_blocks, 2)
        self.filter_predictor = network(n_filter_blocks, 2 * 2 * n_bands)
        self.register_buffer(
            "bands_to_bins",
            mel_band_interpolation(n_bands, self.n_fft // 2 + 1, sampling_rate),
            persistent=False,
        )
        self.register_buffer(
            "window", torch.hann_window(self.n_fft), persistent=False
        )

    def predict_voicing(
        self, mel: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map mel (B, N, bands) to log F0 and the logit of voicing (B, N)."""
        log_f0, voicing = self.f0_predictor(self._normalised(mel)).unbind(-1)
        return log_f0 * _LOG_F0_SCALE + _LOG_MEAN_F0, voicing

    def predict_f0(self, mel: torch.Tensor) -> torch.Tensor:
        """Map mel (B, N, bands) to F0 in Hz (B, N), 0 where unvoiced."""
        log_f0, voicing = self.predict_voicing(mel)
        return log_f0.exp() * (voicing > 0)

    def f0_loss(self, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Compute the error of log F0 plus the cross-entropy of voicing."""
        log_f0, voicing = self.predict_voicing(mel)
        voiced = (f0 > _VOICED_HZ).to(mel.dtype)
        error = (log_f0 - f0.clamp(min=_VOICED_HZ).log()).abs() * voiced
        cross_entropy = F.binary_cross_entropy_with_logits(voicing, voiced)
        error = error.sum() / voiced.sum().clamp(min=1)
        return error + _VOICING_WEIGHT * cross_entropy

    def source(self, f0: torch.Tensor, seed: int | None = 0) -> torch.Tensor:
        """Map F0 (B, N) to pulses and white noise (B, 2, N * hop_length)."""
        pulses = pulse_train(f0, self.hop_length, self.sampling_rate)
        noise = seeded_noise(*pulses.shape, seed=seed, like=pulses)
        return torch.stack([pulses, noise], 1)

    def decode(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Filter the source (B, 2, N * hop_length) and add its two parts."""
        spectrum = torch.stft(
            source.flatten(0, 1),
            self.n_fft,
            self.filter_hop,
            window=self.window,
            return_complex=True,
        ).unflatten(0, (-1, 2))
        spectrum = (spectrum * self._filters(mel)).sum(1)
        return torch.istft(
            spectrum,
            self.n_fft,
            self.filter_hop,
            window=self.window,
            length=mel.shape[1] * self.hop_length,
        )

    def _filters(self, mel: torch.Tensor) -> torch.Tensor:
        """Predict gains (B, 2, n_fft / 2 + 1, 2 N + 1) of pulses and noise."""
        batch, n_frames, _ = mel.shape
        bands = self.filter_predictor(self._normalised(mel))
        bands = bands.reshape(batch, 2 * n_frames, 2, self.n_bands)
        log_gain = bands @ self.bands_to_bins + _START_LOG_GAIN
        gain = log_gain.clamp(max=_MAX_LOG_GAIN).exp().permute(0, 2, 3, 1)
        # A centred transform has one frame more than there are filters.
        return torch.cat([gain, gain[..., -1:]], -1)

    def _normalised(self, mel: torch.Tensor) -> torch.Tensor:
        return (mel - self.mel_mean) / self.mel_std
