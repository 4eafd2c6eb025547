"""Measure many recordings, in parallel, each only once.

The tools decide which measures are taken: an aligner finds the words, a
recogniser writes them down, and so on. Measurements are cached in files named
by a hash of the sounds, the text, the tools' options and the source code that
measures, so that nothing outdated is reused and nothing is measured twice.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import multiprocessing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.metrics.control import NeutralBaseline
from speechbrain_emofilm.processing import prosody
from speechbrain_emofilm.processing.mel import SAMPLE_RATE
from speechbrain_emofilm.processing.prosody import ProsodyTrack
from speechbrain_emofilm.utils.files import atomic_path, file_fingerprint

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

#: Measures, each with the tool that it needs.
MEASURES = {
    "change": "aligner",
    "words": "aligner",
    "recognised": "asr",
    "mos": "mos",
    "features": "emotion_features",
    "speaker": "speaker_encoder",
    "prosody": None,
}
#: Largest absolute sample of a recording that counts as silent.
SILENCE = 1e-3
#: Version of the files; raise it when their content changes.
_FORMAT = 1
Id = TypeVar("Id", bound=Hashable)
_TENSORS = ("features", "speaker", "log_f0", "energy")


@dataclass(frozen=True)
class Reading:
    """A recording to measure: a sentence read aloud.

    Arguments
    ---------
    wav : str
        Audio file.
    text : str
        The sentence.
    neutral_wav : str, optional
        Audio file of the same speaker's neutral reading of the sentence, to
        measure the change of each word against.
    neutral_words : tuple of Word
        Times of the words in the neutral reading.
    only : tuple of str
        Names of the measures to take, from :data:`MEASURES`; empty for all
        that the tools can take.
    """

    wav: str
    text: str
    neutral_wav: str | None = None
    neutral_words: tuple[Word, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Measurement of a recording.

    Arguments
    ---------
    change : list of list of float or None
        Difference of each word from the neutral reading, (W, 6) as
        :func:`~speechbrain_emofilm.processing.prosody.prosody_change` returns
        it; None if the words were not found in the sound.
    recognised : str or None
        Transcript of a recogniser; None without one.
    mos : float or None
        Predicted mean opinion score, 1 to 5; None without a predictor.
    words : list of Word or None
        Times of the words; None if the aligner did not find them.
    features : torch.Tensor
        Emotion features of the frames (F, D); empty without an extractor.
    speaker : torch.Tensor or None
        Speaker vector (E,); None without an encoder.
    log_f0 : torch.Tensor
        As in ProsodyTrack (T,).
    energy : torch.Tensor
        As in ProsodyTrack (T,).
    failure : str
        Reason why the recording cannot be scored; empty if it can.
    """

    change: list[list[float]] | None = None
    recognised: str | None = None
    mos: float | None = None
    words: list[Word] | None = None
    features: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    speaker: torch.Tensor | None = None
    log_f0: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    energy: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    failure: str = ""

    def track(self) -> ProsodyTrack:
        """Return F0 and energy in the form that prosody metrics take.

        Returns
        -------
        ProsodyTrack
            Its other fields are empty.
        """
        empty = np.zeros(0)
        return ProsodyTrack(
            self.log_f0.numpy(), self.energy.numpy(), empty, empty, empty
        )


def check_recordings(wavs: Iterable[str | Path], owner: str) -> None:
    """Raise FileNotFoundError unless all recordings exist.

    Arguments
    ---------
    wavs : iterable of str or Path
        Audio files.
    owner : str
        Owner of the recordings, for the message.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    wavs = list(wavs)
    missing = [wav for wav in wavs if not Path(wav).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{owner}: {len(missing)} of {len(wavs)} recordings are missing, "
            f"the first: {missing[0]}. Each system needs one for every item."
        )


class Measurer:
    """Measure recordings with the given tools.

    Arguments
    ---------
    tools : dict
        Tools by their names in :data:`MEASURES`: ``aligner`` with
        ``align(wav, sample_rate, text) -> list of Word``, which raises
        ValueError if the sound does not hold the words; ``asr`` with
        ``transcribe(wavs, sample_rate) -> list of str``; ``mos`` with
        ``predict(wavs, sample_rate) -> list of float``;
        ``emotion_features(wavs, lens) -> (features, lens)`` and
        ``speaker_encoder`` with ``embed(wavs) -> (B, E)``, both with a
        ``sample_rate``.
    skip_unusable : bool
        If true, a recording that is unreadable, silent or too short gets only
        a ``failure``. If false, an unreadable file is an error, and all
        possible measures of other recordings are taken.
    """

    def __init__(self, tools: Mapping[str, Any], skip_unusable=False):
        self.tools = dict(tools)
        self.skip_unusable = skip_unusable
        # Every system reads the same sentences.
        self._baseline = functools.lru_cache(maxsize=128)(self._make_baseline)

    def _make_baseline(self, neutral_wav, text, neutral_words):
        return NeutralBaseline(
            load_audio(neutral_wav),
            SAMPLE_RATE,
            text,
            self.tools["aligner"],
            list(neutral_words),
        )

    def measure(self, reading: Reading) -> Measurement:
        """Measure one recording.

        Arguments
        ---------
        reading : Reading
            The recording.

        Returns
        -------
        Measurement
            Its measurement.

        Raises
        ------
        ValueError
            If the file cannot be read as sound, unless such files are
            skipped.
        """
        wanted = set(measures_of(reading, self.tools))
        try:
            wav = load_audio(reading.wav, SAMPLE_RATE)
        except ValueError as error:
            if not self.skip_unusable:
                raise
            return Measurement(failure=str(error))
        found, track = {}, None
        failure = "silent" if wav.abs().max() < SILENCE else ""
        if "features" in wanted and not failure:
            try:
                found["features"] = self._features(reading.wav)
            except ValueError as error:  # too short
                failure = str(error)
        if wanted & {"change", "prosody"}:
            try:
                track = prosody.prosody_track(wav, SAMPLE_RATE)
            except ValueError as error:  # too short
                failure = failure or str(error)
        if failure and self.skip_unusable:
            return Measurement(failure=failure)
        if wanted & {"change", "words"}:
            found |= self._words(reading, wav, track, "change" in wanted)
        if "prosody" in wanted and track is not None:
            found["log_f0"] = torch.from_numpy(track.log_f0)
            found["energy"] = torch.from_numpy(track.energy)
        if "recognised" in wanted:
            asr = self.tools["asr"]
            (found["recognised"],) = asr.transcribe([wav], SAMPLE_RATE)
        if "mos" in wanted:
            (found["mos"],) = self.tools["mos"].predict([wav], SAMPLE_RATE)
        if "speaker" in wanted and not failure:
            with contextlib.suppress(ValueError):  # too short
                found["speaker"] = self._speaker(reading.wav)
        return Measurement(**found, failure=failure)

    def _words(self, reading, wav, track, with_change):
        """Find the words, and measure how they differ from the neutral ones."""
        found = {}
        if with_change:
            baseline = self._baseline(
                reading.neutral_wav, reading.text, reading.neutral_words
            )
        try:
            found["words"] = self.tools["aligner"].align(
                wav, SAMPLE_RATE, reading.text
            )
            if with_change and track is not None:
                # The words are carried over from the neutral reading, more
                # precisely than an aligner finds them.
                change = prosody.prosody_change(
                    baseline.track, baseline.words, track
                )
                found["change"] = change.round(5).tolist()
        except ValueError:  # the aligner does not find the words
            pass
        return found

    def _features(self, path):
        extractor = self.tools["emotion_features"]
        wav = load_audio(path, extractor.sample_rate)
        features, _ = extractor(wav[None], torch.ones(1))
        return features[0].float().cpu()

    def _speaker(self, path):
        encoder = self.tools["speaker_encoder"]
        wav = load_audio(path, encoder.sample_rate)
        return encoder.embed([wav])[0].float().cpu()


def measures_of(reading: Reading, tools: Iterable[str]) -> list[str]:
    """List the measures that are taken of a recording.

    Arguments
    ---------
    reading : Reading
        The recording.
    tools : iterable of str
        Names of the tools that are there.

    Returns
    -------
    list of str
        Names from :data:`MEASURES`.

    Example
    -------
    >>> measures_of(Reading("a.wav", "We won."), ["aligner", "asr"])
    ['words', 'recognised', 'prosody']
    """
    return [
        name
        for name, tool in MEASURES.items()
        if (tool is None or tool in tools)
        and (name in reading.only or not reading.only)
        and (name != "change" or reading.neutral_wav is not None)
    ]


class MeasuringPool:
    """Measure recordings in several processes, which stay for the next ones.

    Arguments
    ---------
    tools : dict
        Name from :data:`MEASURES` to a function that makes the tool (in
        hparams: ``!name:``), since every process needs its own, or None for
        no such tool. A finished tool (``!new:``) serves one worker only.
    workers : int
        Number of processes; 1 measures in this one.
    skip_unusable : bool
        See :class:`Measurer`.

    Raises
    ------
    ValueError
        If a tool has an unknown name, or is finished and there are several
        workers.

    Example
    -------
    >>> from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    ...     PocketsphinxAligner,
    ... )
    >>> folder = getfixture("tmp_path") / "measurements"
    >>> with MeasuringPool({"aligner": PocketsphinxAligner}) as pool:
    ...     pool.measure({}, folder)
    {}
    """

    def __init__(
        self,
        tools: Mapping[str, Callable[[], object] | object | None],
        workers: int = 1,
        skip_unusable: bool = False,
    ):
        self.tools = {k: tool for k, tool in tools.items() if tool is not None}
        self.workers = workers
        self.skip_unusable = skip_unusable
        for name, tool in self.tools.items():
            if name not in MEASURES.values():
                raise ValueError(
                    f"Unknown measuring tool {name!r}: known are "
                    f"{', '.join(sorted(set(MEASURES.values()) - {None}))}."
                )
            if workers > 1 and not _is_factory(tool):
                raise ValueError(
                    f"{name} is one finished tool for {workers} workers: give "
                    "its class (!name: in hparams) for each to make its own, "
                    "or set workers to 1."
                )
        self._versions = {k: _version(tool) for k, tool in self.tools.items()}
        self._pool: Any = None
        self._measurer: Any = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def measure(
        self,
        readings: Mapping[Id, Reading],
        folder: str | Path,
        description: str = "Measuring",
    ) -> dict[Id, Measurement]:
        """Measure recordings that were not measured before.

        Arguments
        ---------
        readings : dict
            Id to reading. Neighbours that share a sentence share its
            baseline.
        folder : str or Path
            Folder of the measurements' files.
        description : str
            Text of the progress bar, and for messages.

        Returns
        -------
        dict
            Id to measurement, in the order of `readings`.

        Raises
        ------
        FileNotFoundError
            If recordings are missing; nothing is measured then.
        ValueError
            If a file cannot be read as sound, unless such files are skipped.
        """
        check_recordings((r.wav for r in readings.values()), description)
        paths = {
            name: Path(folder) / f"{self._key(reading)}.safetensors"
            for name, reading in readings.items()
        }
        pending = {
            paths[name]: reading
            for name, reading in readings.items()
            if not paths[name].is_file()
        }
        if pending:
            for _ in tqdm(self._run(pending), description, len(pending)):
                pass
        return {name: _read(path) for name, path in paths.items()}

    def _run(self, pending: Mapping[Path, Reading]) -> Iterator[None]:
        """Measure and write; yields after each recording, in any order."""
        if self.workers > 1:
            if self._pool is None:
                self._pool = multiprocessing.Pool(
                    self.workers,
                    _start_worker,
                    (self.tools, self.skip_unusable),
                )
            yield from self._pool.imap_unordered(
                _measure_in_worker, pending.items(), chunksize=4
            )
            return
        if self._measurer is None:
            self._measurer = _make_measurer(self.tools, self.skip_unusable)
        for path, reading in pending.items():
            _write(path, self._measurer.measure(reading))
            yield

    def _key(self, reading: Reading) -> str:
        """Hash everything that changes the measurement."""
        measures = measures_of(reading, self.tools)
        used = {MEASURES[name] for name in measures} - {None}
        content = [
            file_fingerprint(reading.wav),
            reading.text,
            measures,
            {name: self._versions[name] for name in sorted(used)},
            self.skip_unusable,
            _FORMAT,
        ]
        if {"change", "prosody"} & set(measures):
            content.append(inspect.getsource(prosody))
        if "change" in measures:
            content += [
                _fingerprint(reading.neutral_wav),
                [(w.text, w.start, w.end) for w in reading.neutral_words],
            ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def make_tool(tool: Any) -> Any:
    """Make a tool unless it is finished.

    Arguments
    ---------
    tool : callable or object
        A class, a function or a partial of one (``!name:``), or a tool.

    Returns
    -------
    object
        The tool.

    Example
    -------
    >>> make_tool(functools.partial(dict, a=1)), make_tool({"a": 2})
    ({'a': 1}, {'a': 2})
    """
    return tool() if _is_factory(tool) else tool


def _is_factory(tool) -> bool:
    """Tell a class, function or partial from a finished tool."""
    return (
        isinstance(tool, functools.partial)
        or inspect.isclass(tool)
        or inspect.isroutine(tool)
    )


def _make_measurer(tools, skip_unusable) -> Measurer:
    tools = {name: make_tool(tool) for name, tool in tools.items()}
    return Measurer(tools, skip_unusable)


_worker: dict[str, Callable[[], Measurer]] = {}


def _start_worker(tools, skip_unusable) -> None:
    """Prepare this process. An error here would start it again for ever."""
    torch.set_num_threads(1)  # one for each process
    _worker["measurer"] = functools.cache(
        functools.partial(_make_measurer, tools, skip_unusable)
    )


def _measure_in_worker(item: tuple[Path, Reading]) -> None:
    path, reading = item
    _write(path, _worker["measurer"]().measure(reading))


def _version(tool) -> list[str]:
    """Describe a tool by its options and source code."""
    maker = getattr(tool, "func", tool)
    maker = maker if _is_factory(maker) else type(maker)
    return [_describe(tool), inspect.getsource(inspect.getmodule(maker))]


def _describe(value: Any) -> str:
    """Describe a value like repr, but equally in every process."""
    if isinstance(value, functools.partial):
        options = {k: _describe(v) for k, v in sorted(value.keywords.items())}
        return f"{_describe(value.func)}{value.args}{options}"
    if _is_factory(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (str, int, float, type(None), list, tuple, dict)):
        return repr(value)
    state = [getattr(value, name, "") for name in ("revision", "config")]
    return f"{_describe(type(value))}{state}"


_fingerprint = functools.lru_cache(maxsize=4096)(file_fingerprint)


def _write(path: Path, measurement: Measurement) -> None:
    """Write a measurement as a safetensors file."""
    content: dict[str, Any] = dict(vars(measurement))
    tensors = {name: content.pop(name) for name in _TENSORS}
    content["words"] = measurement.words and [
        [w.text, w.start, w.end, w.confidence] for w in measurement.words
    ]
    with atomic_path(path) as temporary:
        save_file(
            {k: t.contiguous() for k, t in tensors.items() if t is not None},
            temporary,
            metadata={"measurement": json.dumps(content)},
        )


def _read(path: Path) -> Measurement:
    """Read what `_write` wrote."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["measurement"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    words = content.pop("words")
    words = words and [Word(*word) for word in words]
    return Measurement(words=words, **content, **tensors)
