"""What the language model's benchmarks compare is the same work."""

import sys
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    RepetitionAwareSampler,
)

import pytest
import torch

ROOT = Path(__file__).parents[2]
TINY = {
    "vocab_size": 1000,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Makes the scripts importable."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def test_training_the_original_way_gives_the_same_loss_and_gradient():
    from common.esd_like import esd_like_batch, make_emofilm
    from train_step import LOSSES

    torch.manual_seed(0)
    model = make_emofilm(CosyVoice2LM(TINY)).eval()
    with torch.no_grad():
        model.efilm.encoder.output_layer.weight.normal_()
    results = []
    for loss_of in LOSSES.values():
        loss = loss_of(model, esd_like_batch(batch_size=3))
        loss.backward()
        gradient = model.efilm.fusion.gamma.weight.grad
        results.append((loss.detach(), gradient.clone()))
        model.zero_grad()
    assert len(results) == 2
    assert results[0][1].abs().max() > 0
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_the_plain_sampler_draws_from_the_same_candidates():
    from decode import draw_as_original

    generator = torch.Generator().manual_seed(0)
    log_probs = (2 * torch.randn(40, generator=generator)).log_softmax(0)
    ids, probs = RepetitionAwareSampler().nucleus(log_probs[None])
    candidates = set(ids[0, probs[0] > 0].tolist())
    torch.manual_seed(0)
    drawn = {draw_as_original(log_probs.clone(), []) for _ in range(400)}
    assert drawn == candidates
    best = ids[0, 0].item()
    again = {draw_as_original(log_probs.clone(), [best]) for _ in range(400)}
    assert best not in again


def test_random_weights_load_as_released_ones(tmp_path, monkeypatch):
    from common import random_cosyvoice2

    monkeypatch.setattr(random_cosyvoice2, "QWEN2_0_5B", TINY)
    path = tmp_path / "llm.pt"
    random_cosyvoice2.write_llm(path, n_layers=1)
    lm = load_llm(path, random_cosyvoice2.qwen2(1))
    assert len(lm.llm.layers) == 1
    # The text head takes no room in the file.
    n_bytes = 4 * sum(p.numel() for p in lm.parameters())
    assert path.stat().st_size < n_bytes + 50_000
