"""What evaluate_axes.py asks for, and how it scores what was measured."""

import sys
from pathlib import Path
from types import SimpleNamespace

from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.evaluation.systems import Utterance
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES
from speechbrain_emofilm.processing.prosody_axes import AXES

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))
import evaluate_axes as axes_script  # noqa: E402

sys.path.remove(str(RECIPE))

NAMES = list(AXES)
SHARES = [-1.0, 0.0, 1.0]
TEXTS = ["We won the game and left.", "Come and see it now, my friend."]


@pytest.fixture
def sentences():
    return [
        Utterance(
            f"u{index}",
            "neutral.wav",
            "0011",
            text,
            "neutral",
            UtteranceLabels(
                [
                    WordLabel(w.text, 0.0, 0.1, "neutral")
                    for w in split_words(text)
                ]
            ),
        )
        for index, text in enumerate(TEXTS)
    ]


@pytest.fixture
def requests(sentences):
    return axes_script.list_requests(sentences, [None, "happy"], NAMES, SHARES)


def change_of(request, obeys):
    """The changes (W, 6) of a voice that does a share of what is asked."""
    change = np.zeros((len(request.steps), len(PROSODY_CHANGES)))
    if request.axis != axes_script.NOTHING:
        name, factor = axes_script.MEASURED[request.axis]
        asked = np.array([step or 0.0 for step in request.steps])
        column = PROSODY_CHANGES.index(name)
        change[:, column] = obeys * asked / factor
    # An emotion moves both readings alike.
    return change + (0.3 if request.emotion else 0.0)


def test_each_axis_is_asked_alone_at_every_value_and_the_emotion_is_fixed(
    requests,
):
    assert len(requests) == 2 * 2 * 4
    assert len({r.utterance.id for r in requests}) == len(requests)
    for request in requests:
        marked = parse_markup(
            request.utterance.marked_text, ["happy"], axes=NAMES
        )
        assert {tuple(w.probs) for w in marked.words} == {
            (float(request.emotion == "happy"),)
        }
        asked = {name for word in marked.words for name in word.axes}
        if request.axis == axes_script.NOTHING:
            assert not asked
        else:
            assert asked == {request.axis}
            scale = AXES[request.axis].scale
            assert set(request.steps) == {-scale, 0.0, scale, None}


@pytest.mark.parametrize("obeys", [1.0, 0.5])
def test_a_voice_that_does_as_asked_has_full_correlation_and_no_cross_talk(
    requests, obeys
):
    changes = {r.key: change_of(r, obeys) for r in requests}
    rows = axes_script.compare(requests, changes, NAMES)
    scores = axes_script.score(rows, NAMES)
    for axis in NAMES:
        assert scores[axis]["correlation"] == pytest.approx(1.0, abs=1e-3)
        for other, slope in scores[axis]["cross_talk"].items():
            expected = obeys if other == axis else 0.0
            assert slope == pytest.approx(expected, abs=1e-3)


def test_a_reading_that_was_not_found_is_left_out(requests):
    class Found(dict):
        def __missing__(self, key):
            return SimpleNamespace(change=[[0.0] * 6] * 6)

    lost = requests[1]
    measured = [
        Found(),
        Found({lost.utterance.id: SimpleNamespace(change=None)}),
    ]
    changes = axes_script.mean_changes(requests[:2], measured)
    assert list(changes) == [requests[0].key]
    assert axes_script.compare(requests[:2], changes, NAMES) == []


def test_axes_are_asked_against_the_emotion(sentences):
    natural = {"sad": np.array([-3.0, -0.4, -5.0])}
    against = axes_script.list_against(sentences, ["sad"], NAMES, natural)
    assert [r.steps[0] for r in against[:3]] == [4.0, 0.4, 5.0]
    measured = [
        {
            r.utterance.id: SimpleNamespace(change=[[0.0] * 6] * len(r.steps))
            for r in against
        }
    ]
    judge = SimpleNamespace(predict=lambda change: ["sad"] * len(change))
    accuracy = axes_script.judge_emotions(against, measured, judge, ["sad"])
    assert set(accuracy) == {f"against {axis}" for axis in NAMES}
    assert all(own["accuracy"] == 1.0 for own in accuracy.values())


def test_a_picture_shows_each_axis(requests, tmp_path):
    changes = {r.key: change_of(r, 1.0) for r in requests}
    rows = axes_script.compare(requests, changes, NAMES)
    scores = axes_script.score(rows, NAMES)
    path = tmp_path / "axes.png"
    axes_script.draw_picture(path, rows, scores, NAMES)
    assert path.stat().st_size > 10000
