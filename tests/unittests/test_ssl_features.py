"""SpeechBrain's self-supervised models as emotion features."""

from speechbrain_emofilm.integrations.emotion_features.ssl_features import (
    SSLFeatures,
)

import pytest
import torch
import transformers
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM

SIZE = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=[8] * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
#: Models and their feature extractor's norm: over channels, or over time.
KINDS = {
    "wavlm-layer": (WavLM, transformers.WavLMConfig, "layer"),
    "wav2vec2-layer": (Wav2Vec2, transformers.Wav2Vec2Config, "layer"),
    "wav2vec2-group": (Wav2Vec2, transformers.Wav2Vec2Config, "group"),
}


def write_model(folder, kind):
    """A small model with random weights, as Hugging Face keeps it."""
    _, config_class, norm = KINDS[kind]
    config = config_class(
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
        **SIZE,
    )
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(
        folder
    )
    return str(folder)


def extractor(folder, kind, **options):
    wrapper = KINDS[kind][0](
        source=write_model(folder, kind), save_path=str(folder), freeze=True
    )
    return SSLFeatures(wrapper, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_one_by_one(tmp_path, kind):
    features_of = extractor(tmp_path, kind)
    generator = torch.Generator().manual_seed(0)
    wavs = 0.1 * torch.randn(3, 16000, generator=generator)
    n_samples = [16000, 11111, 4000]
    features, lens = features_of(wavs, torch.tensor(n_samples) / 16000)
    assert features.shape == (3, 49, 16) and features_of.dim == 16
    n_frames = torch.round(lens * 49).long().tolist()
    for wav, samples, item, n in zip(wavs, n_samples, features, n_frames):
        alone, _ = features_of(wav[None, :samples])
        assert alone.shape[1] == n
        assert (alone[0] - item[:n]).abs().max() <= 1e-4


def test_frames_are_those_of_the_model(tmp_path):
    features_of = extractor(tmp_path, "wavlm-layer")
    model = transformers.WavLMModel.from_pretrained(tmp_path).eval()
    processor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    wav = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    values = processor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(values.input_values).last_hidden_state
    features, _ = features_of(wav[None])
    assert (features - expected).abs().max() < 1e-3


def test_frames_lie_where_the_convolutions_put_them(tmp_path):
    features_of = extractor(tmp_path, "wavlm-layer")
    assert features_of.frame_rate == 50
    assert features_of.frame_offset == pytest.approx(0.0125)


def test_a_layer_can_be_chosen(tmp_path):
    folder = write_model(tmp_path, "wavlm-layer")
    layers = [
        SSLFeatures(
            WavLM(folder, folder, freeze=True, output_all_hiddens=True), layer
        )
        for layer in (0, 2)
    ]
    wav = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    first, last = (features_of(wav)[0] for features_of in layers)
    assert first.shape == last.shape == (1, 24, 16)
    assert not torch.allclose(first, last)
    assert layers[0].config != layers[1].config


@pytest.mark.parametrize(
    "options, layer, message",
    [
        ({"output_norm": True}, None, "output_norm"),
        ({"output_all_hiddens": True}, None, "output_all_hiddens is True"),
        ({}, 1, "output_all_hiddens is False"),
    ],
)
def test_options_that_do_not_fit_are_errors(tmp_path, options, layer, message):
    folder = write_model(tmp_path, "wavlm-layer")
    wrapper = WavLM(folder, folder, freeze=True, **options)
    with pytest.raises(ValueError, match=message):
        SSLFeatures(wrapper, layer)
