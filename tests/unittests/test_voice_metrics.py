"""Speaker similarity, predicted naturalness and prosody statistics."""

import sys
from types import ModuleType

from speechbrain_emofilm.integrations.resemblyzer import Resemblyzer
from speechbrain_emofilm.metrics.naturalness import PredictedMOS
from speechbrain_emofilm.metrics.prosody_statistics import ProsodyStatistics
from speechbrain_emofilm.metrics.speaker_similarity import SpeakerSimilarity
from speechbrain_emofilm.processing.prosody import ProsodyTrack, prosody_track

import numpy as np
import pytest
import torch


def test_the_same_voice_has_similarity_1():
    similarity = SpeakerSimilarity()
    vectors = torch.randn(3, 8)
    similarity.append(["a", "b", "c"], vectors, 2 * vectors)
    summary = similarity.summarize()
    assert summary["speaker_similarity"] == pytest.approx(1)


def test_an_embedding_that_failed_is_counted():
    similarity = SpeakerSimilarity()
    broken = torch.eye(2)
    broken[0] = torch.nan
    similarity.append(["a", "b"], broken, torch.eye(2))
    summary = similarity.summarize()
    assert summary["failures"] == {"a": "speaker vector not finite"}
    assert summary["speaker_similarity"] == pytest.approx(1)
    with pytest.raises(ValueError, match="one of each"):
        similarity.append(["c"], torch.eye(2), torch.eye(2))


def test_unscored_speech_is_no_lower_mos_but_a_gap():
    mos = PredictedMOS()
    mos.append(["a", "b", "c", "d"], [4.0, 2.0, None, float("nan")])
    summary = mos.summarize()
    assert summary["mos"] == 3.0
    assert (summary["utterances"], summary["measured"]) == (4, 2)
    with pytest.raises(ValueError, match="one for each"):
        mos.append(["e"], [])


def tone(hertz, seconds=0.5, gain=0.1):
    time = np.arange(int(24000 * seconds)) / 24000
    return prosody_track(gain * np.sin(2 * np.pi * hertz * time), 24000)


def test_an_octave_up_is_twelve_semitones():
    statistics = ProsodyStatistics()
    statistics.append("a", tone(300), tone(150))
    summary = statistics.summarize()
    assert summary["f0_shift"]["f0_shift"] == pytest.approx(12, abs=0.2)
    assert summary["f0_spread"]["f0_spread"] < 0.5


def test_twice_as_long_and_half_as_loud():
    statistics = ProsodyStatistics()
    statistics.append("a", tone(150, 1.0, 0.05), tone(150, 0.5, 0.1))
    summary = statistics.summarize()
    assert summary["duration_ratio"]["duration_ratio"] == pytest.approx(
        2, rel=0.02
    )
    assert summary["energy_shift"]["energy_shift"] == pytest.approx(-6, abs=1)


def test_a_whisper_is_a_counted_gap():
    whisper = ProsodyTrack(np.full(40, np.nan), *[np.zeros(40)] * 4)
    statistics = ProsodyStatistics()
    statistics.append("a", whisper)
    statistics.append("b", tone(150), whisper)
    statistics.append("c", tone(150))
    summary = statistics.summarize()
    assert summary["failures"] == {
        "a": "no voice",
        "b": "reference without voice",
    }
    assert summary["f0_mean"]["f0_mean"] == pytest.approx(150, rel=0.02)


# --- Resemblyzer ----------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    """Random weights in the package's file format."""
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(40, 256, 3), torch.nn.Linear(256, 256)
    state = {f"lstm.{k}": v for k, v in lstm.state_dict().items()}
    state |= {f"linear.{k}": v for k, v in linear.state_dict().items()}
    state["similarity_weight"] = torch.ones(1)
    path = tmp_path / "pretrained.pt"
    torch.save({"step": 1, "model_state": state}, path)
    return path


def test_vectors_have_length_1_whatever_the_duration(weights):
    encoder = Resemblyzer(weights)
    wavs = [0.1 * torch.randn(n) for n in (4000, 30000, 80000)]
    vectors = encoder.embed(wavs)
    assert vectors.shape == (3, 256)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))


def test_quiet_speech_has_the_same_vector(weights):
    encoder = Resemblyzer(weights)
    wav = 0.01 * torch.randn(20000)
    soft, softer = encoder.embed([wav, 0.1 * wav])
    assert torch.allclose(soft, softer, atol=1e-5)


def test_silence_has_no_voice(weights):
    assert Resemblyzer(weights).embed([torch.zeros(8000)]).isnan().all()


def test_missing_weights_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such speaker encoder"):
        Resemblyzer(tmp_path / "pretrained.pt")
    monkeypatch.setattr(
        "speechbrain_emofilm.integrations.resemblyzer.find_spec",
        lambda name: None,
    )
    with pytest.raises(ImportError, match="--no-deps Resemblyzer"):
        Resemblyzer()


def test_the_installed_package_is_not_imported(weights, monkeypatch):
    package = ModuleType("resemblyzer")
    package.origin = str(weights.with_name("__init__.py"))
    monkeypatch.setattr(
        "speechbrain_emofilm.integrations.resemblyzer.find_spec",
        lambda name: package,
    )
    Resemblyzer()
    assert "resemblyzer" not in sys.modules
