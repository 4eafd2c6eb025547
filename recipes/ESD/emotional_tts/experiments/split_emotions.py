#!/usr/bin/env python3
"""Makes degrees of an emotion emotions of their own: a larger taxonomy.

> python split_emotions.py 2 --truth_file /path/to/MiniESD/word_labels.json \
    --label_file nine/word_labels.json

With 2 degrees the weaker half of the angry words becomes *angry_1* and the
stronger half *angry_2*, and so on; neutral stays one. The words lose their
intensities, so that nothing but the emotion's name tells the degree. With 1
degree they lose their intensities only.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_word_labels,
    write_word_labels,
)

import numpy as np

EMOTIONS = ("neutral", "angry", "happy", "sad", "surprise")


def degree_names(emotion: str, degrees: int) -> list[str]:
    """Names the degrees of an emotion, the weakest first.

    Arguments
    ---------
    emotion : str
        The emotion.
    degrees : int
        How many; neutral has one always.

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
    """Names each word's emotion by its degree.

    Arguments
    ---------
    labels : dict
        Utterance id to its labels. Unlabelled words stay so.
    degrees : int
        Of each emotion but neutral; each gets as many words.

    Returns
    -------
    dict
        Utterance id to its labels, without intensities.

    Raises
    ------
    ValueError
        If there is no degree, or a word to split has no intensity.
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
    """Reads labels and writes those of the larger taxonomy.

    Arguments
    ---------
    arguments : list of str, optional
        The command line; ``sys.argv`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("degrees", type=int, help="of each emotion")
    add("--truth_file", type=Path, required=True)
    add("--label_file", type=Path, required=True, help="is written")
    add("--emotions", nargs="+", default=EMOTIONS, help="of the truth file")
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
