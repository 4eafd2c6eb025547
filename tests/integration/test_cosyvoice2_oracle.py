r"""Flow and vocoder at true size beside an independent implementation.

Runs where ``token2wav-cosyvoice-stepaudio2`` is installed, which loads the
released state dicts; random weights here. Beside what the tests need anyway::

    pip install --no-deps token2wav-cosyvoice-stepaudio2==0.1.3 \
        diffusers==0.35.2 importlib_metadata zipp

An installation that lacks a part fails; it is not skipped.
"""

import importlib.util
from unittest import mock

from speechbrain_emofilm.lobes.cosyvoice2.flow import (
    CosyVoice2Flow,
    fixed_noise,
)
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("stepaudio2") is None,
    reason="stepaudio2 is not installed",
)

N_PROMPT, N_TOKENS = 12, 18


def randomise(module, seed):
    """Weights that leave no part of a network without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.02 * noise)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("streaming", [False, True])
@torch.no_grad()
def test_flow_makes_the_same_mel(streaming):
    from stepaudio2.flashcosyvoice.modules.flow import (
        CausalMaskedDiffWithXvec,
    )

    torch.manual_seed(0)
    flow = randomise(CosyVoice2Flow(), seed=1)
    oracle = CausalMaskedDiffWithXvec().eval()
    oracle.load_state_dict(flow.state_dict())
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(6561, (1, N_PROMPT + N_TOKENS), generator=generator)
    prompt_mel = torch.randn(1, 2 * N_PROMPT, 80, generator=generator)
    xvector = torch.randn(1, 192, generator=generator)

    def noise(like):
        return fixed_noise(like.size(2)).T[None].to(like)

    with mock.patch("torch.randn_like", noise):
        expected, _ = oracle(
            tokens,
            torch.tensor([tokens.size(1)]),
            prompt_mel,
            torch.tensor([prompt_mel.size(1)]),
            xvector,
            streaming,
            True,
        )
    mel, _ = flow.inference(
        tokens[:, N_PROMPT:],
        torch.ones(1),
        xvector,
        tokens[:, :N_PROMPT],
        prompt_mel,
        streaming=streaming,
    )
    torch.testing.assert_close(
        mel.mT, expected[..., 2 * N_PROMPT :], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_vocoder_makes_the_same_f0_and_wave():
    from stepaudio2.flashcosyvoice.modules.hifigan import (
        HiFTGenerator as Oracle,
    )

    torch.manual_seed(0)
    vocoder = randomise(HiFTGenerator(), seed=1)
    oracle = Oracle().eval()
    oracle.load_state_dict(vocoder.state_dict())
    generator = torch.Generator().manual_seed(2)
    mel = torch.randn(1, 40, 80, generator=generator)
    f0 = oracle.f0_predictor(mel.mT)
    assert (vocoder.predict_f0(mel) - f0).abs().max() < 2e-6 * f0.max()
    source = 0.1 * torch.randn(1, 40 * 480, generator=generator)
    expected = oracle.decode(x=mel.mT, s=source[:, None])
    torch.testing.assert_close(
        vocoder.decode(mel, source), expected, atol=1e-4, rtol=0
    )
