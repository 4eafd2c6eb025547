"""Qwen2 layers with a custom attention.

``transformers.Qwen2Model`` computes padding like speech, repeats keys and
values for each of the seven query heads that share them as soon as there is a
mask, and copies its cache at every step; its masks and caches differ between
releases, and CosyVoice2's own cached decoding broke with one of them. Here
its layers are used as they are, including adapters and quantised weights, and
only the attention over time is replaced: teacher forcing without padding
(``read_packed``), and decoding with a cache (``decoding.CachedQwen2``).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

#: Maps a layer's index, queries (..., heads, D), keys and values (..., key
#: heads, D) to the attended values (..., heads, D).
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def read_layers(
    trunk: nn.Module,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    attend: Attend,
) -> torch.Tensor:
    """Compute a trunk's final hidden states.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    embeddings : torch.Tensor
        Shape (B, L, C).
    positions : torch.Tensor
        Position ids, shape (B, L) or (1, L).
    attend : Attend
        Attention, the only part that reads other positions.

    Returns
    -------
    hidden : torch.Tensor
        Shape (B, L, C).
    """
    cosine, sine = trunk.rotary_emb(embeddings, positions)
    cosine, sine = cosine.unsqueeze(-2), sine.unsqueeze(-2)
    hidden = embeddings
    for index, layer in enumerate(trunk.layers):
        attention = layer.self_attn
        normalised = layer.input_layernorm(hidden)
        query, key, value = (
            projection(normalised).unflatten(-1, (-1, attention.head_dim))
            for projection in (
                attention.q_proj,
                attention.k_proj,
                attention.v_proj,
            )
        )
        attended = attend(
            index,
            _rotate(query, cosine, sine),
            _rotate(key, cosine, sine),
            value,
        )
        hidden = hidden + attention.o_proj(attended.flatten(-2))
        normalised = layer.post_attention_layernorm(hidden)
        hidden = hidden + _feed_forward(layer.mlp, normalised)
    return trunk.norm(hidden)


def _feed_forward(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer's gated feed-forward network; the shape stays.

    Its wide activations are most of the memory of a training step. The
    product of gate and values is cheap, so it is recomputed for the gradient
    instead of being stored.
    """

    def multiply(gate: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return mlp.act_fn(gate) * values

    wide = mlp.gate_proj(x), mlp.up_proj(x)
    if torch.is_grad_enabled():
        product = checkpoint(
            multiply, *wide, use_reentrant=False, preserve_rng_state=False
        )
    else:
        product = multiply(*wide)
    return mlp.down_proj(product)


def read_packed(
    trunk: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Compute whole sequences; only the attention computes their padding.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    embeddings : torch.Tensor
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

    packed = embeddings.flatten(0, 1)[places].unsqueeze(0)
    positions = (places % size).unsqueeze(0)
    return pad(read_layers(trunk, packed, positions, attend))


def _rotate(
    x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    """Apply the rotary position embedding to (..., heads, D)."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine
