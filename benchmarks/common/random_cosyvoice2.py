"""A CosyVoice2 language model of the true size with random weights."""

import resource
import sys
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import QWEN2_0_5B
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch

SPEECH_VOCABULARY = 6561
_TRUNK = "llm.model.model."


def write_llm(path: Path, seed: int = 0, n_layers: int = 24) -> None:
    """Writes random weights as the original's ``llm.pt`` holds them.

    Arguments
    ---------
    path : Path
        File to be written.
    seed : int
        Of the weights.
    n_layers : int
        Fewer than 24 for a quick trial.
    """
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
    """The trunk's sizes."""
    return {**QWEN2_0_5B, "num_hidden_layers": n_layers}


def peak_bytes() -> int:
    """Largest memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Memory that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
