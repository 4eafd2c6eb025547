"""Sound of requests and of responses, in memory."""

import io
import math
from collections.abc import Iterator

import numpy as np
import soundfile
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Media type of each format of a response.
MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "application/octet-stream",
}
#: Formats whose beginning can be sent before the end is known.
STREAMED = ("wav", "pcm", "opus")
_WRITTEN = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}
#: Formats of recordings that are accepted.
_READ = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
_SAMPLE_RATES = (8000, 192000)
_MAX_CHANNELS = 8
#: Size in the header of a wav stream, whose length is not known.
_UNKNOWN = 0xFFFFFFFF
#: Seconds between two values of F0.
F0_HOP = 0.01


def to_pcm(wav: np.ndarray) -> bytes:
    """Convert sound to 16-bit little-endian samples.

    Example
    -------
    >>> to_pcm(np.array([0.0, 1.0, -2.0])).hex()
    '0000ff7f0180'
    """
    scaled = np.rint(np.clip(wav, -1, 1) * 32767)
    return scaled.astype("<i2").tobytes()


def encode(wav: np.ndarray, sample_rate: int, format: str) -> bytes:
    """Write sound in one of the formats of :data:`MEDIA_TYPES`.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sampling rate in Hz.
    format : str
        Name of the format.

    Example
    -------
    >>> encode(np.zeros(240), 24000, "flac")[:4]
    b'fLaC'
    """
    return b"".join(encode_parts([wav], sample_rate, format, whole=True))


def encode_parts(
    wavs, sample_rate: int, format: str, whole: bool = False
) -> Iterator[bytes]:
    """Write parts of a sound, each as soon as it is there.

    Arguments
    ---------
    wavs : iterable of numpy.ndarray
        Parts (T_i,).
    sample_rate : int
        Sampling rate in Hz.
    format : str
        Name of the format.
    whole : bool
        Whether to yield everything at the end. The file is then exact: the
        header of a stream cannot tell its length.
    """
    encoder = Encoder(sample_rate, format, whole)
    for wav in wavs:
        yield encoder.add(wav)
    yield encoder.finish()


class Encoder:
    """Writer of sound that comes in parts.

    Arguments
    ---------
    sample_rate : int
        Sampling rate in Hz.
    format : str
        Name of the format.
    whole : bool
        Whether everything is returned by :meth:`finish`; always for formats
        that cannot be streamed.

    Example
    -------
    >>> encoder = Encoder(24000, "wav")
    >>> first, rest = encoder.add(np.zeros(2)), encoder.finish()
    >>> first[:4], len(first), rest
    (b'RIFF', 48, b'')
    """

    def __init__(self, sample_rate: int, format: str, whole: bool = False):
        self._whole = whole or format not in STREAMED
        self._buffer = io.BytesIO()
        self._sent = 0
        self._file: soundfile.SoundFile | None = None
        if format == "pcm" or (format == "wav" and not self._whole):
            if format == "wav":
                self._buffer.write(_wav_header(sample_rate))
        else:
            kind, subtype = _WRITTEN[format]
            self._file = soundfile.SoundFile(
                self._buffer, "w", sample_rate, 1, subtype, format=kind
            )

    def add(self, wav: np.ndarray) -> bytes:
        """Write a part and return the bytes that can be sent."""
        if self._file is None:
            self._buffer.seek(0, io.SEEK_END)
            self._buffer.write(to_pcm(wav))
        else:
            # The same samples in all formats.
            self._file.write(np.frombuffer(to_pcm(wav), "<i2"))
        return b"" if self._whole else self._new()

    def finish(self) -> bytes:
        """Return the last bytes."""
        if self._file is not None:
            self._file.close()
        return self._new()

    def _new(self) -> bytes:
        data = self._buffer.getvalue()[self._sent :]
        self._sent += len(data)
        return data


def _wav_header(sample_rate: int) -> bytes:
    """Header of a wav file of unknown length: 16 bit, one channel."""
    size = _UNKNOWN.to_bytes(4, "little")
    rate, bytes_per_second = sample_rate, 2 * sample_rate
    return (
        b"RIFF" + size + b"WAVEfmt " + (16).to_bytes(4, "little")
        + (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
        + rate.to_bytes(4, "little") + bytes_per_second.to_bytes(4, "little")
        + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
        + b"data" + size
    )  # fmt: skip


def decode_recording(
    data: bytes, max_duration: float
) -> tuple[torch.Tensor, int]:
    """Decode an uploaded recording.

    The header is checked before anything is decoded: a small file may hold
    hours of silence.

    Arguments
    ---------
    data : bytes
        Content of a wav, flac, ogg or mp3 file.
    max_duration : float
        Longest accepted duration in seconds.

    Returns
    -------
    wav : torch.Tensor
        Mean of the channels (T,), float32.
    sample_rate : int
        Sampling rate in Hz.

    Raises
    ------
    ValueError
        If it is not such a file, too long, or holds NaN or infinity.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            low, high = _SAMPLE_RATES
            if file.format not in _READ or not low <= file.samplerate <= high:
                raise ValueError(
                    f"The recording is {file.format} at {file.samplerate} Hz: "
                    f"give wav, flac, ogg or mp3 of {low} to {high} Hz."
                )
            if file.channels > _MAX_CHANNELS:
                raise ValueError(
                    f"The recording has {file.channels} channels: give "
                    f"{_MAX_CHANNELS} at most."
                )
            limit = math.floor(max_duration * file.samplerate)
            if file.frames > limit:
                raise ValueError(
                    "The recording is longer than the "
                    f"{max_duration:g} s that are accepted: cut it."
                )
            # The header may lie, so that reading has a limit of its own.
            wav = file.read(limit, dtype="float32", always_2d=True)
            sample_rate = file.samplerate
    except soundfile.LibsndfileError:
        raise ValueError(
            "The recording is not a sound file that can be decoded: give wav, "
            "flac, ogg or mp3."
        ) from None
    if len(wav) == 0:
        raise ValueError("The recording is empty: record it again.")
    if not np.isfinite(wav).all():
        raise ValueError(
            "The recording holds NaN or infinite samples: write it again, "
            "for example as 16-bit wav."
        )
    return torch.from_numpy(wav.mean(1)), sample_rate


def f0_track(wav: np.ndarray, sample_rate: int) -> dict:
    """Measure the pitch of speech, for the page.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,).
    sample_rate : int
        Sampling rate in Hz.

    Returns
    -------
    dict
        "hop": seconds between values; "hz": F0 at each time, None where
        there is no voice. The list is empty if the pitch cannot be measured.
    """
    from speechbrain_emofilm.processing.prosody import (
        FRAME_RATE,
        prosody_track,
    )

    step = round(F0_HOP * FRAME_RATE)
    try:
        log_f0 = prosody_track(wav, sample_rate).log_f0[::step]
    except (ValueError, ImportError) as error:
        logger.warning("The pitch is not measured: %s", error)
        return {"hop": F0_HOP, "hz": []}
    return {
        "hop": F0_HOP,
        "hz": [
            round(float(np.exp(value)), 1) if np.isfinite(value) else None
            for value in log_f0
        ],
    }
