"""Text embedding of the mini LLM while it is pretrained."""

from speechbrain_emofilm.integrations.hibari import (
    CUE_AXES,
    CUE_LEVELS,
    INSTRUCTION_WORDS,
    N_CUES,
    UNITS,
    Cues,
)

import torch
from torch import nn


class CuedUnitEmbedding(nn.Module):
    """A row per unit and written cue, made as a sum.

    ``row(unit, cues) = unit + sum over axes of cue(axis, level)``, with
    nothing added where the text says nothing, and a vector of its own for
    the cue that asks for plain speech. A large model finds such regularities in
    its vocabulary by itself; a small one is given them, and the finished
    table is stored as the plain ``embed_tokens`` of the LLM.

    Arguments
    ---------
    dim : int
        Width of a row.

    Example
    -------
    >>> CuedUnitEmbedding(16).weight.shape
    torch.Size([4192, 16])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.unit = nn.Parameter(0.3 * torch.randn(len(UNITS), dim))
        self.cue = nn.Parameter(
            0.1 * torch.randn(len(CUE_AXES), CUE_LEVELS - 1, dim)
        )
        self.plain = nn.Parameter(0.1 * torch.randn(1, dim))
        self.instruction = nn.Parameter(
            0.3 * torch.randn(len(INSTRUCTION_WORDS), dim)
        )
        n_combinations = N_CUES - 1
        present = torch.zeros(n_combinations, len(CUE_AXES), CUE_LEVELS - 1)
        for code in range(n_combinations):
            cues = Cues.from_code(code)
            for axis, name in enumerate(CUE_AXES):
                level = getattr(cues, name)
                if level:
                    present[code, axis, int(level < 0)] = 1.0
        self.register_buffer("present", present, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table (82 units + instruction words, dim)."""
        cues = torch.einsum("cal,ald->cd", self.present, self.cue)
        cues = torch.cat([cues, self.plain])
        rows = (cues[:, None] + self.unit).flatten(0, 1)
        return torch.cat([rows, self.instruction])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) ids to (B, T, dim)."""
        return nn.functional.embedding(ids, self.weight)
