"""What the layers of CosyVoice2's flow keep of the chunks before.

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
    and the last ones, so that neither the work nor the memory of a chunk
    grows with what came before.

    Arguments
    ---------
    n_first : int
        Positions at the start that attention always keeps.
    n_last : int, optional
        Positions before the chunk that it keeps; None keeps all.

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
        #: Step of the solver; each has a context of its own.
        self.step = 0
        self._kept: dict[tuple[Hashable, int], list[Tensor]] = {}

    def context(self, layer: Hashable, x: Tensor, size: int) -> Tensor:
        """Put the end of the chunk before in front of a convolution's input.

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
            (B, C, size + N); zeros stand before the first chunk.
        """
        key = (layer, self.step)
        if key in self._kept:
            x = torch.cat([self._kept[key][0], x], dim=2)
        else:
            x = F.pad(x, (size, 0))
        # A copy, since a view would keep the whole chunk in memory.
        self._kept[key] = [x[..., x.size(2) - size :].clone()]
        return x

    def extend(self, layer: Hashable, *sequences: Tensor) -> list[Tensor]:
        """Put the chunks before in front of an attention's keys and values.

        Arguments
        ---------
        layer : Hashable
            The attention.
        *sequences : Tensor
            (..., N, D) each.

        Returns
        -------
        sequences : list of Tensor
            (..., K + N, D) each.
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
        """Positions of a chunk and of all that it may attend to.

        Arguments
        ---------
        stack : Hashable
            Layers that share positions.
        length : int
            Positions of the chunk, N.
        device : torch.device, optional
            Where the results go.

        Returns
        -------
        queries : Tensor
            (N,), counted from the start of the stream.
        keys : Tensor
            (K + N,); the last N are the chunk itself.
        """
        before = self._kept.get((stack, self.step))
        start = 0 if before is None else int(before[0][-1]) + 1
        queries = torch.arange(start, start + length, device=device)
        (keys,) = self.extend(stack, queries[:, None])
        return queries, keys[:, 0]

    def _shorten(self, sequence: Tensor) -> Tensor:
        """Drop what lies between the first and the last positions."""
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
    """Left context of a causal convolution: zeros, or the chunk before.

    Arguments
    ---------
    layer : Hashable
        The convolution.
    x : Tensor
        (B, C, N).
    size : int
        Positions of left context.
    cache : StreamingCache, optional
        Where the chunk before is kept; None if there are no chunks.

    Returns
    -------
    x : Tensor
        (B, C, size + N).

    Example
    -------
    >>> left_context("conv", torch.ones(1, 1, 2), 2, None).tolist()
    [[[0.0, 0.0, 1.0, 1.0]]]
    """
    if cache is None:
        return F.pad(x, (size, 0))
    return cache.context(layer, x, size)
