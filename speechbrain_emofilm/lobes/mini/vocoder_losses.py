"""Training losses of vocoders: a spectral loss and a small discriminator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

_SIZES = (256, 512, 1024, 2048)


def magnitudes(wav: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Compute magnitude spectra of waves, a quarter window apart.

    Arguments
    ---------
    wav : torch.Tensor
        Waves, shape (B, T).
    n_fft : int
        Length of the Hann window.

    Returns
    -------
    magnitudes : torch.Tensor
        Shape (B, n_fft // 2 + 1, T // (n_fft // 4) + 1).

    Example
    -------
    >>> magnitudes(torch.randn(2, 4800), 512).shape
    torch.Size([2, 257, 38])
    """
    window = torch.hann_window(n_fft, device=wav.device, dtype=wav.dtype)
    return torch.stft(
        wav, n_fft, n_fft // 4, window=window, return_complex=True
    ).abs()


class MultiResolutionSTFTLoss(nn.Module):
    """L1 distance of log magnitudes plus spectral convergence.

    Averaged over several window sizes, as in Yamamoto et al., "Parallel
    WaveGAN", arXiv 1910.11480. SpeechBrain's ``MultiScaleSTFTLoss`` has no
    windows and calls the real-valued STFT that torch no longer offers.

    Arguments
    ---------
    sizes : sequence of int
        Window sizes in samples.
    floor : float
        Added to the magnitudes before the logarithm, so that anything below
        has little effect.

    Example
    -------
    >>> wav = torch.randn(2, 4800)
    >>> MultiResolutionSTFTLoss()(wav, wav).item()
    0.0
    """

    def __init__(self, sizes: Sequence[int] = _SIZES, floor: float = 1e-4):
        super().__init__()
        self.sizes = tuple(sizes)
        self.floor = floor

    def forward(
        self, predicted: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss (a scalar) between waves (B, T)."""
        losses = [self._loss(predicted, target, n) for n in self.sizes]
        return sum(losses) / len(losses)

    def _loss(self, predicted, target, n_fft):
        x, y = magnitudes(predicted, n_fft), magnitudes(target, n_fft)
        log_x, log_y = (x + self.floor).log(), (y + self.floor).log()
        convergence = (y - x).norm() / y.norm().clamp(min=self.floor)
        return F.l1_loss(log_x, log_y) + convergence


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions on the magnitude spectrum of one window size.

    Arguments
    ---------
    n_fft : int
        Window size in samples.
    channels : int
        Width of the convolutions.

    Example
    -------
    >>> score, features = SpectrogramDiscriminator(256, 4)(torch.randn(2, 2400))
    >>> score.dim(), len(features)
    (2, 5)
    """

    def __init__(self, n_fft: int, channels: int = 16):
        super().__init__()
        self.n_fft = n_fft

        def convolution(n_in, n_out, size, stride=1):
            return weight_norm(
                nn.Conv2d(n_in, n_out, (size, 3), (stride, 1), (size // 2, 1))
            )

        self.convolutions = nn.ModuleList(
            [
                convolution(1, channels, 9, 2),
                convolution(channels, channels, 9, 2),
                convolution(channels, channels, 9, 2),
                convolution(channels, channels, 3),
            ]
        )
        self.score = convolution(channels, 1, 3)

    def forward(
        self, wav: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Compute scores (B, positions) and features of waves (B, T)."""
        # Compressed like perceived loudness, else vowels would dominate.
        x = magnitudes(wav, self.n_fft).clamp(min=1e-7).pow(0.3).unsqueeze(1)
        features = []
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
            features.append(x)
        x = self.score(x)
        return x.flatten(1), features + [x]


class MultiResolutionDiscriminator(nn.Module):
    """Discriminators on several resolutions (Jang et al., arXiv 2106.07889).

    It has the interface of SpeechBrain's ``HifiganDiscriminator`` at a
    hundredth of its cost.

    Arguments
    ---------
    sizes : sequence of int
        Window sizes in samples.
    channels : int
        Width of the convolutions.

    Example
    -------
    >>> discriminator = MultiResolutionDiscriminator((256, 512), channels=4)
    >>> scores, features = discriminator(torch.randn(2, 1, 2400))
    >>> len(scores), len(features)
    (2, 2)
    """

    def __init__(
        self, sizes: Sequence[int] = (512, 1024, 2048), channels: int = 16
    ):
        super().__init__()
        self.discriminators = nn.ModuleList(
            SpectrogramDiscriminator(n_fft, channels) for n_fft in sizes
        )

    def forward(
        self, wav: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Compute scores and features of waves (B, 1, T) per resolution."""
        judged = [judge(wav.squeeze(1)) for judge in self.discriminators]
        scores, features = zip(*judged)
        return list(scores), list(features)
