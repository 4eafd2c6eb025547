"""Recordings in requests, and the pitch of speech in responses."""

import io
import math

import numpy as np
import soundfile
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Formats of recordings that are accepted.
_READ = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
_SAMPLE_RATES = (8000, 192000)
_MAX_CHANNELS = 8
#: Seconds between two values of F0.
F0_HOP = 0.01


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
