"""The harmonic-plus-noise vocoder: its parts, its interface, its training."""

from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    HarmonicNoiseVocoder,
    mel_band_interpolation,
    pulse_train,
)
from speechbrain_emofilm.lobes.mini.vocoder_losses import (
    MultiResolutionDiscriminator,
    MultiResolutionSTFTLoss,
)
from speechbrain_emofilm.processing.mel import log_mel

import pytest
import torch

RATE, HOP = 24000, 480


@pytest.fixture
def vocoder():
    torch.manual_seed(0)
    return HarmonicNoiseVocoder(channels=16, n_f0_blocks=1, n_filter_blocks=1)


def harmonics(wav, n_peaks):
    """Frequencies in Hz of the strongest bins of one second."""
    spectrum = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs()
    return sorted(spectrum.topk(3 * n_peaks).indices.tolist())[1::3]


def test_pulses_hold_every_harmonic_below_the_limit_and_none_above():
    pulses = pulse_train(torch.full((1, 50), 240.0), HOP, RATE, 1000.0)[0]
    assert harmonics(pulses, 4) == [240, 480, 720, 960]
    spectrum = torch.fft.rfft(pulses * torch.hann_window(RATE)).abs()
    assert spectrum[1010:].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize("f0", [60.0, 133.3, 400.0])
def test_pulses_have_unit_power_at_any_pitch(f0):
    pulses = pulse_train(torch.full((1, 100), f0), HOP, RATE)
    assert pulses.isfinite().all()
    assert pulses.square().mean().sqrt() == pytest.approx(1.0, abs=0.02)


def test_pulses_keep_their_pitch_where_voicing_begins_and_ends():
    level = torch.full((1, 50), 150.0)
    gap = level.clone()
    gap[:, :10] = 0.0
    gap[:, 30:] = 0.0
    pulses = pulse_train(gap, HOP, RATE)[0]
    assert (pulses[: 10 * HOP] == 0).all()
    assert (pulses[30 * HOP :] == 0).all()
    voiced = pulses[10 * HOP : 30 * HOP]
    period = RATE // 150
    torch.testing.assert_close(
        voiced[period:], voiced[:-period], atol=1e-3, rtol=0
    )


def test_pulses_are_silent_without_any_voice():
    assert (pulse_train(torch.zeros(2, 5), HOP, RATE) == 0).all()


def test_bands_interpolate_a_line_on_the_mel_scale():
    matrix = mel_band_interpolation(96, 481, RATE)
    mel = (1 + torch.linspace(0, RATE / 2, 481) / 700).log()
    bands = torch.linspace(0, mel[-1].item(), 96)
    torch.testing.assert_close(bands @ matrix, mel, atol=1e-4, rtol=0)


def test_filters_act_on_their_own_part_of_the_source(vocoder):
    """With constant gains of 1 for pulses and 0 for noise, pulses remain."""
    head = vocoder.filter_predictor[-1]
    torch.nn.init.zeros_(head.weight)
    bias = torch.full((2, 2, vocoder.n_bands), 3.0)  # undoes the start of -3
    bias[:, 1] = -50.0
    head.bias.data = bias.flatten()
    source = vocoder.source(torch.full((1, 20), 200.0))
    wav = vocoder.decode(torch.randn(1, 20, 80), source)
    torch.testing.assert_close(wav, source[:, 0], atol=1e-4, rtol=1e-4)


def test_padded_batch_equals_one_by_one(vocoder):
    vocoder = vocoder.double()
    mel = torch.randn(3, 20, 80).double()
    lengths = [20, 13, 20]
    with torch.no_grad():
        batch = vocoder(mel, torch.tensor(lengths) / 20, seed=3)
        for item, length, wav in zip(mel, lengths, batch):
            alone = vocoder(item[None, :length], seed=3)[0]
            torch.testing.assert_close(wav[: length * HOP], alone)
            assert (wav[length * HOP :] == 0).all()


def test_same_seed_same_wave_whatever_torchs_generator(vocoder):
    mel = torch.randn(1, 10, 80)
    state = torch.get_rng_state()
    first, second = vocoder(mel, seed=5), vocoder(mel, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, vocoder(mel, seed=6))


def test_unvoiced_frames_get_zero_f0(vocoder):
    head = vocoder.f0_predictor[-1]
    head.bias.data = torch.tensor([0.0, -100.0])
    assert (vocoder.predict_f0(torch.randn(1, 10, 80)) == 0).all()
    head.bias.data = torch.tensor([0.0, 100.0])
    f0 = vocoder.predict_f0(torch.randn(1, 10, 80))
    assert ((f0 > 50) & (f0 < 1000)).all()


def test_f0_loss_ignores_the_pitch_of_unvoiced_frames(vocoder):
    head = vocoder.f0_predictor[-1]
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, -100.0])  # 220 Hz, unvoiced
    mel = torch.randn(2, 10, 80)
    assert vocoder.f0_loss(mel, torch.zeros(2, 10)) == 0
    head.bias.data = torch.tensor([0.0, 100.0])
    loss = vocoder.f0_loss(mel, torch.full((2, 10), 440.0))
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())


def test_a_few_steps_fit_a_sound(vocoder):
    """Every weight gets a gradient, and both losses fall."""
    torch.manual_seed(0)
    f0 = torch.full((1, 25), 180.0)
    target = 0.1 * pulse_train(f0, HOP, RATE, 2500.0)
    mel = log_mel(target)
    stft_loss = MultiResolutionSTFTLoss((512, 1024))
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=1e-2)
    history = []
    for _ in range(25):
        wav = vocoder.decode(mel, vocoder.source(f0, seed=None))
        losses = stft_loss(wav, target), vocoder.f0_loss(mel, f0)
        history.append([loss.item() for loss in losses])
        optimizer.zero_grad()
        sum(losses).backward()
        assert all(p.grad is not None for p in vocoder.parameters())
        optimizer.step()
    first, last = history[0], history[-1]
    assert last[0] < 0.7 * first[0]
    assert last[1] < 0.5 * first[1]


def test_stft_loss_knows_level_and_frequency_but_not_sign():
    time = torch.arange(4800) / RATE
    low, high = (torch.sin(6.2832 * f * time)[None] for f in (300, 1200))
    loss = MultiResolutionSTFTLoss()
    assert loss(-low, low) == pytest.approx(0, abs=1e-5)
    assert loss(0.9 * low, low) < loss(0.5 * low, low) < loss(high, low)


def test_stft_loss_of_silence_is_finite_and_has_a_finite_gradient():
    wav = torch.zeros(1, 4800, requires_grad=True)
    MultiResolutionSTFTLoss()(wav, torch.zeros(1, 4800)).backward()
    assert wav.grad.isfinite().all()


def test_discriminator_speaks_speechbrains_loss_classes():
    from speechbrain import Stage
    from speechbrain.lobes.models.HifiGAN import (
        DiscriminatorLoss,
        GeneratorLoss,
        MelganFeatureLoss,
        MSEDLoss,
        MSEGLoss,
    )

    torch.manual_seed(0)
    discriminator = MultiResolutionDiscriminator((256, 512), channels=4)
    fake = torch.zeros(2, 1, 2400, requires_grad=True)
    scores_real, features_real = discriminator(torch.randn(2, 1, 2400))
    scores_fake, features_fake = discriminator(fake)
    loss = DiscriminatorLoss(MSEDLoss())(scores_fake, scores_real)["D_loss"]
    generator_loss = GeneratorLoss(
        mseg_loss=MSEGLoss(),
        mseg_loss_weight=1,
        feat_match_loss=MelganFeatureLoss(),
        feat_match_loss_weight=1,
    )(
        Stage.TRAIN,
        scores_fake=scores_fake,
        feats_fake=features_fake,
        feats_real=features_real,
    )
    (loss + generator_loss["G_adv_loss"]).backward()
    assert fake.grad.isfinite().all()
    assert all(p.grad is not None for p in discriminator.parameters())
