"""recipes/ESD/emotional_tts really trains, resumes and refuses bad input."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.speech_tokens import (
    read_speech_tokens,
    write_speech_tokens,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch
import yaml
from ddp_run import train
from hyperpyyaml import load_hyperpyyaml
from tiny_world import (
    HPARAMS,
    RECIPE,
    REPOSITORY,
    SAMPLE_RATE,
    make_world,
    recipe_flags,
    run_script,
)

HERE = Path(__file__).parent
TRAINED = {"efilm", "llm_decoder", "emotion_loss", "word_pointer"}
OPTIMIZERS = {
    "optimizer_conditioner",
    "optimizer_head",
    "optimizer_word_pointer",
}


def newest_checkpoint(output):
    """What the newest checkpoint of a run holds, by file."""
    folders = list((Path(output) / "save").glob("CKPT+*"))
    newest = max(
        folders,
        key=lambda f: yaml.safe_load((f / "CKPT.yaml").read_text())["unixtime"],
    )
    return {
        name: torch.load(newest / f"{name}.ckpt")
        for name in TRAINED | OPTIMIZERS
    }


def assert_same(one, other):
    """Two checkpoints are the same to the last bit."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def logged(output, pattern):
    """All that a pattern finds in the training log."""
    return re.findall(pattern, (Path(output) / "train_log.txt").read_text())


def start(python, script, *args, launcher=()):
    """Runs a helper script as a process of its own."""
    command = [python, *launcher, str(HERE / script), *map(str, args)]
    paths = {"PYTHONPATH": str(REPOSITORY), "PYTHON_EXEC": python}
    env = {**os.environ, **paths}
    return subprocess.run(command, env=env, capture_output=True, text=True)


def start_and_kill(python, call, n, flags):
    """Trains in a process that is killed at a call's n-th time."""
    run = ("killed_run.py", call, n, "train.py", HPARAMS)
    return start(python, *run, *flags)


def prepare_data(world, **overrides):
    """The recipe's datasets."""
    flags = recipe_flags(world, world / "output", **overrides)
    _, _, overrides = sb.parse_arguments([str(HPARAMS), *flags])
    with open(HPARAMS) as file:
        hparams = load_hyperpyyaml(file, overrides)
    functions = run_script("train.py", [], run_name="functions")
    return functions["dataio_prepare"](hparams)


# --- What a training leaves behind ---------------------------------------


@pytest.fixture(scope="module")
def finished(pristine_world, tmp_path_factory):
    """Output folder of a finished training."""
    output = tmp_path_factory.mktemp("finished")
    run_script(
        "train.py", recipe_flags(pristine_world, output, use_tensorboard=True)
    )
    return output


def test_log_has_the_validation_statistics(finished):
    for statistic in (
        "speech_loss",
        "speech_accuracy",
        "emotion_accuracy",
        "modulation_ratio",
    ):
        assert logged(finished, rf"valid {statistic}: \d"), statistic
    assert logged(finished, "test speech_loss: ")


def test_tensorboard_has_the_curves(finished):
    from tensorboard.backend.event_processing import event_accumulator

    curves = event_accumulator.EventAccumulator(str(finished / "tensorboard"))
    curves.Reload()
    assert [e.step for e in curves.Scalars("speech_loss/valid")] == [1]


def test_checkpoint_holds_only_what_trains(finished):
    (folder,) = (finished / "save").glob("CKPT+*")
    names = TRAINED | OPTIMIZERS | {"brain", "counter", "dataloader-TRAIN"}
    assert {path.name for path in folder.iterdir()} == {
        "CKPT.yaml",
        *(f"{name}.ckpt" for name in names),
    }


def test_only_what_trains_has_changed(finished, pristine_world):
    folder = pristine_world / "backbone"
    with open(HPARAMS) as file:
        _, _, overrides = sb.parse_arguments(
            [str(HPARAMS), *recipe_flags(pristine_world, finished)]
        )
        start = load_hyperpyyaml(file, overrides)
    trained = newest_checkpoint(finished)
    for name in ("weight", "bias"):
        key = f"classifier.{name}"
        assert not torch.equal(
            start["emotion_loss"].state_dict()[key],
            trained["emotion_loss"][key],
        )
    for name, weight in (
        start["backbone"]["llm"].llm_decoder.state_dict().items()
    ):
        assert not torch.equal(weight, trained["llm_decoder"][name]), name
    for name, weight in start["efilm"].state_dict().items():
        assert not torch.equal(weight, trained["efilm"][name]), name
    assert (folder / "llm.safetensors").is_file()


def test_output_folder_speaks(finished):
    synthesizer = EmoFiLMSynthesizer.from_hparams(finished)
    best = torch.load(finished / "efilm.ckpt")
    assert_same(dict(synthesizer.mods.emofilm.efilm.state_dict()), dict(best))
    spoken = synthesizer.synthesize("<happy>We won</happy> the game.")
    assert spoken.sample_rate == SAMPLE_RATE
    assert spoken.wav.isfinite().all() and len(spoken.wav) > 0
    assert len(spoken.words) == 4


def test_checkpoint_of_the_mini_backbone_is_below_5_mb(tmp_path):
    make_world(tmp_path / "world", sizes="{text_dim: 192}")
    flags = recipe_flags(tmp_path / "world", tmp_path, number_of_steps=2)
    run_script("train.py", flags)
    (folder,) = (tmp_path / "save").glob("CKPT+*")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6


# --- Options of the training ---------------------------------------------


@pytest.mark.parametrize(
    "fusion, kind",
    [
        ("addition", "AdditiveFusion"),
        ("concatenation", "ConcatenationFusion"),
        ("none", "NoFusion"),
        ("steering", "SteeringFusion"),
        ("film_deep", "DeepFiLM"),
    ],
)
def test_one_line_swaps_the_fusion(pristine_world, tmp_path, fusion, kind):
    text = HPARAMS.read_text()
    swapped = text.replace(
        "hparams/fusion/film.yaml", f"hparams/fusion/{fusion}.yaml"
    )
    different = set(swapped.splitlines()) ^ set(text.splitlines())
    assert len(different) == 2  # one line out, one line in
    hparams_file = tmp_path / "swapped.yaml"
    hparams_file.write_text(
        swapped.replace("../../../../hparams", str(REPOSITORY / "hparams"))
    )
    output = tmp_path / "output"
    flags = recipe_flags(pristine_world, output, number_of_steps=2)
    brain = run_script("train.py", flags, hparams_file)["brain"]
    assert type(brain.modules.emofilm.efilm.fusion).__name__ == kind
    assert brain.optimizer_step == 2
    assert newest_checkpoint(output)
    # The trained model is loaded with all its weights, and speaks.
    synthesizer = EmoFiLMSynthesizer.from_hparams(output)
    trained = brain.modules.emofilm.efilm.state_dict()
    loaded = synthesizer.mods.emofilm.efilm.state_dict()
    assert trained.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)
    assert synthesizer.synthesize("<sad>He left.</sad>").wav.isfinite().all()


@pytest.mark.parametrize("training", ["lora", "joint"])
def test_an_opened_backbone_trains_resumes_and_speaks(
    pristine_world, tmp_path, training, warm_python
):
    options = dict(backbone_training=training, ckpt_interval_steps=1)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    brain = run_script(
        "train.py", recipe_flags(pristine_world, whole, **options)
    )["brain"]
    trained = torch.load(whole / "open_backbone.ckpt")
    assert trained.keys() == brain.hparams.open_backbone.opened.keys()
    assert all(("adapter" in name) == (training == "lora") for name in trained)

    flags = recipe_flags(pristine_world, resumed, **options)
    run = start_and_kill(warm_python, "step", 8, flags)  # of 3 x 4
    assert run.returncode == -signal.SIGKILL, run.stderr
    run_script("train.py", flags)
    assert_same(torch.load(resumed / "open_backbone.ckpt"), trained)

    synthesizer = EmoFiLMSynthesizer.from_hparams(whole)
    spoken = dict(synthesizer.mods.emofilm.llm.named_parameters())
    for name, weight in trained.items():
        assert torch.equal(spoken[name], weight), name
    assert synthesizer.synthesize("<sad>He left.</sad>").wav.isfinite().all()


def test_a_checkpoint_that_lacks_weights_does_not_speak(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "output")
    path = folder / "efilm.ckpt"
    weights = torch.load(path)
    weights.popitem()
    torch.save(weights, path)
    with pytest.raises(ValueError, match="efilm.ckpt does not fit.*Missing"):
        EmoFiLMSynthesizer.from_hparams(folder)


@pytest.mark.parametrize(
    "fusion",
    [
        "!include:../../../../hparams/fusion/none.yaml {text_dim: 16}",
        "!new:speechbrain_emofilm.lobes.efilm.NoFusion {text_dim: 16}",
    ],
)
def test_a_fusion_that_the_command_line_cannot_swap_is_an_error(
    pristine_world, tmp_path, fusion
):
    flags = recipe_flags(pristine_world, tmp_path / "output", fusion=fusion)
    with pytest.raises(ValueError, match="fusion is still a FiLM.*list of"):
        run_script("train.py", flags)


def test_dynamic_batches_keep_to_their_length(pristine_world, tmp_path):
    flags = recipe_flags(
        pristine_world,
        tmp_path,
        dynamic_batching=True,
        dynamic_batch_sampler="{max_batch_length: 6, num_buckets: 4}",
    )
    brain = run_script("train.py", flags)["brain"]
    sampler = brain.train_sampler
    batches = list(sampler)
    assert sorted(sum(batches, [])) == list(range(16))
    assert 1 < len(batches) < 16
    assert all(
        sum(sampler.get_durations(batch)) <= 6.01
        for batch in batches
        if len(batch) > 1
    )


def test_every_epoch_has_another_order_whatever_came_before(
    pristine_world, tmp_path
):
    flags = recipe_flags(pristine_world, tmp_path, dynamic_batching=True)
    brain = run_script("train.py", flags)["brain"]
    orders = []
    for epoch in (1, 2, 3, 2):
        brain.train_sampler.set_epoch(epoch)
        orders.append(list(brain.train_sampler))
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == orders[3]


def test_last_batches_of_an_epoch_make_an_update(pristine_world, tmp_path):
    flags = recipe_flags(
        pristine_world, tmp_path, grad_accumulation_factor=3, number_of_epochs=1
    )
    brain = run_script("train.py", flags)["brain"]
    assert brain.n_batches == 4
    assert logged(tmp_path, r"step: (\d+)") == ["2"]


def test_accumulated_gradients_are_the_mean_of_the_group(
    pristine_world, tmp_path, monkeypatch
):
    gradients = []

    def remember(optimizer, *args, **kwargs):
        gradients.append(
            [p.grad.clone() for p in optimizer.param_groups[0]["params"]]
        )

    # No update is made, so both runs take all gradients at the same place.
    monkeypatch.setattr(torch.optim.AdamW, "step", remember)
    options = dict(
        number_of_epochs=1, batch_size=4, max_grad_norm=1e9,
        history_corruption=0.0, condition_dropout=0.0, word_pointer_weight=0,
    )  # fmt: skip
    for factor in (1, 3):
        run_script(
            "train.py",
            recipe_flags(
                pristine_world,
                tmp_path / str(factor),
                grad_accumulation_factor=factor,
                **options,
            ),
        )
    # Two optimizers take turns: 4 single updates, then groups of 3 and 1.
    single, grouped = gradients[0:8:2], gradients[8::2]
    assert len(grouped) == 2
    for parts, whole in ((single[:3], grouped[0]), (single[3:], grouped[1])):
        mean = [sum(tensors) / len(parts) for tensors in zip(*parts)]
        torch.testing.assert_close(whole, mean)


def test_bf16_trains_fp32_parameters(pristine_world, tmp_path):
    flags = recipe_flags(pristine_world, tmp_path) + ["--precision=bf16"]
    brain = run_script("train.py", flags)["brain"]
    with brain.training_ctx:
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    for weights in newest_checkpoint(tmp_path)["efilm"].values():
        assert weights.dtype == torch.float32 and weights.isfinite().all()


def test_gradients_of_all_optimizers_are_clipped(
    pristine_world, tmp_path, monkeypatch
):
    norms = []

    def remember(optimizer, *args, **kwargs):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms.append(torch.nn.utils.get_total_norm(grads))

    monkeypatch.setattr(torch.optim.AdamW, "step", remember)
    flags = recipe_flags(pristine_world, tmp_path, max_grad_norm=1e-4)
    run_script("train.py", flags)
    assert len(norms) == 12 and max(norms) <= 1.01e-4


def test_the_word_pointer_leaves_all_else_as_it_is(
    finished, pristine_world, tmp_path
):
    flags = recipe_flags(pristine_world, tmp_path, word_pointer_weight=0)
    run_script("train.py", flags)
    for name in ("efilm", "llm_decoder"):
        file = f"{name}.ckpt"
        assert_same(torch.load(tmp_path / file), torch.load(finished / file))
    without = EmoFiLMSynthesizer.from_hparams(tmp_path)
    assert without.mods.emofilm.word_pointer is None
    assert not (tmp_path / "word_pointer.ckpt").exists()
    spoken = EmoFiLMSynthesizer.from_hparams(finished).synthesize("We won.")
    assert spoken.word_times_source == "pointer"
    assert torch.equal(spoken.wav, without.synthesize("We won.").wav)


@pytest.mark.parametrize("weight", [0, 1.0])
def test_a_trained_model_gets_a_pointer(pristine_world, tmp_path, weight):
    model, output = tmp_path / "model", tmp_path / "output"
    run_script(
        "train.py",
        recipe_flags(pristine_world, model, word_pointer_weight=weight),
    )
    flags = [
        f"--data_folder={pristine_world}/esd",
        f"--prepared_folder={pristine_world}/prepared",
        f"--speech_tokenizer_file={pristine_world}/backbone/"
        "speech_tokenizer.safetensors",
        f"--model_folder={model}",
        f"--output_folder={output}",
        "--skip_prep=True",
        "--number_of_steps=4",
        "--device=cpu",
        "--noprogressbar",
    ]
    hparams_file = RECIPE / "hparams" / "train_pointer.yaml"
    run_script("train_pointer.py", flags, hparams_file)
    assert logged(output, r"valid boundary_mean_ms: \d")
    assert logged(output, r"test causal_boundary_p90_ms: \d")
    for name in ("efilm", "llm_decoder"):
        file = f"{name}.ckpt"
        assert_same(torch.load(output / file), torch.load(model / file))
    pointed = EmoFiLMSynthesizer.from_hparams(output)
    assert_same(
        dict(pointed.mods.emofilm.word_pointer.state_dict()),
        dict(torch.load(output / "word_pointer.ckpt")),
    )
    spoken = pointed.synthesize("<happy>We won.</happy>")
    assert spoken.word_times_source == "pointer"
    before = EmoFiLMSynthesizer.from_hparams(model)
    expected = before.synthesize("<happy>We won.</happy>")
    assert torch.equal(spoken.wav, expected.wav)

    run_script("train_pointer.py", flags, hparams_file)  # is not trained on
    again = dict(torch.load(output / "word_pointer.ckpt"))
    assert_same(again, dict(pointed.mods.emofilm.word_pointer.state_dict()))


def test_training_stops_early(pristine_world, tmp_path):
    flags = recipe_flags(
        pristine_world,
        tmp_path,
        number_of_steps=100,
        lr=0.0,
        lr_head=0.0,
        patience=2,
    )
    run_script("train.py", flags)
    assert logged(tmp_path, r"epoch: (\d+)") == ["1", "2", "3"]


@pytest.mark.parametrize("position", ["speech", "input"])
def test_emotion_loss_is_added_with_its_weight(
    pristine_world, tmp_path, position
):
    flags = recipe_flags(
        pristine_world,
        tmp_path,
        emotion_loss=f"{{position: {position}}}",
        emotion_loss_weight=0.5,
        word_pointer_weight=0,
    )
    run_script("train.py", flags)
    values = [
        float(logged(tmp_path, rf"valid {name}: (\S+),")[-1])
        for name in ("loss", "speech_loss", "emotion_loss")
    ]
    assert values[0] == pytest.approx(values[1] + 0.5 * values[2], rel=1e-3)


def test_word_emotions_are_those_of_the_chosen_source(world):
    label_file = world / "prepared" / "word_labels.json"
    labels = read_json(world / "esd" / "word_labels.json")
    for entry in labels.values():
        for word in entry["words"]:
            word.update(emotion="surprise", intensity=0.25)
    write_json(label_file, labels)
    sad, transition = "0011_000010", "0011_t000016"
    for source, expected in {
        "truth": ([0, 3, 3, 3], [0, 0.8, 0.8, 0.8]),
        "labels": ([4, 4, 4, 4], [0.25] * 4),
        "sentence": ([3, 3, 3, 3], [1.0] * 4),
    }.items():
        data = prepare_data(world, label_source=source)["train"]
        items = {item["id"]: item for item in data}
        item = items[sad]
        assert item["word_emotions"].argmax(-1).tolist() == expected[0]
        torch.testing.assert_close(
            item["word_intensity"], torch.tensor(expected[1])
        )
        # 0.1 s of silence, words of 0.2 s, 25 tokens a second
        assert item["word_of_speech"].tolist()[:8] == [-1, -1, -1] + [0] * 5
    # A sentence of several emotions has none to give to its words.
    assert items[transition]["word_emotions"].sum() == 0


# --- Diagnosis ------------------------------------------------------------


def test_validation_names_failures_in_the_log(pristine_world, tmp_path):
    for name, rate, failure in (
        ("untrained", 0.0, "flat prosody"),
        ("too fast", 1.0, "catastrophic forgetting"),
    ):
        flags = recipe_flags(
            pristine_world,
            tmp_path / name,
            number_of_steps=8,
            lr=rate,
            lr_head=0.01 * rate,
            max_grad_norm=100,
        )
        run_script("train.py", flags)
        diagnoses = logged(tmp_path / name, r"diagnosis of epoch (\d+): (.+)")
        assert [epoch for epoch, _ in diagnoses] == ["1", "2"]
        _, last = diagnoses[-1]
        assert f"{failure}: modulation_ratio " in last and "Try a " in last
        assert "valid emotion_gain" in last


def test_diagnosis_leaves_the_training_as_it_is(pristine_world, tmp_path):
    for n in (0, 2):
        flags = recipe_flags(
            pristine_world, tmp_path / str(n), diagnosis_utterances=n
        )
        run_script("train.py", flags)
    assert_same(*(newest_checkpoint(tmp_path / n) for n in "02"))
    assert logged(tmp_path / "0", "diagnosis") == []
    assert len(logged(tmp_path / "2", "diagnosis")) == 1


def test_utterances_whose_emotion_switches_are_diagnosed_first(world):
    train = prepare_data(world)["train"]
    functions = run_script("train.py", [], run_name="functions")
    choose = functions["choose_diagnosed"]
    for n, batch_size, sizes in ((0, 4, []), (3, 2, [2, 1]), (99, 99, [16])):
        batches = choose(train, n, batch_size)
        assert [len(batch) for batch in batches] == sizes
    (first,) = choose(train, 1, 4)
    switches = first.word_emotions.data[0].argmax(-1).diff()
    assert (switches != 0).any()


# --- Interruption ---------------------------------------------------------


def test_killed_training_ends_with_the_same_parameters(
    pristine_world, tmp_path, warm_python
):
    options = dict(
        dynamic_batching=True,
        dynamic_batch_sampler="{max_batch_length: 6, num_buckets: 4}",
        grad_accumulation_factor=2,
        ckpt_interval_steps=1,
        number_of_steps=9,
    )
    run_script(
        "train.py", recipe_flags(pristine_world, tmp_path / "whole", **options)
    )
    whole = newest_checkpoint(tmp_path / "whole")

    killed = tmp_path / "killed"
    flags = recipe_flags(pristine_world, killed, **options)
    # Two optimizers step in an update, and five files are saved by torch.
    at_step, at_save = random.randint(3, 12), random.randint(2, 14)
    print(f"killed at step {at_step}, then at save {at_save}")
    for call, n in (("step", at_step), ("save", at_save)):
        run = start_and_kill(warm_python, call, n, flags)
        assert run.returncode == -signal.SIGKILL, run.stderr
    run_script("train.py", flags)
    assert_same(newest_checkpoint(killed), whole)


def test_finished_training_is_not_trained_on(
    finished, pristine_world, tmp_path
):
    output = shutil.copytree(finished, tmp_path / "output")
    run_script("train.py", recipe_flags(pristine_world, output))
    assert_same(newest_checkpoint(output), newest_checkpoint(finished))
    assert logged(output, r"epoch: (\d+)") == logged(finished, r"epoch: (\d+)")


def test_full_disk_leaves_the_checkpoint_before_whole(
    pristine_world, tmp_path, monkeypatch
):
    options = dict(ckpt_interval_steps=1)
    run_script(
        "train.py", recipe_flags(pristine_world, tmp_path / "whole", **options)
    )
    flags = recipe_flags(pristine_world, tmp_path / "full", **options)
    save, calls = torch.save, []

    def save_until_full(obj, path):
        calls.append(path)
        if len(calls) < 13:  # within the third checkpoint
            return save(obj, path)
        Path(path).write_bytes(b"PK")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        with pytest.raises(OSError, match="free some space") as caught:
            run_script("train.py", flags)
    assert str(tmp_path / "full" / "save") in str(caught.value)
    assert newest_checkpoint(tmp_path / "full")
    run_script("train.py", flags)
    assert_same(
        newest_checkpoint(tmp_path / "full"),
        newest_checkpoint(tmp_path / "whole"),
    )


# --- Several processes ----------------------------------------------------


def test_two_processes_train_as_one(pristine_world, tmp_path, warm_python):
    options = dict(
        history_corruption=0.0,
        condition_dropout=0.0,
        word_pointer="{dropout: 0.0, next_dropout: 0.0}",
        number_of_steps=2,
    )
    # 16 utterances: the global batch is the whole corpus.
    alone_flags, both_flags = (
        recipe_flags(
            pristine_world, tmp_path / str(n), batch_size=16 // n, **options
        )
        for n in (1, 2)
    )
    train(tmp_path / "result1", alone_flags)
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2"
    run = start(
        warm_python,
        "ddp_run.py",
        tmp_path / "result2",
        *both_flags,
        "--distributed_backend=gloo",
        launcher=launcher.split(),
    )
    assert run.returncode == 0, run.stderr
    alone = torch.load(tmp_path / "result1.0")
    both = [torch.load(tmp_path / f"result2.{rank}") for rank in range(2)]
    assert len(alone["gradients"]) > 0
    for one in both:
        torch.testing.assert_close(
            one["gradients"], alone["gradients"], rtol=1e-3, atol=1e-6
        )
    loss = sum(one["loss"] for one in both) / 2
    torch.testing.assert_close(loss, alone["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        newest_checkpoint(tmp_path / "2")["efilm"],
        newest_checkpoint(tmp_path / "1")["efilm"],
        rtol=1e-2,
        atol=1e-5,
    )


# --- Bad input ------------------------------------------------------------


def edit(path, utterance, **changes):
    """Changes one utterance of a manifest."""
    content = read_json(path)
    content[utterance].update(changes)
    write_json(path, content)


def spoil_nothing_but(kind, world):
    """One fault in a world that is otherwise whole."""
    prepared, corpus = world / "prepared", world / "esd"
    tokens = prepared / "speech_tokens.safetensors"
    first = "0011_000001"
    if kind == "no tokens":
        tokens.unlink()
    elif kind == "damaged tokens":
        tokens.write_bytes(tokens.read_bytes()[:-100])
    elif kind == "another file":
        shutil.copy(world / "backbone" / "llm.safetensors", tokens)
    elif kind == "another tokenizer":
        cache = read_speech_tokens(tokens)
        cache.tokenizer = "0123456789abcdef"
        write_speech_tokens(tokens, cache)
    elif kind == "utterance without tokens":
        cache = read_speech_tokens(tokens)
        del cache.tokens[first]
        write_speech_tokens(tokens, cache)
    elif kind in ("token above the vocabulary", "negative token"):
        cache = read_speech_tokens(tokens)
        cache.tokens[first][-1] = -1 if "negative" in kind else 6561
        write_speech_tokens(tokens, cache)
    elif kind == "tokens of another wav":
        edit(prepared / "train.json", first, duration=7.5)
    elif kind == "no labels":
        (corpus / "word_labels.json").unlink()
    elif kind == "utterance without labels":
        labels = read_json(corpus / "word_labels.json")
        del labels[first]
        write_json(corpus / "word_labels.json", labels)
    elif kind == "labels of other words":
        edit(prepared / "train.json", first, text="We lost the game.")
    elif kind == "other words at another":
        edit(prepared / "train.json", "0011_000010", text="We lost the game.")
    elif kind == "more words than tokens":
        cache = read_speech_tokens(tokens)
        cache.tokens[first] = cache.tokens[first][:3]
        write_speech_tokens(tokens, cache)
        edit(prepared / "train.json", first, duration=0.12)
    elif kind == "unknown emotion":
        labels = read_json(corpus / "word_labels.json")
        labels[first]["words"][2]["emotion"] = "bored"
        write_json(corpus / "word_labels.json", labels)
    elif kind == "Mandarin":
        edit(prepared / "train.json", first, text="我们赢了。")
    elif kind == "empty manifest":
        write_json(prepared / "valid.json", {})
        write_json(prepared / "transitions_valid.json", {})
    elif kind == "no manifest":
        (prepared / "train.json").unlink()


@pytest.mark.parametrize(
    "kind, words",
    {
        "no tokens": ["speech_tokens", "extract_speech_tokens.py"],
        "damaged tokens": ["speech_tokens", "delete it"],
        "another file": ["speech_tokens", "not a cache"],
        "another tokenizer": ["speech_tokens", "delete the file"],
        "utterance without tokens": ["speech_tokens", "0011_000001", "again"],
        "token above the vocabulary": [
            "speech_tokens",
            "0011_000001",
            "token 6561 of 0011_000001.* 0 to 6560",
            "again",
        ],
        "negative token": ["speech_tokens", "0011_000001", "token -1", "again"],
        "tokens of another wav": ["speech_tokens", "7.50 s", "again"],
        "no labels": ["word_labels.json", "does not exist|no such file"],
        "utterance without labels": ["word_labels.json", "0011_000001"],
        "labels of other words": ["word_labels.json", "0011_000001", "'lost'"],
        "more words than tokens": ["0011_000001", "4 words", "3 speech tokens"],
        "unknown emotion": ["word_labels.json", "'bored'", "taxonomy"],
        "Mandarin": ["0011_000001", "我", "English"],
        "empty manifest": ["valid.json", "no utterance"],
        "no manifest": ["train.json"],
    }.items(),
)
def test_bad_input_is_named_before_training(world, kind, words):
    spoil_nothing_but(kind, world)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        prepare_data(world)
    for word in words:
        assert re.search(word, str(caught.value)), word


def test_whole_input_is_accepted(world):
    data = prepare_data(world)
    assert {name: len(items) for name, items in data.items()} == {
        "train": 16,
        "valid": 3,
        "test": 3,
    }


def test_unknown_label_source_is_named(world):
    with pytest.raises(ValueError, match="label_source is 'guess': set it to"):
        prepare_data(world, label_source="guess")


@pytest.mark.parametrize("n_emotions", [4, 6])
def test_another_number_of_emotions_is_refused_before_work(
    pristine_world, tmp_path, n_emotions
):
    flags = recipe_flags(pristine_world, tmp_path / "o", n_emotions=n_emotions)
    message = f"n_emotions is {n_emotions}, but emotions names 5 .neutral"
    with pytest.raises(ValueError, match=f"mini.yaml: {message}"):
        run_script("train.py", flags)
    assert not (tmp_path / "o" / "hyperparams.yaml").exists()


def test_sentence_labels_need_alignments(world):
    shutil.rmtree(world / "esd" / "textgrids")
    with pytest.raises(ValueError, match="22 of 22.*no alignment"):
        prepare_data(world, label_source="sentence")


def test_corpus_without_transitions_trains(world):
    shutil.rmtree(world / "esd" / "transitions")
    for path in (world / "prepared").glob("transitions_*.json"):
        path.unlink()
    flags = recipe_flags(world, world / "output", skip_prep=False)
    assert run_script("train.py", flags)["brain"].optimizer_step == 4


def test_training_skips_and_lists_what_it_cannot_use(world):
    spoil_nothing_but("utterance without labels", world)
    spoil_nothing_but("other words at another", world)
    flags = recipe_flags(world, world / "output", max_bad_share=0.1)
    brain = run_script("train.py", flags)["brain"]
    assert brain.optimizer_step == 4
    skipped = read_json(world / "output" / "skipped.json")
    assert set(skipped) == {"0011_000001", "0011_000010"}
    assert "no word labels" in skipped["0011_000001"]
    assert "'lost'" in skipped["0011_000010"]

    with pytest.raises(ValueError, match="2 of 22 utterances cannot be used"):
        prepare_data(world, max_bad_share=0.08)


def test_only_utterances_without_alignment_are_skipped(world):
    grid, *_ = (world / "esd" / "textgrids").rglob("0011_000001.TextGrid")
    grid.unlink()
    data = prepare_data(world, label_source="sentence", max_bad_share=0.05)
    assert len(data["train"]) == 15
    assert list(read_json(world / "output/skipped.json")) == ["0011_000001"]
    # An old list is not taken for a new one.
    data = prepare_data(world, label_source="truth")
    assert len(data["train"]) == 16


def test_training_goes_on_without_tensorboard(
    pristine_world, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    flags = recipe_flags(pristine_world, tmp_path, use_tensorboard=True)
    assert run_script("train.py", flags)["brain"].optimizer_step == 4
    assert "install the package tensorboard" in capsys.readouterr().out


def test_checkpoint_of_other_sizes_is_named(finished, pristine_world, tmp_path):
    output = shutil.copytree(finished, tmp_path / "output")
    flags = recipe_flags(pristine_world, output, emotion_dim=8)
    with pytest.raises(ValueError, match="does not fit this model.*output"):
        run_script("train.py", flags)


# --- Speech tokens --------------------------------------------------------


def extract(world, **overrides):
    """Runs the extraction on a world; returns the cache."""
    flags = recipe_flags(world, world / "output", **overrides)
    run_script("extract_speech_tokens.py", flags)
    return read_speech_tokens(world / "prepared/speech_tokens.safetensors")


@pytest.fixture
def wavs(world):
    """The world's wavs by utterance id, without tokens."""
    (world / "prepared" / "speech_tokens.safetensors").unlink()
    return {path.stem: path for path in sorted(world.rglob("*.wav"))}


def test_extraction_covers_all_splits(world, wavs):
    cache = extract(world)
    assert set(cache.tokens) == set(wavs) and not cache.skipped
    for utterance, tokens in cache.tokens.items():
        n_samples = soundfile.info(wavs[utterance]).frames
        assert len(tokens) == n_samples // 960
        assert 0 <= tokens.min() and tokens.max() < 6561


def test_extraction_reads_other_rates_and_stereo(world, wavs):
    whole = extract(world).tokens["0011_000001"]
    wave, _ = soundfile.read(wavs["0011_000001"])
    stereo = torch.tensor(wave).repeat(2, 1).T.numpy()
    soundfile.write(wavs["0011_000001"], stereo[::3], SAMPLE_RATE // 3)
    tokens = extract(world).tokens["0011_000001"]
    assert abs(len(tokens) - len(whole)) <= 1


def test_extraction_goes_on_where_it_stopped(world, wavs, monkeypatch):
    import speechbrain_emofilm.lobes.mini.speech_tokenizer as module

    tokenize, n_calls = module.FSQSpeechTokenizer.tokenize, []

    def interrupted(self, wav):
        n_calls.append(1)
        if len(n_calls) == 10:
            raise KeyboardInterrupt
        return tokenize(self, wav)

    monkeypatch.setattr(module.FSQSpeechTokenizer, "tokenize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(world, extraction_save_interval=4)
    assert len(extract(world).tokens) == len(wavs)
    # 8 of the first 9 had been saved.
    assert len(n_calls) == 10 + len(wavs) - 8

    n_calls.clear()
    wave, rate = soundfile.read(wavs["0011_000001"])
    soundfile.write(wavs["0011_000001"], wave[:-24], rate)
    extract(world)
    assert len(n_calls) == 1  # the changed one


def test_extraction_refuses_a_cache_of_another_tokenizer(world):
    path = world / "prepared" / "speech_tokens.safetensors"
    cache = read_speech_tokens(path)
    cache.tokenizer = "0123456789abcdef"
    write_speech_tokens(path, cache)
    with pytest.raises(ValueError, match="0123456789abcdef.*delete the file"):
        extract(world)


@pytest.mark.parametrize(
    "kind, reason",
    {
        "missing": "no such audio file",
        "empty": "empty",
        "truncated": "truncated",
        "NaN": "NaN",
        "long": "longer than max_duration",
        "another": "prepare the corpus again",
    }.items(),
)
def test_unusable_wav_is_skipped_and_listed(world, wavs, kind, reason):
    path = wavs["0011_000001"]
    wave, rate = soundfile.read(path)
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:20000])
    elif kind == "NaN":
        wave[1000] = float("nan")
        soundfile.write(path, wave, rate, subtype="FLOAT")
    elif kind == "long":
        soundfile.write(path, torch.zeros(60 * rate).numpy(), rate)
    elif kind == "another":
        soundfile.write(path, wave[: rate // 2], rate)
    with pytest.raises(ValueError, match="1 of 22") as caught:
        extract(world)
    assert str(path) in str(caught.value) and reason in str(caught.value)

    cache = extract(world, max_bad_share=0.1)
    assert list(cache.skipped) == ["0011_000001"]
    assert len(prepare_data(world)["train"]) == 15


# --- Prosody of words --------------------------------------------------------

AXES = "[pitch, pace, level]"


def with_voices(world):
    """Gives the neutral readings of a world sound whose pitch is found."""
    for wav in (world / "esd" / "0011").glob("*/*/*.wav"):
        samples, rate = soundfile.read(wav)
        time = np.arange(len(samples)) / rate
        hertz = 120 + 10 * (int(wav.stem[-3:]) % 5)
        tones = [np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, 20)]
        soundfile.write(wav, 0.1 * np.sum(tones, 0), rate, subtype="PCM_16")
    return world


def test_a_model_with_axes_is_trained_on_measured_and_varied_prosody(
    world, tmp_path
):
    with_voices(world)
    output = tmp_path / "output"
    flags = recipe_flags(world, output, axes=AXES, prosody_workers=1)
    prepared = world / "prepared"
    run_script("vary_prosody.py", flags)
    varied = read_json(prepared / "varied_train.json")
    assert len(varied) == 16  # each training reading, the transition included
    wav = Path(next(iter(varied.values()))["wav"])
    made = wav.stat().st_mtime_ns
    run_script("extract_speech_tokens.py", flags)
    run_script("measure_prosody.py", flags)
    prosody = read_json(prepared / "word_prosody.json")
    neutral = next(
        name
        for name, item in read_json(prepared / "train.json").items()
        if item["emotion"] == "neutral"
    )
    zero = {"pitch": 0.0, "pace": 1.0, "level": 0.0}
    assert prosody[neutral]["words"] == [zero] * 4
    assert set(varied) <= set(prosody)
    assert any(
        word["level"] not in (None, 0.0)
        for name in varied
        for word in prosody[name]["words"]
    )

    # The same commands do nothing again.
    run_script("vary_prosody.py", flags)
    assert wav.stat().st_mtime_ns == made
    groups = run_script("measure_prosody.py", flags)["found"]
    assert {n: w.key for n, w in groups.items()} == {
        n: w["key"] for n, w in prosody.items()
    }

    run_script("train.py", flags)
    trained = newest_checkpoint(output)["efilm"]
    assert trained["encoder.axis_layer.weight"].any()
    synthesizer = EmoFiLMSynthesizer.from_hparams(output)
    assert synthesizer.axes == ["pitch", "pace", "level"]
    spoken = synthesizer.synthesize("We <sad pitch=-3st pace=0.7>won</> it.")
    assert spoken.wav.isfinite().all()


def test_readings_without_a_neutral_one_are_left_to_the_emotion(
    world, tmp_path, caplog
):
    for split in ("train", "valid"):
        path = world / "prepared" / f"{split}.json"
        items = read_json(path)
        kept = {
            name: item
            for name, item in items.items()
            if item["emotion"] != "neutral" or item["text"] != "But he left."
        }
        write_json(path, kept)
    flags = recipe_flags(
        world,
        tmp_path / "output",
        axes=AXES,
        prosody_workers=1,
        prosody_variations=0,
    )
    run_script("measure_prosody.py", flags)
    assert "4 of 18 utterances have no neutral reading" in caplog.text
    brain = run_script("train.py", flags)["brain"]
    assert brain.optimizer_step == 4


def test_axes_without_measured_prosody_name_the_missing_step(
    pristine_world, tmp_path
):
    flags = recipe_flags(pristine_world, tmp_path / "output", axes=AXES)
    with pytest.raises(FileNotFoundError, match="run measure_prosody.py first"):
        run_script("train.py", flags)
