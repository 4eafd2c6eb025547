"""From a snapshot of CosyVoice2 to emotional speech, at small size."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

from speechbrain_emofilm.dataio.speech_tokens import (
    read_speech_tokens,
    stored_tokens,
    write_part,
    write_speech_tokens,
)
from speechbrain_emofilm.dataio.voices import read_voices
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.integrations.cosyvoice2.campplus import CAMPPlus
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.sharding import parts_folder

import pytest
import soundfile
import torch
from tiny_cosyvoice2 import BACKBONE
from tiny_world import EMOTIONS, RECIPE, REPOSITORY, make_corpus, run_script

pytest.importorskip("s3tokenizer")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def place(tmp_path_factory, pristine_snapshot):
    """A corpus and a snapshot."""
    root = tmp_path_factory.mktemp("cosyvoice2")
    make_corpus(root / "esd")
    (root / "snapshot").symlink_to(pristine_snapshot)
    return root


def flags_of(place, **overrides):
    flags = {
        "data_folder": place / "esd",
        "prepared_folder": place / "prepared",
        "output_folder": place / "output",
        "backbone_source": place / "snapshot",
        "backbone": json.dumps(BACKBONE),
        "label_source": "truth",
        "use_tensorboard": False,
        "num_workers": 0,
        "number_of_steps": 2,
        "emotion_dim": 8,
        **overrides,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + [
        "--device=cpu",
        "--noprogressbar",
    ]


def run(script, place, hparams="cosyvoice2", **overrides):
    path = RECIPE / "hparams" / f"{hparams}.yaml"
    return run_script(script, flags_of(place, **overrides), path)


@pytest.fixture(scope="module")
def prepared(place):
    """The same with speech tokens and voices of both kinds."""
    run("extract_speech_tokens.py", place)
    for reference in ("neutral", "matched"):
        run("extract_speaker_embeddings.py", place, reference=reference)
    return place


def test_tokens_and_voices_are_extracted(prepared):
    folder = prepared / "prepared"
    cache = read_speech_tokens(folder / "speech_tokens.safetensors")
    for split in ("train", "valid", "test"):
        manifest = read_json(folder / f"{split}.json")
        for utterance, item in manifest.items():
            n_tokens = len(cache.tokens[utterance])
            assert n_tokens == pytest.approx(25 * item["duration"], abs=1)
    assert list(read_voices(folder / "voices_neutral.safetensors")) == ["0011"]
    voices = read_voices(folder / "voices_matched.safetensors")
    assert set(voices) == {f"0011/{emotion}" for emotion in EMOTIONS}
    for voice in voices.values():
        assert voice.xvector.shape == (192,)
        assert len(voice.prompt_mel) == 2 * len(voice.prompt_tokens) > 0


def test_interrupted_extraction_keeps_what_any_process_has_made(
    prepared, monkeypatch
):
    path = prepared / "prepared" / "speech_tokens.safetensors"
    whole = read_speech_tokens(path)
    part = read_speech_tokens(path)
    first, *others = sorted(whole.tokens)
    for name in others:
        del part.tokens[name]
    write_part(path, part)
    part.tokens.clear()
    write_speech_tokens(path, part)
    assert list(stored_tokens(path, whole.tokenizer).tokens) == [first]
    run("extract_speech_tokens.py", prepared)
    again = read_speech_tokens(path)
    assert again.tokens.keys() == whole.tokens.keys()
    for name, tokens in whole.tokens.items():
        assert torch.equal(again.tokens[name], tokens)
    assert not parts_folder(path).exists()


def test_two_processes_extract_what_one_does(prepared, tmp_path, warm_python):
    overrides = {"prepared_folder": tmp_path / "prepared"}
    for script in ("extract_speech_tokens", "extract_speaker_embeddings"):
        command = [
            *(warm_python, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=2", str(RECIPE / f"{script}.py")),
            str(RECIPE / "hparams" / "cosyvoice2.yaml"),
            *flags_of(prepared, reference="matched", **overrides),
            "--distributed_backend=gloo",
        ]
        path = f"{REPOSITORY}{os.pathsep}{RECIPE}"
        env = {**os.environ, "PYTHONPATH": path, "PYTHON_EXEC": warm_python}
        finished = subprocess.run(
            command, env=env, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
    one, two = (
        read_speech_tokens(folder / "prepared" / "speech_tokens.safetensors")
        for folder in (prepared, tmp_path)
    )
    assert one.tokens.keys() == two.tokens.keys()
    for name, tokens in one.tokens.items():
        assert torch.equal(tokens, two.tokens[name])
    one, two = (
        read_voices(folder / "prepared" / "voices_matched.safetensors")
        for folder in (prepared, tmp_path)
    )
    assert list(one) == list(two)
    for name, voice in one.items():
        assert torch.equal(voice.prompt_mel, two[name].prompt_mel)


@pytest.fixture
def encoded(monkeypatch):
    """Lengths of the recordings that the speaker encoder reads."""
    lengths = []
    embed = CAMPPlus.embed

    def listed(encoder, wavs):
        lengths.extend(map(len, wavs))
        return embed(encoder, wavs)

    monkeypatch.setattr(CAMPPlus, "embed", listed)
    return lengths


@pytest.fixture
def extract_voices(prepared, tmp_path):
    """Makes the matched voices of a copy of the corpus."""
    for name in ("esd", "prepared"):
        shutil.copytree(prepared / name, tmp_path / name)
    path = tmp_path / "voices.safetensors"

    def extract(**overrides):
        folders = {n: tmp_path / n for n in ("esd", "prepared")}
        run(
            "extract_speaker_embeddings.py",
            prepared,
            data_folder=folders["esd"],
            prepared_folder=folders["prepared"],
            voices=path,
            reference="matched",
            extraction_save_interval=1,
            **overrides,
        )
        return read_voices(path)

    return extract


def test_interrupted_voices_are_kept(
    prepared, extract_voices, encoded, monkeypatch
):
    embed = CAMPPlus.embed

    def interrupted(encoder, wavs):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return embed(encoder, wavs)

    with monkeypatch.context() as patch:
        patch.setattr(CAMPPlus, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_voices()
    voices = extract_voices()
    assert len(encoded) == len(EMOTIONS)
    whole = read_voices(prepared / "prepared" / "voices_matched.safetensors")
    assert list(voices) == list(whole)
    for name, voice in whole.items():
        assert torch.equal(voices[name].xvector, voice.xvector)
        assert torch.equal(voices[name].prompt_mel, voice.prompt_mel)


def test_voices_are_made_again_where_what_they_depend_on_has_changed(
    extract_voices, encoded, tmp_path, caplog
):
    longest = extract_voices()
    assert set(encoded) == {19200}
    extract_voices()
    assert len(encoded) == len(EMOTIONS)

    item = longest["0011/happy"].source["utterance"]
    wav = tmp_path / "esd" / "0011" / "Happy" / "train" / f"{item}.wav"
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples / 2, rate, "PCM_16")
    louder = extract_voices()
    assert len(encoded) == len(EMOTIONS) + 1
    changed = "1 voices are of other recordings, another speech tokenizer"
    assert caplog.text.count(changed) == 1
    for name, voice in longest.items():
        same = torch.equal(voice.prompt_mel, louder[name].prompt_mel)
        assert same == (name != "0011/happy")

    shorter = extract_voices(max_reference_duration=1.1)
    assert encoded[len(EMOTIONS) + 1 :] == [16000] * len(EMOTIONS)
    for name, voice in shorter.items():
        assert len(voice.prompt_tokens) < len(longest[name].prompt_tokens)

    extract_voices(max_reference_duration=1.1, speaker_encoder_file=wav)
    assert len(encoded) == 3 * len(EMOTIONS) + 1


def test_a_recording_of_other_speech_tokens_is_refused(
    extract_voices, tmp_path
):
    for wav in (tmp_path / "esd" / "0011" / "Sad" / "train").iterdir():
        soundfile.write(wav, torch.zeros(12000).numpy(), 24000, "PCM_16")
    with pytest.raises(ValueError, match="run extract_speech_tokens.py again"):
        extract_voices()


@pytest.mark.parametrize("reference", ["neutral", "matched", "same"])
def test_reference_recordings(reference):
    choose = run_script(
        "extract_speaker_embeddings.py", [], run_name="functions"
    )["choose_references"]

    def item(emotion, duration):
        return {"speaker": "0011", "emotion": emotion, "duration": duration}

    manifests = {
        "train": {
            "short": item("neutral", 2.0),
            "good": item("neutral", 5.0),
            "long": item("neutral", 20.0),
            "untold": item("neutral", 6.0),
            "glad": item("happy", 3.0),
        },
        "test": {"tested": item("happy", 3.0)},
    }
    known = {"short", "good", "long", "glad", "tested"}
    tokens = dict.fromkeys(known)
    expected = {
        "neutral": {"0011": "good"},
        "matched": {"0011/happy": "glad", "0011/neutral": "good"},
        "same": {"tested": "tested"},
    }
    assert choose(reference, manifests, tokens, 8) == expected[reference]
    if reference != "same":
        with pytest.raises(ValueError, match="The speaker 0011 has no"):
            choose(reference, manifests, tokens, 1)
    with pytest.raises(ValueError, match="set it to neutral, matched"):
        choose("angry", manifests, tokens, 8)


@pytest.fixture(scope="module", params=["cosyvoice2", "cosyvoice2_robust"])
def trained(request, prepared, tmp_path_factory):
    """Output folder of a training with voices for each emotion."""
    robust = {}
    if request.param == "cosyvoice2_robust":
        robust = {"warmup_steps": 1, "backbone_training": "lora"}
    folder = tmp_path_factory.mktemp(request.param)
    brain = run(
        "train.py",
        prepared,
        request.param,
        output_folder=folder,
        voices=prepared / "prepared" / "voices_matched.safetensors",
        **robust,
    )["brain"]
    assert brain.optimizer_step == 2
    return folder


@pytest.mark.parametrize("reference", ["matched", "same"])
def test_evaluation_speaks_with_the_voices_of_any_reference(
    trained, prepared, tmp_path, reference
):
    folder = prepared / "prepared"
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    if reference == "same":
        run("extract_speaker_embeddings.py", prepared, reference=reference)
        hparams_file = model / "synthesizer.yaml"
        content = hparams_file.read_text()
        assert "voices_matched" in content
        hparams_file.write_text(content.replace("matched", "same"))
    functions = run_script("evaluate.py", [], run_name="functions")
    hparams = {
        "model_folder": model,
        "compared_models": {},
        "backbone_emofilm": EmoFiLMSynthesizer.from_hparams(model).mods.emofilm,
        "speech_tokens": folder / "speech_tokens.safetensors",
        "speech_tokenizer_file": prepared / "snapshot/speech_tokenizer_v2.onnx",
        "synthesis_seed": 0,
        "guidance": 1.0,
        "baseline_emotion": "neutral",
        "reference_folder": tmp_path / "references",
        "output_folder": tmp_path / "evaluation",
        "data_folder": prepared / "esd",
        "truth_file": prepared / "esd" / "word_labels.json",
        "asked_file": tmp_path / "asked.json",
        "emotions": EMOTIONS,
        "batch_size": 4,
        "sample_rate": 24000,
    }
    manifests = [folder / "test.json", folder / "transitions_test.json"]
    names = [name for file in manifests for name in read_json(file)]
    write_json(hparams["asked_file"], dict.fromkeys(names))
    utterances = functions["load_utterances"](manifests, hparams).values()
    assert {u.emotion for u in utterances} == {"neutral", "angry", None}
    systems, _ = functions["systems_from_hparams"](hparams, "cpu")
    assert ("per_span" in systems) == (reference == "matched")
    for name, system in systems.items():
        wavs = functions["synthesise"](name, system, utterances, 4, 24000)
        assert len(wavs) == 3


def test_training_ends_in_a_folder_that_speaks(trained, tmp_path):
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        trained, savedir=str(tmp_path / "saved")
    )
    default, *others = synthesizer.speakers
    assert default == "0011/neutral"
    assert others == sorted(f"0011/{e}" for e in EMOTIONS if e != "neutral")
    spoken = synthesizer.synthesize(
        "<happy>We won</happy> 2 games.", speaker="0011/happy"
    )
    assert len(spoken.words) == 4
    assert spoken.wav.isfinite().all()
    assert len(spoken.wav) == 960 * len(spoken.speech_tokens) > 0
    assert spoken.word_times_source == "pointer"
    assert [len(spoken.coverage), len(spoken.words)] == [4, 4]
    starts = [word.start for word in spoken.words]
    assert starts == sorted(starts)
    chosen = synthesizer.synthesize("We won.", candidates=2, retry=1)
    assert chosen.wav.isfinite().all()
    token_to_wav = synthesizer.mods.token_to_wav
    stream = token_to_wav.stream("0011/happy")
    parts = [stream.push(t) for t in spoken.speech_tokens.split(10)]
    streamed = torch.cat([*parts, stream.finish()])
    assert streamed.shape == spoken.wav.shape
    chunks = list(
        synthesizer.stream("<happy>We won</happy>", speaker="0011/happy")
    )
    assert chunks[-1].word_times_source == "pointer"
    assert [word.text for word in chunks[-1].words] == ["We", "won"]


def test_preference_training_starts_where_the_training_ended(
    trained, prepared, tmp_path
):
    flags = {
        "data_folder": prepared / "esd",
        "prepared_folder": prepared / "prepared",
        "backbone_source": prepared / "snapshot",
        "model_folder": trained,
        "output_folder": tmp_path,
        "label_source": "truth",
        "source": "parallel",
        "use_tensorboard": False,
        "num_workers": 0,
        "number_of_steps": 1,
        "lr": 0.0,
        "lr_head": 0.0,
    }
    module = sys.modules.pop("train", None)  # other recipes have one, too
    try:
        run_script(
            "prefer.py",
            [f"--{name}={value}" for name, value in flags.items()]
            + ["--device=cpu", "--noprogressbar"],
            RECIPE / "hparams" / "prefer_cosyvoice2.yaml",
        )
    finally:
        sys.modules.pop("train", None)
        if module is not None:
            sys.modules["train"] = module
    # Prompts and precision of the reference are those of the training.
    log = (tmp_path / "train_log.txt").read_text()
    (loss,) = re.findall(r"valid preference_loss: ([-+.\w]+)", log)
    assert float(loss) == pytest.approx(math.log(2), abs=0.02)
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        tmp_path, savedir=str(tmp_path / "saved")
    )
    spoken = synthesizer.synthesize("<happy>We won</happy> 2 games.")
    assert spoken.wav.isfinite().all() and len(spoken.wav) > 0
