"""Failures are named by their signatures."""

from speechbrain_emofilm.metrics.failure_modes import (
    Thresholds,
    diagnose,
    signatures,
    untested,
)

import pytest

TOPLINE = {
    "f0_spread": 3.0,
    "f0_control": 0.7,
    "transition_accuracy": 0.9,
    "word_emotion_accuracy": 0.9,
    "boundary_error_ms": 40.0,
    "leakage": 0.05,
    "dtw": 20.0,
    "wer": 0.1,
}
FLOOR = {"wer": 0.1, "dtw": 60.0}
HEALTHY = {**TOPLINE, "modulation_ratio": 0.3}


def names(**changes):
    found = diagnose({**HEALTHY, **changes}, TOPLINE, FLOOR)
    return [diagnosis.name for diagnosis in found]


def test_a_healthy_model_has_no_failure():
    assert names() == []


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"modulation_ratio": 0.001}, "flat prosody"),
        ({"f0_spread": 1.0}, "flat prosody"),
        ({"f0_control": 0.1}, "flat prosody"),
        ({"modulation_ratio": 5.0}, "catastrophic forgetting"),
        ({"wer": 0.3}, "catastrophic forgetting"),
        ({"transition_accuracy": 0.3}, "noisy transitions"),
        ({"boundary_error_ms": 300.0}, "noisy transitions"),
        ({"leakage": 0.4}, "noisy transitions"),
        ({"dtw": 50.0}, "missing dynamics"),
    ],
)
def test_each_signature_is_named(changes, name):
    assert names(**changes) == [name]


def test_words_as_far_from_the_reference_as_without_emotions_are_named():
    floor = {**FLOOR, "f0_distance": 3.2}
    for distance, expected in ((2.0, []), (3.1, ["missing dynamics"])):
        figures = {**HEALTHY, "f0_distance": distance}
        found = diagnose(figures, TOPLINE, floor)
        assert [failure.name for failure in found] == expected


def test_high_dtw_with_high_wer_is_forgetting_only():
    assert names(dtw=50.0, wer=0.5) == ["catastrophic forgetting"]


def test_transitions_say_nothing_where_no_word_carries_its_emotion():
    assert names(word_emotion_accuracy=0.2, transition_accuracy=0.1) == []


def test_a_diagnosis_gives_its_evidence_and_what_to_turn():
    (found,) = diagnose({"modulation_ratio": 0.001})
    text = str(found)
    assert "modulation_ratio 0.001 below 0.02" in text
    assert "emotion_loss_weight" in text
    assert found.as_dict()["name"] == "flat prosody"


def test_missing_figures_are_listed_and_not_judged():
    assert diagnose({"dtw": 1e3, "wer": None}) == []
    assert untested({"dtw": 1e3, "wer": None}) == [
        "flat prosody",
        "catastrophic forgetting",
        "noisy transitions",
        "missing dynamics",
    ]
    assert untested(HEALTHY, TOPLINE, FLOOR) == []


def test_limits_can_be_changed():
    limits = Thresholds(least_modulation=0.5)
    (found,) = diagnose({"modulation_ratio": 0.3}, thresholds=limits)
    assert found.name == "flat prosody"


def test_an_unknown_figure_is_refused():
    with pytest.raises(ValueError, match="known are modulation_ratio"):
        diagnose({"werr": 0.1})


# --- What is predicted of true speech -------------------------------------

PREDICTED = {
    "speech_loss": 3.5,
    "condition_effect": 0.5,
    "emotion_gain": 0.4,
    "inside_gain": 0.4,
    "switch_gain": 0.5,
}


def named(**changes):
    found = diagnose({**PREDICTED, **changes}, floor={"speech_loss": 3.7})
    return [failure.name for failure in found]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"condition_effect": 0.001, "emotion_gain": 0.0}, ["flat prosody"]),
        ({"speech_loss": 4.0}, ["catastrophic forgetting"]),
        ({"speech_loss": float("nan")}, ["catastrophic forgetting"]),
        ({"switch_gain": 0.05}, ["noisy transitions"]),
        ({"emotion_gain": 0.01}, ["missing dynamics"]),
        # Where no word has its emotion, its switches say nothing.
        ({"inside_gain": 0.0, "switch_gain": -0.1}, []),
        # What has lost the words has more than dynamics missing.
        (
            {"speech_loss": 4.0, "emotion_gain": -1.0},
            ["catastrophic forgetting"],
        ),
    ],
)
def test_validation_shows_the_signatures(changes, expected):
    assert named(**changes) == expected


def test_every_failure_has_a_verdict_with_its_figures():
    judged = {
        s.name: s for s in signatures(PREDICTED, floor={"speech_loss": 3.7})
    }
    assert {s.verdict for s in judged.values()} == {"not found"}
    forgetting = judged["catastrophic forgetting"].as_dict()
    assert forgetting["figures"] == ["speech_loss 3.5 not above 3.8"]
    assert forgetting["evidence"] == []
    assert "a lower lr and lr_head" in forgetting["hparams"]


def test_dynamics_are_missing_if_either_speech_or_prediction_shows_it():
    figures = {**HEALTHY, **PREDICTED, "dtw": 50.0}
    floor = {**FLOOR, "speech_loss": 3.7}
    assert [f.name for f in diagnose(figures, TOPLINE, floor)] == [
        "missing dynamics"
    ]
