"""Qwen2 layers with a custom attention.

``transformers.Qwen2Model`` computes padding like speech, repeats keys and
values for each of the seven query heads that share them as soon as there is a
mask, and copies its cache at every step; its masks and caches differ between
releases, and CosyVoice2's own cached decoding broke with one of them. Here
its layers are used as they are, including adapters and quantised weights, and
only the attention over time is replaced: teacher forcing without padding
(``read_packed``), and decoding with a cache (``decoding.CachedQwen2``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    Embeddings,
    ModulatedEmbeddings,
    plain,
    transform,
)

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

#: Maps a layer's index, queries (..., heads, D), keys and values (..., key
#: heads, D) to the attended values (..., heads, D).
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class TrunkLayer:
    """Modules of a Qwen2 layer, looked up once instead of at every step.

    Arguments
    ---------
    layer : nn.Module
        A layer of a ``transformers.Qwen2Model``.
    """

    head_dim: int
    attention_norm: Map
    query: Map
    key: Map
    value: Map
    output: Map
    mlp_norm: Map
    gate: Map
    up: Map
    down: Map
    activation: Map

    def __init__(self, layer: nn.Module):
        attention, mlp = layer.self_attn, layer.mlp
        self.head_dim = attention.head_dim
        self.attention_norm = _direct(layer.input_layernorm)
        self.query, self.key, self.value, self.output = map(
            _direct,
            (
                attention.q_proj,
                attention.k_proj,
                attention.v_proj,
                attention.o_proj,
            ),
        )
        self.mlp_norm = _direct(layer.post_attention_layernorm)
        self.gate, self.up, self.down = map(
            _direct, (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        self.activation = _direct(mlp.act_fn)


def _has_hooks(module: nn.Module) -> bool:
    """Tell whether something wants to know when a module is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _direct(module: nn.Module) -> Map:
    """Return a module's function without the bookkeeping of a call.

    That is a large part of a small layer.
    """
    return module if _has_hooks(module) else module.forward


def trunk_layers(trunk: nn.Module) -> list[TrunkLayer]:
    """Look up the modules of all layers of a ``transformers.Qwen2Model``."""
    return [TrunkLayer(layer) for layer in trunk.layers]


def rotation(
    trunk: nn.Module, like: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the rotary position embedding of positions.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model``.
    like : torch.Tensor
        A tensor of the device and precision of the result.
    positions : torch.Tensor
        Position ids, shape (B, L) or (1, L).

    Returns
    -------
    cosine, sine : torch.Tensor
        For ``read_layers``, shape (B, L, 1, D); the first half of the sines
        is negated.
    """
    cosine, sine = trunk.rotary_emb(like, positions)
    first, second = sine.chunk(2, -1)
    return cosine.unsqueeze(-2), torch.cat([-first, second], -1).unsqueeze(-2)


def read_layers(
    trunk: nn.Module,
    layers: Sequence[TrunkLayer],
    embeddings: Embeddings,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    attend: Attend,
) -> torch.Tensor:
    """Compute a trunk's final hidden states.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    layers : Sequence[TrunkLayer]
        Its ``trunk_layers``.
    embeddings : torch.Tensor | ModulatedEmbeddings
        Shape (B, L, C).
    cosine, sine : torch.Tensor
        Rotary position embedding, see ``rotation``, shape (B, L, 1, D); may
        be broadcast.
    attend : Attend
        Attention, the only part that reads other positions.

    Returns
    -------
    hidden : torch.Tensor
        Shape (B, L, C).
    """
    hidden = plain(embeddings)
    modulations = {}
    if isinstance(embeddings, ModulatedEmbeddings):
        modulations = embeddings.by_layer(len(layers))
    for index, layer in enumerate(layers):
        for modulation in modulations.get(index, ()):
            hidden = modulation.apply(hidden)
        normalised = layer.attention_norm(hidden)
        heads = (-1, layer.head_dim)
        query, key = layer.query(normalised), layer.key(normalised)
        value = layer.value(normalised).unflatten(-1, heads)
        n_queries = query.shape[-1] // layer.head_dim
        # Queries and keys are rotated together.
        both = torch.cat([query, key], -1).unflatten(-1, heads)
        both = both * cosine + both.roll(layer.head_dim // 2, -1) * sine
        attended = attend(
            index, both[..., :n_queries, :], both[..., n_queries:, :], value
        )
        hidden = hidden + layer.output(attended.flatten(-2))
        normalised = layer.mlp_norm(hidden)
        hidden = hidden + _feed_forward(layer, normalised)
    return trunk.norm(hidden)


def _feed_forward(layer: TrunkLayer, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer's gated feed-forward network; the shape stays.

    Its wide activations are most of the memory of a training step. The
    product of gate and values is cheap, so it is recomputed for the gradient
    instead of being stored.
    """

    def multiply(gate: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return layer.activation(gate) * values

    wide = layer.gate(x), layer.up(x)
    if torch.is_grad_enabled():
        product = checkpoint(
            multiply, *wide, use_reentrant=False, preserve_rng_state=False
        )
    else:
        product = multiply(*wide)
    return layer.down(product)


def read_packed(
    trunk: nn.Module, embeddings: Embeddings, mask: torch.Tensor
) -> torch.Tensor:
    """Compute whole sequences; only the attention computes their padding.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    embeddings : torch.Tensor | ModulatedEmbeddings
        Shape (B, L, C), padded on the right.
    mask : torch.Tensor
        1 in the sequence, 0 in padding, shape (B, L).

    Returns
    -------
    hidden : torch.Tensor
        Final hidden states, 0 in padding, shape (B, L, C).

    Example
    -------
    >>> from transformers import Qwen2Config, Qwen2Model
    >>> config = Qwen2Config(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    >>> trunk = Qwen2Model(config).eval()
    >>> embeddings, mask = torch.randn(2, 5, 16), torch.ones(2, 5)
    >>> mask[1, 3:] = 0
    >>> hidden = read_packed(trunk, embeddings, mask)
    >>> alone = trunk(inputs_embeds=embeddings[1:, :3]).last_hidden_state
    >>> torch.allclose(hidden[1:, :3], alone, atol=1e-5)
    True
    """
    n_rows, size, _ = embeddings.shape
    places = mask.flatten().nonzero().squeeze(1)

    def pad(packed: torch.Tensor) -> torch.Tensor:
        """Restore the padding: (1, N, ...) to (B, L, ...)."""
        padded = packed.new_zeros(n_rows * size, *packed.shape[2:])
        padded = padded.index_put((places,), packed[0])
        return padded.unflatten(0, (n_rows, size))

    def attend(
        index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        attention = trunk.layers[index].self_attn
        query, key, value = (
            pad(x).transpose(1, 2) for x in (query, key, value)
        )
        # Padding on the right comes after every position: no mask is needed.
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            dropout_p=attention.attention_dropout if trunk.training else 0.0,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).flatten(0, 1)[places].unsqueeze(0)

    packed = transform(
        embeddings, lambda x: x.flatten(0, 1)[places].unsqueeze(0)
    )
    positions = (places % size).unsqueeze(0)
    cosine, sine = rotation(trunk, plain(packed), positions)
    layers = trunk_layers(trunk)
    return pad(read_layers(trunk, layers, packed, cosine, sine, attend))
