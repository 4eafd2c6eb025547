#!/usr/bin/env python3
"""Change the emotion of a share of the words at random, like a bad labeler.

> python relabel_words.py 0.3 --truth_file /path/to/MiniESD/word_labels.json \
    --label_file noisy/word_labels.json --seed 1986

A changed word gets any other emotion of the file, all equally likely, and the
intensity of a random word with this emotion. Times are kept.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_word_labels,
    write_word_labels,
)
from speechbrain_emofilm.utils.files import read_json


def relabel(
    labels: Mapping[str, UtteranceLabels], share: float, seed: int
) -> dict[str, UtteranceLabels]:
    """Change the emotion of a share of the labelled words at random."""
    if not 0 <= share <= 1:
        raise ValueError(f"The share is {share}: give one from 0 to 1.")
    intensities = {}
    places = []
    for name, utterance in labels.items():
        for index, word in enumerate(utterance.words):
            if word.emotion is not None:
                intensities.setdefault(word.emotion, []).append(word.intensity)
                places.append((name, index))
    emotions = sorted(intensities)
    if len(emotions) < 2:
        raise ValueError(
            f"The words have {len(emotions)} emotions: relabelling needs two."
        )
    rng = random.Random(seed)
    words = {name: list(labels[name].words) for name in labels}
    for name, index in rng.sample(places, round(share * len(places))):
        word = words[name][index]
        other = rng.choice([e for e in emotions if e != word.emotion])
        words[name][index] = replace(
            word,
            emotion=other,
            probs=None,
            intensity=rng.choice(intensities[other]),
            confidence=None,
        )
    source = {"relabelled_words": share, "seed": seed}
    return {
        name: UtteranceLabels(words[name], {**utterance.source, **source})
        for name, utterance in labels.items()
    }


def label_parser(documentation: str) -> argparse.ArgumentParser:
    """Return a command-line parser with the label files to read and write."""
    description = documentation.split("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--truth_file", type=Path, required=True)
    parser.add_argument("--label_file", type=Path, required=True, help="output")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Read labels and write changed ones."""
    parser = label_parser(__doc__)
    parser.add_argument("share", type=float, help="share of the words, 0 to 1")
    parser.add_argument("--seed", type=int, default=1986)
    options = parser.parse_args(arguments)
    emotions = sorted(
        {
            word["emotion"]
            for utterance in read_json(options.truth_file).values()
            for word in utterance["words"]
            if word.get("emotion")
        }
    )
    labels = read_word_labels(options.truth_file, emotions)
    noisy = relabel(labels, options.share, options.seed)
    write_word_labels(options.label_file, noisy, emotions)


if __name__ == "__main__":
    main()
