"""Loading of audio files as mono waveforms at one sample rate."""

import os
import struct
from functools import cache
from pathlib import Path

from speechbrain_emofilm.processing.mel import SAMPLE_RATE

import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

PathLike = str | Path

#: Sizes in a RIFF header whose writer did not know the size (a pipe).
_SIZE_UNKNOWN = (0, 0xFFFFFFFF)


@cache
def _normalizer(sample_rate):
    """Return the normalizer of a rate, which caches its resampling filters."""
    return AudioNormalizer(sample_rate=sample_rate, mix="avg-to-mono")


def _check_whole(path):
    """Raise ValueError if a RIFF file is shorter than its header says.

    libsndfile silently reads such a file as a shorter one.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ValueError(f"{path}: the file is empty; copy it again.")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    (promised,) = struct.unpack("<I", head[4:8])
    if promised not in _SIZE_UNKNOWN and promised + 8 > size:
        raise ValueError(
            f"{path}: the file is truncated ({size} of {promised + 8} bytes); "
            "copy it again."
        )


def audio_info(
    path: PathLike, max_duration: float | None = None
) -> audio_io.AudioInfo:
    """Read and check the header of an audio file.

    Arguments
    ---------
    path : str or Path
        Any file that libsndfile can read: wav, flac, ogg, mp3.
    max_duration : float
        Longest accepted duration in seconds; unlimited if None.

    Returns
    -------
    info : speechbrain.dataio.audio_io.AudioInfo
        Header with ``sample_rate``, ``frames``, ``channels``, ``duration``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, truncated, too long or not audio.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> audio_io.save(path, torch.zeros(2, 8000), 16000)
    >>> audio_info(path).duration
    0.5
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file; check the path.")
    _check_whole(path)
    try:
        info = audio_io.info(str(path))
    except RuntimeError as error:  # raised for libsndfile's errors
        raise ValueError(
            f"{path}: not an audio file that libsndfile can read; convert it "
            "to wav."
        ) from error
    if info.frames == 0:
        raise ValueError(f"{path}: the file has no samples; copy it again.")
    if max_duration is not None and info.duration > max_duration:
        raise ValueError(
            f"{path}: {info.duration:.1f} s is longer than max_duration = "
            f"{max_duration:g} s; cut it, or raise max_duration."
        )
    return info


def load_audio(
    path: PathLike,
    sample_rate: int = SAMPLE_RATE,
    max_duration: float | None = None,
) -> torch.Tensor:
    """Load an audio file as a mono waveform at a given sample rate.

    Channels are averaged and other sample rates resampled.

    Arguments
    ---------
    path : str or Path
        Any file that libsndfile can read.
    sample_rate : int
        Sample rate of the result, in Hz.
    max_duration : float
        Longest accepted duration in seconds; unlimited if None.

    Returns
    -------
    wav : torch.Tensor
        Waveform (T,), float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, truncated, too long or not audio, or holds NaN
        or infinite samples.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> audio_io.save(path, torch.zeros(2, 8000), 16000)
    >>> load_audio(path, sample_rate=24000).shape
    torch.Size([12000])
    """
    audio_info(path, max_duration)
    try:
        wav, source_rate = audio_io.load(str(path), channels_first=False)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the samples cannot be decoded; copy it again."
        ) from error
    finite = torch.isfinite(wav).all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0]) / source_rate
        raise ValueError(
            f"{path}: NaN or infinite samples, the first at {first:.3f} s; "
            "write the file again, for instance as 16-bit PCM."
        )
    return _normalizer(sample_rate)(wav, source_rate)
