"""Features of the pretraining corpus, and random segments of them.

python pretraining_data.py CORPUS_FOLDER

writes ``mel.npy`` (all log-mel frames of the corpus, 50 Hz, one after the
other, float16) beside ``pretraining.jsonl``. The recipes of the mini backbone
read the corpus through :class:`PretrainingCorpus`.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

from speechbrain_emofilm.integrations.hibari import UNITS
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import soundfile as sf
import torch
from tqdm import tqdm

HOP = 480
N_MELS = 80
#: Utterances at the end of the corpus that no training sees; a quarter of the
#: corpus where that is less.
N_VALID = 96


def _mel(path) -> np.ndarray:
    torch.set_num_threads(1)
    wav, _ = sf.read(path, dtype="float32")
    wav = wav[: len(wav) // (2 * HOP) * 2 * HOP]
    return log_mel(torch.from_numpy(wav)[None])[0].numpy().astype(np.float16)


def extract_features(folder: Path, workers: int = 2) -> None:
    """Write ``mel.npy`` of a pretraining corpus."""
    rows = read_rows(folder)
    paths = [folder / row["wav"] for row in rows]
    frames = [frames_of(row) for row in rows]
    with atomic_path(folder / "mel.npy") as temporary:
        out = np.lib.format.open_memmap(
            temporary, "w+", np.float16, (sum(frames), N_MELS)
        )
        at = 0
        with multiprocessing.Pool(workers) as pool:
            mels = pool.imap(_mel, paths, chunksize=16)
            for mel in tqdm(mels, total=len(paths)):
                out[at : at + len(mel)] = mel
                at += len(mel)
        if at != sum(frames):
            raise ValueError(
                f"{folder} holds {at} frames, its list says {sum(frames)}: "
                "make the corpus again."
            )
        out.flush()


def read_rows(folder: Path) -> list[dict]:
    """The corpus's utterances."""
    with open(folder / "pretraining.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def frames_of(row: dict) -> int:
    """Mel frames at 50 Hz: an even number, two per speech token."""
    return int(round(row["duration"] * 24000)) // (2 * HOP) * 2


class PretrainingCorpus:
    """Utterances of the pretraining corpus with their features.

    Arguments
    ---------
    folder : str or Path
        As written by ``make_pretraining_corpus.py`` and this file.

    Attributes
    ----------
    rows : list of dict
        The utterances (see ``make_pretraining_corpus.py``).
    speakers : list of str
    train, valid : range
        Indices into ``rows``.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.rows = read_rows(self.folder)
        path = self.folder / "mel.npy"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: run 'python pretraining_data.py "
                f"{self.folder}' first."
            )
        self._mel = np.load(path, mmap_mode="r")
        self._decoded = None
        edges = np.cumsum([0] + [frames_of(row) for row in self.rows])
        if edges[-1] != len(self._mel):
            raise ValueError(
                f"{path} has {len(self._mel)} frames, not the {edges[-1]} of "
                f"pretraining.jsonl: run 'python pretraining_data.py "
                f"{self.folder}' again."
            )
        self._edges = edges
        self.speakers = sorted({row["speaker"] for row in self.rows})
        n_train = len(self.rows) - min(N_VALID, len(self.rows) // 4)
        self.train = range(n_train)
        self.valid = range(n_train, len(self.rows))
        self._speaker_f0 = self._median_log_f0()

    def _median_log_f0(self) -> dict[str, float]:
        values = {speaker: [] for speaker in self.speakers}
        for row in self.rows[:800]:
            f0 = np.asarray(row["f0"], np.float32)
            values[row["speaker"]].append(np.log(f0[f0 > 0]))
        return {
            speaker: float(np.median(np.concatenate(parts)))
            for speaker, parts in values.items()
        }

    def n_frames(self, index: int) -> int:
        """Mel frames of an utterance."""
        return int(self._edges[index + 1] - self._edges[index])

    def with_length(self, indices: Iterable[int], n_frames: int) -> list[int]:
        """Those of the utterances that have `n_frames` mel frames.

        Raises
        ------
        ValueError
            If there is none.
        """
        long_enough = [i for i in indices if self.n_frames(i) >= n_frames]
        if not long_enough:
            raise ValueError(
                f"{self.folder}: no utterance has the {n_frames} frames of a "
                "training segment: make the corpus larger, or the segments "
                "shorter."
            )
        return long_enough

    def mel(self, index: int) -> np.ndarray:
        """(N, 80) float32 log-mel of an utterance."""
        first, last = self._edges[index], self._edges[index + 1]
        return np.asarray(self._mel[first:last], np.float32)

    def decoded_mel(self, index: int) -> np.ndarray:
        """(N, 80) float32 log-mel as the token decoder makes it; needs
        ``decoded_mel.npy`` (recipes/MiniESD/token_decoder).
        """
        if self._decoded is None:
            path = self.folder / "decoded_mel.npy"
            self._decoded = np.load(path, mmap_mode="r")
        first, last = self._edges[index], self._edges[index + 1]
        return np.asarray(self._decoded[first:last], np.float32)

    def speaker(self, index: int) -> int:
        """Number of the speaker."""
        return self.speakers.index(self.rows[index]["speaker"])

    def f0(self, index: int) -> np.ndarray:
        """(N,) F0 in Hz, 0 = unvoiced."""
        f0 = np.zeros(self.n_frames(index), np.float32)
        known = np.asarray(self.rows[index]["f0"], np.float32)[: len(f0)]
        f0[: len(known)] = known
        return f0

    def relative_log_f0(self, index: int) -> np.ndarray:
        """(N,) log F0 minus the speaker's median, NaN = unvoiced."""
        f0 = self.f0(index)
        offset = self._speaker_f0[self.rows[index]["speaker"]]
        with np.errstate(divide="ignore"):
            return np.where(f0 > 0, np.log(f0) - offset, np.nan)

    def wav(self, index: int, first_frame: int = 0, n_frames: int = -1):
        """(T,) float32 wave from a mel frame on."""
        wav, _ = sf.read(
            self.folder / self.rows[index]["wav"],
            start=first_frame * HOP,
            frames=n_frames * HOP if n_frames > 0 else -1,
            dtype="float32",
        )
        return wav

    def token_units(self, index: int) -> np.ndarray:
        """(N / 2,) index into the utterance's unit list at each speech
        token's centre, -1 in silence before the first unit.
        """
        return self._units_at(index, 25, self.n_frames(index) // 2)

    def token_phonemes(self, index: int) -> np.ndarray:
        """(N / 2,) symbol (index into ``UNITS``) of each speech token, 0 (a
        space) in silence. A stress mark counts as the vowel behind it.
        """
        return self._phonemes(index, self.token_units(index))

    def frame_phonemes(self, index: int) -> np.ndarray:
        """(N,) the same of each mel frame."""
        units = self._units_at(index, 50, self.n_frames(index))
        return self._phonemes(index, units)

    def _units_at(self, index, rate, size):
        units = self.rows[index]["units"]
        starts = np.array([unit[1] for unit in units])
        ends = np.array([unit[2] for unit in units])
        centres = (np.arange(size) + 0.5) / rate
        at = np.searchsorted(starts, centres, side="right") - 1
        return np.where((at >= 0) & (centres < ends[-1] + 0.04), at, -1)

    def _phonemes(self, index, units):
        symbols = [unit[0] for unit in self.rows[index]["units"]]
        spoken = [
            behind if symbol in "ˈˌ" else symbol
            for symbol, behind in zip(symbols, symbols[1:] + [" "])
        ]
        classes = np.array([UNITS.index(symbol) for symbol in spoken])
        return np.where(units >= 0, classes[units], 0)

    def normalisation(self) -> dict[str, torch.Tensor]:
        """Mean and standard deviation of each mel channel."""
        sample = np.asarray(self._mel[::23], np.float32)
        return {
            "mean": torch.from_numpy(sample.mean(0)),
            "std": torch.from_numpy(sample.std(0)),
        }

    def x_vectors(self, n_utterances: int = 100) -> dict[str, torch.Tensor]:
        """A vector (160,) for each speaker.

        Mean and standard deviation of the log-mel over the speaker's first
        utterances, relative to the mean over all speakers: what the mini
        world has in place of a speaker verification network.
        """
        statistics = {}
        for speaker in self.speakers:
            chosen = [
                index
                for index, row in enumerate(self.rows)
                if row["speaker"] == speaker
            ][:n_utterances]
            frames = np.concatenate([self.mel(index) for index in chosen])
            statistics[speaker] = torch.from_numpy(
                np.concatenate([frames.mean(0), frames.std(0)])
            )
        centre = torch.stack(list(statistics.values())).mean(0)
        return {name: value - centre for name, value in statistics.items()}


class TokenSegments(torch.utils.data.Dataset):
    """Random segments of tokens, mel and speaker.

    Arguments
    ---------
    corpus : PretrainingCorpus
        Holds the mels; its folder holds ``tokens.npy``.
    indices : iterable of int
        The utterances to draw from.
    n_items : int
        Length of the data set: segments per epoch.
    n_tokens : int
        Speech tokens of a segment.
    fixed : bool
        Whether item i is always the same segment.

    Raises
    ------
    FileNotFoundError
        If the corpus has no tokens.
    ValueError
        If the tokens are of another corpus, or all utterances are too short.
    """

    def __init__(self, corpus, indices, n_items, n_tokens, fixed=False):
        self.corpus, self.fixed = corpus, fixed
        self.n_items, self.n_tokens = n_items, n_tokens
        self.indices = corpus.with_length(indices, 2 * n_tokens)
        lengths = [corpus.n_frames(i) // 2 for i in range(len(corpus.rows))]
        self.edges = np.cumsum([0] + lengths)
        self.tokens = self._read_tokens(corpus.folder / "tokens.npy")
        x_vectors = corpus.x_vectors()
        self.x_vectors = [x_vectors[name] for name in corpus.speakers]

    def _read_tokens(self, path):
        """All tokens of the corpus, one utterance after the other."""
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: run recipes/MiniESD/speech_tokenizer "
                "first."
            )
        tokens = np.load(path, mmap_mode="r")
        if len(tokens) != self.edges[-1]:
            raise ValueError(
                f"{path} has {len(tokens)} tokens, its corpus has "
                f"{self.edges[-1]}: run recipes/MiniESD/speech_tokenizer again."
            )
        return tokens

    def __len__(self):
        return self.n_items

    def __getitem__(self, item):
        return self.segment(*self.draw(item))

    def draw(self, item):
        """An utterance, and the first token of a segment in it."""
        generator = torch.Generator().manual_seed(item) if self.fixed else None
        index, first = torch.randint(
            0, 2**31 - 1, (2,), generator=generator
        ).tolist()
        index = self.indices[index % len(self.indices)]
        return index, first % (
            self.corpus.n_frames(index) // 2 - self.n_tokens + 1
        )

    def segment(self, index, first):
        """Its tokens, mel and speaker."""
        at = self.edges[index] + first
        tokens = self.tokens[at : at + self.n_tokens].astype(np.int64)
        mel = self.corpus.mel(index)[2 * first : 2 * (first + self.n_tokens)]
        return {
            "tokens": torch.from_numpy(tokens),
            "mel": torch.from_numpy(mel),
            "x_vector": self.x_vectors[self.corpus.speaker(index)],
        }


class SpeechSegments(TokenSegments):
    """The same with the wave, F0 and phonemes."""

    def segment(self, index, first):
        """Tokens, mel, speaker, wave, and F0 and phoneme of each 20 ms."""
        frames = slice(2 * first, 2 * (first + self.n_tokens))
        corpus = self.corpus
        wav = corpus.wav(index, 2 * first, 2 * self.n_tokens)
        return {
            **super().segment(index, first),
            "wav": torch.from_numpy(wav),
            "f0": torch.from_numpy(corpus.f0(index)[frames]),
            "phonemes": torch.from_numpy(corpus.frame_phonemes(index)[frames]),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus_folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    extract_features(args.corpus_folder, args.workers)
