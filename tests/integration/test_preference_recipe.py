"""prefer.py makes pairs, trains on them, resumes and exports a synthesizer."""

import contextlib
import shutil
import signal
import sys

from speechbrain_emofilm.dataio.labels import read_word_labels
from speechbrain_emofilm.dataio.markup import write_markup
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.utils.files import read_json

import pytest
import torch
from test_emotional_tts_recipe import assert_same, logged, start
from tiny_world import EMOTIONS, RECIPE, recipe_flags, run_script

HPARAMS = RECIPE / "hparams" / "prefer_mini.yaml"


def run(script, flags, hparams=HPARAMS, run_name="__main__"):
    """Runs a script; other recipes have a module called train, too."""
    train = sys.modules.pop("train", None)
    try:
        return run_script(script, flags, hparams, run_name)
    finally:
        sys.modules.pop("train", None)
        if train is not None:
            sys.modules["train"] = train


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
        Scorer(1, 1),
        variables["pair_data"],
        path,
        stored["model"],
        4,
        contextlib.nullcontext(),
    )
    assert scored == [] and read_json(path) == stored
    # Another model makes them anew.
    with pytest.raises(AssertionError):
        functions["reference_log_probs"](
            Scorer(1, 1),
            variables["pair_data"],
            path,
            "other",
            4,
            contextlib.nullcontext(),
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


# --- Sampled pairs --------------------------------------------------------

TOOLS = {
    "aligner": "!name:tiny_tools.EvenAligner []",
    "asr": "!name:tiny_tools.Recogniser []",
    "mos": "!name:tiny_tools.Predictor []",
    "reward_features": "!name:toy_features.ToyFeatures []",
    "rank_weights": "{emotion: 1.0, recognised: 1.0, coverage: 0.0}",
    "margin": 0.0,
    "n_mixed": 0,
    "n_single": 3,
    "n_readings": 3,
    "sampling_batch_size": 4,
    "evaluation_seeds": "[0]",
    "valid_share": 0.5,
}


@pytest.fixture(scope="module")
def sampled(pristine_world, model, tmp_path_factory):
    """Folder of the readings of a model, and their pairs."""
    folder = tmp_path_factory.mktemp("readings")
    flags = prefer_flags(
        pristine_world, model, folder, readings_folder=folder, **TOOLS
    )
    run("sample_pairs.py", flags)
    return folder


def test_pairs_are_of_readings_of_the_other_half(sampled, pristine_world):
    content = read_json(sampled / "pairs.json")
    train = {
        utterance: item
        for part in ("train", "transitions_train")
        for utterance, item in read_json(
            pristine_world / "prepared" / f"{part}.json"
        ).items()
    }
    assert len(content["readings"]) == 9 and content["pairs"]
    heard = {train[u]["text"] for u in content["judge"]["utterances"]}
    for pair in content["pairs"].values():
        assert train[pair["utterance"]]["text"] not in heard
        best, worst = (
            content["readings"][pair[kind]] for kind in ("chosen", "rejected")
        )
        assert pair["chosen"] != pair["rejected"]
        assert best["score"] >= worst["score"]
        assert best["lost"] <= worst["lost"]


def test_readings_are_those_that_the_model_speaks(
    sampled, model, pristine_world
):
    content = read_json(sampled / "pairs.json")
    tokens = read_speech_tokens(sampled / content["speech_tokens"]).tokens
    first, second = sorted(tokens)[:2]
    assert not torch.equal(tokens[first], tokens[second])
    synthesizer = EmoFiLMSynthesizer.from_hparams(model)
    name, _, index = first.rpartition("@")
    item = read_json(pristine_world / "prepared" / "train.json")[name]
    labels = read_word_labels(
        pristine_world / "esd" / "word_labels.json", EMOTIONS
    )
    text = write_markup(item["text"], labels[name].words)
    spoken = synthesizer.synthesize(text, seed=int(index))
    assert torch.equal(spoken.speech_tokens, tokens[first])


def test_interrupted_sampling_goes_on(
    sampled, pristine_world, model, tmp_path, monkeypatch
):
    flags = prefer_flags(
        pristine_world, model, tmp_path, readings_folder=tmp_path, **TOOLS
    )
    decode, calls = TokenToWav.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TokenToWav, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("sample_pairs.py", flags)
    (folder,) = tmp_path.glob("*/wavs")
    assert len(list(folder.iterdir())) == 4
    run("sample_pairs.py", flags)
    assert read_json(tmp_path / "pairs.json") == read_json(
        sampled / "pairs.json"
    )


def test_sampled_and_parallel_pairs_train_and_are_compared(
    sampled, pristine_world, model, tmp_path
):
    flags = prefer_flags(
        pristine_world,
        model,
        tmp_path,
        readings_folder=sampled,
        source="both",
        **TOOLS,
    )
    variables = run("prefer.py", flags)
    names = [n for data in variables["pair_data"].values() for n in data.data]
    assert any("@" in name for name in names)
    assert any("@" not in name for name in names)
    variables = run("evaluate_preference.py", flags)
    summary = read_json(tmp_path / "evaluation" / "summary.json")
    assert set(summary["scores"]) == {
        "original", "copy_synthesis", "before", "after",
    }  # fmt: skip
    judges = summary["judges"]
    assert not set(judges["reward"]["utterances"]) & set(
        judges["independent"]["utterances"]
    )
    found = summary["differences"]["after"]
    assert {"independent_judge", "reward_judge", "wer", "mos"} <= set(found)
    table = (tmp_path / "evaluation" / "table.md").read_text()
    assert "after − before" in table and summary["verdicts"]["after"] in table


def test_readings_of_another_model_are_refused(
    sampled, finished, pristine_world, tmp_path
):
    flags = prefer_flags(
        pristine_world,
        finished,
        tmp_path,
        readings_folder=sampled,
        source="sampled",
    )
    with pytest.raises(ValueError, match="holds readings of another model"):
        run("prefer.py", flags)


def test_a_reward_that_hears_prosody_is_refused(
    pristine_world, model, tmp_path
):
    tools = {**TOOLS, "reward_features": "!name:toy_features.ToyProsody []"}
    flags = prefer_flags(
        pristine_world, model, tmp_path, readings_folder=tmp_path, **tools
    )
    with pytest.raises(ValueError, match="share 1 features, such as energy"):
        run("sample_pairs.py", flags)
