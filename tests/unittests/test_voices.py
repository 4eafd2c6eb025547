"""Voices that recordings give, and speech made with them."""

from dataclasses import replace

from speechbrain_emofilm.dataio.voices import Voice, read_voices, write_voices
from speechbrain_emofilm.inference.prompted_token_to_wav import (
    PromptedTokenToWav,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import pytest
import torch
from safetensors.torch import save_file
from tiny_cosyvoice2 import FLOW, VOCODER


class Level(torch.nn.Module):
    """Stands for a vocoder: the mean of the mel, held for each frame."""

    def forward(self, mel, lens, seed):
        return mel.mean(-1).repeat_interleave(480, 1)


def make_voice(seed, n_tokens):
    generator = torch.Generator().manual_seed(seed)
    return Voice(
        torch.randn(192, generator=generator),
        torch.randint(6561, (n_tokens,), generator=generator),
        torch.randn(2 * n_tokens, 80, generator=generator),
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "voices.safetensors"
    write_voices(
        path, {"0011": make_voice(1, 12), "0011/happy": make_voice(2, 7)}
    )
    return path


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    flow = CosyVoice2Flow(**FLOW).eval().requires_grad_(False)
    vocoder = HiFTGenerator(**VOCODER).eval().requires_grad_(False)
    return flow, vocoder


@pytest.fixture
def token_to_wav(parts, path):
    return PromptedTokenToWav(parts[0], Level(), path, n_timesteps=2)


def test_voices_survive_the_file(path):
    for name, voice in {
        "0011": make_voice(1, 12),
        "0011/happy": make_voice(2, 7),
    }.items():
        read = read_voices(path)[name]
        assert torch.equal(read.xvector, voice.xvector)
        assert torch.equal(read.prompt_tokens, voice.prompt_tokens)
        assert torch.equal(read.prompt_mel, voice.prompt_mel)


def test_the_header_says_what_voices_were_made_of(tmp_path):
    path = tmp_path / "voices.safetensors"
    made = {"utterance": "0011_000351", "wav": "3f2a"}
    known = replace(make_voice(1, 12), source=made)
    write_voices(path, {"0011": known, "0012": make_voice(2, 7)})
    assert read_voices(path)["0011"].source == made
    assert read_voices(path)["0012"].source is None


def test_one_voice_may_have_two_names(tmp_path):
    voice = make_voice(1, 12)
    write_voices(tmp_path / "voices.safetensors", {"a": voice, "b": voice})
    a, b = read_voices(tmp_path / "voices.safetensors").values()
    assert torch.equal(a.xvector, b.xvector)
    assert torch.equal(a.prompt_mel, b.prompt_mel)


def test_a_voice_has_two_frames_per_token():
    voice = make_voice(0, 5)
    with pytest.raises(ValueError, match="5 speech tokens and 9 mel frames"):
        Voice(voice.xvector, voice.prompt_tokens, voice.prompt_mel[1:])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "voices.safetensors"
    with pytest.raises(FileNotFoundError, match="extract_speaker_embeddings"):
        read_voices(path)
    save_file({"0011.xvector": torch.zeros(192)}, path)
    with pytest.raises(ValueError, match="has no 0011.prompt_tokens"):
        read_voices(path)


def test_voices_are_read_when_they_are_needed(parts, tmp_path):
    token_to_wav = PromptedTokenToWav(*parts, tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        token_to_wav([torch.ones(3).long()])


def test_batch_equals_single_items(token_to_wav):
    generator = torch.Generator().manual_seed(0)
    tokens = [
        torch.randint(6561, (n,), generator=generator) for n in (20, 9, 14)
    ]
    speakers = ["0011", "0011/happy", "0011/happy"]
    together = token_to_wav(tokens, speakers)
    for item, speaker, wav in zip(tokens, speakers, together):
        (alone,) = token_to_wav([item], speaker)
        assert len(wav) == 960 * len(item)
        torch.testing.assert_close(wav, alone, atol=1e-5, rtol=0)


def test_voice_is_heard_and_the_first_is_the_default(token_to_wav):
    tokens = [torch.arange(15)]
    assert token_to_wav.speakers == ["0011", "0011/happy"]
    default, first, other = (
        token_to_wav(tokens, speaker)[0]
        for speaker in (None, "0011", "0011/happy")
    )
    assert torch.equal(default, first)
    assert not torch.allclose(default, other, atol=0.01)
    with pytest.raises(ValueError, match="'0012' is not known"):
        token_to_wav(tokens, "0012")
    with pytest.raises(ValueError, match="Item 1 has no speech tokens"):
        token_to_wav([tokens[0], tokens[0][:0]])


def test_stream_has_the_length_of_the_speech(parts, path):
    token_to_wav = PromptedTokenToWav(*parts, path, n_timesteps=2)
    tokens = torch.arange(61)
    stream = token_to_wav.stream("0011/happy")
    waves = [stream.push(part) for part in tokens.split(5)]
    assert 0 < sum(map(len, waves)) < 61 * 960
    assert sum(map(len, waves)) + len(stream.finish()) == 61 * 960


def test_a_voice_streams_as_soon_as_its_first_chunk_is_there(parts, path):
    """The prompt of 12 tokens is in the first chunk of 25, 3 more follow."""
    token_to_wav = PromptedTokenToWav(*parts, path, n_timesteps=2)
    stream = token_to_wav.stream("0011")
    sizes = [len(stream.push(t[None])) for t in torch.arange(60)]
    assert [n for n, size in enumerate(sizes, 1) if size] == [16, 41]


def test_two_voices_stream_at_once(parts, path):
    token_to_wav = PromptedTokenToWav(*parts, path, n_timesteps=2)
    tokens = torch.arange(50)
    names = ("0011", "0011/happy")
    alone = []
    for name in names:
        stream = token_to_wav.stream(name)
        waves = [stream.push(part) for part in tokens.split(10)]
        alone.append(torch.cat([*waves, stream.finish()]))
    streams = [token_to_wav.stream(name) for name in names]
    pushed = [[s.push(part) for s in streams] for part in tokens.split(10)]
    for stream, waves, wav in zip(streams, zip(*pushed), alone):
        assert torch.equal(torch.cat([*waves, stream.finish()]), wav)
    assert not torch.allclose(*alone, atol=0.01)


def test_speed_of_whole_speech_streams_and_mels(parts, path):
    token_to_wav = PromptedTokenToWav(*parts, path, n_timesteps=2)
    tokens = [torch.arange(30), torch.arange(15)]
    wavs = token_to_wav(tokens, speed=[2.0, 0.5])
    assert [len(wav) // 480 for wav in wavs] == [30, 60]
    stream = token_to_wav.stream(speed=0.75)
    waves = [stream.push(part) for part in tokens[0].split(7)]
    assert sum(map(len, waves)) + len(stream.finish()) == 80 * 480
    mels = token_to_wav.decode_voices(tokens, [["0011"]] * 2, speed=[2.0, 0.5])
    assert [mel.shape[1] for mel in mels] == [30, 60]
    for mel, wav in zip(mels, wavs):
        (alone,) = token_to_wav.vocode(mel, torch.ones(1))
        torch.testing.assert_close(alone, wav, atol=1e-4, rtol=0)


def test_a_vocoder_for_whole_speech_cannot_stream(token_to_wav):
    with pytest.raises(ValueError, match="Level cannot run piece by piece"):
        token_to_wav.stream()
