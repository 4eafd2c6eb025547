"""Synthetic voice behind the MiniESD corpora."""

import sys
from pathlib import Path

from speechbrain_emofilm.integrations.hibari import UNITS
from speechbrain_emofilm.processing.prosody import prosody_track

import numpy as np
import pytest

# The recipes' scripts find their neighbours in their own folder.
sys.path.append(str(Path(__file__).parents[2] / "recipes" / "MiniESD"))

from voice import HibariVoice, PseudoSpeaker, WordProsody

pytest.importorskip("hibari")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def voice():
    return HibariVoice()


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(ImportError, match=r"hibari.*emofilm\[demo\]"):
        HibariVoice()


WORDS = ["my", "brother", "often", "lives", "alone", "there"]
CHANGED = 3
SEED = 7
#: Words that share no boundary with the changed one.
OTHERS = (0, 1, 5)
#: Those whose F0 is measured; the sentence ends in a creak.
MODAL = (0, 1)


def say(voice, change=None, seed=SEED, speaker=None):
    """The sentence, with the change on one word."""
    prosody = [WordProsody()] * len(WORDS)
    prosody[CHANGED] = change or WordProsody()
    return voice.speak(WORDS, prosody, speaker or PseudoSpeaker(), seed)


def measure(spoken):
    """Level (dB), F0 (Hz) and length (s) of each word, from the wave."""
    track = prosody_track(spoken.wav, HibariVoice.sample_rate)
    rows = []
    for start, end in spoken.words:
        # The edges are smoothed into the neighbours.
        frames = slice(round(200 * (start + 0.02)), round(200 * (end - 0.02)))
        samples = slice(*(round(24000 * t) for t in (start, end)))
        level = 10 * np.log10(np.mean(np.square(spoken.wav[samples])))
        f0 = np.exp(np.nanmedian(track.log_f0[frames]))
        rows.append((level, f0, end - start))
    return np.array(rows).T


@pytest.fixture(scope="module")
def neutral(voice):
    return measure(say(voice))


@pytest.mark.parametrize("gain", [6.0, -6.0])
def test_a_louder_word_is_louder(voice, neutral, gain):
    level, f0, length = measure(say(voice, WordProsody(gain=gain))) - neutral
    assert level[CHANGED] == pytest.approx(gain, abs=2.0)
    assert np.abs(level[list(OTHERS)]).max() < 0.5
    assert np.abs(f0[list(MODAL)]).max() < 3
    assert np.abs(length).max() < 1e-6


@pytest.mark.parametrize("pitch", [0.3, -0.2])
def test_a_higher_word_is_higher(voice, neutral, pitch):
    level, f0, length = measure(say(voice, WordProsody(pitch=pitch)))
    change = np.log(f0 / neutral[1])
    assert change[CHANGED] == pytest.approx(pitch, abs=0.08)
    assert np.abs(change[list(MODAL)]).max() < 0.03
    assert np.abs(level - neutral[0])[list(OTHERS)].max() < 1.5
    assert np.abs(length - neutral[2]).max() < 1e-6


@pytest.mark.parametrize("duration", [0.4, -0.35])
def test_a_longer_word_is_longer(voice, neutral, duration):
    spoken = say(voice, WordProsody(duration=duration))
    level, f0, length = measure(spoken)
    change = np.log(length / neutral[2])
    assert change[CHANGED] == pytest.approx(duration, abs=0.15)
    assert np.abs(length - neutral[2])[list(OTHERS)].max() < 1e-6
    assert np.abs(level - neutral[0])[list(OTHERS)].max() < 1.5
    assert np.abs(np.log(f0 / neutral[1]))[list(MODAL)].max() < 0.05
    # The sound itself, not only its list of words, has grown or shrunk.
    plain = say(voice)
    grown = (len(spoken.wav) - len(plain.wav)) / HibariVoice.sample_rate
    assert grown == pytest.approx((length - neutral[2]).sum(), abs=0.06)


def test_slope_makes_a_word_rise(voice):
    def rise(slope):
        spoken = say(voice, WordProsody(slope=slope))
        start, end = spoken.words[CHANGED]
        f0 = spoken.f0[round(50 * start) : round(50 * end)]
        voiced = f0[f0 > 0]
        half = len(voiced) // 2
        return np.log(voiced[half:].mean() / voiced[:half].mean())

    assert rise(0.5) > rise(0.0) + 0.1 > rise(-0.3) + 0.2


@pytest.mark.parametrize(
    "style",
    [
        WordProsody(pitch=0.05, slope=-0.2, duration=-0.3, gain=7.0),
        WordProsody(pitch=0.24, slope=0.6, duration=0.24),
    ],
)
def test_pace_and_slope_leave_the_mean_f0_as_asked(voice, style):
    """Also at the sentence's end, whose fall a fast reading cuts short."""
    words = ["move", "the", "van", "over", "the", "hill"]

    def mean_log_f0(prosody):
        spoken = voice.speak(words, [prosody] * len(words))
        spans = [
            spoken.f0[round(50 * a) : round(50 * b)] for a, b in spoken.words
        ]
        return np.array([np.log(f0[f0 > 0]).mean() for f0 in spans])

    change = mean_log_f0(style) - mean_log_f0(WordProsody())
    assert np.abs(change - style.pitch).max() < 0.1


@pytest.mark.parametrize("speaker", [PseudoSpeaker(0.88, 0.8, 0.97)])
def test_speakers_differ_in_pitch(voice, neutral, speaker):
    _, f0, _ = measure(say(voice, speaker=speaker))
    ratio = np.nanmedian(f0 / neutral[1])
    assert ratio == pytest.approx(speaker.warp * speaker.pitch, rel=0.06)


def test_word_times_are_inside_the_wave_and_in_order(voice):
    for speaker in (PseudoSpeaker(), PseudoSpeaker(warp=0.88)):
        spoken = say(voice, speaker=speaker)
        times = np.array(spoken.words).ravel()
        assert (np.diff(times) >= 0).all()
        assert times[0] >= 0.05
        assert times[-1] <= len(spoken.wav) / HibariVoice.sample_rate
        assert len(spoken.f0) == int(len(spoken.wav) / 24000 * 50)
        assert spoken.wav.dtype == np.float32


def test_units_follow_each_other_and_fill_their_words(voice):
    spoken = say(voice)
    starts, ends = np.array([unit[1:] for unit in spoken.units]).T
    np.testing.assert_allclose(starts[1:], ends[:-1])
    assert starts[0] == pytest.approx(spoken.words[0][0], abs=1e-6)
    assert {unit[0] for unit in spoken.units} <= set(UNITS)


def test_same_seed_gives_same_bytes(voice):
    change = WordProsody(0.1, 0.1, 0.2, 3.0, 0.5, 3.0)
    one, other = say(voice, change), say(HibariVoice(), change)
    assert one.wav.tobytes() == other.wav.tobytes()
    assert one.words == other.words and one.units == other.units
    assert say(voice, change, seed=8).wav.tobytes() != one.wav.tobytes()


def test_sentence_read_with_other_words_is_refused(voice):
    # A word without sound leaves fewer words than were asked for.
    words = ["we", "...", "won"]
    assert voice.speak(words, [WordProsody()] * 3) is None


def test_styles_can_be_scaled_and_added():
    style = WordProsody(pitch=0.2, gain=4.0)
    assert style.scaled(0.5) == WordProsody(pitch=0.1, gain=2.0)
    assert style.scaled(0.0) == WordProsody()
    assert style.plus(WordProsody(gain=1.0, tilt=2.0)) == WordProsody(
        pitch=0.2, gain=5.0, tilt=2.0
    )
