"""Errors of forced aligners, compared with the true word times.

The corpora are MiniESD, whose generator knows the word times to about 25 ms,
and, if an espeak-ng library is found (``pip install espeakng-loader`` or the
system's), sentences read by espeak-ng, whose times are exact. Prints JSON: for
each corpus and aligner the median and the 90th percentile of the absolute error
of word starts and ends in ms, the number of words, and the number of utterances
that could not be aligned. ``proportional`` is a baseline that gives each letter
the same time. ``not_run`` tells why an aligner was not run.

    python benchmarks/alignment.py
    python benchmarks/alignment.py --data_folder /path/to/MiniESD
"""

import ctypes
import ctypes.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "MiniESD"))

import speechbrain_emofilm  # noqa: E402, F401  first: makes torchaudio importable
from speechbrain_emofilm.dataio.alignments import (  # noqa: E402
    find_textgrid,
    read_alignment,
)
from speechbrain_emofilm.dataio.audio import load_audio  # noqa: E402
from speechbrain_emofilm.dataio.text import split_words  # noqa: E402
from speechbrain_emofilm.integrations.aligner.base import (  # noqa: E402
    proportional_alignment,
)

import numpy as np  # noqa: E402
from common.reporting import make_parser  # noqa: E402
from hyperpyyaml import load_hyperpyyaml  # noqa: E402
from make_corpus import make_corpus  # noqa: E402
from sentences import TEST  # noqa: E402

SAMPLE_RATE = 16000
#: A small MiniESD with all voices, emotions and kinds of sentences.
MINIESD = dict(n_train=2, n_evaluation=2, n_test=4, n_transitions=4)
#: Constants of espeak-ng's API: event types, synchronous mode, encoding.
WORD_EVENT, END_OF_LIST, SYNCHRONOUS, UTF8 = 1, 0, 2, 1


@dataclass(frozen=True)
class Spoken:
    """Speech with its true word times."""

    wav: np.ndarray  # (T,)
    sample_rate: int
    words: list
    starts: np.ndarray  # seconds
    ends: np.ndarray  # seconds, NaN if unknown


def miniesd(folder: Path) -> Iterator[Spoken]:
    """Read the utterances of MiniESD."""
    for wav in sorted(folder.glob("**/*.wav")):
        speaker = wav.stem.partition("_")[0]
        words = read_alignment(
            find_textgrid(folder / "textgrids", wav.stem, speaker)
        )
        yield Spoken(
            load_audio(wav, SAMPLE_RATE).numpy(),
            SAMPLE_RATE,
            [word.text for word in words],
            np.array([word.start for word in words]),
            np.array([word.end for word in words]),
        )


class Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


class Espeak:
    """Speech synthesis with espeak-ng, which reports word starts."""

    def __init__(self):
        library, data = self._find()
        self.library = ctypes.CDLL(library)
        self.sample_rate = self.library.espeak_Initialize(
            SYNCHRONOUS, 0, data, 0
        )
        self.library.espeak_SetVoiceByName(b"en-us")
        signature = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_short),
            ctypes.c_int,
            ctypes.POINTER(Event),
        )
        self._callback = signature(self._receive)  # keeps it alive
        self.library.espeak_SetSynthCallback(self._callback)

    @staticmethod
    def _find() -> tuple:
        try:
            import espeakng_loader
        except ImportError:
            library = ctypes.util.find_library("espeak-ng")
            if library is None:
                raise FileNotFoundError(
                    "no espeak-ng library: pip install espeakng-loader"
                ) from None
            return library, None
        data = espeakng_loader.get_data_path()
        return espeakng_loader.get_library_path(), str(data).encode()

    def _receive(self, samples, n_samples, events) -> int:
        if samples and n_samples:
            piece = np.ctypeslib.as_array(samples, (n_samples,))
            self._pieces.append(piece.copy())
        for event in iter_events(events):
            self._starts.append((event.text_position, event.sample))
        return 0

    def speak(self, text: str) -> Spoken:
        """Synthesise a sentence without pauses."""
        self._pieces, self._starts = [], []
        content = text.encode()
        self.library.espeak_Synth(
            content, len(content) + 1, 0, 1, 0, UTF8, None, None
        )
        wav = np.concatenate(self._pieces) / 32768
        words = [word.text for word in split_words(text)]
        starts = np.array([s for _, s in sorted(set(self._starts))], float)
        if len(starts) != len(words):
            raise ValueError(
                f"espeak-ng reads {text!r} with other words: skip the sentence."
            )
        starts /= self.sample_rate
        ends = np.append(starts[1:], np.nan)
        return Spoken(wav, self.sample_rate, words, starts, ends)


def iter_events(events) -> Iterator[Event]:
    """Iterate over the word events of espeak-ng's list."""
    index = 0
    while events[index].type != END_OF_LIST:
        if events[index].type == WORD_EVENT:
            yield events[index]
        index += 1


def espeak_sentences() -> Iterator[Spoken]:
    """Synthesise the test sentences of MiniESD with espeak-ng."""
    espeak = Espeak()
    for text in TEST:
        try:
            yield espeak.speak(text)
        except ValueError:  # two words read as one, such as "of the"
            continue


def percentiles(errors: list) -> dict:
    """Return median and 90th percentile of absolute errors, in ms."""
    errors = np.concatenate(errors) if errors else np.array([])
    errors = 1000 * np.abs(errors[np.isfinite(errors)])
    if not len(errors):
        return {}
    return {
        "median": round(float(np.median(errors)), 1),
        "p90": round(float(np.percentile(errors, 90)), 1),
    }


def evaluate(align: Callable, corpus: list) -> dict:
    """Align a corpus; return the errors.

    `align` maps wav, sample rate and words to aligned words.
    """
    starts, ends, failed = [], [], 0
    for spoken in corpus:
        try:
            found = align(spoken.wav, spoken.sample_rate, spoken.words)
        except ValueError:
            failed += 1
            continue
        starts.append([word.start for word in found] - spoken.starts)
        ends.append([word.end for word in found] - spoken.ends)
    return {
        "start_ms": percentiles(starts),
        "end_ms": percentiles(ends),
        "n_words": sum(map(len, starts)),
        "n_utterances": len(corpus),
        "n_failed": failed,
    }


def load_aligners(names: list) -> tuple[dict, dict]:
    """Create the aligners of hparams/aligner.

    Returns functions of wav, sample rate and words, by name, and the reason
    for each aligner that is not installed.
    """
    aligners = {
        "proportional": lambda wav, sample_rate, words: proportional_alignment(
            words, len(wav) / sample_rate
        )
    }
    not_run = {}
    for name in names:
        text = f"aligner: !include:{ROOT}/hparams/aligner/{name}.yaml"
        try:
            aligner = load_hyperpyyaml(text)["aligner"]()
        except (ImportError, FileNotFoundError) as error:
            not_run[name] = str(error)
            continue
        aligners[name] = lambda wav, sample_rate, words, aligner=aligner: (
            aligner.align(wav, sample_rate, " ".join(words))
        )
    return aligners, not_run


def main() -> None:
    """Measure and print the errors."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data_folder",
        type=Path,
        help="MiniESD; default: create a small one",
    )
    parser.add_argument(
        "--aligners", nargs="+", default=["pocketsphinx", "mfa"]
    )
    options = parser.parse_args()
    aligners, result = load_aligners(options.aligners)
    result = {"not_run": result}
    corpora = {}
    with tempfile.TemporaryDirectory() as folder:
        data_folder = options.data_folder or make_corpus(
            Path(folder) / "MiniESD", **MINIESD
        )
        corpora["MiniESD"] = list(miniesd(data_folder))
    try:
        corpora["espeak-ng"] = list(espeak_sentences())
    except FileNotFoundError as error:
        result["not_run"]["espeak-ng"] = str(error)
    for corpus, items in corpora.items():
        result[corpus] = {
            name: evaluate(align, items) for name, align in aligners.items()
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
