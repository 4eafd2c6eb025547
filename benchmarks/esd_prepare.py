"""Seconds to prepare a corpus of ESD's size: 35,000 files.

The corpus is generated: wav files with sparse silence, in the flat layout.
Prints JSON: elapsed and CPU seconds, and ``ratio_unchanged``, the CPU time of a
second call, which has nothing to do, relative to the first.

    python benchmarks/esd_prepare.py
"""

import os
import struct
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "recipes" / "ESD"), str(ROOT / "benchmarks")]

from common.fake_esd import EMOTIONS  # noqa: E402
from common.reporting import make_parser, print_result  # noqa: E402
from esd_prepare import prepare_esd  # noqa: E402

SAMPLE_RATE = 16000
N_SENTENCES = 350


def write_silence(path: Path, seconds: float) -> None:
    """Write a wav of silence whose samples take no space on the disk."""
    n_bytes = 2 * int(seconds * SAMPLE_RATE)
    sizes = (16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    header = (
        b"RIFF"
        + struct.pack("<I", n_bytes + 36)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", *sizes)
        + b"data"
        + struct.pack("<I", n_bytes)
    )
    path.write_bytes(header)
    os.truncate(path, len(header) + n_bytes)


def write_corpus(folder: Path, n_speakers: int = 20) -> int:
    """Write transcripts and silent wavs in ESD's flat layout.

    Speakers are numbered from 0020 downwards, so that English ones come first.
    Returns the number of wavs.
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
    """Measure and print the times."""
    args = make_parser(
        __doc__, n_speakers=(20, "1 to 20"), n_workers=8
    ).parse_args()
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
    print_result(
        "esd_prepare",
        files=n_files,
        n_workers=args.n_workers,
        seconds=round(seconds[0], 2),
        cpu_seconds=round(cpu_seconds[0], 2),
        seconds_unchanged=round(seconds[1], 2),
        cpu_seconds_unchanged=round(cpu_seconds[1], 2),
        ratio_unchanged=round(cpu_seconds[1] / cpu_seconds[0], 3),
    )


if __name__ == "__main__":
    main()
