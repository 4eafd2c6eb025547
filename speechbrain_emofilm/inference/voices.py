"""Voices for CosyVoice2, made from recordings."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.audio import audio_info, load_audio
from speechbrain_emofilm.dataio.voices import Voice
from speechbrain_emofilm.processing.mel import SAMPLE_RATE, log_mel

import torch

logger = logging.getLogger(__name__)

#: Longest file that is read, in seconds.
_MAX_FILE = 600.0
#: Length of the frames whose level is measured, and silence that is left at
#: either end, in seconds.
_FRAME, _MARGIN = 0.02, 0.1
#: Level of silence relative to the loudest frame, in dB.
_SILENCE_DB = -40.0
#: Peak of a recording that holds nothing.
_SILENT_PEAK = 1e-3
#: Level of a clipped sample, and shares of them that are told and refused.
_CLIPPED, _CLIPPED_TOLD, _CLIPPED_REFUSED = 0.999, 1e-4, 0.02


class VoiceMaker:
    """Maker of a voice from a recording of one speaker.

    Arguments
    ---------
    speech_tokenizer : object
        ``tokenize_batch(wavs) -> list of tokens (S_i,)``, with
        ``sample_rate``.
    speaker_encoder : object
        ``embed(wavs) -> (B, D)``, with ``sample_rate``.
    make_recognizer : callable, optional
        Function without arguments that makes a speech recogniser,
        ``transcribe(wavs, sample_rate) -> list of str``. It is called for the
        first recording that comes without its text.
    min_duration : float
        Least duration of the speech in seconds.
    max_duration : float
        Greatest duration of the speech in seconds.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> from speechbrain.dataio import audio_io
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> audio_io.save(path, torch.rand(1, 64000) - 0.5, 16000)
    >>> maker = VoiceMaker(
    ...     SimpleNamespace(
    ...         sample_rate=16000,
    ...         tokenize_batch=lambda wavs: [
    ...             torch.zeros(len(wav) // 640).long() for wav in wavs
    ...         ],
    ...     ),
    ...     SimpleNamespace(
    ...         sample_rate=16000, embed=lambda wavs: torch.zeros(1, 192)
    ...     ),
    ... )
    >>> voice = maker(path, "We won the game.")
    >>> voice.prompt_tokens.shape, voice.prompt_mel.shape, voice.transcript
    (torch.Size([100]), torch.Size([200, 80]), 'We won the game.')
    """

    def __init__(
        self,
        speech_tokenizer,
        speaker_encoder,
        make_recognizer: Callable[[], Any] | None = None,
        min_duration: float = 3.0,
        max_duration: float = 30.0,
    ):
        self.speech_tokenizer = speech_tokenizer
        self.speaker_encoder = speaker_encoder
        self.make_recognizer = make_recognizer
        self.min_duration = min_duration
        self.max_duration = max_duration
        self._recognizer: Any = None

    def __call__(self, recording: str | Path, text: str | None = None) -> Voice:
        """Make a voice.

        Arguments
        ---------
        recording : str or Path
            Audio file of one speaker, with any number of channels and any
            sample rate. Silence at its ends is left out.
        text : str, optional
            What is said in it; recognised if None.

        Returns
        -------
        Voice
            The voice, with its transcript.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the recording is too short, too long, silent, clipped or not
            audio, or nothing is recognised in it.
        ImportError
            If no text is given and no recogniser is installed.
        """
        start, end = self._find_speech(recording)

        def load(sample_rate: int) -> torch.Tensor:
            wav = load_audio(recording, sample_rate)
            return wav[round(start * sample_rate) : round(end * sample_rate)]

        if text is None:
            text = self._recognize(load(SAMPLE_RATE), recording)
        elif not text.strip():
            raise ValueError(
                f"The text of {recording} is empty: give what is said in it, "
                "or leave it out to have it recognised."
            )
        wav = load(self.speech_tokenizer.sample_rate)
        (tokens,) = self.speech_tokenizer.tokenize_batch([wav])
        return make_voice(
            load, tokens, self.speaker_encoder, transcript=text.strip()
        )

    def _find_speech(self, recording: str | Path) -> tuple[float, float]:
        """Find start and end of the speech in seconds; refuse unusable one."""
        audio_info(recording, _MAX_FILE)
        wav = load_audio(recording, SAMPLE_RATE)
        if wav.abs().max() < _SILENT_PEAK:
            raise ValueError(
                f"{recording} is silent: record it again, closer to the "
                "microphone."
            )
        clipped = float((wav.abs() >= _CLIPPED).float().mean())
        if clipped > _CLIPPED_REFUSED:
            raise ValueError(
                f"{recording} is clipped in {clipped:.0%} of its samples: "
                "record it again at a lower level."
            )
        if clipped > _CLIPPED_TOLD:
            logger.warning(
                "%s is clipped in places: the voice may sound rough.",
                recording,
            )
        start, end = speech_span(wav, SAMPLE_RATE)
        if not self.min_duration <= end - start <= self.max_duration:
            raise ValueError(
                f"{recording} has {end - start:.1f} s of speech: a voice "
                f"needs {self.min_duration:g} to {self.max_duration:g} s."
            )
        return start, end

    def _recognize(self, wav: torch.Tensor, recording: str | Path) -> str:
        """Transcribe a recording (T,)."""
        if self.make_recognizer is None:
            raise ValueError(
                f"Nothing recognises what is said in {recording}: give its "
                "text."
            )
        if self._recognizer is None:
            try:
                self._recognizer = self.make_recognizer()
            except ImportError as error:
                raise ImportError(
                    f"{error} Or give the text of {recording}."
                ) from error
        (text,) = self._recognizer.transcribe([wav], SAMPLE_RATE)
        if not text.strip():
            raise ValueError(
                f"No words were recognised in {recording}: give its text."
            )
        logger.info("%s: recognised %r.", recording, text)
        return text


@torch.inference_mode()
def make_voice(
    load: Callable[[int], torch.Tensor],
    tokens: torch.Tensor,
    speaker_encoder,
    source: Mapping[str, str] | None = None,
    transcript: str | None = None,
) -> Voice:
    """Make a voice from a recording whose speech tokens are known.

    Arguments
    ---------
    load : callable
        ``load(sample_rate) -> wav (T,)`` of the recording.
    tokens : torch.Tensor
        Speech tokens of the recording (S,).
    speaker_encoder : object
        ``embed(wavs) -> (B, D)``, with ``sample_rate``.
    source : dict, optional
        The recording and the models that the voice is made with.
    transcript : str, optional
        Words of the recording.
    """
    (xvector,) = speaker_encoder.embed([load(speaker_encoder.sample_rate)])
    mel = log_mel(load(SAMPLE_RATE)[None])[0]
    # Tokenizer and encoder may be on a GPU; voices are kept on the CPU.
    return Voice.cut(xvector.cpu(), tokens.cpu(), mel, source, transcript)


def speech_span(wav: torch.Tensor, sample_rate: int) -> tuple[float, float]:
    """Find where speech starts and ends between silences.

    Arguments
    ---------
    wav : torch.Tensor
        A recording that is not silent, shape (T,).
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    start : float
        Start of the speech in seconds, with a margin of 0.1 s.
    end : float
        End of the speech in seconds, with the same margin.

    Example
    -------
    >>> wav = torch.zeros(3 * 16000)
    >>> wav[16000:32000] = torch.rand(16000) - 0.5
    >>> speech_span(wav, 16000)
    (0.9, 2.1)
    """
    size = round(_FRAME * sample_rate)
    frames = torch.nn.functional.pad(wav, (0, -len(wav) % size))
    level = frames.view(-1, size).square().mean(1)
    loud = (level > level.max() * 10 ** (_SILENCE_DB / 10)).nonzero()
    start = float(loud[0]) * _FRAME - _MARGIN
    end = (float(loud[-1]) + 1) * _FRAME + _MARGIN
    duration = len(wav) / sample_rate
    return max(0.0, round(start, 3)), min(duration, round(end, 3))
