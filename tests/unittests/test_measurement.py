"""Recordings are measured once, and again when anything about them changes."""

import dataclasses
import functools
import shutil
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.evaluation.measuring import MeasuringPool, Reading

import numpy as np
import pytest
import soundfile
import torch

WORDS = (Word("we", 0.1, 0.3), Word("won", 0.3, 0.6))
CALLS = []


class Aligner:
    """Finds the words in all that is loud enough."""

    def __init__(self, least=0.01):
        self.least = least

    def align(self, wav, sample_rate, text):
        CALLS.append(text)
        if float(abs(wav).max()) < self.least:
            raise ValueError(f"The sound does not fit the words {text!r}.")
        return list(WORDS)


class ASR:
    """Understands the same of everything."""

    def transcribe(self, wavs, sample_rate):
        return ["We won." for _ in wavs]


class Levels:
    """Gives the mean level of each 20 ms."""

    sample_rate = 16000

    def __call__(self, wavs, lens):
        return wavs.unfold(1, 320, 320).abs().mean(-1, keepdim=True), lens


class Encoder:
    """Takes everyone for the same speaker."""

    sample_rate = 16000

    def embed(self, wavs):
        return torch.tensor([[1.0, 2.0]]).repeat(len(wavs), 1)


class MOS:
    """Likes everything."""

    def predict(self, wavs, sample_rate):
        return [4.5 for _ in wavs]


def tone(path, hertz, level=0.3):
    time = np.arange(16800) / 24000
    harmonics = np.sin(2 * np.pi * hertz * np.outer(range(1, 9), time))
    soundfile.write(path, level * harmonics.mean(0), 24000, "PCM_16")
    return str(path)


def kept(measured):
    """What can be compared of measurements."""
    return {
        name: (m.change, m.recognised, m.mos, m.words)
        for name, m in measured.items()
    }


@pytest.fixture
def readings(tmp_path):
    neutral = tone(tmp_path / "neutral.wav", 150)
    return {
        name: Reading(
            tone(tmp_path / f"{name}.wav", *sound), "We won.", neutral, WORDS
        )
        for name, sound in {
            "high": (200,),
            "silent": (150, 0.0),
        }.items()
    }


@pytest.fixture
def measure(tmp_path, readings):
    """Measures; gives the result and how many alignments it took."""

    def run(tools=None, workers=1):
        CALLS.clear()
        with MeasuringPool(tools or {"aligner": Aligner}, workers) as pool:
            done = pool.measure(readings, tmp_path / "m")
        return done, len(CALLS)

    return run


def test_the_change_is_measured_against_the_neutral_reading(measure):
    done, _ = measure()
    change = np.array(done["high"].change)
    assert change.shape == (2, 6)
    np.testing.assert_allclose(change[:, 0], np.log(200 / 150), atol=0.02)


def test_a_reading_without_its_words_has_no_change(measure):
    done, _ = measure({"aligner": Aligner, "asr": ASR, "mos": MOS})
    assert done["silent"].change is None
    assert done["silent"].recognised == "We won."
    assert done["high"].mos == 4.5


def test_nothing_is_measured_twice(measure):
    first, n_first = measure()
    second, n_second = measure()
    assert (n_first, n_second) == (2, 0)
    assert kept(second) == kept(first)
    assert torch.equal(second["high"].energy, first["high"].energy)
    assert len(second["high"].energy) == len(second["high"].log_f0) > 100


def test_another_sound_is_measured_again(measure, readings):
    measure()
    tone(readings["high"].wav, 220)
    done, n_calls = measure()
    assert n_calls == 1
    assert done["high"].change[0][0] == pytest.approx(
        np.log(220 / 150), abs=0.02
    )


def test_another_option_of_a_tool_measures_again(measure):
    measure()
    strict = functools.partial(Aligner, least=0.9)
    done, n_calls = measure({"aligner": strict})
    assert n_calls == 2
    assert done["high"].change is None


def test_what_was_measured_before_an_interrupt_is_kept(
    measure, readings, tmp_path
):
    silent = readings["silent"].wav
    with open(silent, "wb") as file:
        file.write(b"")  # not audio: the work stops here
    with pytest.raises(ValueError, match="silent.wav"):
        measure()
    assert len(list((tmp_path / "m").iterdir())) == 1


def test_unusable_recordings_can_be_skipped(readings, tmp_path):
    with open(readings["high"].wav, "wb") as file:
        file.write(b"")
    with MeasuringPool({"asr": ASR}, skip_unusable=True) as pool:
        done = pool.measure(readings, tmp_path / "m")
    assert "high.wav" in done["high"].failure
    assert done["silent"].failure == "silent"
    assert done["silent"].recognised is None


def test_missing_recordings_stop_before_the_first_is_measured(
    measure, readings, tmp_path
):
    Path(readings["silent"].wav).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 .* missing.*silent"):
        measure()
    assert not CALLS and not (tmp_path / "m").exists()


def test_processes_measure_the_same(measure, tmp_path):
    done, _ = measure(workers=2)
    shutil.rmtree(tmp_path / "m")
    alone, _ = measure()
    assert kept(done) == kept(alone)
    assert done["high"].change is not None


def test_a_finished_tool_cannot_be_shared_by_processes():
    with pytest.raises(ValueError, match="aligner is one finished tool"):
        MeasuringPool({"aligner": Aligner()}, workers=2)
    with pytest.raises(ValueError, match="'recogniser': known are aligner"):
        MeasuringPool({"recogniser": ASR})


def test_without_an_aligner_no_word_is_looked_for(measure):
    done, n_calls = measure({"asr": ASR})
    assert n_calls == 0
    assert done["high"].words is None and done["high"].change is None
    assert done["high"].recognised == "We won."


def test_features_and_speaker_are_measured_by_their_tools(readings, tmp_path):
    tools = {"emotion_features": Levels, "speaker_encoder": Encoder}
    with MeasuringPool(tools) as pool:
        done = pool.measure(readings, tmp_path / "m")
    assert done["high"].features.shape == (35, 1)
    assert done["high"].speaker.tolist() == [1.0, 2.0]
    assert done["silent"].speaker is None and done["silent"].failure == "silent"


def test_only_prosody_is_measured_where_that_is_enough(measure, readings):
    tools = {"aligner": Aligner, "asr": ASR, "mos": MOS}
    measure(tools)
    for name, reading in readings.items():
        readings[name] = dataclasses.replace(reading, only=("change",))
    done, _ = measure(tools)
    assert done["high"].change is not None
    assert done["high"].recognised is None and done["high"].mos is None


def broken_tool():
    raise ImportError("Measuring needs the package x.")


def test_a_tool_that_cannot_be_made_ends_the_run(tmp_path):
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.full(24000, 0.1), 24000)
    with MeasuringPool({"mos": broken_tool}, workers=2) as pool:
        with pytest.raises(ImportError, match="needs the package x"):
            pool.measure({"a": Reading(str(wav), "We won.")}, tmp_path / "kept")
