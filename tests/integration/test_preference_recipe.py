"""prefer.py makes pairs, trains on them, resumes and exports a synthesizer."""

import shutil
import signal
import sys
from unittest import mock

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.files import read_json

import pytest
import torch
from test_emotional_tts_recipe import assert_same, logged, start
from tiny_world import RECIPE, recipe_flags, run_script

HPARAMS = RECIPE / "hparams" / "prefer_mini.yaml"


def run(script, flags, hparams=HPARAMS, run_name="__main__"):
    """Runs a script; other recipes have a module called train, too."""
    modules = {n: m for n, m in sys.modules.items() if n != "train"}
    with mock.patch.dict(sys.modules, modules, clear=True):
        return run_script(script, flags, hparams, run_name)


@pytest.fixture(scope="module")
def functions():
    """Functions of prefer.py."""
    return run("prefer.py", [], run_name="functions")


@pytest.fixture(scope="module")
def model(pristine_world, tmp_path_factory):
    """Output folder of a finished training of train.py."""
    folder = tmp_path_factory.mktemp("model")
    run_script("train.py", recipe_flags(pristine_world, folder))
    return folder


def prefer_flags(world, model, output, **overrides):
    """Command-line options of prefer.py on a world."""
    flags = {
        "data_folder": f"{world}/esd",
        "prepared_folder": f"{world}/prepared",
        "model_folder": model,
        "output_folder": output,
        "speech_tokenizer_file": (
            f"{world}/backbone/speech_tokenizer.safetensors"
        ),
        "skip_prep": True,
        "source": "parallel",
        "number_of_steps": 4,
        "warmup_steps": 1,
        "batch_size": 6,
        "dynamic_batching": False,
        "use_tensorboard": False,
        **overrides,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + [
        "--device=cpu",
        "--noprogressbar",
    ]


@pytest.fixture(scope="module")
def finished(pristine_world, model, tmp_path_factory):
    """Output folder of a training on pairs of recordings."""
    output = tmp_path_factory.mktemp("finished")
    run("prefer.py", prefer_flags(pristine_world, model, output))
    return output


# --- Pairs of recordings --------------------------------------------------


def item(emotion, text="We won.", speaker="0011"):
    return {"speaker": speaker, "text": text, "emotion": emotion}


def test_parallel_pairs_are_of_a_sentence_by_one_speaker(functions):
    items = {
        "a": item("happy"),
        "b": item("sad", "We won!"),
        "c": item("neutral", "He left."),
        "d": item("sad", speaker="0012"),
        "mixed": item(None),
        "again": item("happy"),
    }
    pairs = functions["parallel_pairs"](items, 9).values()
    found = {(p["chosen"], p["rejected"]) for p in pairs}
    assert found == {
        ("a", "b"), ("again", "b"), ("b", "a"), ("b", "again"),
        ("mixed", "a"), ("mixed", "b"), ("mixed", "again"),
    }  # fmt: skip
    assert all(p["utterance"] == p["chosen"] for p in pairs)


def test_every_emotion_is_rejected_as_often(functions):
    emotions = ["neutral", "angry", "happy", "sad", "surprise"]
    items = {emotion: item(emotion) for emotion in emotions}
    pairs = functions["parallel_pairs"](items, 2).values()
    rejected = [p["rejected"] for p in pairs]
    assert {rejected.count(emotion) for emotion in emotions} == {2}


# --- Training -------------------------------------------------------------


def test_log_has_the_statistics_of_the_pairs(finished):
    for name in ("preference_loss", "accuracy", "margin", "speech_loss"):
        assert logged(finished, rf"valid {name}: "), name


def test_only_efilm_and_the_head_are_trained(finished, model):
    for name in ("efilm", "llm_decoder"):
        before = torch.load(model / f"{name}.ckpt")
        after = torch.load(finished / f"{name}.ckpt")
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[n], after[n]) for n in before)
    (folder, *_) = (finished / "save").glob("CKPT+*")
    assert {path.stem for path in folder.glob("*.ckpt")} == {
        "efilm", "llm_decoder", "optimizer_conditioner", "optimizer_head",
        "counter", "brain", "dataloader-TRAIN",
    }  # fmt: skip


def test_output_folder_speaks(finished):
    synthesizer = EmoFiLMSynthesizer.from_hparams(finished)
    best = torch.load(finished / "efilm.ckpt")
    assert_same(dict(synthesizer.mods.emofilm.efilm.state_dict()), dict(best))
    spoken = synthesizer.synthesize("<happy>We won</happy> the game.")
    assert spoken.wav.isfinite().all() and len(spoken.words) == 4


def test_references_are_scored_once_and_are_the_starts(
    finished, pristine_world, model, functions
):
    path = finished / "reference.json"
    stored = read_json(path)
    assert stored["log_probs"] and all(
        value < 0 for value in stored["log_probs"].values()
    )
    scored = []

    class Scorer(torch.nn.Linear):
        def forward(self, inputs):
            scored.append(inputs)
            raise AssertionError

    variables = run("prefer.py", prefer_flags(pristine_world, model, finished))
    for data in variables["pair_data"].values():
        data.set_output_keys(["id", "chosen_item", "rejected_item"])
    functions["reference_log_probs"](
        Scorer(1, 1), variables["pair_data"], path, stored["model"], 4
    )
    assert scored == [] and read_json(path) == stored
    # Another model makes them anew.
    with pytest.raises(AssertionError):
        functions["reference_log_probs"](
            Scorer(1, 1), variables["pair_data"], path, "other", 4
        )


def test_killed_training_ends_with_the_same_parameters(
    pristine_world, model, tmp_path, warm_python
):
    options = dict(
        dynamic_batching=True,
        dynamic_batch_sampler="{max_batch_length: 12, num_buckets: 4}",
        ckpt_interval_steps=1,
        number_of_steps=7,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("prefer.py", prefer_flags(pristine_world, model, whole, **options))
    flags = prefer_flags(pristine_world, model, killed, **options)
    # Two optimizers step in an update.
    place = ("killed_run.py", "step", 9, "prefer.py", HPARAMS)
    process = start(warm_python, *place, *flags)
    assert process.returncode == -signal.SIGKILL, process.stderr
    run("prefer.py", flags)
    for name in ("efilm", "llm_decoder"):
        assert_same(
            torch.load(killed / f"{name}.ckpt"),
            torch.load(whole / f"{name}.ckpt"),
        )


def test_readings_that_become_improbable_are_not_exported(
    pristine_world, model, tmp_path
):
    flags = prefer_flags(
        pristine_world, model, tmp_path, max_speech_loss_rise=-1.0
    )
    with pytest.raises(ValueError, match="no epoch in which the chosen"):
        run("prefer.py", flags)
    assert not (tmp_path / "synthesizer.yaml").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"source": "guess"}, "source is 'guess': set it to sampled, "),
        ({"source": "sampled"}, "pairs.json does not exist: make it with"),
    ],
)
def test_missing_pairs_are_named(
    pristine_world, model, tmp_path, overrides, message
):
    flags = prefer_flags(pristine_world, model, tmp_path, **overrides)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("prefer.py", flags)


def test_a_corpus_without_other_readings_is_named(world, model, tmp_path):
    shutil.rmtree(world / "esd" / "transitions")
    flags = prefer_flags(world, model, tmp_path, n_parallel_rejected=0)
    with pytest.raises(ValueError, match="There is no pair for train"):
        run("prefer.py", flags)
