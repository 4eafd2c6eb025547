"""Experiments train what they name, go on where they stopped, and tabulate."""

import csv
import json
import shlex
import shutil
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_word_labels,
    write_word_labels,
)
from speechbrain_emofilm.lobes.deep_fusion import DeepFiLM, SteeringFusion
from speechbrain_emofilm.lobes.efilm import (
    AdditiveFusion,
    ConcatenationFusion,
    FiLM,
    NoFusion,
)
from speechbrain_emofilm.utils import steps as steps_module
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.hparams import check_overrides
from speechbrain_emofilm.utils.steps import StepFailed

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from tiny_world import EMOTIONS, HPARAMS, RECIPE, REPOSITORY

FOLDER = RECIPE / "experiments"
sys.path.insert(0, str(FOLDER))
import experiment_results  # noqa: E402
import relabel_words  # noqa: E402
import run_experiments  # noqa: E402
import select_speakers  # noqa: E402
import split_emotions  # noqa: E402

sys.path.remove(str(FOLDER))

FILES = sorted(FOLDER.glob("*.yaml"))
FUSIONS = [
    "film",
    "addition",
    "concatenation",
    "steering",
    "film_deep",
    "none",
]


# --- The experiments -------------------------------------------------------


def load_hparams(train, world):
    """Hyperparameters of train.py as a variant changes them."""
    flags = [
        f"--data_folder={world}/esd",
        f"--prepared_folder={world}/prepared",
        f"--output_folder={world}/output",
        f"--backbone=!include:{world}/backbone/backbone.yaml",
        *run_experiments.as_flags(train),
    ]
    _, _, overrides = sb.parse_arguments([str(HPARAMS), *flags])
    with open(HPARAMS) as file:
        hparams = load_hyperpyyaml(file, overrides)
    check_overrides(hparams, HPARAMS, overrides)
    return hparams


@pytest.fixture(scope="module")
def loaded(pristine_world, tmp_path_factory):
    """Hyperparameters of every variant of every experiment."""
    return {
        (path.stem, variant.name): load_hparams(variant.train, pristine_world)
        for path in FILES
        for variant in run_experiments.read_experiment(path)
    }


def test_the_variants_are_those_of_the_paper_and_ours():
    variants = {
        path.stem: [v.name for v in run_experiments.read_experiment(path)]
        for path in FILES
    }
    assert variants["fusion"] == FUSIONS
    assert variants["emotion_loss"] == ["none", "input", "speech"]
    assert variants["labels"] == ["truth", "labels", "sentence"]
    assert variants["backbone"] == ["frozen", "lora", "joint"]
    assert len(variants["label_noise"]) == 4
    assert variants["sensitivity"][0] == "default"
    assert variants["unseen_speaker"] == ["heard", "unheard"]
    assert variants["taxonomy"][0] == "five_and_intensity"


def test_each_fusion_is_really_built(loaded):
    kinds = {
        "film": FiLM,
        "addition": AdditiveFusion,
        "concatenation": ConcatenationFusion,
        "steering": SteeringFusion,
        "film_deep": DeepFiLM,
        "none": NoFusion,
    }
    assert list(kinds) == FUSIONS
    for name, kind in kinds.items():
        hparams = loaded["fusion", name]
        assert type(hparams["emofilm"].efilm.fusion) is kind
        dim = hparams["backbone"]["text_dim"]
        fused = hparams["fusion"](
            torch.zeros(1, 2, dim), torch.zeros(1, 2, hparams["emotion_dim"])
        )
        assert fused.shape == (1, 2, dim)
        if name in ("film", "addition", "concatenation"):
            scale = hparams["backbone"]["text_scale"]
            assert hparams["fusion"].text_scale == scale


def test_each_emotion_loss_is_really_built(loaded):
    assert loaded["emotion_loss", "none"]["emotion_loss_weight"] == 0
    for name in ("input", "speech"):
        hparams = loaded["emotion_loss", name]
        assert hparams["emotion_loss_weight"] > 0
        assert hparams["emofilm"].emotion_loss.position == name


def test_each_label_source_is_really_chosen(loaded):
    for name in ("truth", "labels", "sentence"):
        assert loaded["labels", name]["label_source"] == name


def test_each_backbone_is_really_opened(loaded):
    opened = {
        name: len(loaded["backbone", name]["open_backbone"].opened)
        for name in ("frozen", "lora", "joint")
    }
    assert 0 == opened["frozen"] < opened["lora"] < opened["joint"]


def test_the_sensitivity_variants_differ_in_one_number(loaded):
    def numbers(name):
        hparams = loaded["sensitivity", name]
        loss = hparams["emotion_loss"]
        return (
            hparams["emotion_loss_weight"],
            hparams["lr"],
            hparams["opt_class"].keywords["lr"],
            loss.label_smoothing,
        )

    weight, lr, _, smoothing = numbers("default")
    assert numbers("weight_1") == (1.0, lr, lr, smoothing)
    assert numbers("lr_0.01") == (weight, 0.01, 0.01, smoothing)
    assert numbers("smoothing_0.1") == (weight, lr, lr, 0.1)


def test_the_taxonomies_fit_the_words_that_are_split(loaded):
    path = FOLDER / "taxonomy.yaml"
    sizes = {}
    for variant in run_experiments.read_experiment(path):
        hparams = loaded["taxonomy", variant.name]
        names = [
            name
            for emotion in EMOTIONS
            for name in split_emotions.degree_names(
                emotion, variant.degrees or 1
            )
        ]
        assert hparams["emotions"] == names
        assert variant.evaluate.get("emotions", EMOTIONS) == names
        classifier = hparams["emotion_loss"].classifier
        sizes[variant.name] = classifier.out_features
        assert classifier.out_features == len(names)
        assert hparams["emotion_encoder"].input_layer.in_features == 2 * len(
            names
        )
    assert list(sizes.values()) == [5, 5, 9, 13]


def test_the_floor_of_a_larger_taxonomy_is_built_for_it(pristine_world):
    nine = run_experiments.read_experiment(FOLDER / "taxonomy.yaml")[2]
    hparams_file = RECIPE / "hparams" / "evaluate_mini.yaml"
    flags = [
        f"--data_folder={pristine_world}/esd",
        f"--backbone=!include:{pristine_world}/backbone/backbone.yaml",
        *run_experiments.as_flags(nine.evaluate),
    ]
    _, _, overrides = sb.parse_arguments([str(hparams_file), *flags])
    with open(hparams_file) as file:
        hparams = load_hyperpyyaml(file, overrides)
    encoder = hparams["backbone_emofilm"].efilm.encoder
    assert encoder(torch.zeros(1, 2, 9), torch.zeros(1, 2)).shape[:2] == (1, 2)
    assert "<happy_2>" in hparams["demo_text"]


@pytest.mark.parametrize(
    "content, words",
    {
        "{}": "no variants",
        "{variants: {a: {degrees: 2, relabelled_words: 0.1}}}": "keep one",
        "[1]": "must be a mapping",
        "{variants: {a: {trains: {}}}}": "variant a must be a mapping.*train",
        "{variants: {a: {train: {lrr: 1}}}}": "variant a: .*yaml has no lrr",
        "{variants: {backbone: }}": "backbone: a reference has this name",
    }.items(),
)
def test_a_bad_experiment_is_named(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"bad.yaml.*{words}"):
        run_experiments.read_experiment(path)


# --- Relabelled words ------------------------------------------------------


def make_labels(n=200):
    emotions = ["angry", "happy", "sad"]
    return {
        f"{index:03d}": UtteranceLabels(
            [
                WordLabel("so", 0.1, 0.2, emotions[index % 3], intensity=0.5),
                WordLabel("what", 0.2, 0.4, None),
            ]
        )
        for index in range(n)
    }


def test_the_asked_share_of_the_words_is_relabelled(tmp_path):
    truth, noisy = tmp_path / "truth.json", tmp_path / "noisy.json"
    write_word_labels(truth, make_labels(), EMOTIONS)
    relabel_words.main(
        ["0.3", f"--truth_file={truth}", f"--label_file={noisy}", "--seed=3"]
    )
    before = read_word_labels(truth, EMOTIONS)
    after = read_word_labels(noisy, EMOTIONS)
    changed = [
        name
        for name in before
        if before[name].words[0].emotion != after[name].words[0].emotion
    ]
    assert len(changed) == 60
    assert all(u.words[1].emotion is None for u in after.values())
    assert all(
        one.alignment() == after[name].alignment()
        for name, one in before.items()
    )
    assert after["000"].source["relabelled_words"] == 0.3
    assert relabel_words.relabel(before, 0.3, 3) == after
    assert relabel_words.relabel(before, 0.3, 4) != after


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="give one from 0 to 1"):
        relabel_words.relabel(make_labels(), share, 0)


# --- Degrees of emotions ---------------------------------------------------


def test_the_stronger_half_of_the_words_is_of_the_higher_degree(tmp_path):
    truth, split = tmp_path / "truth.json", tmp_path / "split.json"
    strengths = [0.2, 0.4, 0.6, 0.8]
    labels = {
        f"{emotion}_{strength}": UtteranceLabels(
            [
                WordLabel("so", 0.1, 0.2, emotion, intensity=strength),
                WordLabel("what", 0.2, 0.4, "neutral", intensity=0.0),
                WordLabel("now", 0.4, 0.5),
            ]
        )
        for emotion in ("angry", "sad")
        for strength in strengths
    }
    write_word_labels(truth, labels, EMOTIONS)
    split_emotions.main(["2", f"--truth_file={truth}", f"--label_file={split}"])
    content = read_json(split)
    found = [content[f"sad_{s}"]["words"][0]["emotion"] for s in strengths]
    assert found == ["sad_1", "sad_1", "sad_2", "sad_2"]
    for utterance in content.values():
        first, second, third = utterance["words"]
        assert "intensity" not in first and "emotion" not in third
        assert second["emotion"] == "neutral"


def test_one_degree_takes_the_intensity_only():
    labels = make_labels(3)
    words = [
        utterance.words[0]
        for utterance in split_emotions.split_emotions(labels, 1).values()
    ]
    assert [word.emotion for word in words] == ["angry", "happy", "sad"]
    assert {word.intensity for word in words} == {None}


def test_words_whose_degree_is_unknown_are_named():
    labels = {"a": UtteranceLabels([WordLabel("so", 0.1, 0.2, "sad")])}
    with pytest.raises(ValueError, match="a, word 'so': it has no intensity"):
        split_emotions.split_emotions(labels, 2)
    with pytest.raises(ValueError, match="0 degrees: give 1 or more"):
        split_emotions.split_emotions({}, 0)


# --- Speakers --------------------------------------------------------------


@pytest.fixture
def two_speakers(world):
    """The tiny world's manifests with a second speaker in every split."""
    folder = world / "prepared"
    for split in select_speakers.SPLITS:
        for part in select_speakers.PARTS:
            path = folder / f"{part}{split}.json"
            manifest = read_json(path)
            (name, item), *_ = manifest.items()
            manifest[f"new_{name}"] = {**item, "speaker": "0012"}
            write_json(path, manifest)
    return folder


def speakers_of(path):
    return {item["speaker"] for item in read_json(path).values()}


def test_training_and_test_have_the_asked_speakers(two_speakers, tmp_path):
    output = tmp_path / "selected"
    select_speakers.main(
        [
            f"--prepared_folder={two_speakers}",
            f"--output_folder={output}",
            "--training_speakers=0011",
            "--test_speakers=0012",
        ]
    )
    for part in select_speakers.PARTS:
        for split, speaker in zip(
            select_speakers.SPLITS, ("0011", "0011", "0012")
        ):
            assert speakers_of(output / f"{part}{split}.json") == {speaker}
    name, item = next(iter(read_json(output / "train.json").items()))
    assert read_json(two_speakers / "train.json")[name] == item


def test_a_corpus_without_transitions_is_selected_from(two_speakers, tmp_path):
    for path in two_speakers.glob("transitions_*"):
        path.unlink()
    output = tmp_path / "selected"
    select_speakers.main(
        [
            f"--prepared_folder={two_speakers}",
            f"--output_folder={output}",
            "--test_speakers=0012",
        ]
    )
    assert speakers_of(output / "train.json") == {"0011", "0012"}
    assert len(list(output.iterdir())) == 3


def test_a_speaker_without_utterances_is_named(two_speakers, tmp_path):
    with pytest.raises(ValueError, match="train.json has no utterance of 0099"):
        select_speakers.main(
            [
                f"--prepared_folder={two_speakers}",
                f"--output_folder={tmp_path}",
                "--training_speakers=0099",
            ]
        )


# --- Running them ----------------------------------------------------------

LOG = "epoch: 1 - train loss: 2\nEpoch loaded: 1 - test loss: 1.5, test x: 3e-1"


def summary(value):
    interval = {"low": value - 0.1, "high": value + 0.1}
    return {
        "wer": {"wer": value, **interval, "words": 9},
        "within_utterance_correlation": {
            "f0": {"correlation": value, **interval}
        },
        "not_aligned": [],
    }


@pytest.fixture
def ran(monkeypatch):
    """Commands that were run; instead of running, the outputs are made."""
    commands = []

    def run(command, threads, working_folder, output_file=None):
        flags = dict(c[2:].split("=", 1) for c in command if "=" in c)
        commands.append((Path(command[0]).name, flags))
        if "label_file" in flags and "truth_file" in flags:
            write_json(flags["label_file"], {})
            return
        if command[0].endswith("select_speakers.py"):
            write_json(Path(flags["output_folder"]) / "train.json", {})
            return
        folder = Path(flags["output_folder"])
        if command[0] == "train.py":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train_log.txt").write_text(LOG)
            for name in ("synthesizer.yaml", "efilm.ckpt", "llm_decoder.ckpt"):
                (folder / name).touch()
            return
        assert (Path(flags["model_folder"]) / "efilm.ckpt").is_file()
        value = {"1": 0.2, "2": 0.4}[folder.parent.name]
        systems = (*experiment_results.REFERENCES, "efilm")
        write_json(
            folder / "summary.json", {name: summary(value) for name in systems}
        )

    monkeypatch.setattr(steps_module, "run_command", run)
    return commands


@pytest.fixture
def start(pristine_world, tmp_path):
    def start(experiment, *arguments):
        run_experiments.main(
            [
                str(experiment),
                "--seeds=1",
                f"--data_folder={pristine_world}/esd",
                f"--prepared_folder={pristine_world}/prepared",
                f"--backbone_folder={pristine_world}/backbone",
                f"--output_folder={tmp_path / 'out'}",
                f"--results_folder={tmp_path / 'results'}",
                *arguments,
            ]
        )
        results = tmp_path / "results"
        with open(results / f"{Path(experiment).stem}.csv") as file:
            return list(csv.DictReader(file)), results

    return start


def test_a_row_for_each_run_and_a_table_of_the_variants(start, ran):
    rows, folder = start("fusion.yaml", "--seeds", "1", "2", "--jobs=2")
    assert len(ran) == len(FUSIONS) * 2 * 2
    assert [(row["variant"], row["seed"]) for row in rows] == [
        *((name, "") for name in experiment_results.REFERENCES),
        *((name, seed) for name in FUSIONS for seed in "12"),
    ]
    row = rows[-1]
    assert (row["experiment"], row["wer"], row["wer_low"]) == (
        "fusion",
        "0.4000",
        "0.3000",
    )
    assert row["within_utterance_correlation.f0"] == "0.4000"
    assert row["test_x"] == "3e-1"
    assert row["command"].endswith("NoFusion []' --seed=2")
    table = (folder / "fusion.md").read_text()
    # 0.2 and 0.4: t(1) is 12.71, the standard error 0.1.
    assert "| film | 2 | 30.0 ± 127.1 (20.0 to 40.0) | 0.30 ± 1.27 (" in table
    assert "| original |  | " in table and "`python train.py hpar" in table


def test_one_table_has_all_experiments(start, ran):
    start("fusion.yaml", "--variants", "film", "addition")
    _, folder = start("labels.yaml", "--variants", "truth")
    lines = (folder / "overview.md").read_text().splitlines()
    rows = [line.split(" | ")[:3] for line in lines if line.startswith("| ")]
    assert [row[1] for row in rows] == [
        "variant",
        *experiment_results.REFERENCES,  # which all experiments share
        "film",
        "addition",
        "truth",
    ]
    assert [row[0] for row in rows[-2:]] == ["| fusion", "| labels"]
    assert "`python train.py hparams/mini.yaml` |" in lines[-3]


def test_what_is_done_is_not_done_again(start, ran):
    start("fusion.yaml")
    n_done = len(ran)
    rows, _ = start("fusion.yaml")
    assert len(ran) == n_done
    more, _ = start("fusion.yaml", "--seeds=2", "--variants", "film")
    assert [name for name, _ in ran[n_done:]] == ["train.py", "evaluate.py"]
    assert len(more) == len(rows) + 1


def test_a_killed_run_goes_on(start, ran, monkeypatch):
    run = steps_module.run_command

    def stop(command, *options):
        if command[0] == "evaluate.py":
            raise KeyboardInterrupt
        run(command, *options)

    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "run_command", stop)
        with pytest.raises(KeyboardInterrupt):
            start("fusion.yaml", "--variants", "film")
    start("fusion.yaml", "--variants", "film")
    assert [name for name, _ in ran] == ["train.py", "evaluate.py"]


def test_a_failed_run_is_told_and_the_others_are_kept(
    start, ran, monkeypatch, tmp_path
):
    run = steps_module.run_command

    def fail(command, *options):
        if command[0] == "train.py" and "NoFusion" in str(command):
            raise StepFailed("python train.py ended with code 1")
        run(command, *options)

    monkeypatch.setattr(steps_module, "run_command", fail)
    with pytest.raises(SystemExit, match="1 of 6 runs failed(.|\n)*none, 1: "):
        start("fusion.yaml")
    table = (tmp_path / "results" / "fusion.md").read_text()
    assert " film |" in table and " none |" not in table


def test_other_data_make_every_training_stale(start, ran, world):
    flags = [
        f"--data_folder={world}/esd",
        f"--prepared_folder={world}/prepared",
    ]
    start("fusion.yaml", "--variants", "film", *flags)
    write_json(world / "prepared" / "train.json", {})
    start("fusion.yaml", "--variants", "film", *flags)
    assert [name for name, _ in ran].count("train.py") == 2


def test_noise_is_made_for_each_seed(start, ran):
    start("label_noise.yaml", "--variants", "noise_30")
    assert [name for name, _ in ran] == [
        "relabel_words.py",
        "train.py",
        "evaluate.py",
    ]
    assert ran[0][1]["seed"] == "1"
    assert ran[1][1]["label_source"] == "labels"
    assert ran[1][1]["label_file"] == ran[0][1]["label_file"]
    assert "label_file" not in ran[2][1]


def test_speakers_are_selected_for_training_and_test(start, ran, tmp_path):
    rows, _ = start("unseen_speaker.yaml")
    assert [name for name, _ in ran] == [
        "select_speakers.py",
        "train.py",
        "evaluate.py",
    ] * 2
    manifests = tmp_path / "out" / "unseen_speaker" / "unheard" / "1"
    assert ran[3][1]["output_folder"] == str(manifests / "manifests")
    train = json.loads(ran[4][1]["manifests"])
    assert train["train"] == str(manifests / "manifests" / "train.json")
    assert "valid" in json.loads(ran[4][1]["transitions_manifests"])
    assert json.loads(ran[5][1]["test_manifests"]) == [
        str(manifests / "manifests" / "test.json"),
        str(manifests / "manifests" / "transitions_test.json"),
    ]
    assert rows[-1]["command"].startswith(
        "python experiments/select_speakers.py --training_speakers 0011 0012 "
        "0013 --test_speakers 0014 && python train.py"
    )


def test_a_larger_taxonomy_is_trained_and_judged_by_its_labels(start, ran):
    start("taxonomy.yaml", "--variants", "nine")
    assert [name for name, _ in ran] == [
        "split_emotions.py",
        "train.py",
        "evaluate.py",
    ]
    assert ran[1][1]["label_source"] == "labels"
    assert (
        ran[0][1]["label_file"]
        == ran[1][1]["label_file"]
        == ran[2][1]["truth_file"]
    )


def test_another_corpus_is_trained_on_and_not_tested_on(
    start, ran, pristine_world, tmp_path
):
    with pytest.raises(ValueError, match="give --other_data_folder"):
        start("cross_corpus.yaml")
    own = [f"{pristine_world}/esd", f"{pristine_world}/prepared"]
    other = [f"{tmp_path}/data", f"{tmp_path}/prepared"]
    for source, copy in zip(own, other):
        shutil.copytree(source, copy)
    rows, _ = start(
        "cross_corpus.yaml",
        f"--other_data_folder={other[0]}",
        f"--other_prepared_folder={other[1]}",
    )
    folders = [[f["data_folder"], f["prepared_folder"]] for _, f in ran]
    assert folders == [own, own, other, own]
    assert "--data_folder=OTHER_CORPUS" in rows[-1]["command"]


def test_the_variant_without_a_change_is_run_once(start, ran, tmp_path):
    start("fusion.yaml", "--variants", "film")
    n_done = len(ran)
    rows, _ = start("emotion_loss.yaml", "--variants", "speech")
    assert len(ran) == n_done
    assert rows[-1]["variant"] == "speech" and rows[-1]["wer"] == "0.2000"
    assert (tmp_path / "out" / "unchanged" / "1" / "evaluation").is_dir()


def test_an_option_of_the_user_replaces_one_of_the_experiment(start, ran):
    start("fusion.yaml", "--variants=film", "--evaluate_flags=--workers=7")
    assert ran[-1][1]["workers"] == "7"


def test_a_missing_preparation_is_named(start, ran, world):
    (world / "prepared" / "speech_tokens.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="extract_speech_tokens.py"):
        start("fusion.yaml", f"--prepared_folder={world}/prepared")
    assert ran == []


def test_an_unknown_variant_is_named(start, ran):
    with pytest.raises(ValueError, match="no variant flim: choose from film"):
        start("fusion.yaml", "--variants", "flim")


def test_a_training_really_runs(start, pristine_world, monkeypatch, tmp_path):
    run = steps_module.run_command
    folder = tmp_path / "out" / "fusion" / "addition" / "1"

    def run_training(command, *options):
        if command[0] == "train.py":
            run(command, *options)
        else:
            systems = (*experiment_results.REFERENCES, "efilm")
            write_json(
                folder / "evaluation" / "summary.json",
                {name: summary(0.5) for name in systems},
            )

    monkeypatch.setattr(steps_module, "run_command", run_training)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    flags = [
        f"--backbone=!include:{pristine_world}/backbone/backbone.yaml",
        "--number_of_steps=2",
        "--warmup_steps=1",
        "--use_tensorboard=False",
    ]
    rows, _ = start(
        "fusion.yaml",
        "--variants=addition",
        "--jobs=2",
        f"--train_flags={shlex.join(flags)}",
    )
    assert 0 < float(rows[-1]["test_speech_loss"]) < 20
    trained = torch.load(folder / "model" / "efilm.ckpt")
    assert "fusion.shift.weight" in trained
    assert "Epoch loaded" in (folder / "model" / "train_log.txt").read_text()
    assert (folder / "log.txt").stat().st_size > 0
