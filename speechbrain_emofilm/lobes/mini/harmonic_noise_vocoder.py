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
from typing import TYPE_CHECKING

from speechbrain_emofilm.lobes.mini.speech_tokenizer import (
    ConvNeXtBlock,
    SameConv,
)
from speechbrain_emofilm.lobes.vocoder import MelVocoder, seeded_noise

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from speechbrain_emofilm.lobes.mini.harmonic_noise_stream import (
        HarmonicNoiseStream,
    )

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
    return PulseTrain(hop_length, sampling_rate, max_frequency).push(f0, True)


class PulseTrain:
    """The pulses of :func:`pulse_train` at F0 that arrives in pieces.

    The phase runs on in double precision. The pulses are one frame behind F0,
    which is interpolated to the centre of the next frame.

    Arguments
    ---------
    hop_length, sampling_rate, max_frequency
        As in :func:`pulse_train`.

    Example
    -------
    >>> f0 = torch.tensor([[200.0, 210.0, 220.0, 0.0]])
    >>> train = PulseTrain(480, 24000)
    >>> parts = [train.push(f0[:, :2]), train.push(f0[:, 2:], last=True)]
    >>> [part.shape[1] // 480 for part in parts]
    [1, 3]
    >>> whole = pulse_train(f0, 480, 24000)
    >>> torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)
    True
    """

    def __init__(
        self,
        hop_length: int,
        sampling_rate: int,
        max_frequency: float = 11000.0,
    ):
        self.hop_length = hop_length
        self.sampling_rate = sampling_rate
        self.max_frequency = max_frequency
        self._f0: torch.Tensor | None = None
        self._n_done = 0  # number of frames in _f0 whose pulses were returned
        self._cycles: torch.Tensor | float = 0.0  # phase so far, (B, 1)

    def push(self, f0: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Add F0 and return the pulses that are ready.

        Arguments
        ---------
        f0 : torch.Tensor
            F0 in Hz, 0 where unvoiced; shape (B, N).
        last : bool
            Whether the speech ends with this piece.

        Returns
        -------
        pulses : torch.Tensor
            Shape (B, samples).
        """
        if self._f0 is not None:
            f0 = torch.cat([self._f0, f0], dim=1)
        start, end = self._n_done, f0.size(1) - (not last)
        if end <= start:
            self._f0 = f0
            return f0.new_zeros(f0.size(0), 0)
        voiced = (f0 > _VOICED_HZ).double()
        samples = slice(start * self.hop_length, end * self.hop_length)
        frequency = self._frequency(f0, voiced)[:, samples]
        # The phase is a running sum over all samples, of which whole cycles
        # do not matter.
        cycles = (frequency / self.sampling_rate).cumsum(-1)
        cycles = (cycles + self._cycles) % 1.0
        self._cycles = cycles[:, -1:].clone()
        self._f0, self._n_done = f0[:, end - 1 :].clone(), 1
        pulses = self._pulses(frequency, cycles * 2 * math.pi)
        voiced = voiced[:, start:end].repeat_interleave(self.hop_length, 1)
        return (pulses * voiced).to(f0.dtype)

    def _frequency(
        self, f0: torch.Tensor, voiced: torch.Tensor
    ) -> torch.Tensor:
        """Interpolate F0 to samples, (B, N * hop_length) in Hz, double."""
        # Dividing by the interpolated voicing keeps F0 level where voicing
        # begins and ends.
        height = self._interpolate(f0.double() * voiced)
        weight = self._interpolate(voiced)
        return torch.where(weight > 0, height / weight.clamp(min=1e-9), 200.0)

    def _interpolate(self, frames: torch.Tensor) -> torch.Tensor:
        """Interpolate linearly between frame centres, (B, N * hop_length)."""
        padded = torch.cat([frames[:, :1], frames, frames[:, -1:]], 1)
        samples = torch.arange(
            self.hop_length, dtype=frames.dtype, device=frames.device
        )
        # Distance to the centre of the frame, in frames.
        distance = (samples + 0.5) / self.hop_length - 0.5
        to_previous = (-distance).clamp(min=0)
        to_next = distance.clamp(min=0)
        values = (
            padded[:, 1:-1, None] * (1 - distance.abs())
            + padded[:, :-2, None] * to_previous
            + padded[:, 2:, None] * to_next
        )
        return values.flatten(1)

    def _pulses(
        self, frequency: torch.Tensor, phase: torch.Tensor
    ) -> torch.Tensor:
        """Sum the harmonics at phases in radians, scaled to unit power."""
        n_harmonics = (self.max_frequency / frequency).floor().clamp(min=1)
        # Dirichlet kernel: sum of cos(k phase) = sin((n + 1/2) phase) /
        # (2 sin(phase / 2)) - 1/2, which tends to n at phase 0.
        denominator = 2 * (phase / 2).sin()
        singular = denominator.abs() < 2e-3
        ratio = ((n_harmonics + 0.5) * phase).sin() / denominator.where(
            ~singular, torch.ones_like(denominator)
        )
        pulses = ratio.where(~singular, n_harmonics + 0.5) - 0.5
        return pulses * (2 / n_harmonics).sqrt()


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
        log_f0, voicing = self.f0_predictor(self.normalised(mel)).unbind(-1)
        return log_f0 * _LOG_F0_SCALE + _LOG_MEAN_F0, voicing

    def predict_f0(self, mel: torch.Tensor) -> torch.Tensor:
        """Map mel (B, N, bands) to F0 in Hz (B, N), 0 where unvoiced."""
        return self.to_f0(self.f0_predictor(self.normalised(mel)))

    def to_f0(self, predicted: torch.Tensor) -> torch.Tensor:
        """Map the F0 network's output (B, N, 2) to F0 in Hz (B, N)."""
        log_f0, voicing = predicted.unbind(-1)
        log_f0 = log_f0 * _LOG_F0_SCALE + _LOG_MEAN_F0
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
        half = self.n_fft // 2
        gain = self.to_gain(self.filter_predictor(self.normalised(mel)))
        # A centred transform has one frame more than there are filters.
        gain = torch.cat([gain, gain[:, :, -1:]], 2)
        source = F.pad(source, (half, half), mode="reflect")
        segments = self.filtered_segments(source, gain)
        start = half // self.filter_hop
        end = start + source.size(2) // self.filter_hop - 2 * start
        return self.join_segments(segments[:, start:end], True, True)

    def filtered_segments(
        self, source: torch.Tensor, gain: torch.Tensor
    ) -> torch.Tensor:
        """Filter the source in the short-time Fourier domain.

        Arguments
        ---------
        source : torch.Tensor
            Pulses and noise, (B, 2, (M - 1) * filter_hop + n_fft).
        gain : torch.Tensor
            Their gains, (B, 2, M, n_fft / 2 + 1).

        Returns
        -------
        segments : torch.Tensor
            Sum of the overlapping windows,
            (B, M + n_fft / filter_hop - 1, filter_hop).
        """
        frames = source.unfold(-1, self.n_fft, self.filter_hop) * self.window
        pulses, noise = torch.fft.rfft(frames).unbind(1)
        gain = gain.to(pulses.dtype)
        spectrum = torch.addcmul(pulses * gain[:, 0], noise, gain[:, 1])
        frames = torch.fft.irfft(spectrum, self.n_fft) * self.window
        pieces = frames.unflatten(-1, (-1, self.filter_hop)).unbind(2)
        n_frames = frames.size(1)
        segments = F.pad(pieces[0], (0, 0, 0, len(pieces) - 1))
        for i, piece in enumerate(pieces[1:], 1):
            segments[:, i : i + n_frames] += piece
        return segments

    def join_segments(
        self, segments: torch.Tensor, first: bool, last: bool
    ) -> torch.Tensor:
        """Join the segments of a wave, and divide by the sum of the windows.

        Arguments
        ---------
        segments : torch.Tensor
            (B, M, filter_hop).
        first, last : bool
            Whether the first and the last of them are the wave's, on which
            one window less lies than elsewhere.

        Returns
        -------
        wav : torch.Tensor
            (B, M * filter_hop).
        """
        pieces = self.window.square().unflatten(0, (-1, self.filter_hop))
        weight = pieces.sum(0).repeat(segments.size(1), 1)
        if first:
            weight[:1] = pieces[:-1].sum(0)
        if last:
            weight[-1:] = pieces[1:].sum(0)
        return (segments / weight).flatten(1)

    def to_gain(self, bands: torch.Tensor) -> torch.Tensor:
        """Map the filter network's output to the gains of pulses and noise.

        Arguments
        ---------
        bands : torch.Tensor
            (B, N, 4 * n_bands).

        Returns
        -------
        gain : torch.Tensor
            (B, 2, 2 N, n_fft / 2 + 1).
        """
        bands = bands.unflatten(2, (2, 2, self.n_bands)).flatten(1, 2)
        log_gain = bands.transpose(1, 2) @ self.bands_to_bins + _START_LOG_GAIN
        return log_gain.clamp(max=_MAX_LOG_GAIN).exp()

    def normalised(self, mel: torch.Tensor) -> torch.Tensor:
        """Normalise natural-log mels."""
        return (mel - self.mel_mean) / self.mel_std

    def stream(self, seed: int = 0) -> "HarmonicNoiseStream":
        """Start an utterance whose mels arrive later; see the base class."""
        # The stream is built of the parts of this module.
        from speechbrain_emofilm.lobes.mini.harmonic_noise_stream import (
            HarmonicNoiseStream,
        )

        return HarmonicNoiseStream(self, seed)
