"""Speech tokens and speaker vectors through the optional packages."""

import builtins
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.campplus import (
    CAMPPlus,
    speaker_features,
)
from speechbrain_emofilm.integrations.cosyvoice2.s3tokenizer import (
    S3SpeechTokenizer,
)

import pytest
import torch
from safetensors.torch import load_file
from tiny_cosyvoice2 import (
    SPEECH_TOKENIZER,
    make_speaker_encoder,
    make_speech_tokenizer,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def speech():
    generator = torch.Generator().manual_seed(0)
    return [
        0.1 * torch.randn(n, generator=generator) for n in (16000, 8000, 30000)
    ]


@pytest.fixture
def tokenizer(tmp_path):
    pytest.importorskip("s3tokenizer")
    pytest.importorskip("onnx")
    path = tmp_path / "speech_tokenizer_v2.onnx"
    make_speech_tokenizer(path)
    return S3SpeechTokenizer(path, **SPEECH_TOKENIZER)


# -------------------------------------------------------------- speech tokens


def test_batch_equals_one_by_one(tokenizer, speech):
    together = tokenizer.tokenize_batch(speech)
    for wav, tokens in zip(speech, together):
        assert torch.equal(tokens, tokenizer.tokenize(wav[None])[0])
        assert len(tokens) == pytest.approx(len(wav) / 640, abs=1)
        assert 0 <= int(tokens.min()) and int(tokens.max()) < 6561


def test_weights_are_read_at_first_use(speech):
    tokenizer = S3SpeechTokenizer("nowhere/speech_tokenizer_v2.onnx")
    pytest.importorskip("s3tokenizer")
    with pytest.raises(FileNotFoundError, match="speech_tokenizer_v2.onnx"):
        tokenizer.to("cpu").eval().tokenize_batch(speech)


def test_other_files_are_refused(tmp_path, speech):
    pytest.importorskip("s3tokenizer")
    path = tmp_path / "speech_tokenizer_v2.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not CosyVoice2's speech token"):
        S3SpeechTokenizer(path).tokenize_batch(speech)


@pytest.mark.parametrize("n_samples", [16000 * 31, 100])
def test_speech_of_impossible_length_is_refused(tokenizer, n_samples):
    with pytest.raises(ValueError, match="Item 0 .* reads 0.04 to 30 s"):
        tokenizer.tokenize(torch.zeros(1, n_samples))


# ------------------------------------------------------------ speaker vectors


def test_features_are_the_references():
    reference = load_file(FIXTURES / "mel24k.safetensors")
    features = speaker_features(reference["wav16k"].flatten())
    # Logarithms of single precision: the difference is that of rounding.
    torch.testing.assert_close(
        features, reference["fbank80"], atol=2e-3, rtol=0
    )


def test_speakers_get_vectors(tmp_path, speech):
    pytest.importorskip("onnxruntime")
    make_speaker_encoder(tmp_path / "campplus.onnx")
    encoder = CAMPPlus(tmp_path / "campplus.onnx")
    vectors = encoder.embed(speech)
    assert vectors.shape == (3, 192)
    torch.testing.assert_close(vectors[1:2], encoder.embed(speech[1:2]))
    assert not torch.allclose(vectors[0], vectors[2])


def test_speaker_encoder_must_be_there_and_whole(tmp_path, speech):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "campplus.onnx"
    with pytest.raises(FileNotFoundError, match="give campplus.onnx"):
        CAMPPlus(path).embed(speech)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not an ONNX model"):
        CAMPPlus(path).embed(speech)


def test_too_short_a_reference_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    make_speaker_encoder(tmp_path / "campplus.onnx")
    with pytest.raises(ValueError, match="at least 0.1 s"):
        CAMPPlus(tmp_path / "campplus.onnx").embed([torch.zeros(100)])


@pytest.mark.parametrize(
    "package, use",
    [
        (
            "s3tokenizer",
            lambda wavs: S3SpeechTokenizer("x.onnx").tokenize_batch(wavs),
        ),
        ("onnxruntime", lambda wavs: CAMPPlus("x.onnx").embed(wavs)),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, speech, package, use):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == package:
            raise ImportError("no such package", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"emofilm\[cosyvoice\]"):
        use(speech)
