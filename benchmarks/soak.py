#!/usr/bin/env python3
"""Speak thousands of utterances and watch memory and open files.

> python benchmarks/soak.py --utterances 2000

Prints the memory and the number of open files at ten times of the run. The
command fails if, after a tenth of the run, either has grown.
"""

import argparse
import itertools
import os
import sys

from speechbrain_emofilm.cli import find_model
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer

from common.reporting import resident_bytes
from tqdm import tqdm

WORDS = ("one", "dog", "ran", "home", "again", "and", "we", "won")
EMOTIONS = ("happy", "sad", "angry", "surprise", "neutral")
#: Growth in megabytes that the allocator's fragmentation may cause.
TOLERANCE_MB = 32


def marked_texts():
    """Yield endless different texts of one to eight words."""
    for number in itertools.count():
        n_words = number % len(WORDS) + 1
        emotion = EMOTIONS[number % len(EMOTIONS)]
        words = " ".join(
            WORDS[(number + i) % len(WORDS)] for i in range(n_words)
        )
        yield f"<{emotion}>{words}</{emotion}>"


def soak(synthesizer, n_utterances, batch_size=8):
    """Speak utterances.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        What speaks.
    n_utterances : int
        Number of utterances.
    batch_size : int
        Number of utterances in each call.

    Returns
    -------
    list of dict
        At ten times of the run "utterances" spoken so far, "memory_mb" of the
        process and "open_files".
    """
    texts = marked_texts()
    readings, spoken = [], 0
    with tqdm(total=n_utterances, unit="utterance") as progress:
        while spoken < n_utterances:
            n = min(batch_size, n_utterances - spoken)
            synthesizer.synthesize(
                list(itertools.islice(texts, n)), seed=spoken
            )
            spoken += n
            progress.update(n)
            if spoken * 10 // n_utterances > len(readings):
                readings.append(
                    {
                        "utterances": spoken,
                        "memory_mb": resident_bytes() / 2**20,
                        "open_files": len(os.listdir("/proc/self/fd")),
                    }
                )
    return readings


def growth(readings):
    """Growth of memory in MB and of open files after the first tenth."""
    first, rest = readings[0], readings[1:]
    return (
        min(r["memory_mb"] for r in rest[-2:]) - first["memory_mb"],
        rest[-1]["open_files"] - first["open_files"],
    )


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=2000)
    parser.add_argument("--model", help="folder of a trained model")
    options = parser.parse_args()
    model = options.model or find_model()
    readings = soak(EmoFiLMSynthesizer.from_hparams(model), options.utterances)
    for reading in readings:
        print(
            "{utterances:6d} utterances  {memory_mb:7.1f} MB  "
            "{open_files:3d} open files".format(**reading)
        )
    memory, files = growth(readings)
    if memory > TOLERANCE_MB or files > 0:
        sys.exit(f"Grown by {memory:.1f} MB and {files} open files.")


if __name__ == "__main__":
    main()
