"""Text embedding of the mini LLM during pretraining."""

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
    """Embedding of a text unit with its written cues, as a sum.

    ``row(unit, cues) = unit + sum over axes of cue(axis, level)``. Nothing is
    added for an axis without a cue; the cue for plain speech has a vector of
    its own. A large model learns such structure from its data, a small one
    does not. The trained table becomes the LLM's ``embed_tokens``.

    Example
    -------
    >>> embedding = CuedUnitEmbedding(16)
    >>> embedding.weight.shape
    torch.Size([4192, 16])
    >>> same = CuedUnitEmbedding(16)
    >>> same.load_table(embedding.weight)
    >>> torch.allclose(same.weight, embedding.weight, atol=1e-5)
    True
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
        """Return the whole table (82 units + instruction words, dim)."""
        cues = torch.einsum("cal,ald->cd", self.present, self.cue)
        cues = torch.cat([cues, self.plain])
        rows = (cues[:, None] + self.unit).flatten(0, 1)
        return torch.cat([rows, self.instruction])

    @torch.no_grad()
    def load_table(self, table: torch.Tensor) -> None:
        """Take over the parts of a table that such an embedding made."""
        rows = table[: N_CUES * len(UNITS)].view(N_CUES, len(UNITS), -1)
        change = (rows - rows[0]).mean(1)
        self.unit.copy_(rows[0])
        self.plain.copy_(change[-1:])
        for axis, name in enumerate(CUE_AXES):
            for level in (1, -1):
                code = Cues(**{name: level}).code
                self.cue[axis, int(level < 0)] = change[code]
        self.instruction.copy_(table[N_CUES * len(UNITS) :])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids (B, T) as (B, T, dim)."""
        return nn.functional.embedding(ids, self.weight)
