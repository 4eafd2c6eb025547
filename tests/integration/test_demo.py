"""The demo, from nothing to the report, with the backbone that is shipped."""

import re
import subprocess
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.labels import read_word_labels
from speechbrain_emofilm.utils.files import read_json

import pytest
from tiny_world import EMOTIONS, REPOSITORY

HERE = Path(__file__).parent
SYSTEMS = {
    "original", "copy_synthesis", "backbone", "efilm", "efilm_labels",
    "efilm_sentence",
}  # fmt: skip
N_STEPS = 16
SIZES = [
    "--n_train=2", "--n_evaluation=1", "--n_test=2", "--n_transitions=2",
    "--speakers", "0011", "0012",
    "--labeler_flags=--number_of_epochs=2",
    "--train_flags=--number_of_steps=3 --warmup_steps=1"
    " --dynamic_batching=False --batch_size=4 --diagnosis_utterances=2",
    "--evaluate_flags=--n_mixed=2 --n_single=2 --n_classifier=12 --n_shown=2"
    " --workers=1",
]  # fmt: skip


def run(folder, launcher=()):
    command = [
        sys.executable,
        *launcher,
        str(REPOSITORY / "recipes" / "MiniESD" / "run_demo.py"),
        f"--output_folder={folder}",
        *SIZES,
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Output folder and printed text of a finished demo."""
    folder = tmp_path_factory.mktemp("demo")
    # Its 16 scripts import torch once.
    done = run(folder, launcher=[str(HERE / "warm_python.py")])
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_summary_has_every_figure_of_every_system(demo):
    folder, _ = demo
    summary = read_json(folder / "summary.json")
    for name in ("wer", "word_emotion_accuracy", "transitions_as_asked"):
        assert set(summary[name]) == SYSTEMS
    for name in ("word_emotion_accuracy", "transitions_as_asked"):
        assert all(0 <= value <= 1 for value in summary[name].values())
    assert all(value >= 0 for value in summary["wer"].values())
    for values in summary["within_utterance_correlation"].values():
        assert set(values) == {"f0", "energy", "duration"}
        assert all(-1 <= value <= 1 for value in values.values())
    evaluated = read_json(folder / "evaluation" / "summary.json")
    for figures in evaluated.values():
        above = figures["wer_above_backbone"]["difference"]
        difference = figures["wer"]["wer"] - evaluated["backbone"]["wer"]["wer"]
        assert above == pytest.approx(difference)
    labels = summary["label_accuracy"]
    assert list(labels) == [
        "majority", "broadcast", "multiple_instance", "words"
    ]  # fmt: skip
    assert all(0 <= value <= 1 for value in labels.values())
    assert summary["seconds"] > 0
    assert 100 < summary["peak_memory_mb"] < 6000


def test_natural_speech_is_measured_as_it_was_made(demo):
    summary = read_json(demo[0] / "summary.json")
    assert summary["wer"]["original"] < 0.3
    assert summary["within_utterance_correlation"]["original"]["f0"] > 0.7
    assert summary["transitions_as_asked"]["original"] > 0.6


def test_copy_synthesis_can_be_understood(demo):
    assert read_json(demo[0] / "summary.json")["wer"]["copy_synthesis"] < 0.5


def test_report_plays_and_shows_every_system(demo):
    folder, printed = demo
    path = folder / "evaluation" / "report.html"
    assert str(path) in printed
    page = path.read_text()
    # The demo's sentence twice, then two sentences in six systems.
    assert len(re.findall('src="data:audio/flac;base64,', page)) == 14
    pictures = re.findall('src="data:image/png;base64,', page)
    assert len(pictures) == 14 + 4
    for source in ("true word labels", "our labels", "sentence labels"):
        assert page.count(f">E-FiLM, {source}<") >= 3  # table, two sentences
    assert "says nothing" in page or "say nothing" in page
    assert path.stat().st_size < 15e6


def test_tables_stand_beside_the_report(demo):
    folder = demo[0] / "evaluation"
    rows = (folder / "utterances.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 * 4
    assert len((folder / "words.csv").read_text().splitlines()) > 6 * 4 * 3
    file = folder / "classifier" / "word_emotion_classifier.safetensors"
    assert file.is_file()


def test_efilm_was_trained_on_the_labels_that_were_made(demo):
    folder, _ = demo
    made = read_word_labels(
        folder / "labels" / "multiple_instance" / "word_labels.json", EMOTIONS
    )
    training = read_json(folder / "prepared" / "train.json")
    assert training.keys() < made.keys()
    used = (folder / "models" / "efilm_labels" / "hyperparams.yaml").read_text()
    assert "label_source: labels" in used
    assert "labels/multiple_instance/word_labels.json" in used
    weights = {
        (folder / "models" / system / "efilm.ckpt").read_bytes()
        for system in ("efilm", "efilm_labels", "efilm_sentence")
    }
    assert len(weights) == 3


def test_what_is_meant_is_printed(demo):
    assert "E-FiLM, sentence labels" in demo[1]
    assert "rule-made prosody" in demo[1]
    assert "the labeler never heard" in " ".join(demo[1].split())


def test_a_second_demo_makes_nothing_again(demo):
    folder, printed = demo
    wavs = sorted((folder / "evaluation" / "efilm" / "wavs").glob("*.wav"))
    before = [path.stat().st_mtime_ns for path in wavs]
    again = run(folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(" is there\n") == N_STEPS
    assert again.stdout.splitlines()[-18:] == printed.splitlines()[-18:]
    assert [path.stat().st_mtime_ns for path in wavs] == before
