"""Step-by-step decoding of a Qwen2 trunk with a key-value cache."""

from collections.abc import Sequence

from speechbrain_emofilm.lobes.cosyvoice2.modulation import Embeddings, plain
from speechbrain_emofilm.lobes.cosyvoice2.trunk import (
    read_layers,
    rotation,
    trunk_layers,
)

import torch
import torch.nn.functional as F
from torch import nn

_ROOM = 128  # positions by which the cache grows


class CachedQwen2:
    """Qwen2 trunk with a cache, so that each position is computed once.

    The hidden states equal the trunk's own on the whole sequences. Rows can
    be removed (``keep``) and added (``merge``) between two pieces. Works
    without gradients only.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    padding : Optional[Sequence[int] | torch.Tensor]
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

    def __init__(
        self,
        trunk: nn.Module,
        padding: Sequence[int] | torch.Tensor | None = None,
    ):
        self.trunk = trunk
        self.size = 0  # positions held, padding included
        self._layers = trunk_layers(trunk)
        config = trunk.config
        self._n_shared = (  # query heads per key head
            config.num_attention_heads // config.num_key_value_heads
        )
        # For each layer (B, key heads, room, D), allocated in advance.
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        # Cosines and sines of positions, (positions, 2, D).
        self._rotations: torch.Tensor | None = None
        if padding is not None:
            padding = torch.as_tensor(padding).tolist()
        self._set_padding(padding)

    def _set_padding(self, padding: Sequence[int] | None) -> None:
        """Note the padded positions of each row; what depends on them is old.

        Without any padding the attention needs no mask.
        """
        self._padding = padding if padding and any(padding) else None
        self._offsets: torch.Tensor | None = None  # the same on the device
        self._hides: torch.Tensor | None = None  # -inf in padding, (B, room)

    def __call__(self, piece: Embeddings) -> torch.Tensor:
        """Read the next piece (B, L, C) and return its hidden states.

        They have the same shape and are meaningless in padding.
        """
        embeddings = plain(piece)
        start, self.size = self.size, self.size + embeddings.shape[1]
        if self._padding is not None and self._offsets is None:
            self._offsets = torch.tensor(
                self._padding, device=embeddings.device
            )
        mask = self._mask(embeddings, start)
        cosine, sine = self._rotation(embeddings, start)
        size = self.size

        def attend(
            index: int,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
        ) -> torch.Tensor:
            keys = _remember(self._keys, index, key, size)
            values = _remember(self._values, index, value, size)
            return _attend(query, keys, values, mask)

        return read_layers(
            self.trunk, self._layers, piece, cosine, sine, attend
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the rows of these indices (K,), at least one.

        Positions that are padding in all of them are freed.
        """
        shared = 0
        if self._padding is not None:
            padding = [self._padding[row] for row in rows]
            shared = min(padding)
            self._set_padding([n - shared for n in padding])
            self.size -= shared
        if not self._keys:
            return
        index = torch.tensor(rows, device=self._keys[0].device)
        for caches in (self._keys, self._values):
            for layer, cache in enumerate(caches):
                caches[layer] = cache[:, :, shared:].index_select(0, index)

    def merge(self, other: "CachedQwen2", order: Sequence[int]) -> None:
        """Add the rows of another cache, which must not be used afterwards.

        The last positions of all rows come to stand side by side; the shorter
        cache is padded on the left.

        Arguments
        ---------
        other : CachedQwen2
            Cache of the same trunk. Both have read something.
        order : Sequence[int]
            For each row of the result, its index among the rows of this
            cache followed by those of the other, a permutation.

        Example
        -------
        >>> from transformers import Qwen2Config, Qwen2Model
        >>> config = Qwen2Config(
        ...     vocab_size=40, hidden_size=16, intermediate_size=32,
        ...     num_hidden_layers=2, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> trunk = Qwen2Model(config).eval()
        >>> x, y = torch.randn(1, 7, 16), torch.randn(1, 4, 16)
        >>> with torch.no_grad():
        ...     first, second = CachedQwen2(trunk), CachedQwen2(trunk)
        ...     _ = first(x[:, :6]), second(y[:, :3])
        ...     first.merge(second, [1, 0])
        ...     last = first(torch.cat([y[:, 3:], x[:, 6:]]))
        ...     alone = trunk(inputs_embeds=y).last_hidden_state[:, 3:]
        >>> torch.allclose(last[:1], alone, atol=1e-5)
        True
        """
        n_own, n_other = len(self._keys[0]), len(other._keys[0])
        size = max(self.size, other.size)
        padding = [
            n + size - cached.size
            for cached, n_rows in ((self, n_own), (other, n_other))
            for n in cached._padding or [0] * n_rows
        ]
        places = sorted(range(len(order)), key=order.__getitem__)
        device = self._keys[0].device
        parts = [
            (self, torch.tensor(places[:n_own], device=device)),
            (other, torch.tensor(places[n_own:], device=device)),
        ]
        for name in ("_keys", "_values"):
            caches = getattr(self, name)
            for layer, cache in enumerate(caches):
                shape = list(cache.shape)
                shape[0], shape[2] = n_own + n_other, size + _ROOM
                # Padding is multiplied by 0, so it has to be finite.
                merged = cache.new_zeros(shape)
                for part, index in parts:
                    held = getattr(part, name)[layer][:, :, : part.size]
                    merged[:, :, size - part.size : size].index_copy_(
                        0, index, held
                    )
                caches[layer] = merged
            setattr(other, name, [])
        self.size = size
        self._set_padding([padding[row] for row in order])

    def _mask(
        self, embeddings: torch.Tensor, start: int
    ) -> torch.Tensor | None:
        """Build the mask (B or 1, 1, grouped queries, S).

        Returns None if nothing is masked.
        """
        if start + 1 == self.size:
            if self._padding is None:
                return None
            if self._hides is None or self._hides.shape[1] < self.size:
                self._hides = self._build_hides(embeddings)
            hides = self._hides[:, None, None, : self.size]
            return hides.expand(-1, -1, self._n_shared, -1)
        places = torch.arange(self.size, device=embeddings.device)
        queries = places[start:, None]
        mask = (places <= queries)[None]
        if self._offsets is not None:
            mask = mask & (places >= self._offsets[:, None, None])
            # Padding attends to itself: attention to nothing would be NaN.
            mask = mask | (places == queries)
        return mask.repeat(1, self._n_shared, 1).unsqueeze(1)

    def _build_hides(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Build the mask of single queries, -inf in padding, (B, room)."""
        assert self._offsets is not None
        places = torch.arange(self.size + _ROOM, device=embeddings.device)
        padded = places < self._offsets[:, None]
        hides = embeddings.new_zeros(padded.shape)
        return hides.masked_fill(padded, -torch.inf)

    def _rotation(
        self, embeddings: torch.Tensor, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look up cosines and sines (B or 1, L, 1, D) of the new positions."""
        table = self._rotations
        if table is None or len(table) < self.size:
            places = torch.arange(self.size + _ROOM, device=embeddings.device)
            both = rotation(self.trunk, embeddings, places[None])
            table = self._rotations = torch.cat(both, -2)[0]
        if self._offsets is None:
            found = table[start : self.size]
        else:
            places = torch.arange(start, self.size, device=embeddings.device)
            found = table[(places - self._offsets[:, None]).clamp(min=0)]
        return found[..., :1, :], found[..., 1:, :]


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
    so_far = caches[index].narrow(2, 0, size)
    so_far.narrow(2, start, size - start).copy_(new)
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
    if length == 1:
        # The same without moving any head.
        query = query.view(len(query), n_key_heads, -1, query.shape[3])
        attended = F.scaled_dot_product_attention(query, keys, values, mask)
        return attended.reshape(len(query), 1, n_heads, -1)
    query = query.transpose(1, 2).unflatten(1, (n_key_heads, -1)).flatten(2, 3)
    attended = F.scaled_dot_product_attention(query, keys, values, mask)
    attended = attended.unflatten(2, (-1, length)).flatten(1, 2)
    return attended.transpose(1, 2)
