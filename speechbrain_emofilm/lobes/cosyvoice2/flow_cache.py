"""Cache of previous chunks for the layers of CosyVoice2's flow.

The released implementation has no such cache: it runs all speech so far again
for every chunk.
"""

from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor


class StreamingCache:
    """Left context of convolutions and attention, layer by layer.

    Attention keeps the first positions (the prompt, which carries the voice)
    and the last ones, so that the work and the memory of a chunk do not grow
    with the number of chunks before it.

    Arguments
    ---------
    n_first : int
        Positions at the start that attention always keeps.
    n_last : int, optional
        Positions before the chunk that attention keeps; None keeps all.

    Example
    -------
    >>> cache = StreamingCache(n_first=1, n_last=2)
    >>> for start in (0, 3, 6):
    ...     queries, keys = cache.positions("stack", 3)
    >>> queries.tolist(), keys.tolist()
    ([6, 7, 8], [0, 4, 5, 6, 7, 8])
    """

    def __init__(self, n_first: int = 0, n_last: int | None = None):
        self.n_first = n_first
        self.n_last = n_last
        #: Step of the solver; each has its own context.
        self.step = 0
        self._kept: dict[tuple[Hashable, int], list[Tensor]] = {}

    def context(self, layer: Hashable, x: Tensor, size: int) -> Tensor:
        """Prepend the end of the previous chunk to a convolution's input.

        Arguments
        ---------
        layer : Hashable
            The convolution.
        x : Tensor
            (B, C, N).
        size : int
            Positions of left context.

        Returns
        -------
        x : Tensor
            (B, C, size + N); zeros precede the first chunk.
        """
        key = (layer, self.step)
        if key in self._kept:
            x = torch.cat([self._kept[key][0], x], dim=2)
        else:
            x = F.pad(x, (size, 0))
        # Copied, since a view would keep the whole chunk in memory.
        self._kept[key] = [x[..., x.size(2) - size :].clone()]
        return x

    def extend(self, layer: Hashable, *sequences: Tensor) -> list[Tensor]:
        """Prepend previous chunks to the keys and values of an attention.

        Arguments
        ---------
        layer : Hashable
            The attention.
        *sequences : Tensor
            (..., N, D) each.

        Returns
        -------
        sequences : list of Tensor
            (..., K + N, D) each, with K positions of previous chunks.
        """
        key = (layer, self.step)
        extended = list(sequences)
        if key in self._kept:
            pairs = zip(self._kept[key], sequences)
            extended = [torch.cat(pair, dim=-2) for pair in pairs]
        self._kept[key] = [self._shorten(sequence) for sequence in extended]
        return extended

    def positions(
        self, stack: Hashable, length: int, device=None
    ) -> tuple[Tensor, Tensor]:
        """Compute the positions of a chunk's queries and keys.

        Arguments
        ---------
        stack : Hashable
            Layers that share positions.
        length : int
            Positions of the chunk, N.
        device : torch.device, optional
            Device of the results.

        Returns
        -------
        queries : Tensor
            (N,), counted from the start of the stream.
        keys : Tensor
            (K + N,); the last N are those of the chunk.
        """
        before = self._kept.get((stack, self.step))
        start = 0 if before is None else int(before[0][-1]) + 1
        queries = torch.arange(start, start + length, device=device)
        (keys,) = self.extend(stack, queries[:, None])
        return queries, keys[:, 0]

    def _shorten(self, sequence: Tensor) -> Tensor:
        """Drop the positions between the first and the last ones."""
        if self.n_last is None:
            return sequence
        if sequence.size(-2) <= self.n_first + self.n_last:
            return sequence
        first = sequence[..., : self.n_first, :]
        last = sequence[..., sequence.size(-2) - self.n_last :, :]
        return torch.cat([first, last], dim=-2)


def left_context(
    layer: Hashable, x: Tensor, size: int, cache: StreamingCache | None
) -> Tensor:
    """Prepend the left context of a causal convolution.

    Arguments as in :meth:`StreamingCache.context`; without a ``cache`` the
    context is zeros.

    Example
    -------
    >>> left_context("conv", torch.ones(1, 1, 2), 2, None).tolist()
    [[[0.0, 0.0, 1.0, 1.0]]]
    """
    if cache is None:
        return F.pad(x, (size, 0))
    return cache.context(layer, x, size)
