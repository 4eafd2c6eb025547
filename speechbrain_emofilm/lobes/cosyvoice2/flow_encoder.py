"""The encoder of CosyVoice2's flow: token embeddings to frame encodings."""

import math

from speechbrain_emofilm.lobes.cosyvoice2.flow_attention import (
    attention_mask,
    split_heads,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow_cache import (
    StreamingCache,
    left_context,
)

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import Tensor, nn

FRAMES_PER_TOKEN = 2
LOOK_AHEAD = 3  # following tokens that the encoder reads


def distance_encodings(distance: Tensor, dim: int) -> Tensor:
    """Compute sinusoidal encodings of distances, sine and cosine interleaved.

    Arguments
    ---------
    distance : Tensor
        Query minus key position, (U,).
    dim : int
        Channels, even.

    Returns
    -------
    table : Tensor
        (U, dim), float32.

    Example
    -------
    >>> distance_encodings(torch.tensor([0]), 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    step = torch.arange(0, dim, 2, dtype=torch.float32, device=distance.device)
    rate = torch.exp(step * (-math.log(10000.0) / dim))
    angle = distance.float()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def relative_positions(length: int, dim: int, device=None) -> Tensor:
    """Encode the relative distances ``length-1 ... -length``.

    The last row is never attended to; it gives the score matrix the width
    that ``skew`` needs.

    Arguments
    ---------
    length : int
        Number of positions, T.
    dim : int
        Channels, even.
    device : torch.device, optional
        Device of the table.

    Returns
    -------
    table : Tensor
        (2T, dim), float32.

    Example
    -------
    >>> table = relative_positions(3, 4)
    >>> table.shape
    torch.Size([6, 4])
    >>> table[2].tolist()  # distance 0
    [0.0, 1.0, 0.0, 1.0]
    """
    distance = torch.arange(length - 1, -length - 1, -1, device=device)
    return distance_encodings(distance, dim)


def skew(scores: Tensor) -> Tensor:
    """Turn scores by relative distance into scores by key.

    Arguments
    ---------
    scores : Tensor
        (..., T, 2T); column c belongs to the distance ``T - 1 - c``.

    Returns
    -------
    scores : Tensor
        (..., T, T); entry (i, j) has the distance ``i - j``.

    Example
    -------
    >>> distances = torch.tensor([1, 0, -1, -2]).expand(2, 4)
    >>> skew(distances).tolist()
    [[0, -1], [1, 0]]
    """
    length = scores.size(-2)
    # Entry (i, j) lies at i * 2T + T-1 - (i-j) = T-1 + i * (2T-1) + j.
    flat = scores.flatten(-2).narrow(-1, length - 1, length * (2 * length - 1))
    return flat.unflatten(-1, (length, 2 * length - 1))[..., :length]


class RelativeSelfAttention(nn.Module):
    """Self-attention with scores that also depend on the relative distance.

    Content and position terms have separate learnt query biases
    (Transformer-XL); negative distances have separate encodings.

    Arguments
    ---------
    dim : int
        Channels.
    n_heads : int
        Heads; divides ``dim``.
    dropout : float
        Dropout of the attention weights.

    Example
    -------
    >>> attention = RelativeSelfAttention(8, 2)
    >>> attention(torch.rand(3, 5, 8), relative_positions(5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(n_heads, dim // n_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(n_heads, dim // n_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        distance_index: Tensor | None = None,
        cache: StreamingCache | None = None,
    ) -> Tensor:
        """Attend from each position of (B, T, C); the shape stays.

        Arguments
        ---------
        x : Tensor
            (B, T, C).
        positions : Tensor
            ``relative_positions(T, C)``, or with ``distance_index``
            encodings of other distances, (U, C).
        mask : Tensor, optional
            Result of ``attention_mask``.
        distance_index : Tensor, optional
            Row in ``positions`` of the distance of each query and key,
            (T, K).
        cache : StreamingCache, optional
            Keys and values of previous chunks.
        """
        query = split_heads(self.linear_q(x), self.n_heads)
        key = split_heads(self.linear_k(x), self.n_heads)
        value = split_heads(self.linear_v(x), self.n_heads)
        if cache is not None:
            key, value = cache.extend(self, key, value)
        position = split_heads(self.linear_pos(positions)[None], self.n_heads)
        bias = (query + self.pos_bias_v[:, None]) @ position.mT
        if distance_index is None:
            bias = skew(bias)
        else:
            index = distance_index.expand(*bias.shape[:-1], -1)
            bias = bias.gather(-1, index)
        bias = bias / math.sqrt(query.size(-1))
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        y = F.scaled_dot_product_attention(
            query + self.pos_bias_u[:, None],
            key,
            value,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.linear_out(y.transpose(1, 2).flatten(2))


class EncoderFeedForward(nn.Module):
    """Linear, SiLU, dropout, Linear.

    Arguments
    ---------
    dim : int
        Channels.
    hidden : int
        Inner channels.
    dropout : float
        Dropout after the activation.

    Example
    -------
    >>> EncoderFeedForward(8, 16)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.w_1 = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.w_2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, T, C) to (B, T, C)."""
        return self.w_2(self.dropout(F.silu(self.w_1(x))))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a pre-norm and a residual.

    Arguments
    ---------
    dim : int
        Channels.
    n_heads : int
        Attention heads.
    hidden : int
        Inner channels of the feed-forward part.
    dropout : float
        Dropout of attention weights, inner activations and both branches.

    Example
    -------
    >>> layer = EncoderLayer(8, 2, 16)
    >>> layer(torch.rand(3, 5, 8), relative_positions(5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, n_heads: int, hidden: int, dropout: float = 0.0
    ):
        super().__init__()
        self.norm_mha = nn.LayerNorm(dim, eps=1e-12)
        self.self_attn = RelativeSelfAttention(dim, n_heads, dropout)
        self.norm_ff = nn.LayerNorm(dim, eps=1e-12)
        self.feed_forward = EncoderFeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, **options) -> Tensor:
        """Transform (B, T, C); options as in ``RelativeSelfAttention``."""
        attended = self.self_attn(self.norm_mha(x), positions, **options)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class EncoderInput(nn.Module):
    """Linear and layer norm, scaled by the root of the channels.

    Arguments
    ---------
    in_dim : int
        Input channels.
    dim : int
        Output channels.
    dropout : float
        Dropout before and after the scale.

    Example
    -------
    >>> EncoderInput(6, 8)(torch.rand(3, 5, 6)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, in_dim: int, dim: int, dropout: float = 0.0):
        super().__init__()
        self.out = nn.Sequential(
            nn.Linear(in_dim, dim), nn.LayerNorm(dim), nn.Dropout(dropout)
        )
        self.scale = math.sqrt(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, in_dim) to (B, T, dim)."""
        return self.dropout(self.out(x) * self.scale)


class LookAheadConv(nn.Module):
    """Convolution over each token and the three tokens that follow it.

    Arguments
    ---------
    dim : int
        Channels.

    Example
    -------
    >>> LookAheadConv(8)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim, LOOK_AHEAD + 1)
        self.conv2 = nn.Conv1d(dim, dim, 3)

    def forward(self, x: Tensor, cache: StreamingCache | None = None) -> Tensor:
        """Transform (B, T, C); the shape stays.

        With a cache, which holds the left context, ``x`` is (B, T + 3, C)
        with three tokens of context at the end. Without it, the context on
        either side is zeros.
        """
        y = x.transpose(1, 2)
        if cache is None:
            y = F.pad(y, (0, LOOK_AHEAD))
        else:
            x = x[:, :-LOOK_AHEAD]
        y = F.leaky_relu(self.conv1(y))
        y = self.conv2(left_context(self, y, 2, cache))
        return x + y.transpose(1, 2)


class UpsampleConv(nn.Module):
    """Repeat every token twice and smooth with a causal convolution.

    Arguments
    ---------
    dim : int
        Channels.

    Example
    -------
    >>> UpsampleConv(8)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 10, 8])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 2 * FRAMES_PER_TOKEN + 1)

    def forward(self, x: Tensor, cache: StreamingCache | None = None) -> Tensor:
        """Map (B, T, C) to (B, 2T, C)."""
        y = x.transpose(1, 2).repeat_interleave(FRAMES_PER_TOKEN, dim=2)
        y = self.conv(left_context(self, y, 2 * FRAMES_PER_TOKEN, cache))
        return y.transpose(1, 2)


class UpsamplingEncoder(nn.Module):
    """Token embeddings (25 Hz) to frame encodings (50 Hz).

    Arguments
    ---------
    in_dim : int
        Channels of the token embeddings.
    dim : int
        Channels of the encoder.
    n_heads : int
        Attention heads.
    hidden : int
        Inner channels of the feed-forward parts.
    n_blocks : int
        Layers before up-sampling.
    n_up_blocks : int
        Layers after up-sampling.
    chunk_size : int
        Tokens per chunk when streaming.
    dropout : float
        Dropout.

    Example
    -------
    >>> encoder = UpsamplingEncoder(6, 8, 2, 16, n_blocks=1, n_up_blocks=1)
    >>> y, n_frames = encoder(torch.rand(2, 5, 6), torch.tensor([5, 4]))
    >>> y.shape, n_frames.tolist()
    (torch.Size([2, 10, 8]), [10, 8])
    """

    def __init__(
        self,
        in_dim: int = 512,
        dim: int = 512,
        n_heads: int = 8,
        hidden: int = 2048,
        n_blocks: int = 6,
        n_up_blocks: int = 4,
        chunk_size: int = 25,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.dim = dim
        self.chunk_size = chunk_size
        self.embed = EncoderInput(in_dim, dim, dropout)
        self.pre_lookahead_layer = LookAheadConv(dim)
        self.encoders = nn.ModuleList(
            EncoderLayer(dim, n_heads, hidden, dropout) for _ in range(n_blocks)
        )
        self.up_layer = UpsampleConv(dim)
        self.up_embed = EncoderInput(dim, dim, dropout)
        self.up_encoders = nn.ModuleList(
            EncoderLayer(dim, n_heads, hidden, dropout)
            for _ in range(n_up_blocks)
        )
        self.after_norm = nn.LayerNorm(dim)
        self.position_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        n_tokens: Tensor,
        streaming: bool = False,
        finalize: bool = True,
        upstream_padding: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Encode token embeddings.

        Arguments
        ---------
        x : Tensor
            Token embeddings, (B, T, in_dim).
        n_tokens : Tensor
            Number of tokens of each item, (B,).
        streaming : bool
            Whether attention stops at the end of each chunk.
        finalize : bool
            False keeps the last three tokens of each item as context only.
        upstream_padding : bool
            What the look-ahead of an item's last tokens reads from padding:
            True for the output of the layer norm, as the released model was
            trained; False for zeros, as if the item were alone.

        Returns
        -------
        y : Tensor
            (B, 2T, C); six frames less if not ``finalize``.
        n_frames : Tensor
            Number of frames of each item, (B,).
        """
        x = self.embed(x)
        if not upstream_padding:
            valid = length_to_mask(n_tokens, x.size(1), dtype=x.dtype)
            x = x * valid[..., None]
        x = self.pre_lookahead_layer(x)
        if not finalize:
            n_tokens = n_tokens - LOOK_AHEAD
            x = x[:, :-LOOK_AHEAD]
        x = self._stack(self.encoders, x, n_tokens, streaming, self.chunk_size)
        n_frames = n_tokens * FRAMES_PER_TOKEN
        chunk_size = self.chunk_size * FRAMES_PER_TOKEN
        x = self.up_embed(self.up_layer(x))
        x = self._stack(self.up_encoders, x, n_frames, streaming, chunk_size)
        return self.after_norm(x), n_frames

    def _stack(self, layers, x, n_valid, streaming, chunk_size):
        """Run layers with common positions and mask."""
        length = x.size(1)
        mask = attention_mask(
            n_valid, length, chunk_size if streaming else None
        )
        positions = relative_positions(length, self.dim, x.device).to(x.dtype)
        positions = self.position_dropout(positions)
        for layer in layers:
            x = layer(x, positions, mask=mask)
        return x

    def forward_chunk(
        self,
        x: Tensor,
        ahead: Tensor,
        token_cache: StreamingCache,
        frame_cache: StreamingCache,
    ) -> Tensor:
        """Encode the next chunk of a stream.

        As long as the caches keep everything, the result equals that of
        ``forward`` with ``streaming`` at these positions.

        Arguments
        ---------
        x : Tensor
            Token embeddings of one chunk, (B, T, in_dim).
        ahead : Tensor
            Embeddings of the following tokens, (B, up to 3, in_dim); fewer
            than three only at the end of the speech.
        token_cache : StreamingCache
            Cache of the layers before up-sampling.
        frame_cache : StreamingCache
            Cache of the layers after up-sampling.

        Returns
        -------
        y : Tensor
            (B, 2T, C).
        """
        x = self.embed(torch.cat([x, ahead], dim=1))
        x = F.pad(x, (0, 0, 0, LOOK_AHEAD - ahead.size(1)))
        x = self.pre_lookahead_layer(x, token_cache)
        x = self._stack_chunk(self.encoders, x, token_cache)
        x = self.up_embed(self.up_layer(x, frame_cache))
        x = self._stack_chunk(self.up_encoders, x, frame_cache)
        return self.after_norm(x)

    def _stack_chunk(self, layers, x, cache):
        """Run layers on a chunk and the cached positions."""
        queries, keys = cache.positions(layers, x.size(1), x.device)
        distances, index = (queries[:, None] - keys).unique(return_inverse=True)
        positions = distance_encodings(distances, self.dim).to(x.dtype)
        for layer in layers:
            x = layer(x, positions, distance_index=index, cache=cache)
        return x
