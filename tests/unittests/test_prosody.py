"""Word prosody against a neutral reading, on sound with known changes."""

from dataclasses import replace
from types import SimpleNamespace

from speechbrain_emofilm.processing.prosody import (
    FRAME_RATE,
    PROSODY_CHANGES,
    axis_changes,
    prosody_change,
    prosody_track,
    warp,
)
from speechbrain_emofilm.processing.prosody_variation import PEAK, vary_prosody

import numpy as np
import pytest

RATE = 24000
# Two formants (Hz) of each sound; two sounds make a word.
SOUNDS = [
    [(750, 1200), (300, 2300)],
    [(450, 900), (600, 1700)],
    [(280, 800), (700, 1100)],
    [(500, 1900), (350, 1000)],
]
NEUTRAL = {"f0": 0.0, "energy": 0.0, "duration": 0.0, "slope": 0.0}


def say(changes):
    """Speaks four vowel words; returns the sound and the words' times."""
    parts, words, time = [np.zeros(2400)], [], 0.1
    for sounds, change in zip(SOUNDS, changes):
        change = {**NEUTRAL, **change}
        start = time
        rise = np.linspace(-0.5, 0.5, len(sounds) + 1) * change["slope"]
        for formants, low, high in zip(sounds, rise, rise[1:]):
            size = int(0.15 * np.exp(change["duration"]) * RATE)
            log_f0 = np.log(150) + change["f0"] + np.linspace(low, high, size)
            phase = 2 * np.pi * np.cumsum(np.exp(log_f0)) / RATE
            sound = np.zeros(size)
            for harmonic in range(1, 24):
                hertz = harmonic * 150 * np.exp(change["f0"])
                distances = [(hertz - f) / 150 for f in formants]
                level = sum(np.exp(-(d**2) / 2) for d in distances) + 0.02
                sound += level * np.sin(harmonic * phase)
            gain = 10 ** (change["energy"] / 20)
            parts.append(0.05 * gain * sound)
            time += size / RATE
        words.append(SimpleNamespace(start=start, end=time))
        parts.append(np.zeros(1200))
        time += 0.05
    parts.append(np.zeros(2400))
    noise = np.random.default_rng(0).normal(0, 1e-4, sum(map(len, parts)))
    return np.concatenate(parts) + noise, words


def measure(changes):
    neutral, words = say([{}] * 4)
    reading, _ = say(changes)
    change = prosody_change(
        prosody_track(neutral, RATE), words, prosody_track(reading, RATE)
    )
    return {name: change[:, i] for i, name in enumerate(PROSODY_CHANGES)}


def test_identical_sound_has_no_change_at_all():
    for values in measure([{}] * 4).values():
        assert (values == 0.0).all()


def test_pitch_changes_are_recovered_word_by_word():
    asked = [0.3, 0.0, -0.2, 0.5]
    change = measure([{"f0": value} for value in asked])
    assert change["f0"] == pytest.approx(asked, abs=0.03)
    assert change["duration"] == pytest.approx([0] * 4, abs=0.1)


def test_level_changes_are_recovered_and_leave_pitch_alone():
    asked = [6.0, 0.0, -6.0, 3.0]
    change = measure([{"energy": value} for value in asked])
    assert change["energy"] == pytest.approx(asked, abs=0.5)
    assert change["f0"] == pytest.approx([0] * 4, abs=0.02)


def test_duration_changes_are_recovered():
    asked = [0.4, 0.0, -0.3, 0.2]
    change = measure([{"duration": value} for value in asked])
    assert change["duration"] == pytest.approx(asked, abs=0.06)


def test_rising_and_falling_words_are_told_apart():
    change = measure([{"slope": 0.4}, {}, {"slope": -0.4}, {}])
    rise, flat, fall, _ = change["f0_slope"]
    assert rise == pytest.approx(0.2, abs=0.06)  # half of the full rise
    assert fall == pytest.approx(-0.2, abs=0.06)
    assert flat == pytest.approx(0.0, abs=0.03)


def test_all_changes_at_once_are_recovered():
    asked = [
        {"f0": 0.3, "energy": 4.0, "duration": -0.2},
        {"f0": -0.2, "energy": -5.0, "duration": 0.3},
        {},
        {"f0": 0.2, "energy": 2.0, "duration": 0.2},
    ]
    change = measure(asked)
    for name, tolerance in [("f0", 0.05), ("energy", 1.5), ("duration", 0.1)]:
        wanted = [{**NEUTRAL, **word}[name] for word in asked]
        assert change[name] == pytest.approx(wanted, abs=tolerance)


def test_whispered_brightness_and_breath_move_their_own_columns():
    neutral, words = say([{}] * 4)
    noise = np.random.default_rng(1).normal(0, 0.008, len(neutral))
    track = prosody_track(neutral, RATE)
    change = prosody_change(track, words, prosody_track(neutral + noise, RATE))
    assert (change[:, PROSODY_CHANGES.index("breathiness")] > 1.5).all()
    brighter = np.append(neutral[0], neutral[1:] - 0.95 * neutral[:-1])
    change = prosody_change(track, words, prosody_track(brighter, RATE))
    assert (change[:, PROSODY_CHANGES.index("tilt")] > 3).all()


def test_silence_and_unvoiced_noise_give_finite_changes():
    neutral, words = say([{}] * 4)
    noise = np.random.default_rng(1).normal(0, 0.05, len(neutral))
    for wav in (np.zeros_like(neutral), noise):
        change = prosody_change(
            prosody_track(neutral, RATE), words, prosody_track(wav, RATE)
        )
        assert np.isfinite(change).all()


def test_a_word_beyond_the_end_still_gets_a_row():
    neutral, _ = say([{}] * 4)
    track = prosody_track(neutral, RATE)
    late = SimpleNamespace(start=len(neutral) / RATE + 1, end=1e3)
    assert np.isfinite(prosody_change(track, [late], track)).all()
    assert prosody_change(track, [], track).shape == (0, len(PROSODY_CHANGES))


def test_the_path_of_a_warp_is_monotonic_and_complete():
    slow, _ = say([{"duration": 0.3}] * 4)
    neutral, _ = say([{}] * 4)
    tracks = prosody_track(neutral, RATE), prosody_track(slow, RATE)
    steps = np.diff(warp(*tracks), axis=0)
    assert set(map(tuple, steps.tolist())) <= {(0, 1), (1, 0), (1, 1)}
    path = warp(*tracks)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [len(tracks[0]) - 1, len(tracks[1]) - 1]


@pytest.mark.parametrize(
    "odd, first, f0", [(0.5, 0.5, 100.0), (0.5, 0.01, 100.0), (0.0, 0.0, 200.0)]
)
def test_a_weak_first_harmonic_does_not_double_the_pitch(odd, first, f0):
    t = np.arange(RATE) / RATE
    amplitudes = 0.02 * np.array([first, 1.0, odd, 1.0, odd, 1.0])
    wav = amplitudes @ np.sin(2 * np.pi * np.outer(100 * np.arange(1, 7), t))
    track = prosody_track(wav, RATE)
    assert np.exp(np.nanmedian(track.log_f0)) == pytest.approx(f0, rel=0.01)


def test_a_track_has_a_fixed_frame_rate_at_any_sample_rate():
    t = np.arange(2 * 16000) / 16000
    wav = sum(np.sin(2 * np.pi * 180 * h * t) for h in range(1, 12)) / 40
    track = prosody_track(wav, 16000)
    assert len(track) == 2 * FRAME_RATE + 1
    median = np.exp(np.nanmedian(track.log_f0))
    assert median == pytest.approx(180, abs=1)


@pytest.mark.parametrize("wav", [np.zeros(1000), np.full(RATE, np.nan)])
def test_sound_that_cannot_be_measured_is_refused(wav):
    with pytest.raises(ValueError, match="50 ms of finite samples"):
        prosody_track(wav, RATE)


def test_axes_are_semitones_a_rate_and_decibels_within_their_ranges():
    neutral, words = say([{}] * 4)
    reading, _ = say(
        [
            {"f0": np.log(2) / 4},
            {"duration": np.log(1.25)},
            {"energy": -6.0},
            {"energy": -14.0},
        ]
    )
    changes = axis_changes(
        prosody_track(neutral, RATE), words, prosody_track(reading, RATE)
    )
    expected = [
        {"pitch": 3.0, "pace": 1.0, "level": 0.0},
        {"pitch": 0.0, "pace": 0.8, "level": 0.0},
        {"pitch": 0.0, "pace": 1.0, "level": -6.0},
        {"pitch": 0.0, "pace": 1.0, "level": -12.0},
    ]
    for change, wanted in zip(changes, expected):
        assert change["pitch"] == pytest.approx(wanted["pitch"], abs=0.4)
        assert change["pace"] == pytest.approx(wanted["pace"], rel=0.1)
        assert change["level"] == pytest.approx(wanted["level"], abs=0.8)
    assert changes[3]["level"] == -12.0  # the lowest that can be asked for


def test_an_unvoiced_word_has_no_pitch_but_a_level():
    neutral, words = say([{}] * 4)
    track = prosody_track(neutral, RATE)
    start, end = (round(t * FRAME_RATE) for t in (words[1].start, words[1].end))
    log_f0 = track.log_f0.copy()
    log_f0[start : end + 1] = np.nan
    changes = axis_changes(track, words, replace(track, log_f0=log_f0))
    assert changes[1]["pitch"] is None and changes[1]["level"] == 0.0
    assert all(changes[index]["pitch"] is not None for index in (0, 2, 3))


# --- Changed prosody --------------------------------------------------------

CHANGES = [{"pitch": 4.0}, {"pace": 0.7}, {"level": -6.0}, {}]


def test_each_word_changes_along_its_own_axis_only():
    neutral, words = say([{}] * 4)
    varied, _ = vary_prosody(neutral, RATE, words, CHANGES)
    measured = axis_changes(
        prosody_track(neutral, RATE), words, prosody_track(varied, RATE)
    )
    for own, asked in zip(measured, CHANGES):
        wanted = {"pitch": 0.0, "pace": 1.0, "level": 0.0, **asked}
        assert own["pitch"] == pytest.approx(wanted["pitch"], abs=0.6)
        assert own["pace"] == pytest.approx(wanted["pace"], rel=0.15)
        assert own["level"] == pytest.approx(wanted["level"], abs=1.5)


def test_words_have_new_times_and_the_sound_their_length():
    neutral, words = say([{}] * 4)
    varied, times = vary_prosody(neutral, RATE, words, CHANGES)
    own = [word.end - word.start for word in words]
    durations = [end - start for start, end in times]
    assert durations[0] == pytest.approx(own[0], abs=0.01)
    assert durations[1] == pytest.approx(own[1] / 0.7, abs=0.02)
    added = durations[1] - own[1]
    assert times[3][0] == pytest.approx(words[3].start + added, abs=0.01)
    assert len(varied) == pytest.approx(len(neutral) + added * RATE, abs=480)


def test_louder_speech_is_not_clipped():
    neutral, words = say([{}] * 4)
    loud = neutral / np.abs(neutral).max() * 0.9
    varied, _ = vary_prosody(loud, RATE, words, [{"level": 8.0}] * 4)
    assert np.abs(varied).max() == pytest.approx(PEAK)


def test_each_word_needs_a_change():
    neutral, words = say([{}] * 4)
    with pytest.raises(ValueError, match="1 changes were given for 4 words"):
        vary_prosody(neutral, RATE, words, [{}])
