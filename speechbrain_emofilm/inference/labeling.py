"""Labelling of recordings: what is said, when, and with which emotion.

The text is given, stands in a file beside the recording, or is recognised; the
words are found by the labeler's aligner; the labeler gives each its emotion.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.text import language_of, split_words
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import file_fingerprint
from speechbrain_emofilm.utils.hparams import load_some_hparams

import torch
from speechbrain.dataio.preprocess import AudioNormalizer

#: Labeler shipped in the package, which has heard synthetic speech only.
SHIPPED_LABELER = "speechbrain_emofilm/assets/labeler"
#: Recordings are labelled in parts of at most so many seconds: labelers learn
#: from sentences, and Whisper's encoder hears 30 s.
LONGEST_PART = 8.0
#: Longest recording in which words are searched, in seconds: the aligner's
#: memory grows with the square, to 1.4 GB for this.
LONGEST = 120.0
#: Sound before and behind the words of a part, in seconds.
MARGIN = 0.25
#: Endings of the recordings of a folder, and of the texts beside them.
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
TEXTS = (".txt", ".lab")
#: Labels of all recordings of a folder.
LABELS_FILE = "word_labels.json"


@dataclass(frozen=True)
class LabelledRecording:
    """Labels of a recording.

    Arguments
    ---------
    text : str
        What is said.
    recognized : bool
        Whether the text was recognised rather than given.
    duration : float
        Duration in seconds.
    labels : UtteranceLabels
        Words with times, emotion, intensity and confidence.
    """

    text: str
    recognized: bool
    duration: float
    labels: UtteranceLabels


class RecordingLabeler:
    """Labels recordings, whose text may be unknown.

    The model is loaded on first use.

    Arguments
    ---------
    folder : str or Path
        Output folder of the labeler's training.
    make_recognizer : callable, optional
        Creates a speech recogniser with ``transcribe(wavs, sample_rate)``; a
        :class:`~speechbrain_emofilm.integrations.whisper.FasterWhisperASR` by
        default.
    **options
        Options of :meth:`WordEmotionLabeler.from_hparams
        <speechbrain_emofilm.inference.trained_model.TrainedModel.from_hparams>`,
        such as ``device``.

    Raises
    ------
    FileNotFoundError
        If the folder has no ``labeler.yaml``.
    ValueError
        If that file does not describe a labeler.

    Example
    -------
    >>> labeler = RecordingLabeler()
    >>> labeler.emotions
    ['neutral', 'angry', 'happy', 'sad', 'surprise']
    >>> labeler.note[:65]
    'The labeler was trained and tested on synthetic speech only: on r'
    """

    def __init__(
        self,
        folder: str | Path = SHIPPED_LABELER,
        make_recognizer: Callable[[], Any] | None = None,
        **options,
    ):
        name = WordEmotionLabeler.HPARAMS_FILE
        try:
            path = find_file(Path(folder) / name)
        except FileNotFoundError:
            path = Path(folder) / name
        hparams = load_some_hparams(path, ("emotions", "note"))
        self.folder = path.parent
        #: Taxonomy of the labels.
        self.emotions = list(hparams["emotions"])
        #: What users should know about the labels; None if nothing.
        self.note: str | None = hparams.get("note")
        self._options = options
        self._make_recognizer = make_recognizer or _default_recognizer

    @cached_property
    def labeler(self) -> WordEmotionLabeler:
        """The model."""
        with warnings.catch_warnings():
            # pyworld's, about a package that this project asks for.
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")
            return WordEmotionLabeler.from_hparams(self.folder, **self._options)

    @cached_property
    def recognizer(self) -> Any:
        """The speech recogniser."""
        return self._make_recognizer()

    @cached_property
    def aligner(self) -> Any:
        """The labeler's aligner, or else PocketSphinx."""
        if getattr(self.labeler.hparams, "aligner", None) is not None:
            return self.labeler.aligner
        from speechbrain_emofilm.integrations.aligner import pocketsphinx

        return pocketsphinx.PocketsphinxAligner(
            pocketsphinx.hibari_pronunciation, strict=False
        )

    @cached_property
    def source(self) -> dict[str, str]:
        """Origin of the labels, which is written with them."""
        source = {
            "labeler": type(self.labeler).__name__,
            "model": file_fingerprint(self.folder / "word_emotion.ckpt"),
        }
        return {**source, "note": self.note} if self.note else source

    def __call__(
        self,
        wav: torch.Tensor,
        sample_rate: int,
        text: str | None = None,
        words: Sequence[Word] | None = None,
        statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> UtteranceLabels:
        """Label the words of a sound.

        Arguments
        ---------
        wav : torch.Tensor
            Sound (T,), within -1 and 1.
        sample_rate : int
            Sample rate of the sound, in Hz.
        text : str, optional
            What is said; recognised if neither text nor words are given.
        words : list of Word, optional
            Words with their times; by default from the aligner.
        statistics : tuple of torch.Tensor, optional
            Mean (D,) and standard deviation (D,) of the speaker's frames, see
            :meth:`WordEmotionLabeler.speaker_statistics
            <speechbrain_emofilm.inference.labeler.WordEmotionLabeler.speaker_statistics>`.

        Returns
        -------
        UtteranceLabels
            Labels; ``source`` holds the note too.

        Raises
        ------
        ImportError
            If a package is missing.
        ValueError
            If no speech is recognised, the recording is longer than
            :data:`LONGEST`, or the words and the sound do not fit.
        """
        rate = self.labeler.mods.emotion_features.sample_rate
        if sample_rate != rate:
            wav = AudioNormalizer(rate)(wav.unsqueeze(1), sample_rate)
        if words is None:
            if len(wav) > LONGEST * rate:
                raise ValueError(
                    f"The recording has {len(wav) / rate:.0f} s, more than "
                    f"the {LONGEST:g} in which words are found: cut it."
                )
            text = text or self.recognize(wav, rate)
            words = self.aligner.align(wav, rate, text, language_of(text))
        labels = []
        for start, end, part in _parts(words, len(wav) / rate):
            first = round(start * rate)
            start = first / rate
            moved = [
                replace(word, start=word.start - start, end=word.end - start)
                for word in part
            ]
            sound = wav[first : round(end * rate)]
            for label in self.labeler.label_wav(sound, moved, statistics).words:
                labels.append(
                    replace(
                        label,
                        start=round(label.start + start, 4),
                        end=round(label.end + start, 4),
                    )
                )
        return UtteranceLabels(labels, dict(self.source))

    def recognize(self, wav: torch.Tensor, sample_rate: int) -> str:
        """Recognise what is said in a sound (T,).

        Raises
        ------
        ValueError
            If there is no word.
        """
        text = self.recognizer.transcribe([wav], sample_rate)[0]
        if not split_words(text):
            raise ValueError(
                "No speech is recognised: give what is said as the text."
            )
        return text

    def label_file(
        self,
        path: str | Path,
        text: str | None = None,
        statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> LabelledRecording:
        """Label the words of an audio file.

        Arguments
        ---------
        path : str or Path
            Audio file in a format that libsndfile reads.
        text : str, optional
            What is said; by default from :func:`text_beside`, or else
            recognised.
        statistics : tuple of torch.Tensor, optional
            Statistics of the speaker's frames, as for :meth:`__call__`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            If a package is missing.
        ValueError
            If the file cannot be used or does not match the text; the message
            names the file.
        """
        rate = self.labeler.mods.emotion_features.sample_rate
        wav = load_audio(path, rate)
        if text is None:
            text = text_beside(path)
        recognized = text is None
        try:
            if text is None and len(wav) <= LONGEST * rate:
                text = self.recognize(wav, rate)
            labels = self(wav, rate, text, statistics=statistics)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if recognized:
            labels.source["text"] = "recognised"
        return LabelledRecording(text, recognized, len(wav) / rate, labels)

    def save(
        self, path: str | Path, recordings: Mapping[str, LabelledRecording]
    ) -> None:
        """Write labels as a TextGrid or as word labels in JSON.

        Arguments
        ---------
        path : str or Path
            File that ends in ``.TextGrid``, for one recording, or ``.json``.
        recordings : dict
            Name to labelled recording.

        Raises
        ------
        ValueError
            If the labels cannot be written in that format.
        """
        if Path(path).suffix.lower() == ".json":
            labels = {name: one.labels for name, one in recordings.items()}
            write_word_labels(path, labels, self.emotions)
        else:
            (one,) = recordings.values()
            write_label_textgrid(path, one.labels, one.duration)


def label_folder(
    labeler: RecordingLabeler,
    folder: str | Path,
    output: str | Path,
    one_speaker: bool = False,
) -> Iterator[tuple[Path, LabelledRecording | Exception]]:
    """Label the recordings of a folder and write their labels.

    ``<output>/<name>.TextGrid`` is written for each recording, and
    :data:`LABELS_FILE` with the labels of all of them at the end.

    Arguments
    ---------
    labeler : RecordingLabeler
        The labeler.
    folder : str or Path
        Folder with recordings, and perhaps a text of the same name beside
        each.
    output : str or Path
        Folder to write to.
    one_speaker : bool
        Whether all recordings are of one speaker, in various emotions: the
        frames are then normalised by this voice's own statistics.

    Yields
    ------
    path : Path
        A recording.
    result : LabelledRecording or Exception
        Its labels, or why it cannot be labelled.

    Raises
    ------
    FileNotFoundError
        If the folder has no recordings.
    ValueError
        If two recordings have the same name.
    """
    paths = find_recordings(folder)
    statistics = None
    if one_speaker:
        usable = [path for path in paths if _is_usable(path)]
        if usable:
            statistics = labeler.labeler.speaker_statistics(usable)
    done = {}
    for path in paths:
        try:
            result = labeler.label_file(path, statistics=statistics)
            grid = Path(output) / f"{path.stem}.TextGrid"
            labeler.save(grid, {path.stem: result})
        except (ValueError, FileNotFoundError) as error:
            yield path, error
            continue
        done[path.stem] = result
        yield path, result
    if done:
        labeler.save(Path(output) / LABELS_FILE, done)


def find_recordings(folder: str | Path) -> list[Path]:
    """List the recordings of a folder by name.

    Raises
    ------
    FileNotFoundError
        If it has none.
    ValueError
        If two have the same name but for the ending.

    Example
    -------
    >>> find_recordings(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... has no recordings (.wav, .flac, .ogg, .mp3): ...
    """
    paths: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in RECORDINGS or not path.is_file():
            continue
        if path.stem in paths:
            raise ValueError(
                f"{path} has the name of {paths[path.stem].name}: rename one, "
                "as the labels take the name of the recording."
            )
        paths[path.stem] = path
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no recordings ({', '.join(RECORDINGS)}): give a "
            "folder that holds some."
        )
    return list(paths.values())


def text_beside(path: str | Path) -> str | None:
    """Read what is said from the file beside a recording.

    Arguments
    ---------
    path : str or Path
        The recording ``NAME.wav``; its text is ``NAME.txt`` or ``NAME.lab``.

    Returns
    -------
    str or None
        The text; None if there is no such file.

    Raises
    ------
    ValueError
        If the file holds no word or is not UTF-8.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.lab").write_text("We won!")
    >>> text_beside(folder / "a.wav"), text_beside(folder / "b.wav")
    ('We won!', None)
    """
    for suffix in TEXTS:
        beside = Path(path).with_suffix(suffix)
        if not beside.is_file():
            continue
        try:
            text = " ".join(beside.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{beside} is not UTF-8 ({error}): save it in that encoding."
            ) from error
        if not split_words(text):
            raise ValueError(
                f"{beside} has no word: write what is said, or remove the "
                "file to have it recognised."
            )
        return text
    return None


def make_label(synthesizer: Any) -> RecordingLabeler:
    """Make the labeler of recordings that a model's server offers.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model: its hparams may name the folder of a ``labeler``.

    Returns
    -------
    RecordingLabeler
        The labeler, by default that of :data:`SHIPPED_LABELER`.
    """
    folder = getattr(synthesizer.hparams, "labeler", None)
    return RecordingLabeler(folder or SHIPPED_LABELER)


def _is_usable(path: Path) -> bool:
    """Check that a recording can be read; labelling it says why not."""
    try:
        load_audio(path)
    except ValueError:
        return False
    return True


def _default_recognizer() -> Any:
    from speechbrain_emofilm.integrations.whisper import FasterWhisperASR

    return FasterWhisperASR()


def _parts(
    words: Sequence[Word], duration: float
) -> Iterator[tuple[float, float, list[Word]]]:
    """Cut a long recording between words: start, end and words of each part.

    A part ends at the longest pause of its second half.
    """
    words = list(words)
    if duration <= LONGEST_PART + 2 * MARGIN:
        yield 0.0, duration, words
        return
    while words:
        limit = words[0].start + LONGEST_PART
        fits = sum(word.end <= limit for word in words) or 1
        if fits < len(words):
            fits = max(
                range(fits - fits // 2, fits + 1),
                key=lambda n: words[n].start - words[n - 1].end,
            )
        part, words = words[:fits], words[fits:]
        start = max(part[0].start - MARGIN, 0.0)
        yield start, min(part[-1].end + MARGIN, duration), part
