"""Whole recipes run on a pretended GPU, and end as they do on the CPU."""

import json
import runpy
import sys
from types import SimpleNamespace
from unittest import mock

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.dataio.voices import read_voices
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.mini.speech_tokenizer import TokenDecoder

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from pretend_gpu import GPU, pretend_gpu
from safetensors.torch import load_file
from tiny_cosyvoice2 import BACKBONE
from tiny_world import (
    RECIPE,
    REPOSITORY,
    make_corpus,
    recipe_flags,
    run_script,
)

LABELING = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"
MINIESD = REPOSITORY / "recipes" / "MiniESD"
WORDS = [Word("We", 0.1, 0.3), Word("won", 0.3, 0.5), Word("it", 0.5, 0.7)]
#: The mini backbone's recipes in their order, at small size.
SMALL_VOCODER = (
    "{channels: 16, n_f0_blocks: 1, n_filter_blocks: 1, n_bands: 16}"
)
PRETRAININGS = [
    (
        "speech_tokenizer",
        {"segment_tokens": 16, "channels": 16, "decoder_channels": 16},
    ),
    (
        "llm",
        {
            "text_dim": 16,
            "guided_layers": "[0]",
            "llm": "{qwen2: {num_hidden_layers: 1, num_attention_heads: 2,"
            " num_key_value_heads: 1, intermediate_size: 32}}",
        },
    ),
    (
        "flow",
        {
            "segment_tokens": 16,
            "token_dim": 16,
            "flow": "{encoder_heads: 2, encoder_ffn: 16, encoder_blocks: 1,"
            " encoder_up_blocks: 1, estimator_channels: 16,"
            " estimator_heads: 2, estimator_head_dim: 8,"
            " estimator_mid_blocks: 1}",
        },
    ),
    (
        "token_decoder",
        {
            "segment_tokens": 16,
            "decoder": "{channels: 16}",
        },
    ),
    (
        "vocoder",
        {
            "hparams": "train_hift",
            "segment_frames": 16,
            "adversarial_start": 0,
            "discriminator": "{channels: 4}",
            "vocoder": "{base_channels: 16, f0_cond_channels: 8}",
        },
    ),
    (
        "vocoder",
        {
            "hparams": "train_harmonic_noise",
            "segment_frames": 16,
            "adversarial_start": 0,
            "discriminator": "{channels: 4}",
            "vocoder": SMALL_VOCODER,
        },
    ),
    (
        "token_to_wav",
        {
            "script": "train_recognizer.py",
            "hparams": "train_recognizer",
            "segment_tokens": 16,
            "recognizer": "{channels: 16}",
        },
    ),
    (
        "token_to_wav",
        {
            "segment_tokens": 16,
            "token_decoder": "{channels: 16}",
            "vocoder": SMALL_VOCODER,
            "recognizer": "{channels: 16}",
            "token_decoder_file": "null",
            "vocoder_file": "null",
            "recognizer_file": "null",
        },
    ),
    (
        "token_listener",
        {"listener": "{hidden: 16, dropout: 0.0, token_dropout: 0.0}"},
    ),
]
DEVICES = {"cpu": "cpu", "gpu": str(GPU)}


def on(device, act, *args, **options):
    """Runs something where the pretended GPU is available, if it is used."""
    if device == "cpu":
        return act(*args, **options)
    with pretend_gpu():
        return act(*args, **options)


def on_both(act):
    """Runs something on both devices; returns both results."""
    return [on(name, act, name, device) for name, device in DEVICES.items()]


def assert_same_weights(one, other, atol=1e-4):
    """Compares the weights in all files of two folders or of two files."""
    load = load_file if one.suffix == ".safetensors" else torch.load
    torch.testing.assert_close(load(other), load(one), atol=atol, rtol=0)


# --- Emotional TTS ----------------------------------------------------------


def test_emofilm_is_trained_resumed_and_speaks(world, tmp_path):
    options = {
        "prompt_share": 0.5,
        "bistream_share": 0.5,
        "grad_accumulation_factor": 2,
        "diagnosis_utterances": 2,
        "num_workers": 0,
    }

    def train(name, device):
        for steps in (2, 4):  # the second run goes on where the first ended
            flags = recipe_flags(
                world,
                tmp_path / name,
                **options,
                number_of_steps=steps,
            )
            run_script("train.py", [*flags, f"--device={device}"])
        return tmp_path / name

    cpu, gpu = on_both(train)
    for file in ("efilm.ckpt", "llm_decoder.ckpt"):
        assert_same_weights(cpu / file, gpu / file)

    def speak(name, device):
        synthesizer = EmoFiLMSynthesizer.from_hparams(
            cpu, savedir=cpu, run_opts={"device": device}
        )
        result = synthesizer.synthesize("<happy>We won</happy> it.")
        return result.speech_tokens, result.wav

    here, there = on_both(speak)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


# --- Labels of words --------------------------------------------------------


def label_recipe(script, hparams, device, **options):
    with mock.patch.object(sys, "path", [str(LABELING), *sys.path]):
        return run_script(
            LABELING / f"{script}.py",
            [*(f"--{k}={v}" for k, v in options.items()), f"--device={device}"],
            LABELING / "hparams" / f"{hparams}.yaml",
        )


def test_labeler_is_trained_and_labels(world, tmp_path):
    def train(name, device):
        corpus = {
            "data_folder": world / "esd",
            "prepared_folder": world / "prepared",
            "feature_cache": tmp_path / f"{name}.hdf5",
            "emotion_features": "!new:toy_features.ToyFeatures",
            "skip_prep": True,
        }
        label_recipe(
            "extract_features",
            "extract_features",
            device,
            skipped_file=tmp_path / "skipped.json",
            num_workers=0,
            **corpus,
        )
        label_recipe(
            "train",
            "train_mini",
            device,
            **corpus,
            alignment_folder=world / "esd" / "textgrids",
            output_folder=tmp_path / name,
            feature_dim=2,
            input_dim=4,
            group_dims="[2, 2]",
            number_of_epochs=2,
        )
        return tmp_path / name

    cpu, gpu = on_both(train)
    assert_same_weights(cpu / "word_emotion.ckpt", gpu / "word_emotion.ckpt")

    def label(name, device):
        labeler = WordEmotionLabeler.from_hparams(
            cpu, savedir=cpu, run_opts={"device": device}
        )
        (path,) = (world / "esd" / "transitions").rglob("*_t000016.wav")
        statistics = labeler.speaker_statistics([path])
        words = labeler.label_file(
            path,
            "We won the game.",
            words=WORDS,
            statistics=statistics,
        )
        return words

    here, there = on_both(label)
    assert here == there


# --- CosyVoice2 -------------------------------------------------------------


def test_cosyvoice2_is_prepared_trained_and_speaks(pristine_snapshot, tmp_path):
    for package in ("s3tokenizer", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    make_corpus(tmp_path / "esd")

    def run(name, device):
        flags = {
            "data_folder": tmp_path / "esd",
            "prepared_folder": tmp_path / f"prepared_{name}",
            "output_folder": tmp_path / name,
            "backbone_source": pristine_snapshot,
            "backbone": json.dumps(BACKBONE),
            "label_source": "truth",
            "use_tensorboard": False,
            "num_workers": 0,
            "number_of_steps": 2,
            "emotion_dim": 8,
            "device": device,
        }
        flags = [f"--{k}={v}" for k, v in flags.items()] + ["--noprogressbar"]
        hparams = RECIPE / "hparams" / "cosyvoice2.yaml"
        run_script("extract_speech_tokens.py", flags, hparams)
        flags.append("--reference=matched")
        run_script("extract_speaker_embeddings.py", flags, hparams)
        run_script("train.py", flags, hparams)
        return tmp_path / f"prepared_{name}"

    cpu, gpu = on_both(run)
    name = "speech_tokens.safetensors"
    one, other = (read_speech_tokens(folder / name) for folder in (cpu, gpu))
    torch.testing.assert_close(other.tokens, one.tokens)
    name = "voices_matched.safetensors"
    one, other = (read_voices(folder / name) for folder in (cpu, gpu))
    assert one.keys() == other.keys()
    for key, voice in one.items():
        torch.testing.assert_close(other[key].prompt_mel, voice.prompt_mel)
    for name in ("efilm.ckpt", "llm_decoder.ckpt"):
        assert_same_weights(tmp_path / "cpu" / name, tmp_path / "gpu" / name)

    def speak(name, device):
        synthesizer = EmoFiLMSynthesizer.from_hparams(
            tmp_path / "cpu",
            savedir=tmp_path / "cpu",
            run_opts={"device": device},
        )
        synthesizer.aligner = None
        results = []
        for options in (
            {"prompting": "zero_shot", "guidance": 2.0},
            {"instruction": "Speak softly."},
            {"reference": "per_span"},
        ):
            results += synthesizer.synthesize(
                ["<happy>We won</happy> it.", "But he left."], **options
            )
        streamed = [
            torch.cat([chunk.wav for chunk in synthesizer.stream(text)])
            for text in ("<happy>We won</happy> it.", ["<happy>We ", "won</>."])
        ]
        return (
            [result.speech_tokens for result in results],
            [result.wav for result in results],
            streamed,
        )

    here, there = on_both(speak)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


# --- MiniESD ----------------------------------------------------------------


def random_batch():
    """What any of the mini backbone's recipes reads, of two items."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    def ids(n, *shape):
        return torch.randint(n, shape, generator=generator)

    return {
        "mel": noise(2, 16, 80) - 6,
        "wav": noise(2, 16 * 480),
        "f0": 200 + noise(2, 16),
        "phonemes": ids(5, 2, 16),
        "speaker": ids(2, 2),
        "tokens": ids(6561, 2, 8),
        "x_vector": noise(2, 160),
        "text": ids(50, 2, 6),
        "text_lens": torch.tensor([1.0, 0.5]),
        "speech": ids(6561, 2, 8),
        "speech_lens": torch.tensor([1.0, 0.75]),
        "unit": ids(3, 2, 8),
        "phoneme": ids(5, 2, 8),
        "heard": ids(5, 2, 3),
        "heard_lens": torch.tensor([1.0, 0.67]),
    }


def pretraining(recipe, options, folder, device):
    """Makes a recipe's Brain, and reads its script."""
    options = {"data_folder": "none", "output_folder": folder, **options}
    script = options.pop("script", "train.py")
    hparams_file = f"{options.pop('hparams', 'train')}.yaml"
    place = MINIESD / recipe
    paths = [str(place), str(MINIESD), *sys.path]
    with mock.patch.object(sys, "path", paths):
        functions = runpy.run_path(str(place / script))
        arguments = [f"--{key}={value}" for key, value in options.items()]
        _, _, overrides = sb.parse_arguments(
            [str(place / "hparams" / hparams_file), *arguments]
        )
        with open(place / "hparams" / hparams_file) as file:
            hparams = load_hyperpyyaml(file, overrides)
    (brain_class,) = (
        value
        for name, value in functions.items()
        if name.endswith("Brain") and value.__module__ == functions["__name__"]
    )
    brain = brain_class(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        {"device": device, "noprogressbar": True},
    )
    return brain, functions


@pytest.mark.parametrize(
    "recipe, options",
    PRETRAININGS,
    ids=[f"{r}_{o.get('hparams', '')}".strip("_") for r, o in PRETRAININGS],
)
def test_mini_backbone_learns(recipe, options, tmp_path):
    def learn(name, device):
        brain, _ = pretraining(recipe, options, tmp_path / name, device)
        brain.n_batches = 2
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        brain.on_fit_start()
        brain.modules.train()
        torch.manual_seed(0)
        for brain.step in (1, 2):
            brain.fit_batch(random_batch())
        brain.modules.eval()
        with torch.no_grad():
            loss = brain.evaluate_batch(random_batch(), sb.Stage.VALID)
        return float(loss), dict(brain.sums), brain.modules.cpu().state_dict()

    (loss, sums, state), (other_loss, other_sums, other_state) = on_both(learn)
    assert other_loss == pytest.approx(loss, rel=1e-3)
    assert other_sums == pytest.approx(sums, rel=1e-2, abs=1e-2)
    torch.testing.assert_close(other_state, state, atol=2e-3, rtol=0)


def test_token_decoder_begins_as_the_tokenizers(tmp_path):
    """Its checkpoint was written by a training on a GPU."""
    corpus = SimpleNamespace(
        x_vectors=lambda: {"a": torch.ones(160), "b": -torch.ones(160)},
        speakers=["a", "b"],
        normalisation=lambda: {"mean": torch.ones(80), "std": torch.ones(80)},
    )
    (tmp_path / "CKPT").mkdir()

    def start(name, device):
        brain, functions = pretraining(
            "token_decoder", PRETRAININGS[3][1], tmp_path, device
        )
        decoder = TokenDecoder(2, channels=16, n_blocks=5).to(device)
        torch.save(decoder.state_dict(), tmp_path / "CKPT" / "decoder.ckpt")
        decoder = brain.hparams.decoder.cpu()
        functions["init_from_tokenizer"](decoder, tmp_path, corpus)
        return decoder.state_dict()["upsample.weight"].shape

    assert len(set(on_both(start))) == 1
