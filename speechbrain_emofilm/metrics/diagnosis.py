"""Names what went wrong in a training, from its figures.

Four failures of word-level emotion control have signatures in figures that
validation and evaluation give anyway:

* flat prosody: the modulation hardly changes the text (gamma near 1, beta
  near 0), or F0 moves less than in the reference;
* catastrophic forgetting: the modulation drowns the text, words get lost;
* noisy transitions: emotions are right but switch at the wrong place, as
  poor word labels teach;
* missing dynamics: the words are understood, yet the features are far from
  the reference's.

Authors
 * speechbrain-emofilm contributors, 2026
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """When a figure is a symptom.

    Arguments
    ---------
    least_modulation : float
        Ratio of the modulation's norm to the text embeddings'; less is flat.
    most_modulation : float
        More drowns the text.
    least_f0_spread : float
        F0 spread within an utterance, as a ratio to the topline's.
    most_wer_rise : float
        Rise of the word error rate above the frozen backbone's.
    least_transition_accuracy : float
        As a ratio to the topline's.
    most_boundary_error_ms : float
        Above the topline's.
    most_leakage : float
        Above the topline's.
    most_dtw_ratio : float
        DTW as a ratio to the topline's.
    """

    least_modulation: float = 0.02
    most_modulation: float = 1.0
    least_f0_spread: float = 0.6
    most_wer_rise: float = 0.1
    least_transition_accuracy: float = 0.6
    most_boundary_error_ms: float = 150.0
    most_leakage: float = 0.15
    most_dtw_ratio: float = 1.5


@dataclass(frozen=True)
class Diagnosis:
    """A failure that the figures show.

    Arguments
    ---------
    name : str
        flat prosody, catastrophic forgetting, noisy transitions or missing
        dynamics.
    evidence : tuple of str
        The figures that show it, each with its limit.
    hparams : tuple of str
        What to turn, and where to.
    """

    name: str
    evidence: tuple[str, ...]
    hparams: tuple[str, ...]

    def __str__(self) -> str:
        evidence = "; ".join(self.evidence)
        return f"{self.name}: {evidence}. Try {', '.join(self.hparams)}."

    def as_dict(self) -> dict:
        """For a summary in JSON.

        Returns
        -------
        dict
        """
        return {
            "name": self.name,
            "evidence": list(self.evidence),
            "hparams": list(self.hparams),
        }


REMEDIES = {
    "flat prosody": (
        "a higher lr",
        "a higher emotion_loss_weight",
        "emotion_loss position: speech",
        "a higher guidance",
    ),
    "catastrophic forgetting": (
        "a lower lr and lr_head",
        "a lower bound of the fusion",
        "a lower guidance",
        "more condition_dropout",
    ),
    "noisy transitions": (
        "word labels (label_source) instead of sentence",
        "a higher confidence asked of the labels",
        "more history_corruption",
    ),
    "missing dynamics": (
        "label_source with word-level emotions",
        "a higher emotion_loss_weight",
        "reference audio in the target emotion",
        "a higher guidance",
    ),
}

#: What :func:`diagnose` understands.
FIGURES = (
    "modulation_ratio",
    "wer",
    "f0_spread",
    "transition_accuracy",
    "word_emotion_accuracy",
    "boundary_error_ms",
    "leakage",
    "dtw",
)


def diagnose(
    figures: Mapping[str, float | None],
    topline: Mapping[str, float | None] | None = None,
    floor: Mapping[str, float | None] | None = None,
    thresholds: Thresholds = Thresholds(),
) -> list[Diagnosis]:
    """Finds the failures that the figures of a model show.

    A figure that is missing, or lacks what it is compared with, tells
    nothing: :func:`untested` lists what could not be judged.

    Arguments
    ---------
    figures : dict
        The model's, of :data:`FIGURES`; shares, not percents.
    topline : dict, optional
        Those of reference speech re-synthesised through the tokens.
    floor : dict, optional
        Those of the frozen backbone.
    thresholds : Thresholds
        When a figure is a symptom.

    Returns
    -------
    list of Diagnosis
        Empty if nothing is wrong.

    Raises
    ------
    ValueError
        If a figure is unknown.

    Example
    -------
    >>> found = diagnose({"modulation_ratio": 0.001, "wer": 0.1})
    >>> [diagnosis.name for diagnosis in found]
    ['flat prosody']
    >>> print(found[0])
    flat prosody: modulation_ratio 0.001 below 0.02. Try a higher lr, ...
    """
    topline, floor = topline or {}, floor or {}
    for name in {*figures, *topline, *floor} - set(FIGURES):
        raise ValueError(
            f"Unknown figure {name!r}: known are {', '.join(FIGURES)}."
        )
    symptoms = _Symptoms(figures, topline, floor)
    found = {
        "flat prosody": _flat_prosody(symptoms, thresholds),
        "catastrophic forgetting": _forgetting(symptoms, thresholds),
        "noisy transitions": _noisy_transitions(symptoms, thresholds),
        "missing dynamics": _missing_dynamics(symptoms, thresholds),
    }
    return [
        Diagnosis(name, tuple(evidence), REMEDIES[name])
        for name, evidence in found.items()
        if evidence
    ]


def untested(
    figures: Mapping[str, float | None],
    topline: Mapping[str, float | None] | None = None,
    floor: Mapping[str, float | None] | None = None,
) -> list[str]:
    """Failures that the figures can neither show nor exclude.

    Arguments
    ---------
    figures : dict
        As for :func:`diagnose`.
    topline : dict, optional
        As for :func:`diagnose`.
    floor : dict, optional
        As for :func:`diagnose`.

    Returns
    -------
    list of str

    Example
    -------
    >>> untested({"modulation_ratio": 0.1})
    ['noisy transitions', 'missing dynamics']
    """
    topline, floor = topline or {}, floor or {}

    def known(name, other=None):
        others = [figures] if other is None else [figures, other]
        return all(each.get(name) is not None for each in others)

    modulation = known("modulation_ratio")
    testable = {
        "flat prosody": modulation or known("f0_spread", topline),
        "catastrophic forgetting": modulation or known("wer", floor),
        "noisy transitions": any(
            known(name, topline)
            for name in ("transition_accuracy", "boundary_error_ms", "leakage")
        ),
        "missing dynamics": known("dtw", topline) and known("wer", floor),
    }
    return [name for name, possible in testable.items() if not possible]


class _Symptoms:
    """Comparisons that say what they found, and nothing of missing figures."""

    def __init__(self, figures, topline, floor):
        self.figures, self.topline, self.floor = figures, topline, floor

    def below(self, name, limit):
        """Evidence that a figure is below a limit."""
        value = self.figures.get(name)
        if value is None or limit is None or value >= limit:
            return []
        return [f"{name} {value:.3g} below {limit:.3g}"]

    def above(self, name, limit):
        """Evidence that a figure is above a limit."""
        value = self.figures.get(name)
        if value is None or limit is None or value <= limit:
            return []
        return [f"{name} {value:.3g} above {limit:.3g}"]

    @staticmethod
    def times(other, name, factor):
        """A limit relative to another system's figure."""
        return None if other.get(name) is None else factor * other[name]

    @staticmethod
    def plus(other, name, step):
        """A limit above another system's figure."""
        return None if other.get(name) is None else other[name] + step


def _flat_prosody(s: _Symptoms, t: Thresholds) -> Sequence[str]:
    spread = s.times(s.topline, "f0_spread", t.least_f0_spread)
    return [
        *s.below("modulation_ratio", t.least_modulation),
        *s.below("f0_spread", spread),
    ]


def _forgetting(s: _Symptoms, t: Thresholds) -> Sequence[str]:
    wer = s.plus(s.floor, "wer", t.most_wer_rise)
    return [
        *s.above("modulation_ratio", t.most_modulation),
        *s.above("wer", wer),
    ]


def _noisy_transitions(s: _Symptoms, t: Thresholds) -> Sequence[str]:
    accuracy = s.times(
        s.topline, "transition_accuracy", t.least_transition_accuracy
    )
    words = s.times(
        s.topline, "word_emotion_accuracy", t.least_transition_accuracy
    )
    # Where no word carries its emotion, poor transitions say nothing more.
    if s.below("word_emotion_accuracy", words):
        return []
    error = s.plus(s.topline, "boundary_error_ms", t.most_boundary_error_ms)
    leakage = s.plus(s.topline, "leakage", t.most_leakage)
    return [
        *s.below("transition_accuracy", accuracy),
        *s.above("boundary_error_ms", error),
        *s.above("leakage", leakage),
    ]


def _missing_dynamics(s: _Symptoms, t: Thresholds) -> Sequence[str]:
    distance = s.above("dtw", s.times(s.topline, "dtw", t.most_dtw_ratio))
    wer = s.plus(s.floor, "wer", t.most_wer_rise)
    understood = (
        wer is not None
        and s.figures.get("wer") is not None
        and not s.above("wer", wer)
    )
    if not distance or not understood:
        return []
    return [*distance, f"wer {s.figures['wer']:.3g} not above {wer:.3g}"]
