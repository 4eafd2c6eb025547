"""Labelling words: train, label and evaluate on a corpus of tones."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

from speechbrain_emofilm.dataio.alignments import Word, write_alignment
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
)
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.utils.files import read_json, write_json

import pytest
import torch
from tiny_iemocap import make_iemocap
from tiny_world import EMOTIONS, REPOSITORY, recipe_flags, run_script

HERE = Path(__file__).parent
RECIPE = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"
EXTRACTOR = "!new:toy_features.ToyFeatures"


def flags(options):
    return [f"--{name}={value}" for name, value in options.items()]


def run(script, hparams, **options):
    """Runs one of the recipe's scripts in this process."""
    with mock.patch.object(sys, "path", [str(RECIPE), *sys.path]):
        return run_script(
            RECIPE / f"{script}.py",
            [*flags(options), "--device=cpu"],
            RECIPE / "hparams" / f"{hparams}.yaml",
        )


def data_options(world):
    return {
        "data_folder": world / "esd",
        "prepared_folder": world / "prepared",
        "alignment_folder": world / "esd" / "textgrids",
        "feature_cache": world / "features.hdf5",
    }


def extract(world):
    run(
        "extract_features",
        "extract_features",
        emotion_features=EXTRACTOR,
        data_folder=world / "esd",
        prepared_folder=world / "prepared",
        feature_cache=world / "features.hdf5",
        skipped_file=world / "features_skipped.json",
        skip_prep=True,
    )


def train(world, output, **options):
    options = {
        "skip_prep": True,
        "emotion_features": EXTRACTOR,
        "feature_dim": 2,
        "input_dim": 4,
        "group_dims": "[2, 2]",
        "number_of_epochs": 2,
        **options,
    }
    run(
        "train",
        "train_mini",
        **data_options(world),
        output_folder=output,
        **options,
    )


def label_options(world, labeler, output, **options):
    return {
        **data_options(world),
        "labeler_folder": labeler,
        "output_folder": output,
        **options,
    }


def label(*args, **options):
    run("label", "label", **label_options(*args, **options))


@pytest.fixture(scope="module")
def trained(pristine_world, tmp_path_factory):
    """A world with features, and a labeler trained on it."""
    world = tmp_path_factory.mktemp("labels") / "world"
    shutil.copytree(pristine_world, world)
    extract(world)
    train(world, world / "labeler")
    return world


@pytest.fixture
def world(trained, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(trained, tmp_path / "world")


def last_log_line(folder):
    lines = (folder / "train_log.txt").read_text().splitlines()
    return next(line for line in reversed(lines) if "epoch:" in line)


def losses(folder):
    text = (folder / "train_log.txt").read_text()
    return [
        float(line.split("train loss: ")[1].split(" ")[0])
        for line in text.splitlines()
        if "train loss: " in line
    ]


def test_training_leaves_a_labeler(trained):
    folder = trained / "labeler"
    assert losses(folder)[-1] < losses(folder)[0]
    assert "valid sentence_accuracy" in last_log_line(folder)
    labeler = WordEmotionLabeler.from_hparams(
        folder, savedir=folder, run_opts={"device": "cpu"}
    )
    assert labeler.emotions == EMOTIONS
    words = [Word("We", 0.0, 0.2), Word("won", 0.2, 0.4)]
    labels = labeler.label_frames([torch.randn(20, 2)], [words])[0]
    assert len(labels.words) == 2


def test_a_resumed_training_ends_like_an_unbroken_one(world):
    train(world, world / "unbroken", number_of_epochs=3)
    # The learning rate follows the number of epochs: the same for both.
    with mock.patch(
        "speechbrain.utils.epoch_loop.EpochCounter.__next__",
        stop_before(epoch=2),
    ):
        with pytest.raises(KeyboardInterrupt):
            train(world, world / "broken", number_of_epochs=3)
    train(world, world / "broken", number_of_epochs=3)
    one, other = (
        torch.load(world / name / "word_emotion.ckpt", weights_only=True)
        for name in ("unbroken", "broken")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def stop_before(epoch):
    """Stops the work between two epochs."""
    from speechbrain.utils.epoch_loop import EpochCounter

    proceed = EpochCounter.__next__

    def stopped(self):
        if self.current + 1 == epoch:
            raise KeyboardInterrupt
        return proceed(self)

    return stopped


@pytest.mark.parametrize("supervision", ["broadcast", "words"])
def test_other_supervisions(world, supervision):
    train(world, world / "other", supervision=supervision)
    assert (world / "other" / "labeler.yaml").is_file()
    sentences = "sentence_accuracy" in last_log_line(world / "other")
    assert sentences == (supervision == "broadcast")


def test_multiple_instances_never_see_word_truth(world):
    (world / "esd" / "word_labels.json").unlink()
    train(world, world / "labeler2")
    one, other = (
        torch.load(world / name / "word_emotion.ckpt", weights_only=True)
        for name in ("labeler", "labeler2")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_labels_of_a_corpus(world):
    label(world, world / "labeler", world / "labels")
    labels = read_word_labels(world / "labels" / "word_labels.json", EMOTIONS)
    truth = read_word_labels(world / "esd" / "word_labels.json", EMOTIONS)
    assert set(labels) == set(truth)
    for utterance, entry in labels.items():
        times = [(w.word, w.start, w.end) for w in entry.words]
        assert times == [
            (w.word, w.start, w.end) for w in truth[utterance].words
        ]
        grid = world / "labels" / "textgrids" / "0011"
        drawn = read_label_textgrid(grid / f"{utterance}.TextGrid", EMOTIONS)
        assert [w.emotion for w in drawn.words] == [
            w.emotion for w in entry.words
        ]
        assert entry.source["features"] == "toy"
    assert read_json(world / "labels" / "skipped.json") == {}
    assert not list((world / "labels").glob("*.parts"))


def label_and_kill(python, world, output, n):
    """Labels in a process that is killed at its n-th JSON file (of 8)."""
    options = label_options(world, world / "labeler", output, batch_size=4)
    path = f"{REPOSITORY}{os.pathsep}{RECIPE}{os.pathsep}{HERE}"
    return subprocess.run(
        [python, HERE / "killed_run.py", "write_json", str(n)]
        + [RECIPE / "label.py", RECIPE / "hparams" / "label.yaml"]
        + [*flags(options), "--device=cpu"],
        env={**os.environ, "PYTHONPATH": path},
    ).returncode


def test_killed_at_a_random_moment_it_ends_like_an_unbroken_run(
    world, warm_python
):
    label(world, world / "labeler", world / "unbroken", batch_size=4)
    n = random.randint(3, 8)
    code = label_and_kill(warm_python, world, world / "broken", n)
    assert code == -signal.SIGKILL
    assert not (world / "broken" / "word_labels.json").exists()
    label(world, world / "labeler", world / "broken", batch_size=4)
    unbroken = {
        path.relative_to(world / "unbroken"): path.read_bytes()
        for path in (world / "unbroken").rglob("*")
        if path.is_file()
    }
    for path, content in unbroken.items():
        assert (world / "broken" / path).read_bytes() == content, path


def test_parts_of_another_labeler_are_not_used(world, warm_python):
    train(world, world / "other", seed=7)
    label(world, world / "other", world / "expected", batch_size=4)
    label_and_kill(warm_python, world, world / "labels", 6)
    label(world, world / "other", world / "labels", batch_size=4)
    expected, found = (
        (world / name / "word_labels.json").read_bytes()
        for name in ("expected", "labels")
    )
    assert found == expected


def test_options_of_the_labeler_can_be_replaced(world):
    label(
        world,
        world / "labeler",
        world / "labels",
        labeler_overrides="{min_confidence: 1.0}",
    )
    labels = read_word_labels(world / "labels" / "word_labels.json", EMOTIONS)
    assert all(w.emotion is None for e in labels.values() for w in e.words)


def test_utterances_that_cannot_be_labelled_are_skipped_and_listed(world):
    grids = world / "esd" / "textgrids" / "0011"
    missing, other, *_ = sorted(grids.glob("0011_0*.TextGrid"))
    missing.unlink()
    write_alignment(other, [Word("nothing", 0.0, 0.4)], 0.5)
    with pytest.raises(ValueError, match="2 of 22 utterances cannot be used"):
        label(world, world / "labeler", world / "labels")
    label(world, world / "labeler", world / "labels", max_bad_share=0.2)
    skipped = read_json(world / "labels" / "skipped.json")
    assert set(skipped) == {missing.stem, other.stem}
    assert "does not exist" in skipped[missing.stem]
    assert f"{other.stem}.TextGrid" in skipped[other.stem]
    labels = read_word_labels(world / "labels" / "word_labels.json", EMOTIONS)
    assert len(labels) == 20


def test_labels_corrected_in_praat_are_read_back(world):
    output = world / "labels"
    label(world, world / "labeler", output)
    before = read_word_labels(output / "word_labels.json", EMOTIONS)
    first, second, third, *others = sorted(output.rglob("*.TextGrid"))
    for path in others:
        path.unlink()
    old = before[first.stem].words
    other = "sad" if old[0].emotion != "sad" else "happy"
    corrected = [replace(old[0], emotion=other, intensity=0.25), *old[1:]]
    write_label_textgrid(first, UtteranceLabels(corrected), old[-1].end)
    second.write_text("no TextGrid")
    third.rename(third.with_name("unknown.TextGrid"))

    options = {"from_textgrids": output / "textgrids"}
    with pytest.raises(ValueError, match="2 of 23 utterances cannot be used"):
        label(world, world / "labeler", output, **options)
    unchanged = read_word_labels(output / "word_labels.json", EMOTIONS)
    assert unchanged == before
    label(world, world / "labeler", output, max_bad_share=0.1, **options)
    assert set(read_json(output / "skipped.json")) == {second.stem, "unknown"}
    after = read_word_labels(output / "word_labels.json", EMOTIONS)
    word, *rest = after.pop(first.stem).words
    assert (word.emotion, word.intensity, word.probs) == (other, 0.25, None)
    assert rest == old[1:]
    del before[first.stem]
    assert after == before


def test_training_skips_and_lists_what_it_cannot_use(world):
    grid, *_ = sorted((world / "esd" / "textgrids" / "0011").glob("0011_0*"))
    grid.unlink()
    with pytest.raises(ValueError, match="1 of 19 utterances cannot be used"):
        train(world, world / "other")
    train(world, world / "other", max_bad_share=0.1)
    assert list(read_json(world / "other" / "skipped.json")) == [grid.stem]


def test_an_emotion_outside_of_the_taxonomy_stops_the_training(world):
    path = world / "prepared" / "train.json"
    manifest = read_json(path)
    utterance = next(iter(manifest))
    manifest[utterance]["emotion"] = "bored"
    write_json(path, manifest)
    with pytest.raises(
        ValueError, match=f"{utterance}: its emotion is 'bored'"
    ):
        train(world, world / "other")


def test_features_of_another_model_are_refused(world):
    with pytest.raises(ValueError, match="features.hdf5"):
        train(
            world, world / "other", emotion_features=f"{EXTRACTOR} [0.0, '2']"
        )


def test_an_unknown_supervision_is_refused(world):
    with pytest.raises(ValueError, match="supervision is 'guess'"):
        train(world, world / "other", supervision="guess")


@pytest.mark.parametrize("items", ["emotions", "attributes"])
def test_another_number_of_emotions_or_attributes_is_refused(world, items):
    message = f"train_mini.yaml: n_{items} is 4, but {items} names "
    with pytest.raises(ValueError, match=message):
        train(world, world / "other", **{f"n_{items}": 4})
    assert not (world / "other" / "hyperparams.yaml").exists()


def evaluate(world, files, **options):
    run(
        "evaluate",
        "evaluate",
        data_folder=world / "esd",
        prepared_folder=world / "prepared",
        label_files=files,
        output_folder=world / "evaluation",
        speakers="null",
        **options,
    )
    return read_json(world / "evaluation" / "summary.json")


def test_evaluation_of_the_truth_and_of_labels(world, capsys):
    label(world, world / "labeler", world / "labels")
    truth = world / "esd" / "word_labels.json"
    labels = world / "labels" / "word_labels.json"
    summary = evaluate(world, f"{{truth: {truth}, ours: [{labels}, {labels}]}}")
    accuracy = summary["label_accuracy"]
    assert accuracy["truth"] == 1
    assert set(accuracy) == {"majority", "truth", "ours"}
    ordinary = summary["systems"]["truth"]["ordinary"]
    assert ordinary["intensity_correlation"] == pytest.approx(1)
    assert summary["systems"]["ours"]["transitions"]["words"] > 0
    ours = summary["systems"]["ours"]["all"]
    assert ours["accuracy_std"] == 0
    low, high = ours["intervals"]["accuracy"]
    assert 0 <= low <= ours["accuracy"] <= high <= 1
    certain = summary["systems"]["truth"]["all"]["intervals"]
    assert certain["accuracy"] == [1, 1]
    assert certain["eder"] == pytest.approx([0, 0])
    share = summary["systems"]["majority"]["all"]["accuracy"]
    assert share == summary["systems"]["truth"]["all"]["majority"]
    for name in ("confusion.png", "utterances.json"):
        assert (world / "evaluation" / name).stat().st_size > 100
    assert "accuracy" in capsys.readouterr().out


def test_evaluation_lists_utterances_without_labels_or_fails(world):
    truth = world / "esd" / "word_labels.json"
    content = read_json(truth)
    utterance = next(iter(read_json(world / "prepared" / "test.json")))
    partial = {name: c for name, c in content.items() if name != utterance}
    write_json(world / "partial.json", partial)
    files = f"{{truth: {truth}, ours: {world / 'partial.json'}}}"
    with pytest.raises(ValueError, match=f"{utterance}: .* has no labels of"):
        evaluate(world, files)
    summary = evaluate(world, files, max_bad_share=0.5)
    assert list(read_json(world / "evaluation" / "skipped.json")) == [utterance]
    words = {
        name: parts["all"]["words"]
        for name, parts in summary["systems"].items()
    }
    # All labelings are compared on the same words.
    assert len(set(words.values())) == 1


def test_what_one_step_leaves_out_does_not_stop_the_next(world):
    items = read_json(world / "prepared" / "train.json")
    gone, *_ = sorted(items)
    (world / "esd" / "textgrids" / "0011" / f"{gone}.TextGrid").unlink()
    labels = world / "labels" / "word_labels.json"

    def speak(source, **options):
        output = world / f"{source}_speech"
        options = {"label_source": source, "label_file": labels, **options}
        run_script("train.py", recipe_flags(world, output, **options))

    # Each step meets the utterance that the steps before have left out.
    steps = {
        "labeler2": lambda **o: train(world, world / "labeler2", **o),
        "labels": lambda **o: label(
            world, world / "labeler2", world / "labels", **o
        ),
        "evaluation": lambda **o: evaluate(
            world,
            f"{{ours: {labels}}}",
            parts=f"{{ordinary: [{world / 'prepared' / 'train.json'}]}}",
            **o,
        ),
        "sentence_speech": lambda **o: speak("sentence", **o),
        "labels_speech": lambda **o: speak("labels", **o),
    }
    for name, step in steps.items():
        listing = world / name / "skipped.json"
        with pytest.raises(ValueError, match=f"{gone}.*max_bad_share = 0.01"):
            step()
        listing.unlink()
        step(max_bad_share=0.1)
        assert list(read_json(listing)) == [gone], name


def test_esd_and_iemocap_together_with_rated_attributes(world):
    make_iemocap(world / "IEMOCAP")
    iemocap = REPOSITORY / "recipes" / "IEMOCAP"
    prepared = world / "iemocap"
    with mock.patch.object(sys, "path", [str(iemocap), *sys.path]):
        run_script(
            iemocap / "prepare.py",
            [
                f"--data_folder={world / 'IEMOCAP'}",
                f"--output_folder={prepared}",
            ],
            iemocap / "hparams" / "prepare.yaml",
        )
    run(
        "extract_features",
        "extract_features",
        emotion_features=EXTRACTOR,
        data_folder=world / "IEMOCAP",
        prepared_folder=prepared,
        skip_prep=True,
    )
    run(
        "train",
        "train",
        **data_options(world),
        iemocap_folder=world / "IEMOCAP",
        iemocap_prepared_folder=prepared,
        output_folder=world / "both",
        skip_prep=True,
        emotion_features=EXTRACTOR,
        feature_dim=2,
        input_dim=4,
        group_dims="[2, 2]",
        number_of_epochs=1,
        max_bad_share=0.5,  # most turns have no alignment
    )
    label(world, world / "both", world / "labels")
    labels = read_word_labels(world / "labels" / "word_labels.json", EMOTIONS)
    word = next(iter(labels.values())).words[0]
    assert math.isfinite(word.intensity)


def test_the_comparison_lists_every_supervision_and_seed(tmp_path):
    code = run_compare(tmp_path)
    names = [step.name for step in code]
    assert sum(name.startswith("Train") for name in names) == 6
    assert sum(name.startswith("Label") for name in names) == 6
    assert "Align with pocketsphinx" in names
    assert names[-1] == "Compare the labels with the truth"


def run_compare(folder):
    """Steps of compare.py, not taken."""
    steps = []

    def take(listed, *_):
        steps.extend(listed)
        return {}

    argv = ["compare.py", str(folder / "MiniESD")]
    argv += [f"--output_folder={folder / 'out'}", "--seeds", "1", "2"]
    with (
        mock.patch("speechbrain_emofilm.utils.steps.run_steps", take),
        mock.patch.object(sys, "argv", argv),
    ):
        import runpy

        runpy.run_path(str(RECIPE / "compare.py"), run_name="__main__")
    for step in steps:
        assert (RECIPE / step.command[0]).is_file()
        if step.command[1].endswith(".yaml"):
            assert Path(RECIPE, step.command[1]).is_file()
    return steps
