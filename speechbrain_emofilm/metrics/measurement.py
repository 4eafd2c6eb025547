"""Measures many readings of sentences, in parallel, each only once.

A reading is measured against the same speaker's neutral reading of the same
sentence. What is measured is kept in a JSON file under a key made of the
sounds, the words, the measuring tools' options and the source of the code
that measures, so that nothing outdated is reused and nothing is measured
twice.

Authors
 * speechbrain-emofilm contributors, 2026
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
from speechbrain_emofilm.dataio.speech_tokens import file_fingerprint
from speechbrain_emofilm.metrics import prosody
from speechbrain_emofilm.metrics.control import NeutralBaseline
from speechbrain_emofilm.processing.mel import SAMPLE_RATE
from speechbrain_emofilm.utils.files import read_json, write_json

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
    """

    wav: str
    text: str
    neutral_wav: str
    neutral_words: tuple[Word, ...]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a reading.

    Arguments
    ---------
    change : list of list of float or None
        How each word differs from the neutral reading, (W, 6) as
        :func:`~speechbrain_emofilm.metrics.prosody.prosody_change` gives it;
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
        self._baseline = functools.lru_cache(maxsize=16)(self._make_baseline)

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

        Returns
        -------
        Measurement
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
        if self.asr is not None:
            (recognised,) = self.asr.transcribe([wav], SAMPLE_RATE)
        if self.mos is not None:
            (mos,) = self.mos.predict([wav], SAMPLE_RATE)
        if change is not None:
            change = change.round(5).tolist()
        return Measurement(change, recognised, mos)


def measure_readings(
    readings: Mapping[str, Reading],
    tools: Mapping[str, Callable[[], object]],
    cache_file: str | Path,
    workers: int = 1,
    description: str = "Measuring",
) -> dict[str, Measurement]:
    """Measures readings that were not measured before.

    Arguments
    ---------
    readings : dict
        Id to reading. Neighbours that share a sentence share its baseline.
    tools : dict
        The arguments of :class:`ReadingMeasurer`, each as a function that
        makes it (in hparams: ``!name:``), since every process needs its own.
    cache_file : str or Path
        JSON file of what has been measured; made and extended.
    workers : int
        Processes; 1 measures in this one.
    description : str
        For the progress bar.

    Returns
    -------
    dict
        Id to measurement, in the order of `readings`.
    """
    cache_file = Path(cache_file)
    known = read_json(cache_file) if cache_file.is_file() else {}
    version = _version(tools)
    keys = {name: _key(reading, version) for name, reading in readings.items()}
    pending = [
        (name, reading)
        for name, reading in readings.items()
        if known.get(name, {}).get("key") != keys[name]
    ]
    measured = _measure_pending(pending, tools, workers)
    progress = tqdm(measured, description, len(pending), disable=not pending)
    try:
        for n_done, (name, measurement) in enumerate(progress, start=1):
            known[name] = {"key": keys[name], **asdict(measurement)}
            if n_done % SAVE_INTERVAL == 0:
                write_json(cache_file, known)
    finally:  # also what was measured before an interrupt
        if pending:
            write_json(cache_file, known)
    return {
        name: Measurement(
            **{k: v for k, v in known[name].items() if k != "key"}
        )
        for name in readings
    }


def _measure_pending(pending, tools, workers):
    """Yields (id, measurement), in any order."""
    if not pending:
        return
    if workers <= 1:
        _start_worker(tools)
        yield from map(_measure, pending)
        return
    # Spawned: a forked child of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (dict(tools),)) as pool:
        yield from pool.imap_unordered(_measure, pending, chunksize=4)


_worker: dict[str, ReadingMeasurer] = {}


def _start_worker(tools: Mapping[str, Callable[[], object]]) -> None:
    torch.set_num_threads(1)
    made = {name: make() for name, make in tools.items()}
    _worker["measurer"] = ReadingMeasurer(**made)


def _measure(item: tuple[str, Reading]) -> tuple[str, Measurement]:
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
        version,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
