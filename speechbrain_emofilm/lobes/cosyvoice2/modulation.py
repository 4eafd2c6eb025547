"""Text embeddings that say how the layers modulate their hidden states.

A fusion may act inside the language model, on the hidden states of text
positions. What it does there depends on each position's word alone, so it
travels with the embedding of that position: through batches, prompts, padding
and pieces of text. It acts while the text is read, and costs nothing at the
tokens that are generated afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

_TINY = 1e-12  # no infinite gradient at a state of zeros


class Modulation(NamedTuple):
    """Change of hidden states h: ``h + scale * h + shift * rms(h)``.

    The unit of the shift is the root mean square of the state's own elements,
    because states grow from layer to layer and differ between models. Where
    scale and shift are 0, the state is untouched to the bit.

    Arguments
    ---------
    scale : Optional[torch.Tensor]
        Factor of the change, gamma - 1, shape (..., L, C); 0 if None.
    shift : torch.Tensor
        Added vector, shape (..., L, C).

    Example
    -------
    >>> states = torch.tensor([[3.0, 3.0], [1.0, 7.0]])
    >>> shift = torch.tensor([[0.5, -0.5], [0.0, 0.0]])
    >>> Modulation(None, shift).apply(states)
    tensor([[4.5000, 1.5000],
            [1.0000, 7.0000]])
    """

    scale: torch.Tensor | None
    shift: torch.Tensor

    def apply(self, states: torch.Tensor) -> torch.Tensor:
        """Modulate hidden states (..., L, C)."""
        power = states.float().square().mean(-1, keepdim=True)
        change = (power + _TINY).sqrt() * self.shift
        if self.scale is not None:
            change = change + self.scale * states
        return states + change.to(states.dtype)

    def map(
        self, function: Callable[[torch.Tensor], torch.Tensor]
    ) -> "Modulation":
        """Apply a function to the tensors."""
        scale = self.scale
        return Modulation(
            None if scale is None else function(scale), function(self.shift)
        )


@dataclass(frozen=True)
class ModulatedEmbeddings:
    """Embeddings, with the modulations of their states inside the layers.

    Can be cut like the embeddings alone; ``join`` concatenates.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape (..., L, C).
    modulations : Mapping[float, Modulation]
        By depth, from 0 to below 1: in a model of n layers, the states that
        enter the layer ``round(depth * n)`` are modulated, counted from 0.
        Depth 0 means the embeddings themselves.

    Example
    -------
    >>> shift = Modulation(None, torch.ones(1, 4, 16))
    >>> text = ModulatedEmbeddings(torch.randn(1, 4, 16), {0.5: shift})
    >>> text[:, 1:].shape, list(text.by_layer(24))
    (torch.Size([1, 3, 16]), [12])
    """

    embeddings: torch.Tensor
    modulations: Mapping[float, Modulation]

    @property
    def shape(self) -> torch.Size:
        """Shape of the embeddings."""
        return self.embeddings.shape

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        return self.embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the embeddings."""
        return self.embeddings.dtype

    def __len__(self) -> int:
        """Return the size of the first dimension."""
        return len(self.embeddings)

    def __getitem__(self, index: Any) -> "ModulatedEmbeddings":
        """Index the embeddings and their modulations alike."""
        return self.map(lambda tensor: tensor[index])

    def map(
        self, function: Callable[[torch.Tensor], torch.Tensor]
    ) -> "ModulatedEmbeddings":
        """Apply a function to the embeddings and to all modulations."""
        return ModulatedEmbeddings(
            function(self.embeddings),
            {d: m.map(function) for d, m in self.modulations.items()},
        )

    def by_layer(self, n_layers: int) -> dict[int, list[Modulation]]:
        """Find the modulations of the states that enter each of n layers."""
        layers: dict[int, list[Modulation]] = {}
        for depth, modulation in self.modulations.items():
            layer = min(round(depth * n_layers), n_layers - 1)
            layers.setdefault(layer, []).append(modulation)
        return layers

    def applied(self) -> torch.Tensor:
        """Modulate the embeddings, as if there were no layers between."""
        states = self.embeddings
        for modulation in self.modulations.values():
            states = modulation.apply(states)
        return states

    def side_by_side(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply each modulation to the embeddings on its own.

        Returns
        -------
        before, after : torch.Tensor
            The embeddings once for each of N modulations, without and with
            it, shape (..., L, N C).
        """
        states = [self.embeddings] * len(self.modulations)
        after = [m.apply(self.embeddings) for m in self.modulations.values()]
        return torch.cat(states, -1), torch.cat(after, -1)


#: Embeddings of which a fusion may have left something to the layers.
Embeddings: TypeAlias = torch.Tensor | ModulatedEmbeddings


def plain(embeddings: Embeddings) -> torch.Tensor:
    """Return embeddings without their modulations."""
    if isinstance(embeddings, ModulatedEmbeddings):
        return embeddings.embeddings
    return embeddings


def transform(
    embeddings: Embeddings, function: Callable[[torch.Tensor], torch.Tensor]
) -> Embeddings:
    """Apply a function that moves positions to all that belongs to them."""
    if isinstance(embeddings, ModulatedEmbeddings):
        return embeddings.map(function)
    return function(embeddings)


def join(parts: Sequence[Embeddings], dim: int) -> Embeddings:
    """Concatenate embeddings; parts without modulations stay untouched.

    Arguments
    ---------
    parts : Sequence[Embeddings]
        Shapes as for ``torch.cat``.
    dim : int
        Dimension.

    Example
    -------
    >>> shift = Modulation(None, torch.ones(4, 16))
    >>> text = ModulatedEmbeddings(torch.randn(4, 16), {0.5: shift})
    >>> both = join([torch.randn(1, 16), text], dim=0)
    >>> both.modulations[0.5].shift.sum(-1)
    tensor([ 0., 16., 16., 16., 16.])
    """
    joined = torch.cat([plain(part) for part in parts], dim)
    changes = [
        part.modulations if isinstance(part, ModulatedEmbeddings) else {}
        for part in parts
    ]
    depths = sorted({depth for change in changes for depth in change})
    if not depths:
        return joined
    zeros = [torch.zeros_like(plain(part)) for part in parts]

    def along(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Concatenate scales or shifts, 0 where there is none."""
        if all(tensor is None for tensor in tensors):
            return None
        return torch.cat(
            [z if t is None else t for t, z in zip(tensors, zeros)], dim
        )

    modulations = {}
    none = Modulation(None, joined)  # its shift is never read
    for depth in depths:
        shift = along([c[depth].shift if depth in c else None for c in changes])
        assert shift is not None
        scale = along([c.get(depth, none).scale for c in changes])
        modulations[depth] = Modulation(scale, shift)
    return ModulatedEmbeddings(joined, modulations)
