"""HiFT, the vocoder of CosyVoice2: mel spectrogram to wave.

A HiFi-GAN generator with a harmonic source (neural source filter) and a final
inverse short-time Fourier transform, so that the network runs at a quarter of
the sampling rate. State-dict names are those of CosyVoice2's ``hift.pt``.

References
----------
Li et al., "HiFTNet: A fast high-quality neural vocoder with harmonic-plus-noise
filter and inverse short time Fourier transform", arXiv 2309.09493.
Du et al., "CosyVoice 2: Scalable streaming speech synthesis with large language
models", arXiv 2412.10117.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from speechbrain_emofilm.lobes.vocoder import MelVocoder, seeded_noise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

if TYPE_CHECKING:
    from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream

_Dilations = Sequence[Sequence[int]]
_DILATIONS = (1, 3, 5)
_MAX_MAGNITUDE = 100.0
_LAST_SLOPE = 0.01  # of the leaky ReLU before conv_post


class Snake(nn.Module):
    """Periodic activation x + sin(a x)^2 / a with one a per channel.

    Arguments
    ---------
    channels : int
        Number of channels.

    Example
    -------
    >>> Snake(4)(torch.randn(2, 4, 10)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation to x (B, C, T); the shape stays."""
        alpha = self.alpha[:, None]
        return torch.addcmul(x, (alpha * x).sin().square(), 1 / (alpha + 1e-9))


class ResBlock(nn.Module):
    """Residual pairs of convolutions, of which the first is dilated.

    Arguments
    ---------
    channels : int
        Number of channels.
    kernel_size : int
        Odd kernel size of all convolutions.
    dilations : sequence of int
        One residual pair per entry.

    Example
    -------
    >>> ResBlock(4, 3, (1, 3))(torch.randn(2, 4, 10)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilations: Sequence[int] = _DILATIONS,
    ):
        super().__init__()

        def convolution(dilation):
            return weight_norm(
                nn.Conv1d(
                    channels,
                    channels,
                    kernel_size,
                    dilation=dilation,
                    padding=dilation * (kernel_size - 1) // 2,
                )
            )

        self.convs1 = nn.ModuleList(convolution(d) for d in dilations)
        self.convs2 = nn.ModuleList(convolution(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to x (B, C, T); the shape stays."""
        for conv1, conv2, snake1, snake2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2
        ):
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class F0Predictor(nn.Module):
    """Fundamental frequency from a mel spectrogram.

    Arguments
    ---------
    in_channels : int
        Number of mel bands.
    channels : int
        Width of the five convolutions.

    Example
    -------
    >>> F0Predictor(80, 16)(torch.randn(2, 50, 80)).shape
    torch.Size([2, 50])
    """

    def __init__(self, in_channels: int = 80, channels: int = 512):
        super().__init__()
        widths = [in_channels] + 5 * [channels]
        layers = []
        for n_in, n_out in zip(widths[:-1], widths[1:]):
            layers += [
                weight_norm(nn.Conv1d(n_in, n_out, 3, padding=1)),
                nn.ELU(),
            ]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)
        # The output is in Hz: start at a speaking pitch with a matching range,
        # instead of at 0 with a range of some thousandths.
        nn.init.normal_(self.classifier.weight, std=100 / channels**0.5)
        nn.init.constant_(self.classifier.bias, 150.0)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Map mel (B, N, in_channels) to F0 in Hz (B, N)."""
        x = self.condnet(mel.transpose(1, 2)).transpose(1, 2)
        return self.classifier(x).squeeze(-1).abs()


class HarmonicSource(nn.Module):
    """Excitation of sine waves at F0 and its overtones, plus noise.

    Unvoiced frames contain only noise.

    Arguments
    ---------
    hop_length : int
        Samples per frame of F0.
    nb_harmonics : int
        Number of overtones.
    sampling_rate : int
        Sampling rate of the excitation in Hz.
    alpha : float
        Amplitude of the sines, and three times the standard deviation of the
        noise in unvoiced frames.
    sigma : float
        Standard deviation of the noise in voiced frames.
    voiced_threshold : float
        F0 in Hz above which a frame is voiced.

    Example
    -------
    >>> source = HarmonicSource(480)
    >>> source(torch.full((2, 5), 200.0), torch.randn(2, 2400, 9)).shape
    torch.Size([2, 2400])
    """

    def __init__(
        self,
        hop_length: int,
        nb_harmonics: int = 8,
        sampling_rate: int = 24000,
        alpha: float = 0.1,
        sigma: float = 0.003,
        voiced_threshold: float = 10.0,
    ):
        super().__init__()
        self.hop_length = hop_length
        self.sampling_rate = sampling_rate
        self.alpha = alpha
        self.sigma = sigma
        self.voiced_threshold = voiced_threshold
        self.n_waves = nb_harmonics + 1
        self.l_linear = nn.Linear(self.n_waves, 1)

    def cycles(self, f0: torch.Tensor) -> torch.Tensor:
        """Compute the periods per sample of each wave, modulo 1.

        Maps F0 in Hz (B, N) to (B, n_waves, N).
        """
        multiples = torch.arange(
            1, self.n_waves + 1, device=f0.device, dtype=f0.dtype
        )
        return f0[:, None] * multiples[:, None] / self.sampling_rate % 1

    @torch.no_grad()
    def waves(
        self,
        f0: torch.Tensor,
        noise: torch.Tensor,
        start_cycles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Generate the separate waves.

        Arguments
        ---------
        f0 : torch.Tensor
            Fundamental frequency in Hz, shape (B, N).
        noise : torch.Tensor
            Standard normal noise, shape (B, N * hop_length, n_waves).
        start_cycles : torch.Tensor, optional
            For streaming: sum of ``cycles`` over all previous frames,
            float64, shape (B, n_waves, 1).

        Returns
        -------
        waves : torch.Tensor
            Shape (B, N * hop_length, n_waves).
        """
        cycles = self.cycles(f0)
        # Phases reach 1e5 rad, where float32 rounds coarsely: any other order
        # of these operations changes the released vocoder's wave.
        total = cycles.cumsum(-1)
        if start_cycles is not None:
            total = (start_cycles + cycles.double().cumsum(-1)).to(cycles)
        phase = total * 2 * math.pi * self.hop_length
        phase = F.interpolate(
            phase, scale_factor=float(self.hop_length), mode="linear"
        )
        voiced = (f0 > self.voiced_threshold).to(f0.dtype)
        voiced = voiced.repeat_interleave(self.hop_length, 1).unsqueeze(-1)
        deviation = voiced * self.sigma + (1 - voiced) * self.alpha / 3
        sines = self.alpha * phase.sin().transpose(1, 2)
        return sines * voiced + deviation * noise

    def forward(
        self,
        f0: torch.Tensor,
        noise: torch.Tensor,
        start_cycles: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Generate the excitation (B, N * hop); arguments as in ``waves``."""
        waves = self.waves(f0, noise, start_cycles)
        return self.l_linear(waves).squeeze(-1).tanh()


class HiFTGenerator(MelVocoder):
    """HiFT vocoder; the defaults are CosyVoice2-0.5B's sizes.

    ``load_state_dict`` also accepts weights whose names start with
    ``generator.``, that include a discriminator or training counters, or that
    store weight norm as ``weight_g`` and ``weight_v``.

    Arguments
    ---------
    in_channels : int
        Number of mel bands.
    base_channels : int
        Width of the first layer; each upsampling halves it.
    nb_harmonics : int
        Overtones of the source.
    sampling_rate : int
        Sampling rate of the wave in Hz.
    nsf_alpha, nsf_sigma, nsf_voiced_threshold : float
        See ``HarmonicSource``.
    upsample_rates, upsample_kernel_sizes : sequence of int
        Stride and kernel size of each transposed convolution.
    n_fft, hop : int
        Window and step of the Fourier transforms of source and output.
    resblock_kernel_sizes : sequence of int
        Kernel sizes of the parallel residual blocks after each upsampling,
        whose outputs are averaged.
    source_resblock_kernel_sizes : sequence of int
        Kernel size of the residual block on the source, one per upsampling.
    resblock_dilation_sizes, source_resblock_dilation_sizes : sequence
        Dilations of each of these blocks; (1, 3, 5) each by default.
    lrelu_slope : float
        Slope of the leaky ReLU before each upsampling.
    audio_limit : float
        Absolute value at which the wave is clipped.
    f0_cond_channels : int
        Width of the F0 predictor.

    Example
    -------
    >>> vocoder = HiFTGenerator(base_channels=16, f0_cond_channels=8)
    >>> vocoder(torch.randn(2, 10, 80)).shape
    torch.Size([2, 4800])
    """

    def __init__(
        self,
        in_channels: int = 80,
        base_channels: int = 512,
        nb_harmonics: int = 8,
        sampling_rate: int = 24000,
        nsf_alpha: float = 0.1,
        nsf_sigma: float = 0.003,
        nsf_voiced_threshold: float = 10.0,
        upsample_rates: Sequence[int] = (8, 5, 3),
        upsample_kernel_sizes: Sequence[int] = (16, 11, 7),
        n_fft: int = 16,
        hop: int = 4,
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilation_sizes: _Dilations | None = None,
        source_resblock_kernel_sizes: Sequence[int] = (7, 7, 11),
        source_resblock_dilation_sizes: _Dilations | None = None,
        lrelu_slope: float = 0.1,
        audio_limit: float = 0.99,
        f0_cond_channels: int = 512,
    ):
        super().__init__(hop_length=math.prod(upsample_rates) * hop)
        self.n_fft, self.hop = n_fft, hop
        self.lrelu_slope = lrelu_slope
        self.audio_limit = audio_limit
        self.register_buffer(
            "window", torch.hann_window(n_fft), persistent=False
        )
        self.f0_predictor = F0Predictor(in_channels, f0_cond_channels)
        self.m_source = HarmonicSource(
            self.hop_length,
            nb_harmonics,
            sampling_rate,
            nsf_alpha,
            nsf_sigma,
            nsf_voiced_threshold,
        )
        self.conv_pre = weight_norm(
            nn.Conv1d(in_channels, base_channels, 7, padding=3)
        )
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        self._blocks_per_stage = len(resblock_kernel_sizes)
        blocks = _paired(resblock_kernel_sizes, resblock_dilation_sizes)
        source_blocks = _paired(
            source_resblock_kernel_sizes, source_resblock_dilation_sizes
        )
        stages = zip(upsample_rates, upsample_kernel_sizes, source_blocks)
        channels = base_channels
        source_rate = math.prod(upsample_rates)
        for rate, kernel_size, source_block in stages:
            channels //= 2
            source_rate //= rate
            self.ups.append(_upsampler(channels, rate, kernel_size))
            self.source_downs.append(
                _source_downsampler(n_fft + 2, channels, source_rate)
            )
            self.source_resblocks.append(ResBlock(channels, *source_block))
            self.resblocks.extend(ResBlock(channels, *b) for b in blocks)
        self.conv_post = weight_norm(
            nn.Conv1d(channels, n_fft + 2, 7, padding=3)
        )
        self.register_load_state_dict_pre_hook(_accept_other_layouts)

    def predict_f0(self, mel: torch.Tensor) -> torch.Tensor:
        """Map mel (B, N, in_channels) to F0 in Hz (B, N)."""
        return self.f0_predictor(mel)

    def f0_loss(self, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Compute the mean absolute error in Hz; unvoiced F0 is 0 Hz."""
        return F.l1_loss(self.predict_f0(mel), f0)

    def source(self, f0: torch.Tensor, seed: int | None = 0) -> torch.Tensor:
        """Generate the excitation (B, N * hop_length) at F0 in Hz (B, N)."""
        batch, n_frames = f0.shape
        n_samples = n_frames * self.hop_length
        noise = seeded_noise(
            batch, n_samples, self.m_source.n_waves, seed=seed, like=f0
        )
        return self.m_source(f0, noise)

    def decode(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Filter the source (B, N * hop) by the mel (B, N, in_channels)."""
        spectrum = torch.stft(
            source,
            self.n_fft,
            self.hop,
            window=self.window,
            return_complex=True,
        )
        spectrum = torch.cat([spectrum.real, spectrum.imag], 1)
        x = self.conv_pre(mel.transpose(1, 2))
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.lrelu_slope))
            if i == len(self.ups) - 1:  # a centred STFT has one more frame
                x = F.pad(x, (1, 0), mode="reflect")
            excitation = self.source_downs[i](spectrum)
            x = x + self.source_resblocks[i](excitation)
            first = i * self._blocks_per_stage
            blocks = self.resblocks[first : first + self._blocks_per_stage]
            x = sum(block(x) for block in blocks) / self._blocks_per_stage
        return self._to_wave(self.conv_post(F.leaky_relu(x, _LAST_SLOPE)))

    def stream(self, seed: int = 0, context: int = 16) -> "HiFTStream":
        """Start an utterance whose mels arrive later; see the base class.

        Arguments
        ---------
        seed : int
            Seed of the noise.
        context : int
            As in ``HiFTStream``.
        """
        # The stream is built of the parts of this module.
        from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream

        return HiFTStream(self, seed, context)

    def _to_wave(self, x: torch.Tensor) -> torch.Tensor:
        """Convert log magnitudes and phases (B, n_fft + 2, frames) to waves."""
        log_magnitude, phase = x.chunk(2, 1)
        magnitude = log_magnitude.exp().clamp(max=_MAX_MAGNITUDE)
        # The phase in radians is the sine itself, within -1..1.
        spectrum = torch.polar(magnitude, phase.sin())
        wav = torch.istft(spectrum, self.n_fft, self.hop, window=self.window)
        return wav.clamp(-self.audio_limit, self.audio_limit)


def _paired(kernel_sizes, dilation_sizes):
    """Pair kernel sizes with dilations, which default to (1, 3, 5)."""
    if dilation_sizes is None:
        dilation_sizes = [_DILATIONS] * len(kernel_sizes)
    if len(dilation_sizes) != len(kernel_sizes):
        raise ValueError(
            f"HiFTGenerator: {len(kernel_sizes)} residual kernel sizes but "
            f"{len(dilation_sizes)} lists of dilations; give one per kernel."
        )
    return list(zip(kernel_sizes, dilation_sizes))


def _upsampler(channels, rate, kernel_size):
    """Build a transposed convolution from 2 * channels to channels."""
    return weight_norm(
        nn.ConvTranspose1d(
            2 * channels,
            channels,
            kernel_size,
            rate,
            padding=(kernel_size - rate) // 2,
        )
    )


def _source_downsampler(n_in, channels, rate):
    """Build a convolution from the source's to a stage's frame rate."""
    if rate == 1:
        return nn.Conv1d(n_in, channels, 1)
    return nn.Conv1d(n_in, channels, 2 * rate, rate, padding=rate // 2)


def rename_weights(state_dict: dict, prefix: str = "") -> None:
    """Rename weights of other layouts to the names of this module.

    Prefixes of training wrappers, discriminators and training counters are
    removed; weight norm stored as ``weight_g`` and ``weight_v`` gets the names
    of torch's parametrizations.

    Arguments
    ---------
    state_dict : dict
        Weights by name, changed in place.
    prefix : str
        Prefix of the vocoder's own weights; others are not changed.

    Example
    -------
    >>> weights = {"generator.conv.weight_g": 1.0, "epoch": 3}
    >>> rename_weights(weights)
    >>> weights
    {'conv.parametrizations.weight.original0': 1.0}
    """
    for key in [key for key in state_dict if key.startswith(prefix)]:
        value = state_dict.pop(key)
        name = key[len(prefix) :]
        if name in ("epoch", "step") or name.startswith("discriminator."):
            continue
        name = name.removeprefix("generator.")
        for old, new in (("g", "original0"), ("v", "original1")):
            if name.endswith(f".weight_{old}"):
                layer = name.removesuffix(f"weight_{old}")
                name = f"{layer}parametrizations.weight.{new}"
        state_dict[prefix + name] = value


def _accept_other_layouts(module, state_dict, prefix, *_):
    """Rename weights before loading (a hook)."""
    rename_weights(state_dict, prefix)
