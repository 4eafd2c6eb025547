"""The layers of Qwen2 that CosyVoice2's language model runs.

Weights, their names and their random start are those of
``transformers.Qwen2Model``, so either reads the other's state dict. Importing
that class takes longer than speaking a sentence with a small model: it brings
text generation, compilers and, where it is installed, scikit-learn. Nothing of
that is used here, because :mod:`~speechbrain_emofilm.lobes.cosyvoice2.trunk`
runs the layers itself.
"""

from typing import Any, NamedTuple

from speechbrain_emofilm.lobes.cosyvoice2.modulation import Embeddings, plain
from speechbrain_emofilm.lobes.cosyvoice2.trunk import (
    read_layers,
    rotation,
    trunk_layers,
)

import torch
import torch.nn.functional as F
from torch import nn


class Qwen2Config:
    """Sizes of a Qwen2 model.

    Arguments have the names and defaults of ``transformers.Qwen2Config``.

    Arguments
    ---------
    vocab_size, hidden_size, intermediate_size : int
        Number of text tokens, and widths of the model and its feed-forward
        networks.
    num_hidden_layers, num_attention_heads, num_key_value_heads : int
        Number of layers, of query heads and of key heads.
    hidden_act : str
        Activation of the feed-forward networks: "silu".
    max_position_embeddings : int
        Longest sequence that the model was made for; nothing depends on it.
    initializer_range : float
        Standard deviation of random weights.
    rms_norm_eps : float
        Constant added to the mean square in the normalisations.
    rope_theta : float
        Base of the rotary position embedding.
    rope_scaling : dict, optional
        Stretching of the rotary position embedding: not supported.
    use_sliding_window : bool
        Whether attention is limited to a window: not supported.
    attention_dropout : float
        Dropout of the attention weights in training.
    head_dim : int, optional
        Width of a head; ``hidden_size / num_attention_heads`` if None.
    pad_token_id : int, optional
        Text token whose embedding is zero and not trained.
    attn_implementation : str
        "eager" returns attention weights, "sdpa" is faster.
    **other
        Settings that say nothing about the layers, such as token ids.

    Raises
    ------
    ValueError
        If a model with these settings would be another one than Qwen2-0.5B's
        kind.

    Example
    -------
    >>> Qwen2Config(hidden_size=16, num_attention_heads=2).head_dim
    8
    >>> Qwen2Config(hidden_act="gelu")
    Traceback (most recent call last):
    ...
    ValueError: Qwen2 with hidden_act = 'gelu' is not supported: use 'silu'.
    """

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 4096,
        intermediate_size: int = 22016,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 32,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        rope_scaling: dict | None = None,
        use_sliding_window: bool = False,
        attention_dropout: float = 0.0,
        head_dim: int | None = None,
        pad_token_id: int | None = None,
        attn_implementation: str = "sdpa",
        **other: Any,
    ):
        for name, value, supported in (
            ("hidden_act", hidden_act, "silu"),
            ("rope_scaling", rope_scaling, None),
            ("use_sliding_window", use_sliding_window, False),
        ):
            if value != supported:
                raise ValueError(
                    f"Qwen2 with {name} = {value!r} is not supported: use "
                    f"{supported!r}."
                )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.attention_dropout = attention_dropout
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.pad_token_id = pad_token_id
        self._attn_implementation = attn_implementation
        self.other = other


class Qwen2Output(NamedTuple):
    """Result of a whole trunk.

    Arguments
    ---------
    last_hidden_state : torch.Tensor
        Final hidden states, shape (B, L, C).
    attentions : tuple of torch.Tensor or None
        Attention weights of each layer, shape (B, heads, L, L), if requested.
    """

    last_hidden_state: torch.Tensor
    attentions: tuple[torch.Tensor, ...] | None = None


class RMSNorm(nn.Module):
    """Division by the root mean square, in single precision.

    Arguments
    ---------
    size : int
        Width C.
    eps : float
        Constant added to the mean square.

    Example
    -------
    >>> RMSNorm(2, 0.0)(torch.tensor([3.0, 4.0])).detach()
    tensor([0.8485, 1.1314])
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (..., C)."""
        if not torch.is_grad_enabled() and (
            x.dtype == self.weight.dtype == torch.float32
        ):
            return F.rms_norm(
                x, x.shape[-1:], self.weight, self.variance_epsilon
            )
        precise = x.to(torch.float32)
        power = precise.pow(2).mean(-1, keepdim=True)
        precise = precise * torch.rsqrt(power + self.variance_epsilon)
        return self.weight * precise.to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position embedding.

    Arguments
    ---------
    config : Qwen2Config
        Gives the width of a head and the base of the wavelengths.

    Example
    -------
    >>> rotary = RotaryEmbedding(Qwen2Config(16, 16, num_attention_heads=2))
    >>> cosine, sine = rotary(torch.zeros(1, 3, 16), torch.arange(3)[None])
    >>> cosine.shape, cosine[0, 0, 0].item(), sine[0, 0, 0].item()
    (torch.Size([1, 3, 8]), 1.0, 0.0)
    """

    inv_freq: torch.Tensor

    def __init__(self, config: Qwen2Config):
        super().__init__()
        exponents = torch.arange(0, config.head_dim, 2).float()
        frequencies = 1.0 / config.rope_theta ** (exponents / config.head_dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines (B, L, D) of positions (B, L), as `x`."""
        frequencies = self.inv_freq.to(x.device).float()
        # Not in the reduced precision that autocast gives to products.
        angles = positions[..., None].float() * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Attention(nn.Module):
    """Projections of the attention of one layer.

    Arguments
    ---------
    config : Qwen2Config
        Sizes.
    """

    def __init__(self, config: Qwen2Config):
        super().__init__()
        dim, self.head_dim = config.hidden_size, config.head_dim
        self.attention_dropout = config.attention_dropout
        queries = config.num_attention_heads * self.head_dim
        keys = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(dim, queries)
        self.k_proj = nn.Linear(dim, keys)
        self.v_proj = nn.Linear(dim, keys)
        self.o_proj = nn.Linear(queries, dim, bias=False)


class FeedForward(nn.Module):
    """Gated feed-forward network of one layer.

    Arguments
    ---------
    config : Qwen2Config
        Sizes.
    """

    def __init__(self, config: Qwen2Config):
        super().__init__()
        dim, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(dim, wide, bias=False)
        self.up_proj = nn.Linear(dim, wide, bias=False)
        self.down_proj = nn.Linear(wide, dim, bias=False)
        self.act_fn = nn.SiLU()


class Layer(nn.Module):
    """Attention and feed-forward network, each after a normalisation.

    Arguments
    ---------
    config : Qwen2Config
        Sizes.
    """

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)


class Qwen2Model(nn.Module):
    """Qwen2 without its text head.

    Arguments
    ---------
    config : Qwen2Config
        Sizes.

    Example
    -------
    >>> config = Qwen2Config(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    >>> trunk = Qwen2Model(config)
    >>> output = trunk(inputs_embeds=torch.randn(3, 7, 16))
    >>> output.last_hidden_state.shape
    torch.Size([3, 7, 16])
    """

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, config.pad_token_id
        )
        self.layers = nn.ModuleList(
            Layer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.apply(self._start)

    @torch.no_grad()
    def _start(self, module: nn.Module) -> None:
        """Draw the weights of a linear layer or embedding."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()

    def forward(
        self,
        inputs_embeds: Embeddings,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        use_cache: bool = False,
    ) -> Qwen2Output:
        """Read whole sequences with attention weights.

        Arguments
        ---------
        inputs_embeds : torch.Tensor | ModulatedEmbeddings
            Shape (B, L, C).
        attention_mask : torch.Tensor, optional
            1 in the sequences, 0 in padding, shape (B, L).
        output_attentions : bool
            Whether to return the attention weights.
        use_cache : bool
            Nothing is cached here:
            :class:`~speechbrain_emofilm.lobes.cosyvoice2.decoding.CachedQwen2`
            does that.

        Raises
        ------
        ValueError
            If `use_cache`.
        """
        if use_cache:
            raise ValueError(
                "Qwen2Model keeps no cache: decode with CachedQwen2."
            )
        places = torch.arange(inputs_embeds.shape[1]).to(inputs_embeds.device)
        hidden_from = places > places[:, None]
        hidden_from = hidden_from[None, None]
        if attention_mask is not None:
            padding = attention_mask[:, None, None] == 0
            hidden_from = hidden_from | padding
        weights: list[torch.Tensor] = []

        def attend(
            index: int,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
        ) -> torch.Tensor:
            attention = self.layers[index].self_attn
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            shared = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
            scores = query @ key.transpose(2, 3) * attention.head_dim**-0.5
            # Not -inf: a row of padding alone would be NaN.
            lowest = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(hidden_from, lowest)
            shares = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
            shares = F.dropout(
                shares, attention.attention_dropout, self.training
            )
            weights.append(shares)
            return (shares @ value).transpose(1, 2)

        hidden = read_layers(
            self,
            trunk_layers(self),
            inputs_embeds,
            *rotation(self, plain(inputs_embeds), places[None]),
            attend,
        )
        return Qwen2Output(
            hidden, tuple(weights) if output_attentions else None
        )
