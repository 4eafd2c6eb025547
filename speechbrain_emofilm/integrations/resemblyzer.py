"""Speaker vectors from the GE2E encoder shipped with Resemblyzer.

Only the weights are taken from the wheel of ``Resemblyzer`` (Apache-2.0),
whose own code would need a compiler for its voice activity detector:

    pip install --no-deps Resemblyzer==0.1.4

The encoder (Wan et al. 2018, arXiv 1710.10467) was trained on thousands of
English speakers. Pauses are not removed here, so its scores are only
comparable with each other, not with those of other set-ups.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from speechbrain_emofilm.utils.torchaudio_compat import import_torchaudio

import torch
from torch import nn
from torch.nn import functional as F

SAMPLE_RATE = 16000
N_FFT, HOP, N_MELS = 400, 160, 40
WINDOW, STEP = 160, 77  # frames of a window, and from one to the next
DIM = 256
LEVEL = 10 ** (-30 / 20)  # RMS to which quieter speech is amplified


class Resemblyzer(nn.Module):
    """Speaker encoder with vectors of 256 values.

    Arguments
    ---------
    path : str or Path, optional
        File of the weights; by default that of the installed package.

    Raises
    ------
    ImportError
        If the package is missing.
    FileNotFoundError
        If there is no such file.

    Example
    -------
    >>> encoder = Resemblyzer()  # doctest: +SKIP
    >>> encoder.embed([torch.randn(16000)]).shape  # doctest: +SKIP
    torch.Size([1, 256])
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, DIM, num_layers=3, batch_first=True)
        self.linear = nn.Linear(DIM, DIM)
        path = Path(path) if path else _installed_weights()
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such speaker encoder; install Resemblyzer, or "
                "give the path of its pretrained.pt."
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        self.load_state_dict({k: content["model_state"][k] for k in own})
        basis = import_torchaudio().functional.melscale_fbanks(
            N_FFT // 2 + 1,
            0.0,
            SAMPLE_RATE / 2,
            N_MELS,
            SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("mel_basis", basis, persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), False)
        self.eval()

    @torch.inference_mode()
    def embed(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the speaker vectors of utterances.

        Arguments
        ---------
        wavs : sequence of torch.Tensor
            Sounds (T_i,) at 16 kHz, within -1 and 1.

        Returns
        -------
        torch.Tensor
            Speaker vectors of unit norm, (B, 256); NaN for silence.
        """
        return torch.stack([self._embed(wav) for wav in wavs])

    def _embed(self, wav: torch.Tensor) -> torch.Tensor:
        wav = torch.as_tensor(wav, device=self.mel_basis.device).float()
        level = wav.square().mean().sqrt()
        if len(wav) == 0 or not level > 0:
            return torch.full((DIM,), torch.nan, device=wav.device)
        mel = self._mel(wav * max(1.0, float(LEVEL / level)))
        # Windows overlap by half; the last must be at least 3/4 full.
        starts = [
            start
            for start in range(0, len(mel), STEP)
            if start == 0 or len(mel) - start > 0.75 * WINDOW
        ]
        padded = F.pad(mel, (0, 0, 0, starts[-1] + WINDOW))
        windows = torch.stack([padded[s : s + WINDOW] for s in starts])
        _, (hidden, _) = self.lstm(windows)
        vectors = F.normalize(F.relu(self.linear(hidden[-1])), dim=-1)
        return F.normalize(vectors.mean(0), dim=-1)

    def _mel(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the mel power spectrogram (T, 40)."""
        spectrum = torch.stft(
            wav,
            N_FFT,
            HOP,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum.abs().square().T @ self.mel_basis


def _installed_weights() -> Path:
    """Find the weights in the installed package without importing it."""
    package = find_spec("resemblyzer")
    if package is None:
        raise ImportError(
            "Speaker similarity by Resemblyzer needs its weights: "
            "pip install --no-deps Resemblyzer==0.1.4."
        )
    return Path(package.origin).parent / "pretrained.pt"
