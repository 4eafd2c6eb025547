"""Seven emotions go through everything, by hyperparameters only."""

import shutil
import sys
from dataclasses import replace
from unittest import mock

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_word_labels,
    write_word_labels,
)
from speechbrain_emofilm.evaluation.measuring import Measurement
from speechbrain_emofilm.evaluation.report import emotion_colors
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.metrics.control import WordEmotionClassifier
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import pytest
import torch
from tiny_world import EMOTIONS, RECIPE, REPOSITORY, recipe_flags, run_script

SEVEN = [*EMOTIONS, "fear", "disgust"]
NEW_WORDS = "{emotion_words: {fear: fear, disgust: disgust}}"
LABELING = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"

sys.path.insert(0, str(RECIPE))
import analyze_modulation  # noqa: E402
import evaluate_mixtures  # noqa: E402

sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module")
def world(pristine_world, tmp_path_factory):
    """A corpus in which surprise is spoken in one of three sentences, fear
    and disgust in the others.
    """
    world = shutil.copytree(
        pristine_world, tmp_path_factory.mktemp("seven") / "world"
    )
    corpus = world / "esd"
    labels = read_word_labels(corpus / "word_labels.json", EMOTIONS)
    transcript = corpus / "0011" / "0011.txt"
    lines = transcript.read_text()
    surprised = sorted(corpus.glob("0011/Surprise/train/*.wav"))
    for wav, emotion in zip(surprised, SEVEN[-2:]):
        name = emotion.capitalize()
        folder = corpus / "0011" / name / "train"
        folder.mkdir(parents=True)
        wav.rename(folder / wav.name)
        (line,) = [ln for ln in lines.splitlines() if wav.stem in ln]
        lines = lines.replace(line, line.replace("Surprise", name))
        words = [
            replace(w, emotion=emotion) if w.emotion == "surprise" else w
            for w in labels[wav.stem].words
        ]
        labels[wav.stem] = UtteranceLabels(words, labels[wav.stem].source)
    transcript.write_text(lines)
    write_word_labels(corpus / "word_labels.json", labels, SEVEN)
    return world


@pytest.fixture(scope="module")
def trained(world):
    """The output folder of a training with seven emotions."""
    output = world / "seven"
    flags = recipe_flags(
        world,
        output,
        emotions=SEVEN,
        n_emotions=len(SEVEN),
        skip_prep=False,
        prepare_opts=NEW_WORDS,
    )
    run_script("train.py", flags)
    return output


def test_the_preparation_knows_the_emotions_that_are_named(trained, world):
    manifest = read_json(world / "prepared" / "train.json")
    assert {item["emotion"] for item in manifest.values()} == set(SEVEN)


def test_encoder_and_classifier_have_seven_emotions(trained):
    encoder = torch.load(trained / "efilm.ckpt")["encoder.input_layer.weight"]
    assert encoder.shape[1] == 2 * len(SEVEN)
    (checkpoint,) = (trained / "save").glob("CKPT+*/emotion_loss.ckpt")
    classifier = torch.load(checkpoint)["classifier.weight"]
    assert len(classifier) == len(SEVEN)


def test_a_new_emotion_is_spoken_alone_and_in_a_mixture(trained):
    synthesizer = EmoFiLMSynthesizer.from_hparams(trained)
    result = synthesizer.synthesize(
        "<fear>We won</fear> <disgust=0.25 fear=0.75>the game.</>"
    )
    assert len(result.wav) > 0
    first, *_, last = result.word_emotions.tolist()
    assert first == [0, 0, 0, 0, 0, 1, 0]
    assert last == [0, 0, 0, 0, 0, 0.75, 0.25]
    with pytest.raises(ValueError, match="awe"):
        synthesizer.synthesize("<awe>We won</awe>")


def test_the_analysis_shows_seven_emotions(trained, tmp_path):
    analyze_modulation.main([str(trained), f"--output_folder={tmp_path}"])
    figures = read_json(tmp_path / "modulation.json")
    assert figures["emotions"] == SEVEN
    assert set(figures["silhouette_by_emotion"]) == set(SEVEN)
    assert len(figures["points"]) == 1 + 6 * 10
    assert len(figures["mixtures"]) == 21
    assert len(figures["training"]) > 0
    assert (tmp_path / "modulation.png").stat().st_size > 10_000
    assert (tmp_path / "modulation.safetensors").is_file()


class Pool:
    """Measures noise in every sound but one, whose words it does not find."""

    def __init__(self, tools, workers=1):
        self.rng = np.random.default_rng(0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing to end."""

    def measure(self, readings, *options):
        assert all(reading.only == ("change",) for reading in readings.values())
        return {
            name: Measurement(
                None
                if name.endswith("fear0.5_disgust0.5")
                else self.rng.normal(size=(4, 6)).tolist()
            )
            for name in readings
        }


def test_every_two_of_seven_emotions_are_mixed_and_measured(
    trained, world, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluate_mixtures, "MeasuringPool", Pool)
    labels = read_word_labels(world / "esd" / "word_labels.json", SEVEN)
    nothing = {"f0": 0.0, "energy": 0.0, "duration": 0.0}
    asked = {k: [nothing] * len(v.words) for k, v in labels.items()}
    write_json(tmp_path / "asked.json", asked)
    options = {
        "data_folder": world / "esd",
        "prepared_folder": world / "prepared",
        "model_folder": trained,
        "output_folder": tmp_path,
        "reference_folder": tmp_path / "references",
        "asked_file": tmp_path / "asked.json",
        "backbone": f"!include:{world}/backbone/backbone.yaml",
        "backbone_emofilm": "{efilm: {encoder: {n_emotions: 7}}}",
        "emotions": SEVEN,
    }
    evaluate_mixtures.main(
        [
            str(RECIPE / "hparams" / "evaluate_mini.yaml"),
            "--n_sentences=1",
            "--weights=0.5",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
    )
    summary = read_json(tmp_path / "mixtures" / "summary.json")
    assert len(summary["mixtures"]) == 15
    assert summary["mixed_words_in_training"] == 0
    (missing,) = summary["not_aligned"]
    assert missing.endswith("fear0.5_disgust0.5")
    assert [row["sentences"] for row in summary["mixtures"]] == [1] * 14 + [0]
    assert len(list(tmp_path.glob("mixtures/wavs/*.wav"))) == 6 + 15
    rows = (tmp_path / "mixtures" / "utterances.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 + 15
    page = (tmp_path / "mixtures" / "mixtures.md").read_text()
    assert "| fear=0.5 disgust=0.5 | 0 |" in page


def test_seven_emotions_have_seven_colours():
    assert len(set(emotion_colors(SEVEN).values())) == len(SEVEN)


def test_the_classifier_of_words_learns_seven_emotions():
    rng = np.random.default_rng(0)
    asked = [emotion for emotion in SEVEN for _ in range(30)]
    centres = {emotion: rng.normal(0, 5, 6) for emotion in SEVEN}
    changes = np.array([centres[e] + rng.normal(0, 0.1, 6) for e in asked])
    classifier = WordEmotionClassifier.fit(changes, asked)
    assert list(classifier.predict(changes)) == asked


def test_the_labeler_labels_words_with_seven_emotions(trained, world):
    def run(script, hparams, **options):
        options = {
            "data_folder": world / "esd",
            "prepared_folder": world / "prepared",
            "feature_cache": world / "features.hdf5",
            **options,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        with mock.patch.object(sys, "path", [str(LABELING), *sys.path]):
            run_script(
                LABELING / f"{script}.py",
                [*flags, "--device=cpu"],
                LABELING / "hparams" / f"{hparams}.yaml",
            )

    features = "!new:toy_features.ToyFeatures"
    words = {"alignment_folder": world / "esd" / "textgrids"}
    run(
        "extract_features",
        "extract_features",
        emotion_features=features,
        skipped_file=world / "features_skipped.json",
        skip_prep=True,
    )
    run(
        "train",
        "train_mini",
        **words,
        output_folder=world / "labeler",
        emotion_features=features,
        emotions=SEVEN,
        n_emotions=len(SEVEN),
        feature_dim=2,
        input_dim=4,
        group_dims="[2, 2]",
        number_of_epochs=1,
        skip_prep=True,
    )
    assert WordEmotionLabeler.from_hparams(world / "labeler").emotions == SEVEN
    run(
        "label",
        "label",
        **words,
        labeler_folder=world / "labeler",
        output_folder=world / "labels",
        label_file=world / "labels" / "word_labels.json",
    )
    labels = read_word_labels(world / "labels" / "word_labels.json", SEVEN)
    probs = next(iter(labels.values())).words[0].probs
    assert set(probs) == set(SEVEN)
