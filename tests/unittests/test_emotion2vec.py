"""emotion2vec gives each utterance's own frames, whatever batch it is in."""

import json
import sys
from pathlib import Path

from speechbrain_emofilm.integrations.emotion_features.emotion2vec import (
    Emotion2vec,
)

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from features import write_random_emotion2vec  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of funasr's own class, with random weights."""
    return write_random_emotion2vec(tmp_path_factory.mktemp("e") / "m", "tiny")


@pytest.fixture(scope="module")
def extractor(folder):
    return Emotion2vec(str(folder), max_duration=4.0)


@pytest.fixture()
def broken(folder, tmp_path):
    """A copy of the model's folder, to be broken."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def noise(*n_samples):
    """Utterances (T,) of noise."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(n, generator=generator) for n in n_samples]


def batch(wavs):
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return padded, torch.tensor([len(w) for w in wavs]) / padded.shape[1]


def test_batch_equals_one_by_one(extractor):
    wavs = noise(24000, 16123, 9000, 400)
    features, lens = extractor(*batch(wavs))
    n_frames = torch.round(lens * features.shape[1]).long().tolist()
    assert n_frames == [74, 50, 27, 1]
    for wav, item, n in zip(wavs, features, n_frames):
        alone, _ = extractor(wav[None])
        assert alone.shape == (1, n, 64)
        assert (alone[0] - item[:n]).abs().max() <= 1e-4
        assert (item[n:] == 0).all()


def test_what_lies_in_the_padding_does_not_matter(extractor):
    wavs, lens = batch(noise(16000, 9000))
    before, _ = extractor(wavs, lens)
    wavs[1, 9000:] = 0.5
    after, _ = extractor(wavs, lens)
    assert torch.equal(before, after)


def test_frames_are_those_of_funasr(extractor, folder):
    from funasr import AutoModel

    funasr = AutoModel(
        model=str(folder),
        device="cpu",
        ncpu=1,
        disable_update=True,
        disable_pbar=True,
    )
    wavs = noise(16000, 9000)
    features, lens = extractor(*batch(wavs))
    n_frames = torch.round(lens * features.shape[1]).long().tolist()
    for wav, item, n in zip(wavs, features, n_frames):
        output = funasr.generate(
            wav.numpy(), granularity="frame", extract_embedding=True
        )
        expected = torch.from_numpy(output[0]["feats"])
        assert (expected - item[:n]).abs().max() <= 1e-4


def test_frames_are_centred_where_the_extractor_says(extractor):
    """A change of one sample reaches, before any attention, the frames whose
    stretch around the stated centre holds it."""
    local = extractor.model.modality_encoders["AUDIO"].local_encoder
    assert extractor.frame_rate == 50
    assert extractor.frame_offset == pytest.approx(0.0125)
    wav = noise(8000)[0]
    span = extractor.receptive_field / extractor.sample_rate
    for sample in (400, 3210, 3333, 5000):
        changed = wav.clone()
        changed[sample] += 1.0
        frames = [local(w[None])[0] for w in (wav, changed)]
        reached = (frames[0] - frames[1]).abs().sum(0).nonzero()[:, 0]
        centres = extractor.frame_offset + reached / extractor.frame_rate
        time = (sample + 0.5) / extractor.sample_rate
        assert (centres - time).abs().max() < span / 2
        # On both sides alike: the centre is not off by a frame.
        assert abs(float(centres.mean()) - time) < 0.5 / extractor.frame_rate


def test_speech_longer_than_a_piece_has_all_its_frames(extractor):
    (wav,) = noise(16000 * 13)
    features, _ = extractor(wav[None])
    assert features.shape[1] == (len(wav) - 400) // 320 + 1
    assert features.isfinite().all()
    with_short, lens = extractor(*batch([wav, wav[:9000]]))
    assert torch.equal(with_short[0], features[0])
    n_short = round(float(lens[1]) * with_short.shape[1])
    short, _ = extractor(wav[None, :9000])
    assert (with_short[1, :n_short] - short[0]).abs().max() <= 1e-4


def test_loudness_does_not_matter_where_the_model_normalises(extractor):
    (wav,) = noise(9000)
    loud, _ = extractor(10 * wav[None])
    quiet, _ = extractor(wav[None])
    assert (loud - quiet).abs().max() < 1e-2


def test_model_without_classifier_gives_frames(broken):
    metas = json.loads((broken / "configuration.json").read_text())
    del metas["file_path_metas"]["tokenizer_conf"]
    (broken / "configuration.json").write_text(json.dumps(metas))
    features, _ = Emotion2vec(str(broken))(torch.stack(noise(9000)))
    assert features.shape == (1, 27, 64)


def test_memory_of_attention_does_not_grow_with_the_batch(extractor):
    extractor(torch.stack(noise(16000)))
    one = extractor._alibi.numel()
    extractor(torch.stack(noise(*[16000] * 4)))
    assert extractor._alibi.numel() == one
    encoder = extractor.model.modality_encoders["AUDIO"]
    assert not extractor.model.alibi_biases  # funasr's own copies
    assert encoder.get_alibi_bias == extractor._alibi_bias


def test_too_short_utterance_is_named(extractor):
    wavs, lens = batch(noise(9000, 399))
    with pytest.raises(ValueError, match="Item 1 of the batch has 399 samples"):
        extractor(wavs, lens)


def test_model_stays_frozen_in_evaluation_mode(extractor):
    assert not extractor.train().model.training
    assert not any(p.requires_grad for p in extractor.parameters())


def test_revision_follows_the_weights(folder, extractor, tmp_path):
    other = write_random_emotion2vec(tmp_path / "other", "tiny", seed=1)
    assert Emotion2vec(str(folder)).revision == extractor.revision
    assert Emotion2vec(str(other)).revision != extractor.revision


class Danger:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "state, message",
    [
        ({"model": {"cls": Danger()}}, "has other content than tensors"),
        ({"model": {}}, "lacks .* tensors"),
        ({"model": {"proj.weight": torch.zeros(2, 2)}}, "does not fit"),
    ],
)
def test_checkpoint_that_is_not_the_models_is_an_error(
    broken, capsys, state, message
):
    torch.save(state, broken / "model.pt")
    with pytest.raises(ValueError, match=f"model.pt.*{message}"):
        Emotion2vec(str(broken))
    assert "executed" not in capsys.readouterr().out


def test_truncated_checkpoint_is_an_error(broken):
    data = (broken / "model.pt").read_bytes()
    (broken / "model.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="model.pt is damaged"):
        Emotion2vec(str(broken))


def test_configuration_is_not_executed(broken, tmp_path):
    config = yaml.safe_load((broken / "config.yaml").read_text())
    audio = config["model_conf"]["modalities"]["audio"]
    audio["feature_encoder_spec"] = f"open({str(tmp_path / 'x')!r}, 'w')"
    (broken / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="config.yaml: feature_encoder_spec"):
        Emotion2vec(str(broken))
    assert not (tmp_path / "x").exists()


def test_missing_file_is_named(broken):
    (broken / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="config.yaml does not exist"):
        Emotion2vec(str(broken))


def test_configuration_of_another_model_is_an_error(broken):
    (broken / "config.yaml").write_text("model: Paraformer\n")
    with pytest.raises(ValueError, match="config.yaml is not the config"):
        Emotion2vec(str(broken))
