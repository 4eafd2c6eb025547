"""Features of the pretraining corpus, and random segments of them.

python pretraining_data.py CORPUS_FOLDER

Writes ``mel.npy`` (the log-mel frames of all utterances in order, 50 Hz,
float16) next to ``pretraining.jsonl``. The mini backbone's recipes read the
corpus through :class:`PretrainingCorpus`.
"""

import argparse
import functools
import json
import logging
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

from speechbrain_emofilm.integrations.hibari import N_CUES, UNITS
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.files import atomic_path, write_json

import numpy as np
import soundfile as sf
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

logger = logging.getLogger(__name__)

HOP = 480
N_MELS = 80
#: Number of validation utterances, taken from the end of the corpus; at most a
#: quarter of the corpus.
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
                f"{folder} holds {at} frames, but pretraining.jsonl lists "
                f"{sum(frames)}: create the corpus again."
            )
        out.flush()


def read_rows(folder: Path) -> list[dict]:
    """Read the list of utterances."""
    with open(folder / "pretraining.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def frames_of(row: dict) -> int:
    """Count the mel frames at 50 Hz, two for each speech token."""
    return int(round(row["duration"] * 24000)) // (2 * HOP) * 2


class PretrainingCorpus:
    """Utterances of the pretraining corpus with their features.

    ``rows`` lists the utterances as ``make_pretraining_corpus.py`` wrote them;
    ``train`` and ``valid`` are ranges of indices into it.
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
        """Count the mel frames of an utterance."""
        return int(self._edges[index + 1] - self._edges[index])

    def with_length(self, indices: Iterable[int], n_frames: int) -> list[int]:
        """Select the utterances with at least `n_frames` mel frames."""
        long_enough = [i for i in indices if self.n_frames(i) >= n_frames]
        if not long_enough:
            raise ValueError(
                f"{self.folder}: no utterance has the {n_frames} frames of a "
                "training segment: create a larger corpus, or set a smaller "
                "segment_tokens or segment_frames."
            )
        return long_enough

    def mel(self, index: int) -> np.ndarray:
        """Return the log-mel (N, 80) of an utterance, float32."""
        first, last = self._edges[index], self._edges[index + 1]
        return np.asarray(self._mel[first:last], np.float32)

    def decoded_mel(self, index: int) -> np.ndarray:
        """Return the log-mel (N, 80) that the token decoder predicts."""
        first, last = self._edges[index], self._edges[index + 1]
        return np.asarray(self._decoded[first:last], np.float32)

    @functools.cached_property
    def _decoded(self):
        return np.load(self.folder / "decoded_mel.npy", mmap_mode="r")

    def tokens(self, index: int) -> np.ndarray:
        """Return the speech tokens (N / 2,) of an utterance, int64."""
        first, last = self._edges[index] // 2, self._edges[index + 1] // 2
        return self._tokens[first:last].astype(np.int64)

    @functools.cached_property
    def _tokens(self):
        """Speech tokens of all utterances in order."""
        path = self.folder / "tokens.npy"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: run recipes/MiniESD/speech_tokenizer "
                "first."
            )
        tokens = np.load(path, mmap_mode="r")
        if len(tokens) != self._edges[-1] // 2:
            raise ValueError(
                f"{path} has {len(tokens)} tokens, but its corpus "
                f"{self._edges[-1] // 2}: run recipes/MiniESD/speech_tokenizer "
                "again."
            )
        return tokens

    def speaker(self, index: int) -> int:
        """Return the index of the speaker."""
        return self.speakers.index(self.rows[index]["speaker"])

    def f0(self, index: int) -> np.ndarray:
        """Return the F0 (N,) in Hz, 0 where unvoiced."""
        f0 = np.zeros(self.n_frames(index), np.float32)
        known = np.asarray(self.rows[index]["f0"], np.float32)[: len(f0)]
        f0[: len(known)] = known
        return f0

    def relative_log_f0(self, index: int) -> np.ndarray:
        """Return log F0 (N,) minus the speaker's median, NaN if unvoiced."""
        f0 = self.f0(index)
        offset = self._speaker_f0[self.rows[index]["speaker"]]
        with np.errstate(divide="ignore"):
            return np.where(f0 > 0, np.log(f0) - offset, np.nan)

    def wav(self, index: int, first_frame: int = 0, n_frames: int = -1):
        """Return the waveform (T,) from a mel frame on, float32."""
        wav, _ = sf.read(
            self.folder / self.rows[index]["wav"],
            start=first_frame * HOP,
            frames=n_frames * HOP if n_frames > 0 else -1,
            dtype="float32",
        )
        return wav

    def token_units(self, index: int) -> np.ndarray:
        """Return the index (N / 2,) of the text unit at the centre of each
        speech token, -1 in silence before the first unit.
        """
        return self._units_at(index, 25, self.n_frames(index) // 2)

    def token_phonemes(self, index: int) -> np.ndarray:
        """Return the phoneme (N / 2,) of each speech token: an index into
        ``UNITS``, 0 (a space) in silence. A stress mark counts as its vowel.
        """
        return self._phonemes(index, self.token_units(index))

    def frame_phonemes(self, index: int) -> np.ndarray:
        """Return the phoneme (N,) of each mel frame."""
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
        """Compute mean and standard deviation of each mel channel."""
        sample = np.asarray(self._mel[::23], np.float32)
        return {
            "mean": torch.from_numpy(sample.mean(0)),
            "std": torch.from_numpy(sample.std(0)),
        }

    def x_vectors(self, n_utterances: int = 100) -> dict[str, torch.Tensor]:
        """Compute a vector (160,) for each speaker.

        It holds mean and standard deviation of the log-mel over the speaker's
        first utterances, relative to the mean over all speakers, and replaces
        the embedding of a speaker verification network.
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


def text_units(corpus, frontend):
    """Return the unit ids of every utterance, cached in the corpus folder.

    The list is empty where the front end reads the text with other symbols
    than were spoken.
    """
    path = corpus.folder / "text_units.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    out = []
    for row in tqdm(corpus.rows, desc="text units"):
        ids = frontend.encode(row["text"]).ids
        first = len(UNITS) * N_CUES
        spoken = [UNITS[i % len(UNITS)] for i in ids if i < first]
        matches = spoken == [unit[0] for unit in row["units"]]
        out.append(ids if matches else [])
    logger.info("%d texts differ from their speech", sum(not i for i in out))
    write_json(path, out)
    return out


class LengthBatches(torch.utils.data.Sampler):
    """Random batches of utterances of similar length."""

    def __init__(self, lengths, batch_size, n_batches):
        self.order = np.argsort(lengths, kind="stable")
        self.batch_size, self.n_batches = batch_size, n_batches

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        for _ in range(self.n_batches):
            size = min(4 * self.batch_size, len(self.order))
            first = int(
                torch.randint(
                    -size // 2, len(self.order) - size // 2, (1,)
                ).clamp(0, len(self.order) - size)
            )
            window = self.order[first : first + size]
            pick = torch.randperm(size)[: self.batch_size]
            yield [int(i) for i in window[pick.numpy()]]


def collate(items):
    """Pad a batch; its lengths are relative, as in SpeechBrain."""
    batch = {
        name: pad_sequence(
            [item[name] for item in items],
            batch_first=True,
            padding_value=-1 if name in ("unit", "phoneme") else 0,
        )
        for name in items[0]
    }
    for name in batch.keys() & {"text", "speech", "heard"}:
        lengths = torch.tensor([float(len(item[name])) for item in items])
        batch[f"{name}_lens"] = lengths / lengths.max()
    return batch


class RandomSegments(torch.utils.data.Dataset):
    """Random segments of a corpus's utterances, as many as an epoch needs.

    A segment has `size` positions of ``frames_per_position`` mel frames. Each
    item is drawn anew every time, unless the segments are `fixed`.
    """

    frames_per_position = 2

    def __init__(self, corpus, indices, n_items, size, fixed=False):
        self.corpus, self.fixed = corpus, fixed
        self.n_items, self.size = n_items, size
        n_frames = self.frames_per_position * size
        self.indices = corpus.with_length(indices, n_frames)

    def __len__(self):
        return self.n_items

    def __getitem__(self, item):
        generator = torch.Generator().manual_seed(item) if self.fixed else None
        index, first = torch.randint(
            0, 2**31 - 1, (2,), generator=generator
        ).tolist()
        index = self.indices[index % len(self.indices)]
        n_positions = self.corpus.n_frames(index) // self.frames_per_position
        first %= n_positions - self.size + 1
        return self.segment(index, first, generator)

    def segment(self, index, first, generator):
        """Return the features of the segment from a position on."""
        raise NotImplementedError


class TokenSegments(RandomSegments):
    """Segments with speech tokens, mel and speaker vector."""

    def __init__(self, corpus, *args, **kwargs):
        super().__init__(corpus, *args, **kwargs)
        x_vectors = corpus.x_vectors()
        self.x_vectors = [x_vectors[name] for name in corpus.speakers]

    def segment(self, index, first, generator):
        """Return tokens, mel and speaker vector."""
        last = first + self.size
        mel = self.corpus.mel(index)[2 * first : 2 * last]
        return {
            "tokens": torch.from_numpy(self.corpus.tokens(index)[first:last]),
            "mel": torch.from_numpy(mel),
            "x_vector": self.x_vectors[self.corpus.speaker(index)],
        }


class SpeechSegments(TokenSegments):
    """Segments with tokens, mel, speaker vector, waveform, F0 and phonemes."""

    def segment(self, index, first, generator):
        """Return also the waveform, and F0 and phoneme of each 20 ms."""
        frames = slice(2 * first, 2 * (first + self.size))
        corpus = self.corpus
        wav = corpus.wav(index, 2 * first, 2 * self.size)
        return {
            **super().segment(index, first, generator),
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
