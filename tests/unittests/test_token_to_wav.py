"""Speech tokens to waves."""

from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import pytest
import torch

TOKENS = [torch.arange(9), torch.arange(5) + 3, torch.arange(9) + 11]


@pytest.fixture(scope="module")
def token_to_wav():
    torch.manual_seed(0)
    flow = CosyVoice2Flow(
        vocab_size=30,
        token_dim=8,
        encoder_dim=8,
        encoder_heads=2,
        encoder_ffn=16,
        encoder_blocks=1,
        encoder_up_blocks=1,
        estimator_channels=8,
        estimator_heads=2,
        estimator_head_dim=4,
        estimator_blocks=1,
        estimator_mid_blocks=1,
        speaker_dim=4,
    )
    vocoder = HiFTGenerator(base_channels=16, f0_cond_channels=8)
    speakers = {"0011": torch.randn(4), "0012": torch.randn(4)}
    return TokenToWav(flow, vocoder, speakers, n_timesteps=2).eval()


def test_a_token_gives_40_ms_of_sound(token_to_wav):
    wavs = token_to_wav(TOKENS)
    assert [len(wav) for wav in wavs] == [9 * 960, 5 * 960, 9 * 960]
    assert all(wav.isfinite().all() and wav.abs().max() > 0 for wav in wavs)


def test_an_item_sounds_the_same_alone_and_in_a_batch(token_to_wav):
    speakers = ["0012", "0011", "0012"]
    batch = token_to_wav(TOKENS, speakers, seed=3)
    for tokens, speaker, wav in zip(TOKENS, speakers, batch):
        alone = token_to_wav([tokens], speaker, seed=3)[0]
        torch.testing.assert_close(wav, alone, atol=1e-4, rtol=0)


def test_the_seed_sets_the_noise(token_to_wav):
    one, again, other = (
        token_to_wav(TOKENS[:1], seed=seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_speakers_sound_different_and_the_first_is_the_default(token_to_wav):
    default, first, second = (
        token_to_wav(TOKENS[:1], speaker)[0]
        for speaker in (None, "0011", "0012")
    )
    assert torch.equal(default, first)
    assert not torch.allclose(first, second)


def test_speakers_are_no_part_of_the_weights(token_to_wav):
    assert not [n for n in token_to_wav.state_dict() if "xvector" in n]


@pytest.mark.parametrize(
    "speaker, message",
    [
        ("0013", "speaker '0013' is not known: this model has 0011, 0012"),
        (["0011"], "1 speakers were given for 3 items"),
    ],
)
def test_speakers_that_do_not_exist_are_refused(token_to_wav, speaker, message):
    with pytest.raises(ValueError, match=message):
        token_to_wav(TOKENS, speaker)


def test_an_item_without_tokens_is_refused(token_to_wav):
    with pytest.raises(ValueError, match="Item 1 has no speech tokens"):
        token_to_wav([torch.arange(3), torch.arange(0)])


@pytest.mark.parametrize(
    "speakers",
    [
        {},
        {"0011": torch.zeros(4), "0012": torch.zeros(5)},
        {"0011": torch.zeros(1, 4)},
    ],
)
def test_xvectors_must_have_one_size(speakers):
    with pytest.raises(ValueError, match="give at least one speaker"):
        TokenToWav(torch.nn.Identity(), torch.nn.Identity(), speakers)
