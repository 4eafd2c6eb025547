"""The 24 kHz log-mel spectrogram against the reference fixture."""

from pathlib import Path

from speechbrain_emofilm.processing.mel import _window_and_basis, log_mel

import pytest
import torch
from safetensors.torch import load_file

# The reference made its mel basis in double precision, torchaudio in single:
# they differ by 7e-8, which the logarithm of a weak band makes 1.5e-5.
ATOL = 2e-5
FIXTURE = Path(__file__).parents[1] / "fixtures" / "mel24k.safetensors"


@pytest.fixture(scope="module")
def reference():
    return load_file(FIXTURE)


def test_agrees_with_the_reference(reference):
    mel = log_mel(reference["wav24k"])
    expected = reference["mel"].transpose(1, 2)
    torch.testing.assert_close(mel, expected, rtol=0, atol=ATOL)


def test_batch_equals_one_by_one(reference):
    wav = reference["wav24k"]
    batch = torch.cat([wav, 0.1 * wav.flip(1)])
    alone = torch.cat([log_mel(wav), log_mel(0.1 * wav.flip(1))])
    torch.testing.assert_close(log_mel(batch), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "samples, frames", [(721, 1), (959, 1), (960, 2), (24001, 50)]
)
def test_has_one_frame_per_480_samples(samples, frames):
    assert log_mel(torch.zeros(1, samples)).shape == (1, frames, 80)


def test_silence_sits_near_the_floor_and_has_a_finite_gradient():
    wav = torch.zeros(1, 4800, requires_grad=True)
    mel = log_mel(wav)
    mel.sum().backward()
    assert (mel < -10).all()
    assert wav.grad.isfinite().all()


def test_computes_in_the_precision_of_the_wave(reference):
    mel = log_mel(reference["wav24k"].double())
    assert mel.dtype == torch.float64
    expected = reference["mel"].transpose(1, 2).double()
    torch.testing.assert_close(mel, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("shape", [(1, 720), (24000,), (1, 1, 24000)])
def test_refuses_a_wave_that_it_cannot_frame(shape):
    with pytest.raises(ValueError, match="24000 Hz"):
        log_mel(torch.zeros(shape))


def test_gradients_flow_after_a_call_in_inference_mode():
    _window_and_basis.cache_clear()
    with torch.inference_mode():
        log_mel(torch.zeros(1, 4800))
    wav = torch.randn(1, 4800, requires_grad=True)
    log_mel(wav).sum().backward()
    assert wav.grad.isfinite().all()
