"""What listens to synthetic speech while it is trained."""

from speechbrain_emofilm.lobes.mini.phoneme_recognizer import (
    PhonemeRecognizer,
    PhoneticLoss,
)

import pytest
import torch


@pytest.fixture
def recognizer():
    torch.manual_seed(0)
    return PhonemeRecognizer(n_phonemes=7, channels=16, n_blocks=1)


@pytest.mark.parametrize("n_frames", [2, 5, 50])
def test_there_is_a_phoneme_every_20_ms(recognizer, n_frames):
    logits, features = recognizer(torch.randn(3, 480 * n_frames))
    assert logits.shape == (3, n_frames, 7)
    rates = [feature.shape[1] // n_frames for feature in features]
    assert rates == [2, 2, 2, 2, 1, 1]


def test_a_click_is_heard_within_its_window_of_25_ms(recognizer):
    wav = torch.zeros(1, 24000)
    wav[0, 12000] = 1.0
    log_mel = recognizer(wav)[1][0][0]
    (heard,) = torch.nonzero(log_mel.amax(1) > log_mel.min()).T
    centres = 0.005 + 0.01 * heard
    assert (centres - 0.5).abs().max() <= 0.0125
    assert len(heard) >= 2


def test_the_recognizer_is_the_same_after_training_on_it(recognizer):
    loss = PhoneticLoss(recognizer)
    before = {k: v.clone() for k, v in recognizer.state_dict().items()}
    wav = torch.randn(2, 4800, requires_grad=True)
    losses = loss(wav, torch.randn(2, 4800), torch.zeros(2, 10).long())
    (losses.features + losses.phonemes).backward()
    assert wav.grad.abs().sum() > 0
    assert not losses.accuracy.requires_grad
    assert all(p.grad is None for p in recognizer.parameters())
    for name, value in recognizer.state_dict().items():
        assert torch.equal(value, before[name])


def test_speech_is_nearer_to_itself_than_to_other_speech(recognizer):
    loss = PhoneticLoss(recognizer)
    wav, other = 0.1 * torch.randn(2, 1, 4800)
    phonemes = torch.zeros(1, 10).long()
    assert loss(wav, wav, phonemes).features == 0
    near = loss(wav + 0.01 * torch.randn(1, 4800), wav, phonemes)
    far = loss(torch.sin(torch.arange(4800.0))[None], wav, phonemes)
    assert 0 < near.features < far.features


def test_phonemes_are_counted_frame_by_frame(recognizer):
    wav = torch.randn(2, 4800)
    said = recognizer(wav)[0].argmax(-1)
    loss = PhoneticLoss(recognizer)
    assert loss(wav, wav, said).accuracy == 1
    said[:, :5] = (said[:, :5] + 1) % 7
    assert loss(wav, wav, said).accuracy == pytest.approx(0.5)
