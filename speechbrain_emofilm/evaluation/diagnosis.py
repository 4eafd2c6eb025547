"""Names what evaluate.py's figures show to be wrong with a model."""

from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.failure_modes import signatures
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES

import numpy as np

REFERENCE = "original"
TOPLINE = "copy_synthesis"
FLOOR = "backbone"
SEMITONES = 12 / np.log(2)  # of a natural logarithm


def f0_figures(utterances, measured, reference):
    """How F0 changes from word to word, and how far that is from the corpus.

    Dynamic time warping to a neutral reading has found the words.

    Arguments
    ---------
    utterances : list of Utterance
        What was spoken; those whose emotion switches count.
    measured : dict
        Utterance id to Measurement.
    reference : dict
        The same of the corpus's own speech.

    Returns
    -------
    dict
        ``f0_spread``, the mean standard deviation within an utterance, and
        ``f0_distance``, the mean difference from the reference; both in
        semitones with their bounds, and None if the words of no utterance
        were found.
    """
    spreads, distances = [], []
    for u in utterances:
        own, other = _f0_of_words(measured[u.id]), _f0_of_words(reference[u.id])
        if u.part != "mixed" or own is None:
            continue
        spreads.append([np.std(own), 1])
        if other is not None:
            distances.append([np.abs(own - other).mean(), 1])
    return {
        name: estimate(name, share, np.array(values))
        if values
        else {name: None, "low": None, "high": None}
        for name, values in (
            ("f0_spread", spreads),
            ("f0_distance", distances),
        )
    }


def _f0_of_words(measurement):
    """Change of each word's F0 in semitones (W,); None if not found."""
    if measurement.change is None:
        return None
    changes = np.array(measurement.change)
    return SEMITONES * changes[:, PROSODY_CHANGES.index("f0")]


def name_failures(figures):
    """Names what a trained model's figures show to be wrong.

    Arguments
    ---------
    figures : dict
        System to its figures; the trained ones get ``diagnosis``: for each
        failure its verdict, the figures beside their limits, and the hparams
        to turn.
    """
    compared = {name: _figures(entry) for name, entry in figures.items()}
    for name, entry in figures.items():
        if name in (REFERENCE, TOPLINE, FLOOR):
            continue
        judged = signatures(
            compared[name], compared.get(TOPLINE), compared.get(FLOOR)
        )
        entry["diagnosis"] = [each.as_dict() for each in judged]
        for each in judged:
            if each.verdict == "found":
                print(f"{name}, {each}")


def _figures(entry):
    """A system's figures as `signatures` takes them."""
    return {
        "wer": entry["wer"]["wer"],
        "word_emotion_accuracy": entry["word_emotion_accuracy"]["accuracy"],
        "transition_accuracy": entry["transitions_as_asked"]["share"],
        "f0_control": entry["within_utterance_correlation"]["f0"][
            "correlation"
        ],
        "f0_spread": entry["f0_spread"]["f0_spread"],
        "f0_distance": entry["f0_distance"]["f0_distance"],
    }
