"""The evaluation's page shows the training, and what was asked of each take."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import parse_markup

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(FOLDER))
import evaluation_report  # noqa: E402

sys.path.remove(str(FOLDER))

EMOTIONS = ["neutral", "happy", "sad"]
LOG = """\
epoch: 1, step: 48, lr_head: 2.9e-05 - train loss: 4.83 - valid loss: 3.75, \
valid speech_loss: 3.64, valid emotion_accuracy: 6.0e-01
epoch: 2, step: 96, lr_head: 2.0e-05 - train loss: 4.62 - valid loss: 3.71, \
valid speech_loss: 3.63, valid emotion_accuracy: 7.0e-01
Epoch loaded: 2 - test loss: 3.67, test speech_loss: 3.61
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "train_log.txt").write_text(LOG)
    (tmp_path / "hyperparams.yaml").write_text("lr: 0.003\n")
    return tmp_path


def test_curves_are_those_of_the_log(model):
    curves = evaluation_report.read_train_log(model / "train_log.txt")
    assert curves["step"].tolist() == [48, 96]
    assert curves["train loss"].tolist() == [4.83, 4.62]
    assert curves["valid emotion_accuracy"].tolist() == [0.6, 0.7]
    assert "test loss" not in curves


def test_curves_are_drawn(model):
    curves = evaluation_report.read_train_log(model / "train_log.txt")

    def n_shades(curves):
        png = evaluation_report.curves_png(curves)
        return np.asarray(Image.open(io.BytesIO(png)).convert("L"))

    drawn, empty = n_shades(curves), n_shades({})
    assert drawn.shape == empty.shape and (drawn != empty).mean() > 0.001


def test_a_lost_log_leaves_empty_curves(tmp_path):
    assert evaluation_report.read_train_log(tmp_path / "train_log.txt") == {}


def test_the_configuration_is_that_of_the_training(model, tmp_path):
    assert evaluation_report.read_config(model) == "lr: 0.003\n"
    missing = evaluation_report.read_config(tmp_path / "other")
    assert "hyperparams.yaml does not exist" in missing


class Speaker:
    """Speaks silence."""

    def __init__(self, source):
        self.source = source
        self.requests = []

    def synthesize(self, text, **options):
        self.requests.append((text, options))
        words = [Word("We", 0.0, 0.2), Word("won", 0.2, 0.4)]
        return SimpleNamespace(
            wav=torch.zeros(2400),
            sample_rate=24000,
            words=words,
            word_times_source=self.source,
        )


HPARAMS = {
    "demo_text": "<happy>We</> <sad intensity=0.5>won</>",
    "emotions": EMOTIONS,
    "synthesis_seed": 3,
    "guidance": 1.5,
}


def test_each_take_of_the_demo_shows_what_was_asked_of_it():
    speaker = Speaker("PocketsphinxAligner")
    sample = evaluation_report.demo_sample(speaker, HPARAMS)
    asked = [[word.emotion for word in take.asked] for take in sample.takes]
    assert asked == [["neutral", "neutral"], ["happy", "sad"]]
    assert [word.emotion for word in sample.words] == ["happy", "sad"]
    assert sample.takes[1].asked[1].intensity == 0.5
    options = {"seed": 3, "guidance": 1.5}
    assert speaker.requests == [
        ("We won", {"unmarked": "neutral", **options}),
        (HPARAMS["demo_text"], options),
    ]
    assert all(len(take.words) == 2 for take in sample.takes)


def test_guessed_word_times_are_not_shown_as_found():
    sample = evaluation_report.demo_sample(Speaker("proportional"), HPARAMS)
    for take in sample.takes:
        assert take.words == []
        assert take.note.endswith("; its words were not found")


def test_the_strongest_emotion_of_a_mixture_is_shown():
    marked = parse_markup("<happy=0.3 sad=0.7>So</> it", EMOTIONS)
    asked = evaluation_report.asked_words(marked, EMOTIONS)
    assert [word.emotion for word in asked] == ["sad", None]


def test_what_to_turn_is_said_where_a_failure_is_found():
    flat = {
        "name": "flat prosody",
        "verdict": "found",
        "figures": ["f0_spread 1 below 2"],
        "hparams": ["a higher lr", "a higher guidance"],
    }
    lost = {**flat, "name": "catastrophic forgetting", "verdict": "not found"}
    scores = {"backbone": {}, "efilm": {"diagnosis": [flat, lost]}}
    found, other = evaluation_report.findings(scores)
    assert (found.system, found.failure) == ("E-FiLM", "flat prosody")
    assert found.remedies == ["a higher lr", "a higher guidance"]
    assert other.verdict == "not found" and not other.remedies


def test_the_log_tells_the_last_diagnosis(model, tmp_path):
    log = model / "train_log.txt"
    assert evaluation_report.last_diagnosis(log) == ""
    with open(log, "a") as file:
        for epoch in (1, 2):
            file.write(
                f"diagnosis of epoch {epoch}: flat prosody: ratio 0 below 1, "
                "untested: none - valid emotion_gain: 2.1e-03\n"
            )
    assert evaluation_report.last_diagnosis(log) == (
        "Diagnosis of its last epoch 2: flat prosody: ratio 0 below 1, "
        "untested: none."
    )
    curves = evaluation_report.read_train_log(log)
    assert curves["step"].tolist() == [48, 96]
    assert evaluation_report.last_diagnosis(tmp_path / "lost.txt") == ""


def test_the_picture_of_gamma_and_beta_is_shown_if_there_is_one(tmp_path):
    path = tmp_path / "modulation.png"
    assert evaluation_report.modulation_picture(path) == []
    path.write_bytes(b"\x89PNG")
    (picture,) = evaluation_report.modulation_picture(path)
    assert picture.png == b"\x89PNG"
