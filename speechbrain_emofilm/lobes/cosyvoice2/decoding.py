"""Step-by-step decoding of a Qwen2 trunk with a key-value cache."""

from speechbrain_emofilm.lobes.cosyvoice2.trunk import read_layers

import torch
import torch.nn.functional as F
from torch import nn

_ROOM = 128  # positions by which the cache grows


class CachedQwen2:
    """Qwen2 trunk with a cache, so that each position is computed once.

    The hidden states equal the trunk's own on the whole sequences.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    padding : Optional[torch.Tensor]
        Number of padded positions on the left of each row of the first
        piece, shape (B,); none if None.

    Example
    -------
    >>> from transformers import Qwen2Config, Qwen2Model
    >>> config = Qwen2Config(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    >>> trunk = Qwen2Model(config).eval()
    >>> embeddings = torch.randn(3, 7, 16)
    >>> with torch.no_grad():
    ...     cached, whole = CachedQwen2(trunk), trunk(inputs_embeds=embeddings)
    ...     first, rest = cached(embeddings[:, :5]), cached(embeddings[:, 5:])
    >>> first.shape, rest.shape
    (torch.Size([3, 5, 16]), torch.Size([3, 2, 16]))
    >>> torch.allclose(rest, whole.last_hidden_state[:, 5:], atol=1e-5)
    True
    """

    def __init__(self, trunk: nn.Module, padding: torch.Tensor | None = None):
        self.trunk = trunk
        self._padding = padding
        self._size = 0  # positions read so far
        # For each layer (B, key heads, room, D), allocated in advance.
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Read the next piece (B, L, C) and return its hidden states.

        They have the same shape and are meaningless in padding.
        """
        start, self._size = self._size, self._size + embeddings.shape[1]
        places = torch.arange(self._size, device=embeddings.device)
        mask = self._mask(places, start)
        positions = places[None, start:]
        if self._padding is not None:
            positions = (positions - self._padding[:, None]).clamp(min=0)

        def attend(
            index: int,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
        ) -> torch.Tensor:
            keys = _remember(self._keys, index, key, self._size)
            values = _remember(self._values, index, value, self._size)
            return _attend(query, keys, values, mask)

        return read_layers(self.trunk, embeddings, positions, attend)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the rows of these indices (K,) and drop the others."""
        if self._padding is not None:
            self._padding = self._padding[rows]
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]

    def _mask(self, places: torch.Tensor, start: int) -> torch.Tensor | None:
        """Build the mask, bool (B or 1, L, S); None if nothing is masked."""
        if start + 1 == self._size and self._padding is None:
            return None
        queries = places[start:, None]
        mask = (places <= queries)[None]
        if self._padding is None:
            return mask
        mask = mask & (places >= self._padding[:, None, None])
        # Padding attends to itself: attention to nothing would be NaN.
        return mask | (places == queries)


def _remember(
    caches: list[torch.Tensor], index: int, new: torch.Tensor, size: int
) -> torch.Tensor:
    """Append keys or values (B, L, key heads, D) to a layer's cache.

    Returns all keys or values of the layer, shape (B, key heads, size, D).
    """
    new = new.transpose(1, 2)
    start = size - new.shape[2]
    if index == len(caches):
        caches.append(new[:, :, :0])
    if caches[index].shape[2] < size:
        shape = list(new.shape)
        shape[2] = size - start + _ROOM
        room = [caches[index][:, :, :start], new.new_empty(shape)]
        caches[index] = torch.cat(room, 2)
    so_far = caches[index][:, :, :size]
    so_far[:, :, start:] = new
    return so_far


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attend with queries (B, L, heads, D); the result has their shape.

    Query heads that share a key head are treated as further positions, so
    that keys and values need not be repeated.
    """
    length, n_heads = query.shape[1:3]
    n_key_heads = keys.shape[1]
    if mask is not None:
        mask = mask.repeat(1, n_heads // n_key_heads, 1).unsqueeze(1)
    query = query.transpose(1, 2).unflatten(1, (n_key_heads, -1)).flatten(2, 3)
    attended = F.scaled_dot_product_attention(query, keys, values, mask)
    attended = attended.unflatten(2, (-1, length)).flatten(1, 2)
    return attended.transpose(1, 2)
