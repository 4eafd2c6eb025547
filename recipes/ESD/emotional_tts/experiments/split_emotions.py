#!/usr/bin/env python3
"""Make degrees of an emotion emotions of their own: a larger taxonomy.

> python split_emotions.py 2 --truth_file /path/to/MiniESD/word_labels.json \
    --label_file nine/word_labels.json

With 2 degrees the weaker half of the angry words becomes *angry_1* and the
stronger half *angry_2*, and so on; neutral is not split. The words lose their
intensities, so that only the emotion's name tells the degree. With 1 degree
they only lose their intensities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_word_labels,
    write_word_labels,
)

import numpy as np
from relabel_words import label_parser

EMOTIONS = ("neutral", "angry", "happy", "sad", "surprise")


def degree_names(emotion: str, degrees: int) -> list[str]:
    """Name the degrees of an emotion, the weakest first.

    Example
    -------
    >>> degree_names("sad", 2), degree_names("neutral", 2)
    (['sad_1', 'sad_2'], ['neutral'])
    """
    if degrees == 1 or emotion == "neutral":
        return [emotion]
    return [f"{emotion}_{degree}" for degree in range(1, degrees + 1)]


def split_emotions(
    labels: Mapping[str, UtteranceLabels], degrees: int
) -> dict[str, UtteranceLabels]:
    """Name each word's emotion by its degree, and drop the intensities.

    Each degree of an emotion gets the same number of words.
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees: give 1 or more.")
    intensities = {}
    for name, utterance in labels.items():
        for word in utterance.words:
            if word.emotion is not None and word.intensity is None:
                raise ValueError(
                    f"Utterance {name}, word {word.word!r}: it has no "
                    "intensity, which tells its degree; give labels with "
                    "intensities."
                )
            intensities.setdefault(word.emotion, []).append(word.intensity)
    steps = np.arange(1, degrees) / degrees
    limits = {
        emotion: np.quantile(values, steps)
        for emotion, values in intensities.items()
        if emotion is not None
    }

    def rename(word):
        if word.emotion is None:
            return word
        names = degree_names(word.emotion, degrees)
        degree = int(np.searchsorted(limits[word.emotion], word.intensity))
        name = names[min(degree, len(names) - 1)]
        return replace(word, emotion=name, probs=None, intensity=None)

    return {
        name: UtteranceLabels(
            [rename(word) for word in utterance.words],
            {**utterance.source, "degrees": degrees},
        )
        for name, utterance in labels.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read labels and write those of the larger taxonomy."""
    parser = label_parser(__doc__)
    parser.add_argument("degrees", type=int, help="degrees of each emotion")
    parser.add_argument(
        "--emotions",
        nargs="+",
        default=EMOTIONS,
        help="emotions of the truth file",
    )
    options = parser.parse_args(arguments)
    labels = read_word_labels(options.truth_file, options.emotions)
    split = split_emotions(labels, options.degrees)
    names = [
        name
        for emotion in options.emotions
        for name in degree_names(emotion, options.degrees)
    ]
    write_word_labels(options.label_file, split, names)


if __name__ == "__main__":
    main()
