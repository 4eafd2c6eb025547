"""A CosyVoice2 language model of the original size, with random weights."""

from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import QWEN2_0_5B
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch

SPEECH_VOCABULARY = 6561
_TRUNK = "llm.model.model."


def write_llm(path: Path, seed: int = 0, n_layers: int = 24) -> None:
    """Write random weights in the layout of the original's ``llm.pt``."""
    with torch.device("meta"):
        lm = CosyVoice2LM(qwen2(n_layers))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in lm.state_dict().items():
        if "norm" in name:
            weight = torch.ones(tensor.shape)
        else:
            weight = torch.empty(tensor.shape)
            weight.normal_(0, 0.02, generator=generator)
        if name.startswith("llm."):
            name = _TRUNK + name[len("llm.") :]
        state[name] = weight
    # The text head shares the storage of the text embeddings.
    state["llm.model.lm_head.weight"] = state[_TRUNK + "embed_tokens.weight"]
    torch.save(state, path)


def qwen2(n_layers: int = 24) -> dict:
    """Return the configuration of the trunk."""
    return {**QWEN2_0_5B, "num_hidden_layers": n_layers}
