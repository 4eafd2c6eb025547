"""Name known failures of a trained model by the scores of its speech."""

from collections.abc import Mapping, Sequence

from speechbrain_emofilm.evaluation.measuring import Measurement
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    counterpart,
    split_kind,
)
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.failure_modes import (
    diagnose,
    signatures,
    untested,
)
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES

import numpy as np

REFERENCES = ("original", "reference")
TOPLINE = "copy_synthesis"
FLOOR = "backbone"
SEMITONES = 12 / np.log(2)  # of a natural logarithm


def f0_scores(
    utterances: Sequence[Utterance],
    measured: Mapping[str, Measurement],
    reference: Mapping[str, Measurement],
) -> dict[str, dict]:
    """Score how F0 changes from word to word.

    Dynamic time warping to a neutral reading has found the words.

    Arguments
    ---------
    utterances : list of Utterance
        Spoken utterances; those whose emotion changes are scored.
    measured : dict
        Utterance id to Measurement.
    reference : dict
        Utterance id to Measurement of the corpus's own speech.

    Returns
    -------
    dict
        ``f0_spread``, the mean standard deviation within an utterance, and
        ``f0_distance``, the mean difference from the reference; both in
        semitones with their bounds, and None if the words of no utterance
        were found.

    Example
    -------
    >>> words = [[0.0] * 6, [np.log(2) / 6] + [0.0] * 5]  # two semitones
    >>> heard = {"a": Measurement(words)}
    >>> spoken = [Utterance("a", "a.wav", "0011", "We won.")]
    >>> scores = f0_scores(spoken, heard, heard)
    >>> round(scores["f0_spread"]["f0_spread"], 6)
    1.0
    >>> scores["f0_distance"]["f0_distance"]
    0.0
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


def _f0_of_words(measurement: Measurement) -> np.ndarray | None:
    """Return the change of each word's F0 in semitones (W,), if found."""
    if measurement.change is None:
        return None
    changes = np.array(measurement.change)
    return SEMITONES * changes[:, PROSODY_CHANGES.index("f0")]


def name_failures(scores: Mapping[str, dict]) -> None:
    """Add the verdicts on known failures to the scores of trained models.

    Arguments
    ---------
    scores : dict
        System to its scores, as the ESD recipe's evaluate.py summarises
        them. Trained systems get ``diagnosis``: for each failure its verdict,
        the scores with their limits, and the hparams to change.
    """
    compared = {name: _esd_scores(entry) for name, entry in scores.items()}
    for name, entry in scores.items():
        if split_kind(name)[0] in (*REFERENCES, TOPLINE, FLOOR):
            continue
        judged = signatures(
            compared[name],
            compared.get(counterpart(name, TOPLINE)),
            compared.get(counterpart(name, FLOOR)),
        )
        entry["diagnosis"] = [each.as_dict() for each in judged]
        for each in judged:
            if each.verdict == "found":
                print(f"{name}, {each}")


def _esd_scores(entry):
    """Select the scores that `signatures` takes."""
    if "transitions_as_asked" not in entry:  # the words have no truth
        scores = _signature_scores(entry.get("scores", {}))
        return {**scores, "wer": entry["wer"]["wer"]}
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


def diagnose_systems(
    summaries: Mapping[str, Mapping[str, dict | None]],
    topline: str,
    floor: str,
) -> dict[str, dict]:
    """Name the failures of the systems that are not only compared with.

    Arguments
    ---------
    summaries : dict
        System to the summary of its
        :class:`~speechbrain_emofilm.evaluation.scores.SystemScores`.
    topline : str
        System that can hardly be surpassed, such as copy synthesis.
    floor : str
        System without control.

    Returns
    -------
    dict
        System to ``failures``, with their scores and the hparams to change,
        and ``untested``, the failures that the scores cannot show.
    """
    scores = {name: _signature_scores(s) for name, s in summaries.items()}
    compared = scores.get(topline), scores.get(floor)
    return {
        name: {
            "failures": [d.as_dict() for d in diagnose(own, *compared)],
            "untested": untested(own, *compared),
        }
        for name, own in scores.items()
        if name not in (*REFERENCES, topline, floor)
    }


def _signature_scores(summary):
    """Select the scores that `diagnose` takes; None for those missing."""

    def find(*keys):
        found = summary
        for key in keys:
            found = (found or {}).get(key)
        return found

    return {
        "wer": find("wer", "wer"),
        "f0_spread": find("prosody", "f0_spread", "f0_spread"),
        "transition_accuracy": find("transitions", "accuracy"),
        "word_emotion_accuracy": find("word_emotion_accuracy", "accuracy"),
        "boundary_error_ms": find("transitions", "boundary_error_ms", "mean"),
        "leakage": find("leakage", "leakage"),
        "dtw": find("dtw", "cosine", "normalized"),
    }
