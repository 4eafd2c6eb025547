"""Speech that is faster or slower at the same pitch."""

from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.processing.mel_speed import (
    MelSpeedStream,
    change_speed,
    check_speeds,
)

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def mel():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 61, 80, generator=generator).double()


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.3, 2.0])
def test_the_mel_is_interpolated_as_in_cosyvoice(mel, speed):
    expected = F.interpolate(mel.mT, size=int(61 / speed), mode="linear").mT
    torch.testing.assert_close(
        change_speed(mel, speed), expected, atol=1e-9, rtol=0
    )


def test_speed_1_leaves_every_bit(mel):
    assert change_speed(mel, 1.0) is mel
    assert MelSpeedStream(1.0).push(mel) is mel


@pytest.mark.parametrize("speed", [0.5, 0.7, 1.1, 1.5, 1.9, 2.0])
@pytest.mark.parametrize("part", [1, 2, 7])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 60, 61])
def test_pieces_equal_the_interpolation_at_the_speed(
    mel, speed, part, n_frames
):
    mel = mel[:, :n_frames]
    stream = MelSpeedStream(speed)
    parts = [stream.push(piece) for piece in mel.split(part, dim=1)]
    read = torch.cat([*parts, stream.finish()], dim=1)
    assert read.shape == change_speed(mel, speed).shape
    positions = (torch.arange(read.size(1)).double() + 0.5) * speed - 0.5
    positions = positions.clamp(0, n_frames - 1)
    before = positions.floor().long()
    after = (before + 1).clamp(max=n_frames - 1)
    share = (positions - before)[:, None]
    expected = mel[:, before] * (1 - share) + mel[:, after] * share
    torch.testing.assert_close(read, expected, atol=1e-9, rtol=0)


def test_a_stream_keeps_no_more_than_it_reads(mel):
    stream = MelSpeedStream(1.3)
    for _ in range(20):
        stream.push(mel)
    assert stream._mel.untyped_storage().nbytes() <= 3 * 80 * 8


@pytest.mark.parametrize("speed", [0.4, 2.1, 0, -1, float("nan")])
def test_other_speeds_are_refused(speed):
    with pytest.raises(ValueError, match="from 0.5 .* to 2 "):
        check_speeds(speed, 1)


def test_there_is_one_speed_or_one_per_item():
    assert check_speeds([1, 2], 2) == [1.0, 2.0]
    with pytest.raises(ValueError, match="2 speeds were given for 3 items"):
        check_speeds([1, 2], 3)


class MelDecoder(torch.nn.Module):
    def inference(self, tokens, lens, xvector, n_timesteps, seed):
        mel = tokens.repeat_interleave(2, 1)[..., None].float()
        return mel.expand(-1, -1, 80), lens


class Level(torch.nn.Module):
    def forward(self, mel, lens, seed):
        return mel[..., 0].repeat_interleave(480, 1)


def test_items_of_a_batch_have_their_own_speeds():
    speakers = {"0011": torch.zeros(4)}
    token_to_wav = TokenToWav(MelDecoder(), Level(), speakers)
    tokens = [torch.arange(n) for n in (9, 30, 1)]
    speeds = [0.5, 1.5, 2.0]
    batch = token_to_wav(tokens, speed=speeds)
    assert [len(wav) // 480 for wav in batch] == [36, 40, 2]
    for item, speed, wav in zip(tokens, speeds, batch):
        assert torch.equal(wav, token_to_wav([item], speed=speed)[0])
    with pytest.raises(ValueError, match="The speed is 3"):
        token_to_wav(tokens, speed=3)
