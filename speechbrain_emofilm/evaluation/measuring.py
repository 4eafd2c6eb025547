"""Measures many readings of sentences, in parallel, each only once.

A reading is measured against the same speaker's neutral reading of the same
sentence. What is measured is kept in a JSON file under a key made of the
sounds, the words, the measuring tools' options and the source of the code
that measures, so that nothing outdated is reused and nothing is measured
twice.
"""

import functools
import hashlib
import inspect
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.metrics.control import NeutralBaseline
from speechbrain_emofilm.processing import prosody
from speechbrain_emofilm.processing.mel import SAMPLE_RATE
from speechbrain_emofilm.utils.files import (
    file_fingerprint,
    read_json,
    write_json,
)

import torch
from tqdm import tqdm

#: Readings between two savings of the measurements.
SAVE_INTERVAL = 25


@dataclass(frozen=True)
class Reading:
    """A sentence read aloud, and the neutral reading to compare it with.

    Arguments
    ---------
    wav : str
        Audio file of the reading.
    text : str
        The sentence.
    neutral_wav : str
        Audio file of the neutral reading.
    neutral_words : tuple of Word
        When each word is spoken in it.
    prosody_only : bool
        Neither recognise it nor predict its naturalness.
    """

    wav: str
    text: str
    neutral_wav: str
    neutral_words: tuple[Word, ...]
    prosody_only: bool = False


@dataclass(frozen=True)
class Measurement:
    """What was measured of a reading.

    Arguments
    ---------
    change : list of list of float or None
        How each word differs from the neutral reading, (W, 6) as
        :func:`~speechbrain_emofilm.processing.prosody.prosody_change` gives it;
        None if the words were not found in the sound.
    recognised : str or None
        What a recogniser understood; None without one.
    mos : float or None
        Predicted mean opinion score, 1 to 5; None without a predictor.
    """

    change: list[list[float]] | None
    recognised: str | None = None
    mos: float | None = None


class ReadingMeasurer:
    """Measures readings with the tools it is given.

    Arguments
    ---------
    aligner : object
        ``align(wav, sample_rate, text) -> list of Word``, which raises
        ValueError where the sound does not hold the words.
    asr : object, optional
        ``transcribe(wavs, sample_rate) -> list of str``.
    mos : object, optional
        ``predict(wavs, sample_rate) -> list of float``.
    """

    def __init__(self, aligner, asr=None, mos=None):
        self.aligner = aligner
        self.asr = asr
        self.mos = mos
        # Every system reads the same sentences.
        self._baseline = functools.lru_cache(maxsize=128)(self._make_baseline)

    def _make_baseline(self, neutral_wav, text, neutral_words):
        wav = load_audio(neutral_wav)
        return NeutralBaseline(
            wav, SAMPLE_RATE, text, self.aligner, list(neutral_words)
        )

    def measure(self, reading: Reading) -> Measurement:
        """Measures one reading.

        Arguments
        ---------
        reading : Reading
            The reading.
        """
        wav = load_audio(reading.wav)
        baseline = self._baseline(
            reading.neutral_wav, reading.text, reading.neutral_words
        )
        try:
            change = baseline.change(wav, SAMPLE_RATE)
        except ValueError:  # the aligner does not find the words
            change = None
        recognised = mos = None
        if self.asr is not None and not reading.prosody_only:
            (recognised,) = self.asr.transcribe([wav], SAMPLE_RATE)
        if self.mos is not None and not reading.prosody_only:
            (mos,) = self.mos.predict([wav], SAMPLE_RATE)
        if change is not None:
            change = change.round(5).tolist()
        return Measurement(change, recognised, mos)


class MeasuringPool:
    """Measures readings in several processes, which stay for the next ones.

    Arguments
    ---------
    tools : dict
        The arguments of :class:`ReadingMeasurer`, each as a function that
        makes it (in hparams: ``!name:``), since every process needs its own.
    workers : int
        Processes; 1 measures in this one.

    Example
    -------
    >>> from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    ...     PocketsphinxAligner,
    ... )
    >>> cache_file = getfixture("tmp_path") / "measurements.json"
    >>> with MeasuringPool({"aligner": PocketsphinxAligner}) as pool:
    ...     pool.measure({}, cache_file)
    {}
    """

    def __init__(
        self, tools: Mapping[str, Callable[[], object]], workers: int = 1
    ):
        self.tools = dict(tools)
        self.workers = workers
        self.version = _version(self.tools)
        self._pool = None
        self._measurer = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def measure(
        self,
        readings: Mapping[str, Reading],
        cache_file: str | Path,
        description: str = "Measuring",
    ) -> dict[str, Measurement]:
        """Measures readings that were not measured before.

        Arguments
        ---------
        readings : dict
            Id to reading. Neighbours that share a sentence share its
            baseline.
        cache_file : str or Path
            JSON file of what has been measured; made and extended.
        description : str
            For the progress bar.

        Returns
        -------
        dict
            Id to measurement, in the order of `readings`.

        Raises
        ------
        ValueError
            If a file cannot be read as sound.
        """
        cache_file = Path(cache_file)
        known = read_json(cache_file) if cache_file.is_file() else {}
        keys = {
            name: _key(reading, self.version)
            for name, reading in readings.items()
        }
        pending = [
            (name, reading)
            for name, reading in readings.items()
            if known.get(name, {}).get("key") != keys[name]
        ]
        if pending:
            self._measure_pending(pending, keys, known, cache_file, description)
        return {name: _measurement(known[name]) for name in readings}

    def _measure_pending(self, pending, keys, known, cache_file, description):
        """Extends what is known, saving now and then."""
        progress = tqdm(self._results(pending), description, len(pending))
        try:
            for n_done, (name, measurement) in enumerate(progress, start=1):
                known[name] = {"key": keys[name], **asdict(measurement)}
                if n_done % SAVE_INTERVAL == 0:
                    write_json(cache_file, known)
        finally:  # also what was measured before an interrupt
            write_json(cache_file, known)

    def _results(self, pending):
        """Yields (id, measurement), in any order."""
        if self.workers > 1:
            if self._pool is None:
                self._pool = multiprocessing.Pool(
                    self.workers, _start_worker, (self.tools,)
                )
            yield from self._pool.imap_unordered(
                _measure_in_worker, pending, chunksize=4
            )
            return
        if self._measurer is None:
            self._measurer = _make_measurer(self.tools)
        for name, reading in pending:
            yield name, self._measurer.measure(reading)


def _measurement(entry: Mapping) -> Measurement:
    return Measurement(**{k: v for k, v in entry.items() if k != "key"})


def _make_measurer(tools: Mapping[str, Callable[[], object]]):
    return ReadingMeasurer(**{name: make() for name, make in tools.items()})


_worker: dict[str, ReadingMeasurer] = {}


def _start_worker(tools: Mapping[str, Callable[[], object]]) -> None:
    torch.set_num_threads(1)  # one for each process
    _worker["measurer"] = _make_measurer(tools)


def _measure_in_worker(item: tuple[str, Reading]) -> tuple[str, Measurement]:
    name, reading = item
    return name, _worker["measurer"].measure(reading)


def _version(tools: Mapping[str, Callable[[], object]]) -> str:
    """Names the way of measuring: tools, options and source code."""
    parts = [inspect.getsource(prosody)]
    for name, make in sorted(tools.items()):
        parts += [name, _describe(make), inspect.getsource(_module(make))]
    return "\n".join(parts)


def _module(make: Callable):
    return inspect.getmodule(getattr(make, "func", make))


def _describe(value: object) -> str:
    """Like repr, but the same in every process."""
    if isinstance(value, functools.partial):
        options = {k: _describe(v) for k, v in sorted(value.keywords.items())}
        return f"{_describe(value.func)}{value.args}{options}"
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


_fingerprint = functools.lru_cache(maxsize=4096)(file_fingerprint)


def _key(reading: Reading, version: str) -> str:
    content: Sequence = [
        file_fingerprint(reading.wav),
        reading.text,
        _fingerprint(reading.neutral_wav),
        [(w.text, w.start, w.end) for w in reading.neutral_words],
        reading.prosody_only,
        version,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
