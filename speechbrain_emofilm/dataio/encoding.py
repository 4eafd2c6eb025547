"""Sound as the bytes of a file, also while it is being made."""

import inspect
import io
import struct
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile

#: Media type of each format.
MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "application/octet-stream",
}
#: Options of an mp3 without a table in front of it, which could only be
#: written at the end. Older versions of soundfile do not have them.
_CONSTANT_MP3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
_STREAMS_MP3 = (
    _CONSTANT_MP3.keys()
    <= inspect.signature(soundfile.SoundFile.__init__).parameters.keys()
)
#: Formats whose beginning can be sent before the end is known. Of flac,
#: readers expect the length first.
STREAMED = ("wav", "pcm", "opus", *(("mp3",) if _STREAMS_MP3 else ()))
_WRITTEN = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}
#: Size in the header of a wav stream, whose length is not known.
_UNKNOWN = 0xFFFFFFFF


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
    wavs: Iterable[np.ndarray],
    sample_rate: int,
    format: str,
    whole: bool = False,
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
        self._parts: list[bytes] = []  # not returned yet
        self._buffer = io.BytesIO()
        self._sent = 0
        self._file: soundfile.SoundFile | None = None
        if format == "wav" and not self._whole:
            self._parts.append(_wav_header(sample_rate))
        elif format != "pcm":
            kind, subtype = _WRITTEN[format]
            options = {}
            if format == "mp3" and not self._whole:
                options = _CONSTANT_MP3
            self._file = soundfile.SoundFile(
                self._buffer,
                "w",
                sample_rate,
                1,
                subtype,
                format=kind,
                **options,
            )

    def add(self, wav: np.ndarray) -> bytes:
        """Write a part and return the bytes that can be sent."""
        samples = to_pcm(wav)
        if self._file is None:
            self._parts.append(samples)
        else:
            # The same samples in all formats.
            self._file.write(np.frombuffer(samples, "<i2"))
        return b"" if self._whole else self._new()

    def finish(self) -> bytes:
        """Return the last bytes."""
        if self._file is not None:
            self._file.close()
        return self._new()

    def _new(self) -> bytes:
        if self._file is None:
            data, self._parts = b"".join(self._parts), []
            return data
        data = self._buffer.getvalue()[self._sent :]
        self._sent += len(data)
        return data


def _wav_header(sample_rate: int) -> bytes:
    """Header of a wav file of unknown length: 16 bit, one channel."""
    form = (16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", _UNKNOWN, b"WAVEfmt ", *form, b"data",
        _UNKNOWN,
    )  # fmt: skip
