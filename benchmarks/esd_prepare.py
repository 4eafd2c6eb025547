"""How long preparing a corpus of ESD's size takes: 35,000 files.

The corpus is generated: wav headers with empty (sparse) bodies, in the flat
layout. Prints JSON: elapsed and CPU seconds, and ``ratio_unchanged``, the CPU
time of a second call, which finds nothing to do, relative to the first.

    python benchmarks/esd_prepare.py
"""

import argparse
import json
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "ESD"))

from esd_prepare import prepare_esd  # noqa: E402

EMOTIONS = {
    "Neutral": "中立",
    "Angry": "生气",
    "Happy": "快乐",
    "Sad": "伤心",
    "Surprise": "惊喜",
}
SAMPLE_RATE = 16000
N_SENTENCES = 350


def write_silence(path: Path, seconds: float) -> None:
    """Writes a wav of silence whose samples take no space on the disk.

    Arguments
    ---------
    path : Path
        Where it goes.
    seconds : float
        Its duration.
    """
    n_bytes = 2 * int(seconds * SAMPLE_RATE)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        n_bytes + 36,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        SAMPLE_RATE,
        2 * SAMPLE_RATE,
        2,
        16,
        b"data",
        n_bytes,
    )
    path.write_bytes(header)
    os.truncate(path, len(header) + n_bytes)


def write_corpus(folder: Path, n_speakers: int = 20) -> int:
    """Writes transcripts and silent wavs of ESD's speakers, flat layout.

    Arguments
    ---------
    folder : Path
        Corpus folder to be made.
    n_speakers : int
        Speakers from 0020 downwards, so English ones come first.

    Returns
    -------
    n_files : int
        Number of wavs.
    """
    for number in range(21 - n_speakers, 21):
        speaker, lines = f"{number:04d}", []
        for block, (emotion, chinese) in enumerate(EMOTIONS.items()):
            (folder / speaker / emotion).mkdir(parents=True)
            spelled = emotion if number > 10 else chinese
            for sentence in range(N_SENTENCES):
                name = f"{speaker}_{block * N_SENTENCES + sentence + 1:06d}"
                lines.append(f"{name}\tSentence {sentence}.\t{spelled}\n")
                write_silence(
                    folder / speaker / emotion / f"{name}.wav",
                    seconds=2 + sentence / 100,
                )
        transcript = folder / speaker / f"{speaker}.txt"
        transcript.write_text("".join(lines), encoding="utf-8")
    return n_speakers * len(EMOTIONS) * N_SENTENCES


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n_speakers", type=int, default=20, help="1 to 20")
    parser.add_argument("--n_workers", type=int, default=8)
    args = parser.parse_args()
    seconds, cpu_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "ESD"
        n_files = write_corpus(corpus, args.n_speakers)
        for _ in range(2):
            start, cpu_start = time.perf_counter(), time.process_time()
            prepare_esd(
                corpus,
                Path(folder) / "save",
                language="both",
                n_workers=args.n_workers,
            )
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    result = {
        "benchmark": "esd_prepare",
        "files": n_files,
        "n_workers": args.n_workers,
        "seconds": round(seconds[0], 2),
        "cpu_seconds": round(cpu_seconds[0], 2),
        "seconds_unchanged": round(seconds[1], 2),
        "cpu_seconds_unchanged": round(cpu_seconds[1], 2),
        "ratio_unchanged": round(cpu_seconds[1] / cpu_seconds[0], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
