"""Names what went wrong in a training, from its figures.

Four failures of word-level emotion control have signatures, both in what is
predicted of true speech, as validation does, and in speech that is measured,
as evaluation does:

* flat prosody: the modulation hardly changes the text (gamma near 1, beta
  near 0) or the predictions, or F0 moves less than in the reference;
* catastrophic forgetting: the modulation drowns the text, the speech becomes
  less likely than for the frozen backbone, words get lost;
* noisy transitions: emotions are right but switch at the wrong place, as
  poor word labels teach;
* missing dynamics: the words are understood, yet the prosody is far from the
  reference's, or true speech is no likelier with its own emotions.
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
    least_f0_control : float
        Correlation of asked and spoken changes of F0, as a ratio to the
        topline's.
    most_dtw_ratio : float
        DTW as a ratio to the topline's.
    most_f0_distance : float
        Of the words' F0 from the reference's, as a ratio to the frozen
        backbone's, which has no dynamics.
    least_condition_effect : float
        Divergence, in nats per speech token, that another emotion makes.
    most_loss_rise : float
        Rise of the speech loss above the frozen backbone's, in nats.
    least_switch_gain : float
        Of the words beside a switch, as a ratio to the other words'. Where
        labels are right it is above 1, as the speech before a switch
        misleads; where half of them are wrong, below.
    least_emotion_gain : float
        Nats per speech token by which the own emotion is likelier.
    """

    least_modulation: float = 0.02
    most_modulation: float = 1.0
    least_f0_spread: float = 0.6
    most_wer_rise: float = 0.1
    least_transition_accuracy: float = 0.6
    most_boundary_error_ms: float = 150.0
    most_leakage: float = 0.15
    least_f0_control: float = 0.3
    most_dtw_ratio: float = 1.5
    most_f0_distance: float = 0.9
    least_condition_effect: float = 0.01
    most_loss_rise: float = 0.1
    least_switch_gain: float = 0.85
    least_emotion_gain: float = 0.02


@dataclass(frozen=True)
class Check:
    """A figure beside its limit.

    Arguments
    ---------
    figure : str
        Its name, of :data:`FIGURES`.
    value : float
        The model's.
    limit : float
        The one between well and ill.
    failed : bool
        Whether it is a symptom.
    relation : str
        Of the value to the limit, such as "below".
    """

    figure: str
    value: float
    limit: float
    failed: bool
    relation: str

    def __str__(self) -> str:
        return (
            f"{self.figure} {self.value:.3g} {self.relation} {self.limit:.3g}"
        )


@dataclass(frozen=True)
class Signature:
    """What the figures say of one failure.

    Arguments
    ---------
    name : str
        Flat prosody, catastrophic forgetting, noisy transitions or missing
        dynamics, in small letters.
    verdict : str
        "found", "not found", or "untested" where nothing can be said.
    checks : tuple of Check
        The figures that it was judged by.
    hparams : tuple of str
        What to turn where it is found, and where to.
    """

    name: str
    verdict: str
    checks: tuple[Check, ...]
    hparams: tuple[str, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """The figures that show it, each with its limit."""
        return tuple(str(check) for check in self.checks if check.failed)

    def __str__(self) -> str:
        evidence = "; ".join(self.evidence)
        return f"{self.name}: {evidence}. Try {', '.join(self.hparams)}."

    def as_dict(self) -> dict:
        """For a summary in JSON."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "evidence": list(self.evidence),
            "figures": [str(check) for check in self.checks],
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
    "f0_control",
    "transition_accuracy",
    "word_emotion_accuracy",
    "boundary_error_ms",
    "leakage",
    "dtw",
    "f0_distance",
    "speech_loss",
    "condition_effect",
    "emotion_gain",
    "inside_gain",
    "switch_gain",
)


def signatures(
    figures: Mapping[str, float | None],
    topline: Mapping[str, float | None] | None = None,
    floor: Mapping[str, float | None] | None = None,
    thresholds: Thresholds = Thresholds(),
) -> list[Signature]:
    """Judges each of the four failures by what is known.

    A figure that is missing, or lacks what it is compared with, tells
    nothing.

    Arguments
    ---------
    figures : dict
        The model's, of :data:`FIGURES`; shares, not percents. Those in nats
        are :class:`~speechbrain_emofilm.metrics.condition_effect.\
ConditionEffect`'s.
    topline : dict, optional
        Those of reference speech re-synthesised through the tokens.
    floor : dict, optional
        Those of the frozen backbone.
    thresholds : Thresholds
        When a figure is a symptom.

    Returns
    -------
    list of Signature
        One for each failure.

    Raises
    ------
    ValueError
        If a figure is unknown.

    Example
    -------
    >>> for signature in signatures({"modulation_ratio": 0.001}):
    ...     print(f"{signature.name}: {signature.verdict}")
    flat prosody: found
    catastrophic forgetting: not found
    noisy transitions: untested
    missing dynamics: untested
    """
    topline, floor = topline or {}, floor or {}
    for name in {*figures, *topline, *floor} - set(FIGURES):
        raise ValueError(
            f"Unknown figure {name!r}: known are {', '.join(FIGURES)}."
        )
    compared = _Comparisons(figures, topline, floor, thresholds)
    judged = {
        "flat prosody": _any(compared.flat_prosody()),
        "catastrophic forgetting": _any(compared.forgetting()),
        "noisy transitions": _any(compared.noisy_transitions()),
        "missing dynamics": _missing_dynamics(compared),
    }
    return [
        Signature(name, verdict, tuple(checks), REMEDIES[name])
        for name, (verdict, checks) in judged.items()
    ]


def diagnose(
    figures: Mapping[str, float | None],
    topline: Mapping[str, float | None] | None = None,
    floor: Mapping[str, float | None] | None = None,
    thresholds: Thresholds = Thresholds(),
) -> list[Signature]:
    """Finds the failures that the figures of a model show.

    Arguments
    ---------
    figures : dict
        As for :func:`signatures`.
    topline : dict, optional
        As for :func:`signatures`.
    floor : dict, optional
        As for :func:`signatures`.
    thresholds : Thresholds
        When a figure is a symptom.

    Returns
    -------
    list of Signature
        Empty if nothing is wrong.

    Example
    -------
    >>> found = diagnose({"modulation_ratio": 0.001, "wer": 0.1})
    >>> [diagnosis.name for diagnosis in found]
    ['flat prosody']
    >>> print(found[0])
    flat prosody: modulation_ratio 0.001 below 0.02. Try a higher lr, ...
    """
    return [
        signature
        for signature in signatures(figures, topline, floor, thresholds)
        if signature.verdict == "found"
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
        As for :func:`signatures`.
    topline : dict, optional
        As for :func:`signatures`.
    floor : dict, optional
        As for :func:`signatures`.

    Example
    -------
    >>> untested({"modulation_ratio": 0.1})
    ['noisy transitions', 'missing dynamics']
    """
    return [
        signature.name
        for signature in signatures(figures, topline, floor)
        if signature.verdict == "untested"
    ]


class _Comparisons:
    """Figures beside their limits, those left out that lack one of both."""

    def __init__(self, figures, topline, floor, thresholds):
        self.figures, self.topline, self.floor = figures, topline, floor
        self.thresholds = thresholds

    def flat_prosody(self):
        t = self.thresholds
        spread = _times(self.topline.get("f0_spread"), t.least_f0_spread)
        control = _times(self.topline.get("f0_control"), t.least_f0_control)
        return [
            *self.below("modulation_ratio", t.least_modulation),
            *self.below("condition_effect", t.least_condition_effect),
            *self.below("f0_spread", spread),
            *self.below("f0_control", control),
        ]

    def forgetting(self):
        drowned = self.above(
            "modulation_ratio", self.thresholds.most_modulation
        )
        return [*drowned, *self.lost_speech(), *self.lost_words()]

    def lost_speech(self):
        """The frozen backbone finds true speech likelier."""
        rise = self.thresholds.most_loss_rise
        return self.above(
            "speech_loss", _plus(self.floor.get("speech_loss"), rise)
        )

    def lost_words(self):
        """The frozen backbone is easier to understand."""
        rise = self.thresholds.most_wer_rise
        return self.above("wer", _plus(self.floor.get("wer"), rise))

    def noisy_transitions(self):
        t, topline = self.thresholds, self.topline
        words = _times(
            topline.get("word_emotion_accuracy"), t.least_transition_accuracy
        )
        # Where no word carries its emotion, poor transitions say nothing.
        spoken, predicted = [], []
        if not _failed(self.below("word_emotion_accuracy", words)):
            accuracy = _times(
                topline.get("transition_accuracy"), t.least_transition_accuracy
            )
            error = _plus(
                topline.get("boundary_error_ms"), t.most_boundary_error_ms
            )
            leakage = _plus(topline.get("leakage"), t.most_leakage)
            spoken = [
                *self.below("transition_accuracy", accuracy),
                *self.above("boundary_error_ms", error),
                *self.above("leakage", leakage),
            ]
        if not _failed(self.below("inside_gain", t.least_emotion_gain)):
            inside = _times(
                self.figures.get("inside_gain"), t.least_switch_gain
            )
            predicted = self.below("switch_gain", inside)
        return [*spoken, *predicted]

    def below(self, name, limit):
        """Whether a figure is too low, or not a number."""
        return self._check(name, limit, lambda value: value >= limit, "below")

    def above(self, name, limit):
        """Whether a figure is too high, or not a number."""
        return self._check(name, limit, lambda value: value <= limit, "above")

    def _check(self, name, limit, passes, relation):
        value = self.figures.get(name)
        if value is None or limit is None:
            return []
        failed = not passes(value)
        relation = relation if failed else f"not {relation}"
        return [Check(name, value, limit, failed, relation)]


def _times(value: float | None, factor: float) -> float | None:
    """A limit relative to another figure."""
    return None if value is None else factor * value


def _plus(value: float | None, step: float) -> float | None:
    """A limit above another figure."""
    return None if value is None else value + step


def _failed(checks: Sequence[Check]) -> bool:
    return any(check.failed for check in checks)


def _any(checks: Sequence[Check]) -> tuple[str, Sequence[Check]]:
    """Verdict on a failure that shows in any of its figures."""
    if not checks:
        return "untested", checks
    return "found" if _failed(checks) else "not found", checks


def _missing_dynamics(
    compared: _Comparisons,
) -> tuple[str, Sequence[Check]]:
    """Two ways to show it: spoken or predicted, wrong though understood."""
    t = compared.thresholds
    dtw = _times(compared.topline.get("dtw"), t.most_dtw_ratio)
    distance = _times(compared.floor.get("f0_distance"), t.most_f0_distance)
    ways = (
        (
            [
                *compared.above("dtw", dtw),
                *compared.above("f0_distance", distance),
            ],
            compared.lost_words(),
        ),
        (
            compared.below("emotion_gain", t.least_emotion_gain),
            [
                *compared.lost_speech(),
                # Emotions without any effect are flat prosody.
                *compared.below("condition_effect", t.least_condition_effect),
            ],
        ),
    )
    ways = [(wrong, other) for wrong, other in ways if wrong and other]
    verdict, checks = "untested", []
    for wrong, other in ways:
        checks += [*wrong, *other]
        if _failed(wrong) and not _failed(other):
            verdict = "found"
        elif verdict == "untested":
            verdict = "not found"
    return verdict, checks
