"""24 kHz log-mel spectrogram of CosyVoice2's flow matching and vocoder."""

from functools import lru_cache

from speechbrain_emofilm.utils.torchaudio_compat import import_torchaudio

import torch
import torch.nn.functional as F

SAMPLE_RATE = 24000
HOP = 480
N_MELS = 80
_N_FFT = 1920
_F_MAX = 8000.0
_PAD = (_N_FFT - HOP) // 2
_MAGNITUDE_EPS = 1e-9
_FLOOR = 1e-5


@lru_cache(maxsize=8)
def _window_and_basis(
    device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Hann window (1920,) and the mel basis (961, 80)."""
    # The cached tensors may later be used with gradients.
    with torch.inference_mode(False):
        basis = import_torchaudio().functional.melscale_fbanks(
            _N_FFT // 2 + 1,
            0.0,
            _F_MAX,
            N_MELS,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        window = torch.hann_window(_N_FFT)
        return window.to(device, dtype), basis.to(device, dtype)


def log_mel(wav: torch.Tensor) -> torch.Tensor:
    """Compute the natural-log mel spectrogram, 50 frames per second.

    Windows of 80 ms every 20 ms; the wave is padded by reflection so that
    frame i covers samples 480 i to 480 (i + 1) at its centre. 80 Slaney
    filters up to 8 kHz on the magnitude spectrum, floored at 1e-5.

    Arguments
    ---------
    wav : torch.Tensor
        Waves at 24 kHz in -1..1, shape (B, T), at least 721 samples long.

    Returns
    -------
    mel : torch.Tensor
        Shape (B, T // 480, 80).

    Raises
    ------
    ValueError
        If the wave is not (B, T) or is too short to be padded.

    Example
    -------
    >>> log_mel(torch.randn(2, 24000)).shape
    torch.Size([2, 50, 80])
    """
    if wav.dim() != 2 or wav.shape[1] <= _PAD:
        raise ValueError(
            f"log_mel: the wave has shape {tuple(wav.shape)}; give (B, T) "
            f"with more than {_PAD} samples at {SAMPLE_RATE} Hz."
        )
    window, basis = _window_and_basis(wav.device, wav.dtype)
    padded = F.pad(wav.unsqueeze(1), (_PAD, _PAD), mode="reflect").squeeze(1)
    spectrum = torch.stft(
        padded, _N_FFT, HOP, window=window, center=False, return_complex=True
    )
    power = torch.view_as_real(spectrum).square().sum(-1)
    magnitude = (power + _MAGNITUDE_EPS).sqrt()
    return (magnitude.transpose(1, 2) @ basis).clamp(min=_FLOOR).log()
