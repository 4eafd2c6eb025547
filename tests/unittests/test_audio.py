"""Audio comes in as one mono waveform, or is refused with its reason."""

import math

from speechbrain_emofilm.dataio.audio import audio_info, load_audio

import numpy as np
import pytest
import soundfile
import torch


def tone(sample_rate, frequency=440.0, seconds=0.5):
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    return 0.5 * np.sin(2 * math.pi * frequency * time).astype(np.float32)


def write(path, samples, sample_rate=24000, subtype="FLOAT"):
    soundfile.write(path, samples, sample_rate, subtype=subtype)
    return path


def test_audio_of_the_right_rate_is_returned_unchanged(tmp_path):
    wav = tone(24000)
    loaded = load_audio(write(tmp_path / "a.wav", wav))
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, torch.from_numpy(wav))


@pytest.mark.parametrize("source_rate", [8000, 16000, 44100, 48000])
def test_other_rates_are_resampled_to_the_same_sound(tmp_path, source_rate):
    path = write(tmp_path / "a.wav", tone(source_rate), source_rate)
    loaded = load_audio(path)
    expected = torch.from_numpy(tone(24000))
    assert loaded.shape == expected.shape
    inner = slice(1000, -1000)
    assert torch.allclose(loaded[inner], expected[inner], atol=5e-3)


def test_stereo_is_averaged_to_mono(tmp_path):
    wav = tone(24000)
    stereo = np.stack([wav, 0 * wav], axis=1)
    loaded = load_audio(write(tmp_path / "a.wav", stereo))
    assert torch.allclose(loaded, torch.from_numpy(wav) / 2)


def test_info_tells_the_duration_from_the_header(tmp_path):
    info = audio_info(write(tmp_path / "a.wav", tone(16000), 16000))
    assert (info.duration, info.sample_rate, info.channels) == (0.5, 16000, 1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.wav: no such audio file"):
        load_audio(tmp_path / "a.wav")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(ValueError, match="a.wav: the file is empty"):
        load_audio(tmp_path / "a.wav")


def test_a_file_without_samples_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(0))
    with pytest.raises(ValueError, match="a.wav: the file has no samples"):
        load_audio(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", tone(24000), subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="a.wav: the file is truncated"):
        load_audio(path)


def test_a_wav_written_to_a_pipe_is_accepted(tmp_path):
    # Such a header cannot tell the size: it holds the largest number.
    path = write(tmp_path / "a.wav", tone(24000), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = b"\xff" * 4
    path.write_bytes(content)
    assert load_audio(path).shape == (12000,)


def test_a_file_that_is_no_audio_is_refused(tmp_path):
    (tmp_path / "a.wav").write_text("0011_000001\tHello.\tHappy\n" * 20)
    with pytest.raises(ValueError, match="a.wav: not an audio file"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    wav = tone(24000)
    wav[2400] = value
    path = write(tmp_path / "a.wav", wav)
    with pytest.raises(ValueError, match=r"a.wav: NaN .* first at 0.100 s"):
        load_audio(path)


def test_too_long_a_file_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(61 * 8000), 8000, "PCM_16")
    with pytest.raises(ValueError, match="61.0 s is longer than max_duration"):
        load_audio(path, max_duration=60)
    assert load_audio(path, max_duration=61).shape == (61 * 24000,)
