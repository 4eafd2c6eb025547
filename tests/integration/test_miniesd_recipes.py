"""The recipes of the mini backbone go on where they stopped."""

import re
import runpy
import shutil
import sys
from unittest import mock

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import REPOSITORY

RECIPES = REPOSITORY / "recipes" / "MiniESD"


@pytest.fixture
def pretraining(pristine_pretraining, tmp_path):
    """A copy of the pretraining corpus for one test."""
    return shutil.copytree(pristine_pretraining, tmp_path / "pretraining")


def train(recipe, corpus, output, hparams="train.yaml", **overrides):
    """Runs a recipe's train.py in this process."""
    folder = RECIPES / recipe
    flags = {
        "data_folder": corpus,
        "output_folder": output,
        "number_of_epochs": 3,
        "steps_per_epoch": 2,
        "batch_size": 4,
        **overrides,
    }
    argv = [str(folder / "train.py"), str(folder / "hparams" / hparams)]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    with (
        mock.patch.object(sys, "argv", [*argv, "--device=cpu"]),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(sys, "excepthook", sys.excepthook),
    ):
        return runpy.run_path(argv[0], run_name="__main__")


def train_tokenizer(corpus, output, **overrides):
    """The speech tokenizer's recipe, small."""
    sizes = dict(segment_tokens=16, channels=16, decoder_channels=16)
    return train("speech_tokenizer", corpus, output, **(sizes | overrides))


def logged_steps(output):
    """Epoch and step of every line of the training log."""
    text = (output / "train_log.txt").read_text()
    return re.findall(r"epoch: (\d+), step: (\d+)", text)


def test_interrupted_training_goes_on_from_its_last_epoch(
    pretraining, tmp_path
):
    output = tmp_path / "output"
    steps = []
    adamw_step = torch.optim.AdamW.step

    def step(optimizer, *args, **kwargs):
        if len(steps) == 3:  # in the middle of the second epoch
            raise KeyboardInterrupt
        steps.append(optimizer.param_groups[0]["lr"])
        return adamw_step(optimizer, *args, **kwargs)

    with mock.patch("torch.optim.AdamW.step", step):
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(pretraining, output)
    assert logged_steps(output) == [("1", "2")]
    assert not (output / "speech_tokenizer.safetensors").exists()
    (checkpoint,) = (output / "save").glob("CKPT+*")
    stopped = torch.load(checkpoint / "tokenizer.ckpt", weights_only=True)

    first_step = []

    def watch(optimizer, *args, **kwargs):
        group = optimizer.param_groups[0]
        if not first_step:
            moments = optimizer.state[group["params"][0]]["step"]
            first_step.append((int(moments), group["lr"]))
        return adamw_step(optimizer, *args, **kwargs)

    with mock.patch("torch.optim.AdamW.step", watch):
        train_tokenizer(pretraining, output)
    assert logged_steps(output) == [("1", "2"), ("2", "4"), ("3", "6")]
    # The optimizer's moments and the learning rate go on as well.
    assert first_step == [(2, steps[2])]
    weights = load_file(output / "speech_tokenizer.safetensors")
    assert set(weights) == {k for k in stopped if not k.startswith("heads")}
    name = "encoder.0.weight"
    assert not torch.equal(weights[name], stopped[name].half())


def test_a_resumed_training_ends_as_an_uninterrupted_one(pretraining, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_tokenizer(pretraining, whole)
    adamw_step = torch.optim.AdamW.step
    steps = []

    def step(optimizer, *args, **kwargs):
        if len(steps) == 3:  # in the middle of the second epoch
            raise KeyboardInterrupt
        steps.append(1)
        return adamw_step(optimizer, *args, **kwargs)

    with mock.patch("torch.optim.AdamW.step", step):
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(pretraining, resumed)
    torch.rand(5)  # whatever random numbers were drawn since
    train_tokenizer(pretraining, resumed)
    torch.testing.assert_close(
        load_file(resumed / "speech_tokenizer.safetensors"),
        load_file(whole / "speech_tokenizer.safetensors"),
        rtol=0,
        atol=0,
    )


def test_validation_segments_are_always_the_same(pretraining, tmp_path):
    ran = train_tokenizer(pretraining, tmp_path, number_of_epochs=1)
    data = sys.modules["pretraining_data"]  # imported by the recipe
    corpus = data.PretrainingCorpus(pretraining)
    fixed = ran["Segments"](corpus, corpus.valid, 8, 16, fixed=True)
    first = [fixed[i]["mel"] for i in range(8)]
    assert all(torch.equal(fixed[i]["mel"], first[i]) for i in range(8))
    free = ran["Segments"](corpus, corpus.train, 8, 16)
    assert not all(torch.equal(free[0]["mel"], free[0]["mel"]) for _ in "123")


def test_more_speakers_than_the_decoder_has_are_named(pretraining, tmp_path):
    with pytest.raises(ValueError, match="has 4 speakers: set n_speakers"):
        train_tokenizer(pretraining, tmp_path, n_speakers=3)


def test_batches_go_where_the_modules_are():
    with mock.patch.object(sys, "path", [str(RECIPES), *sys.path]):
        brain = runpy.run_path(str(RECIPES / "pretraining_brain.py"))[
            "PretrainingBrain"
        ]
    somewhere = mock.Mock(device="meta", hparams=mock.Mock(seed=0))
    moved = brain.on_device(somewhere, {"mel": torch.zeros(2)})
    assert moved["mel"].device.type == "meta"


def test_finished_training_is_not_done_again(pretraining, tmp_path):
    output = tmp_path / "output"
    train_tokenizer(pretraining, output, number_of_epochs=1)
    weights = load_file(output / "speech_tokenizer.safetensors")
    tokens = (pretraining / "tokens.npy").read_bytes()
    (output / "speech_tokenizer.safetensors").unlink()
    train_tokenizer(pretraining, output, number_of_epochs=1)
    assert logged_steps(output) == [("1", "2")]
    again = load_file(output / "speech_tokenizer.safetensors")
    torch.testing.assert_close(again, weights, rtol=0, atol=0)
    assert (pretraining / "tokens.npy").read_bytes() == tokens


def test_too_short_utterances_stop_before_the_training(pretraining, tmp_path):
    with pytest.raises(ValueError, match="no utterance has the 20000 frames"):
        train_tokenizer(pretraining, tmp_path, segment_tokens=10000)


def test_the_shipped_llm_is_trained_on_in_both_layouts(pretraining, tmp_path):
    folder = RECIPES / "speech_tokenizer"
    script = folder / "tokenize_corpus.py"
    with (
        mock.patch.object(sys, "argv", [str(script), str(pretraining)]),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.dict(sys.modules),  # it imports a module named train
    ):
        runpy.run_path(str(script), run_name="__main__")
    sizes = dict(number_of_epochs=1, steps_per_epoch=1, lr=0.0)
    train("llm", pretraining, tmp_path, "train_bistream.yaml", **sizes)
    log = (tmp_path / "train_log.txt").read_text()
    losses = dict(re.findall(r"(?:valid|,) (\w*speech): ([\d.]+)", log))
    # The shipped one has read whole texts only.
    assert float(losses["speech"]) < float(losses["bistream_speech"])
    # What it learned is taken over, the text embedding in parts.
    shipped = load_file(
        REPOSITORY / "speechbrain_emofilm/assets/mini/llm.safetensors"
    )
    trained = load_file(tmp_path / "llm.safetensors")
    torch.testing.assert_close(trained, shipped, rtol=0, atol=2e-3)
