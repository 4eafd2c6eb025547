"""Joins of recordings: in phase, level, and as smooth as speech."""

import sys
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "FEDD"
sys.path.insert(0, str(RECIPE))
import joining  # noqa: E402

sys.path.remove(str(RECIPE))

RATE = 24000


def voice(hertz, seconds=0.5, gain=0.1, phase=0.0):
    time = np.arange(int(seconds * RATE)) / RATE + phase
    harmonics = np.arange(1, 12)[:, None]
    return gain * (
        np.sin(2 * np.pi * hertz * harmonics * time) / harmonics
    ).sum(0)


@pytest.mark.parametrize("hertz", [80, 120, 200, 333, 450])
def test_the_pitch_period_is_found(hertz):
    period = joining.pitch_period(voice(hertz, 0.04), RATE)
    assert period == pytest.approx(RATE / hertz, rel=0.01)


def test_noise_and_silence_have_no_period():
    noise = np.random.default_rng(0).normal(size=960) * 0.1
    assert joining.pitch_period(noise, RATE) is None
    assert joining.pitch_period(np.zeros(960), RATE) is None
    assert joining.pitch_period(np.zeros(0), RATE) is None


def test_periods_fall_together_at_a_join():
    """However far out of phase the second recording is."""
    for phase in (0.0, 0.001, 0.0025, 0.004):
        wav, _ = joining.join(
            voice(150), voice(150, phase=phase), 6000, 6000, RATE
        )
        around = wav[5000:7000]
        steady = voice(150)[5000:7000]
        assert np.abs(around).max() < 1.1 * np.abs(steady).max()
        assert np.square(around).mean() == pytest.approx(
            np.square(steady).mean(), rel=0.05
        )


def test_a_plain_cut_would_jump_where_a_join_does_not():
    a, b = voice(150), voice(150, phase=0.5 / 150)
    cut = np.concatenate([a[:6000], b[6000:]])
    wav, _ = joining.join(a, b, 6000, 6000, RATE)
    step = np.abs(np.diff(wav[5800:6200])).max()
    assert step <= 1.05 * np.abs(np.diff(a)).max()
    assert step <= np.abs(np.diff(cut[5800:6200])).max()


def test_the_shift_places_what_follows():
    a, b = voice(150), voice(150, 0.8)
    b[15000] = 0.9  # a mark
    wav, shift = joining.join(a, b, 6000, 9000, RATE)
    assert wav[15000 + shift] == 0.9
    assert abs(shift + 3000) <= RATE / 150 / 2 + 1
    assert len(wav) == len(b) + shift


def test_levels_meet_at_the_join_and_stay_elsewhere():
    soft, loud = voice(150, gain=0.05), voice(150, gain=0.15)
    wav, _ = joining.join(soft, loud, 6000, 6000, RATE)
    assert joining.join_quality(wav, 6000, RATE).level_jump < 3.5
    plain = np.concatenate([soft[:6000], loud[6000:]])
    assert joining.join_quality(plain, 6000, RATE).level_jump > 9
    assert np.allclose(wav[:3500], soft[:3500])
    ratio = np.square(wav[-3000:]).mean() / np.square(loud[-3000:]).mean()
    assert ratio == pytest.approx(1, rel=0.01)


def test_a_jump_of_the_words_themselves_is_kept():
    """Both readings fall silent there: nothing to correct."""
    word = voice(150)
    word[6000:] *= 0.1
    wav, _ = joining.join(word, word, 6000, 6000, RATE)
    assert np.abs(wav - word).max() < 0.1 * np.abs(word).max()


def test_jumps_are_measured():
    octave = np.concatenate([voice(150, 0.25), voice(300, 0.25)])
    quality = joining.join_quality(octave, 6000, RATE)
    assert quality.f0_jump == pytest.approx(12, abs=0.3)
    limits = {"spectral_jump": 1e3, "f0_jump": 6.0, "level_jump": 1e3}
    assert quality.relative_to(limits) == pytest.approx(2, abs=0.05)
    steady = joining.join_quality(voice(150), 6000, RATE)
    assert steady.f0_jump < 0.1 and steady.spectral_jump < 2


def test_an_unvoiced_side_has_no_f0_jump_and_an_edge_no_quality():
    noise = np.random.default_rng(0).normal(size=6000) * 0.05
    wav = np.concatenate([voice(150, 0.25), noise])
    quality = joining.join_quality(wav, 6000, RATE)
    assert quality.f0_jump is None
    assert quality.relative_to(dict.fromkeys(joining.MEASURES, 1e3)) < 1
    assert joining.join_quality(wav, 100, RATE) is None


def test_a_cut_outside_of_the_recording_is_refused():
    with pytest.raises(ValueError, match="check that the alignment"):
        joining.join(voice(150), voice(150), 6000, 12000, RATE)
