"""What is measured of one recording, once and for all metrics."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.processing.prosody import ProsodyTrack, prosody_track
from speechbrain_emofilm.utils.files import atomic_path, file_fingerprint

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

SAMPLE_RATE = 24000
#: Largest sample of what counts as silence.
SILENCE = 1e-3


@dataclass(frozen=True)
class Recorded:
    """A recording to measure.

    Arguments
    ---------
    wav : str
        Its file.
    text : str
        What is said.
    """

    wav: str
    text: str


@dataclass(frozen=True)
class Measures:
    """What was measured of a recording.

    Arguments
    ---------
    failure : str
        Why nothing could be measured; empty if something was.
    features : torch.Tensor
        Frames of the emotion features (F, D).
    words : list of Word or None
        When each word is spoken; None if the aligner did not find them.
    recognised : str or None
        What a recogniser understood; None without one.
    mos : float or None
        Predicted mean opinion score; None without a predictor.
    speaker : torch.Tensor or None
        Speaker vector (E,); None without an encoder.
    log_f0 : torch.Tensor
        As in ProsodyTrack (T,).
    energy : torch.Tensor
        As in ProsodyTrack (T,).
    """

    failure: str = ""
    features: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    words: list[Word] | None = None
    recognised: str | None = None
    mos: float | None = None
    speaker: torch.Tensor | None = None
    log_f0: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    energy: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def track(self) -> ProsodyTrack:
        """F0 and energy as the metrics of prosody take them.

        Returns
        -------
        ProsodyTrack
            Its other fields are empty.
        """
        nothing = np.zeros(0)
        return ProsodyTrack(
            self.log_f0.numpy(), self.energy.numpy(), nothing, nothing, nothing
        )


def check_recordings(wavs: Iterable[str | Path], whose: str) -> None:
    """Refuses recordings that are not there.

    Arguments
    ---------
    wavs : iterable of str or Path
        Their files.
    whose : str
        For the message.

    Raises
    ------
    FileNotFoundError
        If there is not every file.
    """
    wavs = list(wavs)
    missing = [wav for wav in wavs if not Path(wav).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{whose}: {len(missing)} of {len(wavs)} recordings are missing, "
            f"the first: {missing[0]}. Each system needs one for every item."
        )


class Measurer:
    """Measures recordings, and keeps what it measured in files.

    Arguments
    ---------
    folder : str or Path
        Where the files are kept.
    emotion_features : object
        ``forward(wavs, lens) -> (features, lens)`` with ``sample_rate``.
    aligner : object
        ``align(wav, sample_rate, text) -> list of Word``, which raises
        ValueError where the sound does not hold the words.
    asr : object, optional
        ``transcribe(wavs, sample_rate) -> list of str``.
    mos : object, optional
        ``predict(wavs, sample_rate) -> list of float``.
    speaker_encoder : object, optional
        ``embed(wavs) -> (B, E)`` with ``sample_rate``.
    version : str
        Changes when the tools do; what another version measured is not used.
    """

    def __init__(
        self,
        folder: str | Path,
        emotion_features,
        aligner,
        asr=None,
        mos=None,
        speaker_encoder=None,
        version: str = "",
    ):
        self.folder = Path(folder)
        self.emotion_features = emotion_features
        self.aligner = aligner
        self.asr = asr
        self.mos = mos
        self.speaker_encoder = speaker_encoder
        tools = [emotion_features, aligner, asr, mos, speaker_encoder]
        names = [type(tool).__qualname__ for tool in tools]
        self.version = json.dumps([version, names])

    def measure_all(
        self,
        recordings: Mapping[str, Recorded],
        description: str,
        features_only: bool = False,
    ) -> dict[str, Measures]:
        """Measures what was not measured before.

        Arguments
        ---------
        recordings : dict
            Id to recording.
        description : str
            For the progress bar.
        features_only : bool
            Whether only the emotion features are wanted.

        Returns
        -------
        dict
            Id to measures.

        Raises
        ------
        FileNotFoundError
            If files are missing; nothing is measured then.
        """
        check_recordings((r.wav for r in recordings.values()), description)
        return {
            name: self._kept_or_measured(recording, features_only)
            for name, recording in tqdm(recordings.items(), description)
        }

    def _kept_or_measured(self, recording, features_only) -> Measures:
        text = None if features_only else recording.text
        content = json.dumps(
            [file_fingerprint(recording.wav), text, self.version]
        )
        key = hashlib.sha256(content.encode()).hexdigest()[:20]
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            _write(path, self.measure(recording, features_only))
        return _read(path)

    def measure(
        self, recording: Recorded, features_only: bool = False
    ) -> Measures:
        """Measures one recording.

        Arguments
        ---------
        recording : Recorded
            The recording.
        features_only : bool
            Whether only the emotion features are wanted.

        Returns
        -------
        Measures
            With ``failure``, if it is silent, too short or not finite.
        """
        try:
            wav = load_audio(recording.wav, SAMPLE_RATE)
            if wav.abs().max() < SILENCE:
                return Measures("silent")
            features = self._features(recording.wav)
            if features_only:
                return Measures(features=features)
            track = prosody_track(wav, SAMPLE_RATE)
        except ValueError as error:
            return Measures(str(error))
        try:
            words = self.aligner.align(wav, SAMPLE_RATE, recording.text)
        except ValueError:  # it does not find them
            words = None
        return Measures(
            features=features,
            words=words,
            recognised=self.asr and self.asr.transcribe([wav], SAMPLE_RATE)[0],
            mos=self.mos and self.mos.predict([wav], SAMPLE_RATE)[0],
            speaker=self._speaker(recording.wav),
            log_f0=torch.from_numpy(track.log_f0),
            energy=torch.from_numpy(track.energy),
        )

    def _features(self, path):
        wav = load_audio(path, self.emotion_features.sample_rate)
        features, _ = self.emotion_features(wav[None], torch.ones(1))
        return features[0].float().cpu()

    def _speaker(self, path):
        if self.speaker_encoder is None:
            return None
        wav = load_audio(path, self.speaker_encoder.sample_rate)
        return self.speaker_encoder.embed([wav])[0].float().cpu()


_TENSORS = ("features", "speaker", "log_f0", "energy")


def _write(path: Path, measures: Measures) -> None:
    """Writes measures as one safetensors file."""
    tensors = {name: getattr(measures, name) for name in _TENSORS}
    words = measures.words and [
        [w.text, w.start, w.end, w.confidence] for w in measures.words
    ]
    other = {
        "failure": measures.failure,
        "words": words,
        "recognised": measures.recognised,
        "mos": measures.mos,
    }
    with atomic_path(path) as temporary:
        save_file(
            {k: t.contiguous() for k, t in tensors.items() if t is not None},
            temporary,
            metadata={"measures": json.dumps(other)},
        )


def _read(path: Path) -> Measures:
    """Reads what `_write` wrote."""
    with safe_open(path, "pt") as file:
        other = json.loads(file.metadata()["measures"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    words = other.pop("words")
    words = words and [Word(*word) for word in words]
    return Measures(words=words, **other, **tensors)
