"""The layers of a Qwen2 trunk around an attention of our own.

``transformers.Qwen2Model`` computes padding as it computes speech, repeats
keys and values for each of the seven query heads that share them as soon as
there is a mask, and copies its cache at every step; its masks and caches
differ from release to release, and CosyVoice2's own cached decoding went
wrong with one of them. Here its layers are used as they are, whatever stands
in them (adapters, quantised weights), and only what moves along the time axis
is ours: teacher forcing without padding (``read_packed``), and step by step
with a cache (``decoding.CachedQwen2``).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

#: Maps a layer's index, queries (..., heads, D), keys and values (..., key
#: heads, D) to what is attended to, (..., heads, D).
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
        The attention, the only part that looks at other positions.

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
    """A layer's gated feed-forward network, of the same shape (B, L, C).

    What is wide in it is most of what a training step keeps in memory. The
    product of gate and values costs little: it is computed again for the
    gradient instead of being kept.
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
    """Compute whole sequences, without their padding but in attention.

    Arguments
    ---------
    trunk : nn.Module
        A ``transformers.Qwen2Model`` with full (not sliding) attention.
    embeddings : torch.Tensor
        Shape (B, L, C), padded on the right.
    mask : torch.Tensor
        1 where there is something, 0 in padding, shape (B, L).

    Returns
    -------
    hidden : torch.Tensor
        Final hidden states, 0 in padding, shape (B, L, C).

    Example
    -------
    >>> from transformers import Qwen2Config, Qwen2Model
    >>> trunk = Qwen2Model(
    ...     Qwen2Config(
    ...         vocab_size=40,
    ...         hidden_size=16,
    ...         intermediate_size=32,
    ...         num_hidden_layers=2,
    ...         num_attention_heads=4,
    ...         num_key_value_heads=2,
    ...     )
    ... ).eval()
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
        """(1, N, ...) to (B, L, ...)."""
        padded = packed.new_zeros(n_rows * size, *packed.shape[2:])
        padded = padded.index_put((places,), packed[0])
        return padded.unflatten(0, (n_rows, size))

    def attend(
        index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        attention = trunk.layers[index].self_attn
        # Padding on the right is never before a position: no mask is needed.
        attended = F.scaled_dot_product_attention(
            *(pad(x).transpose(1, 2) for x in (query, key, value)),
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
    """Rotary position embedding of (..., heads, D)."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine
