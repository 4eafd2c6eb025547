"""Failure modes of word-level emotion control, recognised by their scores.

Four failures have signatures, both in the predictions for true speech
(measured in validation) and in synthesised speech (measured in evaluation):

* flat prosody: the modulation hardly changes the text (gamma near 1, beta
  near 0) or the predictions, or F0 moves less than in the reference;
* catastrophic forgetting: the modulation drowns the text, the speech becomes
  less likely than for the frozen backbone, words get lost;
* noisy transitions: emotions are right but switch in the wrong place, as
  poor word labels teach;
* missing dynamics: the words are intelligible, yet the prosody is far from
  the reference's, or true speech is no likelier given its own emotions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a score is a symptom.

    Arguments
    ---------
    least_modulation : float
        Ratio of the modulation's norm to the text embeddings'.
    most_modulation : float
        The same ratio, above which the modulation drowns the text.
    least_f0_spread : float
        F0 spread within an utterance, as a ratio to the topline's.
    most_wer_rise : float
        Rise of the word error rate above the frozen backbone's.
    least_transition_accuracy : float
        Transition accuracy, as a ratio to the topline's.
    most_boundary_error_ms : float
        Boundary error above the topline's.
    most_leakage : float
        Leakage above the topline's.
    least_f0_control : float
        Correlation of asked and spoken changes of F0, as a ratio to the
        topline's.
    most_dtw_ratio : float
        DTW as a ratio to the topline's.
    most_f0_distance : float
        Distance of the words' F0 from the reference's, as a ratio to the
        frozen backbone's, which has no dynamics.
    least_condition_effect : float
        Divergence due to another emotion, in nats per speech token.
    most_loss_rise : float
        Rise of the speech loss above the frozen backbone's, in nats.
    least_switch_gain : float
        Emotion gain of the words next to a switch, as a ratio to the other
        words'. It is above 1 with correct labels, as the speech before a
        switch is misleading, and below 1 if half of the labels are wrong.
    least_emotion_gain : float
        Gain in log-likelihood given the own emotion, in nats per speech token.
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
    """A score compared with its limit.

    Arguments
    ---------
    score : str
        Name of the score, one of :data:`SCORES`.
    value : float
        Value for the model.
    limit : float
        Limit between healthy and symptomatic values.
    failed : bool
        Whether the value is a symptom.
    relation : str
        Relation of the value to the limit, such as "below".
    """

    score: str
    value: float
    limit: float
    failed: bool
    relation: str

    def __str__(self) -> str:
        return f"{self.score} {self.value:.3g} {self.relation} {self.limit:.3g}"


@dataclass(frozen=True)
class Signature:
    """Verdict on one failure.

    Arguments
    ---------
    name : str
        "flat prosody", "catastrophic forgetting", "noisy transitions" or
        "missing dynamics".
    verdict : str
        "found", "not found", or "untested" for lack of scores.
    checks : tuple of Check
        Scores behind the verdict.
    hparams : tuple of str
        Changes of hyperparameters that may help.
    """

    name: str
    verdict: str
    checks: tuple[Check, ...]
    hparams: tuple[str, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """Scores that show the failure, each with its limit."""
        return tuple(str(check) for check in self.checks if check.failed)

    def __str__(self) -> str:
        evidence = "; ".join(self.evidence)
        return f"{self.name}: {evidence}. Try {', '.join(self.hparams)}."

    def as_dict(self) -> dict:
        """Convert to JSON-serializable types."""
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

#: Names of the scores that :func:`signatures` understands.
SCORES = (
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
    scores: Scores,
    topline: Scores | None = None,
    floor: Scores | None = None,
    thresholds: Thresholds = Thresholds(),
) -> list[Signature]:
    """Judge each of the four failures by the scores of a model.

    A score that is missing, or lacks its counterpart, is not judged.

    Arguments
    ---------
    scores : dict
        Scores of the model, some of :data:`SCORES`; shares, not percentages.
        Those in nats are from :class:`~speechbrain_emofilm.metrics.\
condition_effect.ConditionEffect`.
    topline : dict, optional
        Scores of reference speech, re-synthesised through the tokens.
    floor : dict, optional
        Scores of the frozen backbone.
    thresholds : Thresholds
        Limits of the scores.

    Returns
    -------
    list of Signature
        One for each failure.

    Raises
    ------
    ValueError
        If a score is unknown.

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
    for name in {*scores, *topline, *floor} - set(SCORES):
        raise ValueError(
            f"Unknown score {name!r}: known are {', '.join(SCORES)}."
        )
    compared = _Comparisons(scores, topline, floor, thresholds)
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


def diagnose(scores: Scores, *args, **kwargs) -> list[Signature]:
    """List the failures that the scores of a model show.

    Arguments
    ---------
    scores : dict
        As for :func:`signatures`.
    *args, **kwargs
        Further arguments of :func:`signatures`.

    Example
    -------
    >>> found = diagnose({"modulation_ratio": 0.001, "wer": 0.1})
    >>> print(*found)
    flat prosody: modulation_ratio 0.001 below 0.02. Try a higher lr, ...
    """
    judged = signatures(scores, *args, **kwargs)
    return [signature for signature in judged if signature.verdict == "found"]


def untested(scores: Scores, *args, **kwargs) -> list[str]:
    """List the failures that the scores can neither show nor exclude.

    Arguments
    ---------
    scores : dict
        As for :func:`signatures`.
    *args, **kwargs
        Further arguments of :func:`signatures`.

    Example
    -------
    >>> untested({"modulation_ratio": 0.1})
    ['noisy transitions', 'missing dynamics']
    """
    judged = signatures(scores, *args, **kwargs)
    return [s.name for s in judged if s.verdict == "untested"]


class _Comparisons:
    """Checks of the scores that have a value and a limit."""

    def __init__(self, scores, topline, floor, thresholds):
        self.scores, self.topline, self.floor = scores, topline, floor
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
        """Check whether the frozen backbone finds true speech likelier."""
        rise = self.thresholds.most_loss_rise
        return self.above(
            "speech_loss", _plus(self.floor.get("speech_loss"), rise)
        )

    def lost_words(self):
        """Check whether the frozen backbone is easier to understand."""
        rise = self.thresholds.most_wer_rise
        return self.above("wer", _plus(self.floor.get("wer"), rise))

    def noisy_transitions(self):
        t, topline = self.thresholds, self.topline
        words = _times(
            topline.get("word_emotion_accuracy"), t.least_transition_accuracy
        )
        # Without emotions in the words, poor transitions mean nothing.
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
            inside = _times(self.scores.get("inside_gain"), t.least_switch_gain)
            predicted = self.below("switch_gain", inside)
        return [*spoken, *predicted]

    def below(self, name, limit):
        """Check whether a score is too low or NaN."""
        return self._check(name, limit, lambda value: value >= limit, "below")

    def above(self, name, limit):
        """Check whether a score is too high or NaN."""
        return self._check(name, limit, lambda value: value <= limit, "above")

    def _check(self, name, limit, passes, relation):
        value = self.scores.get(name)
        if value is None or limit is None:
            return []
        failed = not passes(value)
        relation = relation if failed else f"not {relation}"
        return [Check(name, value, limit, failed, relation)]


def _times(value: float | None, factor: float) -> float | None:
    """Return a limit relative to another score."""
    return None if value is None else factor * value


def _plus(value: float | None, step: float) -> float | None:
    """Return a limit above another score."""
    return None if value is None else value + step


def _failed(checks: Sequence[Check]) -> bool:
    return any(check.failed for check in checks)


def _any(checks: Sequence[Check]) -> tuple[str, Sequence[Check]]:
    """Judge a failure that any of its scores can show."""
    if not checks:
        return "untested", checks
    return "found" if _failed(checks) else "not found", checks


def _missing_dynamics(compared: _Comparisons) -> tuple[str, list[Check]]:
    """Judge speech and predictions: wrong prosody of intelligible words."""
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
    verdict: str = "untested"
    checks: list[Check] = []
    for wrong, other in ways:
        if not wrong or not other:
            continue
        checks += [*wrong, *other]
        if _failed(wrong) and not _failed(other):
            verdict = "found"
        elif verdict == "untested":
            verdict = "not found"
    return verdict, checks
