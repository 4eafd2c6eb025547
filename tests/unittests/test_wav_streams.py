"""Waves and mels of the mini backbone that come piece by piece."""

from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    HarmonicNoiseVocoder,
    PulseTrain,
    pulse_train,
)
from speechbrain_emofilm.lobes.mini.layer_stream import (
    ConvStream,
    LayersStream,
)
from speechbrain_emofilm.lobes.mini.token_decoder import RegressionDecoder
from speechbrain_emofilm.lobes.vocoder import NoiseStream, seeded_noise

import pytest
import torch
from tiny_cosyvoice2 import FLOW, VOCODER
from torch.utils.flop_counter import FlopCounterMode

SAMPLES = 960  # of a token
# Regression decoder: 17 tokens and 6 frames; vocoder: 12 frames.
LOOK_AHEAD = 26


def make_token_to_wav():
    torch.manual_seed(0)
    decoder = RegressionDecoder(channels=16, n_blocks=5, speaker_dim=4)
    vocoder = HarmonicNoiseVocoder(channels=16)
    speakers = {"0011": torch.randn(4), "0012": torch.randn(4)}
    return TokenToWav(decoder, vocoder, speakers).eval()


@pytest.fixture
def in_double():
    """Double precision, as the phase adds up the rounding of F0."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def exact(in_double):
    return make_token_to_wav().double()


@pytest.fixture(scope="module")
def token_to_wav():
    return make_token_to_wav()


@pytest.fixture(scope="module")
def vocoder():
    torch.manual_seed(0)
    vocoder = HarmonicNoiseVocoder(channels=16)
    # Voiced and unvoiced frames alternate.
    vocoder.f0_predictor[-1].weight.data[1] *= 20
    return vocoder.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mel():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 90, 80, generator=generator).double() * 2.5 - 6


def random_tokens(n_tokens, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6561, (n_tokens,), generator=generator)


def stream_parts(stream, sequence, part, dim=0):
    """All that a stream returns, one after the other."""
    parts = [stream.push(piece) for piece in sequence.split(part, dim=dim)]
    return [*parts, stream.finish()]


@pytest.mark.parametrize("part", [1, 7, 80])
def test_streamed_tokens_sound_as_they_do_at_once(exact, part):
    tokens = random_tokens(80)
    stream = exact.stream("0012", seed=3)
    wav = torch.cat(stream_parts(stream, tokens, part))
    (whole,) = exact([tokens], "0012", seed=3)
    assert wav.shape == whole.shape
    torch.testing.assert_close(wav, whole, atol=1e-7, rtol=0)
    assert whole.abs().max() > 0.01


def test_single_precision_only_adds_rounding(token_to_wav):
    tokens = random_tokens(60)
    wav = torch.cat(stream_parts(token_to_wav.stream(seed=3), tokens, 7))
    (whole,) = token_to_wav([tokens], seed=3)
    torch.testing.assert_close(wav, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_tokens", [1, 2, 13, 27])
def test_short_speech_is_spoken_to_its_end(exact, n_tokens):
    tokens = random_tokens(n_tokens)
    wav = torch.cat(stream_parts(exact.stream(), tokens, 5))
    (whole,) = exact([tokens])
    torch.testing.assert_close(wav, whole, atol=1e-7, rtol=0)


def test_sound_comes_as_soon_as_all_it_depends_on(token_to_wav):
    tokens = random_tokens(60)
    parts = stream_parts(token_to_wav.stream(), tokens, 1)
    sizes = [len(part) for part in parts]
    assert sizes[:LOOK_AHEAD] == [0] * LOOK_AHEAD
    assert set(sizes[LOOK_AHEAD:-1]) == {SAMPLES}
    stream = token_to_wav.stream()
    assert stream.look_ahead == LOOK_AHEAD


@pytest.mark.parametrize("part", [1, 2, 7, 50, 90])
def test_wave_of_pieces_equals_the_whole(vocoder, mel, part):
    wav = torch.cat(stream_parts(vocoder.stream(seed=5), mel, part, 1), 1)
    torch.testing.assert_close(wav, vocoder(mel, seed=5), atol=1e-7, rtol=0)


@pytest.mark.parametrize("n_frames", [2, 3, 10, 13])
def test_wave_of_few_frames_equals_the_whole(vocoder, mel, n_frames):
    part = mel[:, :n_frames]
    wav = torch.cat(stream_parts(vocoder.stream(), part, 1, 1), 1)
    torch.testing.assert_close(wav, vocoder(part), atol=1e-7, rtol=0)


def test_a_piece_costs_the_same_however_much_came_before(token_to_wav):
    stream, flops = token_to_wav.stream(), []
    for piece in random_tokens(250).split(25):
        with FlopCounterMode(display=False) as counter:
            stream.push(piece)
        flops.append(counter.get_total_flops())
    assert flops[0] < flops[2]
    assert len(set(flops[2:])) == 1


def test_a_stream_keeps_no_more_however_long_it_speaks(vocoder, mel):
    stream, kept = vocoder.stream(), []
    for _ in range(4):
        stream.push(mel)
        tensors = [stream._source, stream._gain, stream._overlap]
        storages = [t.untyped_storage().nbytes() for t in tensors]
        kept.append(sum(storages))
    assert len(set(kept)) == 1


def test_two_streams_do_not_disturb_each_other(token_to_wav):
    tokens = random_tokens(60), random_tokens(60, seed=4)
    speakers = "0011", "0012"
    alone = [
        torch.cat(stream_parts(token_to_wav.stream(s, seed=1), t, 9))
        for s, t in zip(speakers, tokens)
    ]
    streams = [token_to_wav.stream(s, seed=1) for s in speakers]
    parts = [[], []]
    for pieces in zip(*(t.split(9) for t in tokens)):
        for own, stream, piece in zip(parts, streams, pieces):
            own.append(stream.push(piece))
    for own, stream, wav in zip(parts, streams, alone):
        assert torch.equal(torch.cat([*own, stream.finish()]), wav)


def test_pulses_keep_their_phase_over_pieces():
    generator = torch.Generator().manual_seed(0)
    f0 = 100 + 100 * torch.rand(1, 200, generator=generator).double()
    f0[:, 50:60] = 0
    whole = pulse_train(f0, 480, 24000)
    train = PulseTrain(480, 24000)
    parts = [train.push(piece) for piece in f0.split(7, dim=1)]
    parts.append(train.push(f0[:, :0], last=True))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


def test_pulses_interpolate_f0_between_frame_centres():
    """The phase at the end is the area below the line through F0."""
    f0 = torch.tensor([[110.0, 200.0, 150.0]]).double()
    train = PulseTrain(480, 24000)
    train.push(f0, last=True)
    area = (0.5 * 110 + 155 + 175 + 0.5 * 150) * 0.02
    assert train._cycles.item() == pytest.approx(area % 1, abs=1e-9)


def test_noise_of_pieces_is_the_noise_of_the_whole():
    stream = NoiseStream(7, 480)
    parts = torch.cat([stream.draw(n * 480) for n in (1, 3, 0, 2)])
    whole = seeded_noise(1, 6 * 480, seed=7, like=parts)[0]
    assert torch.equal(parts, whole)
    with pytest.raises(ValueError, match="a multiple of 16"):
        NoiseStream(7, 300)


def test_layers_that_see_too_far_are_refused():
    with pytest.raises(ValueError, match="cannot run piece by piece"):
        ConvStream(torch.nn.Conv1d(2, 2, 4, stride=2, padding=1))
    with pytest.raises(ValueError, match="LSTM.* cannot run piece by piece"):
        LayersStream([torch.nn.LSTM(2, 2)])


@pytest.mark.parametrize("speed", [1.0, 1.3])
def test_the_last_tokens_may_come_with_the_end(token_to_wav, speed):
    tokens = torch.arange(40) % 20
    waves = []
    for at_the_end in (False, True):
        stream = token_to_wav.stream(speed=speed)
        parts = [stream.push(tokens[:25])]
        if at_the_end:
            parts.append(stream.finish(tokens[25:]))
        else:
            parts += [stream.push(tokens[25:]), stream.finish()]
        waves.append(torch.cat(parts))
    assert torch.allclose(*waves, atol=1e-4)


def test_a_finished_stream_is_refused(token_to_wav):
    stream = token_to_wav.stream()
    assert len(stream.finish()) == 0
    with pytest.raises(ValueError, match="another stream"):
        stream.push(random_tokens(3))


@pytest.mark.parametrize("speed", [0.5, 1.25, 2.0])
def test_a_stream_changes_speed_as_whole_speech_does(exact, speed):
    tokens = random_tokens(50)
    stream = exact.stream(speed=speed)
    wav = torch.cat(stream_parts(stream, tokens, 1))
    (whole,) = exact([tokens], speed=speed)
    assert len(wav) == int(100 / speed) * 480
    torch.testing.assert_close(wav, whole, atol=1e-7, rtol=0)
    assert stream.look_ahead == -(-(40 + 12 * speed + 1) // 2)


@pytest.mark.parametrize("speed", [0.7, 1.1, 1.9])
def test_other_speeds_have_the_length_of_whole_speech(token_to_wav, speed):
    for n_tokens in (1, 2, 33, 34, 35):
        tokens = random_tokens(n_tokens)
        wav = torch.cat(
            stream_parts(token_to_wav.stream(speed=speed), tokens, 3)
        )
        assert len(wav) == len(token_to_wav([tokens], speed=speed)[0])
        assert abs(len(wav) / 480 - 2 * n_tokens / speed) < 1


class Level(torch.nn.Module):
    """Stands for a vocoder that needs whole utterances."""

    def forward(self, mel, lens, seed):
        return mel.mean(-1).repeat_interleave(480, 1)


def test_parts_that_need_whole_utterances_are_named(token_to_wav):
    speakers = {"0011": torch.zeros(4)}
    with pytest.raises(ValueError, match="Level cannot run piece by piece"):
        TokenToWav(token_to_wav.mel_decoder, Level(), speakers).stream()
    with pytest.raises(ValueError, match="Identity cannot run"):
        TokenToWav(torch.nn.Identity(), token_to_wav.vocoder, speakers).stream()
    with pytest.raises(ValueError, match="'0013' is not known"):
        token_to_wav.stream("0013")


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    return CosyVoice2Flow(**FLOW).eval().requires_grad_(False)


@pytest.mark.parametrize("harmonic", [False, True])
def test_the_flow_streams_with_either_vocoder(flow, harmonic):
    """Chunks of 25 tokens with three more, as the original's."""
    torch.manual_seed(0)
    vocoder = HarmonicNoiseVocoder(channels=16)
    if not harmonic:
        vocoder = HiFTGenerator(**VOCODER)
    speakers = {"0011": torch.randn(192)}
    token_to_wav = TokenToWav(flow, vocoder.eval(), speakers, n_timesteps=2)
    tokens = random_tokens(70)
    parts = stream_parts(token_to_wav.stream(seed=1), tokens, 1)
    spoken = [i for i, part in enumerate(parts, 1) if len(part)]
    assert spoken == [28, 53, 71]
    mel, _ = flow.inference(
        tokens[None],
        torch.ones(1),
        token_to_wav.xvectors,
        n_timesteps=2,
        seed=1,
        streaming=True,
    )
    with torch.no_grad():
        whole = vocoder(mel, seed=1)[0]
    difference = torch.cat(parts) - whole
    assert difference.norm() < (5e-3 if harmonic else 1e-4) * whole.norm()
