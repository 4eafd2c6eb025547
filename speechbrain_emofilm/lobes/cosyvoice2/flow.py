"""CosyVoice2's flow matching: speech tokens (25 Hz) to log-mels (50 Hz).

Speech tokens pass an up-sampling Conformer encoder without convolution
modules; its projection ``mu``, the speaker vector and the mel of a prompt
condition a causal one-resolution U-Net that predicts the velocity of an
optimal-transport flow from noise to mel. One class serves the released model
and small ones: every size is an argument, and the names in the state dict are
those of the released ``flow.pt``.

Unlike the released implementation, which synthesises one utterance at a time,
batches of different lengths are allowed and each item equals the item alone.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import math
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

FRAMES_PER_TOKEN = 2
LOOK_AHEAD = 3  # tokens that the encoder sees to the right
NOISE_FRAMES = 15000  # the released model's noise tensor: 300 s


def attention_mask(
    n_valid: Tensor, length: int, chunk_size: Optional[int] = None
) -> Optional[Tensor]:
    """Says which keys each query may attend to.

    Padded keys are masked for every query. With a chunk size, a query also
    sees no key beyond the end of its own chunk.

    Arguments
    ---------
    n_valid : Tensor
        Number of valid positions of each item, (B,).
    length : int
        Number of positions with padding, T.
    chunk_size : int, optional
        Positions per chunk; None lets every query see the whole item.

    Returns
    -------
    mask : Tensor or None
        Boolean, broadcastable to (B, heads, T, T), True = may attend; None if
        nothing is masked, which lets attention take its fastest kernel.

    Example
    -------
    >>> attention_mask(torch.tensor([3, 2]), 3).int().tolist()
    [[[[1, 1, 1]]], [[[1, 1, 0]]]]
    >>> attention_mask(torch.tensor([3]), 3, chunk_size=2)[0, 0].int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    >>> attention_mask(torch.tensor([3, 3]), 3) is None
    True
    """
    mask = None
    if bool((n_valid < length).any()):
        mask = length_to_mask(n_valid, length, dtype=torch.bool)
        mask = mask[:, None, None, :]
    if chunk_size is not None and chunk_size < length:
        position = torch.arange(length, device=n_valid.device)
        chunk_end = (position // chunk_size + 1) * chunk_size
        visible = (position[None, :] < chunk_end[:, None])[None, None]
        mask = visible if mask is None else mask & visible
    return mask


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d)."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def relative_positions(length: int, dim: int, device=None) -> Tensor:
    """Sinusoidal table of the relative distances ``length-1 ... -length``.

    Sine and cosine are interleaved. The last row is never attended to: it
    gives the score matrix the width that ``skew`` needs.

    Arguments
    ---------
    length : int
        Number of positions, T.
    dim : int
        Channels, even.
    device : torch.device, optional
        Where the table is made.

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
    distance = torch.arange(
        length - 1, -length - 1, -1, dtype=torch.float32, device=device
    )
    step = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
    angle = distance[:, None] * torch.exp(step * (-math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def skew(scores: Tensor) -> Tensor:
    """Turns scores by relative distance into scores by key.

    Arguments
    ---------
    scores : Tensor
        (..., T, 2T); column c belongs to the distance ``T - 1 - c``.

    Returns
    -------
    scores : Tensor
        (..., T, T); entry (i, j) is the one of distance ``i - j``.

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
    """Self-attention whose scores also depend on the relative distance.

    Content and position terms have their own learnt query biases
    (Transformer-XL); negative distances have their own encodings.

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
        self, x: Tensor, positions: Tensor, mask: Optional[Tensor] = None
    ) -> Tensor:
        """Attends.

        Arguments
        ---------
        x : Tensor
            (B, T, C).
        positions : Tensor
            ``relative_positions(T, C)``.
        mask : Tensor, optional
            ``attention_mask(...)``.

        Returns
        -------
        y : Tensor
            (B, T, C).
        """
        query = split_heads(self.linear_q(x), self.n_heads)
        key = split_heads(self.linear_k(x), self.n_heads)
        value = split_heads(self.linear_v(x), self.n_heads)
        position = split_heads(self.linear_pos(positions)[None], self.n_heads)
        by_distance = (query + self.pos_bias_v[:, None]) @ position.mT
        bias = skew(by_distance) / math.sqrt(query.size(-1))
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
        """(B, T, C) to (B, T, C)."""
        return self.w_2(self.dropout(F.silu(self.w_1(x))))


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual.

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

    def forward(
        self, x: Tensor, positions: Tensor, mask: Optional[Tensor] = None
    ) -> Tensor:
        """(B, T, C) to (B, T, C); see ``RelativeSelfAttention.forward``."""
        attended = self.self_attn(self.norm_mha(x), positions, mask)
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
        """(B, T, in_dim) to (B, T, dim)."""
        return self.dropout(self.out(x) * self.scale)


class LookAheadConv(nn.Module):
    """Lets each token see the three tokens that follow it.

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); zeros stand beyond the end."""
        y = F.pad(x.transpose(1, 2), (0, LOOK_AHEAD))
        y = F.leaky_relu(self.conv1(y))
        y = self.conv2(F.pad(y, (2, 0)))
        return x + y.transpose(1, 2)


class UpsampleConv(nn.Module):
    """Repeats every token twice and smooths with a causal convolution.

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, 2T, C)."""
        y = x.transpose(1, 2).repeat_interleave(FRAMES_PER_TOKEN, dim=2)
        y = self.conv(F.pad(y, (2 * FRAMES_PER_TOKEN, 0)))
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
        Layers after it.
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
    ) -> Tuple[Tensor, Tensor]:
        """Encodes.

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
            True lets the look-ahead of an item's last tokens see what the
            layer norm makes of padding, as the released model was trained;
            False shows it zeros, as an item alone sees.

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
        """Runs layers that share positions and mask."""
        length = x.size(1)
        mask = attention_mask(
            n_valid, length, chunk_size if streaming else None
        )
        positions = relative_positions(length, self.dim, x.device).to(x.dtype)
        positions = self.position_dropout(positions)
        for layer in layers:
            x = layer(x, positions, mask)
        return x


class CausalConv1d(nn.Conv1d):
    """A convolution that sees the present and the past only.

    Arguments
    ---------
    in_channels : int
        Input channels.
    out_channels : int
        Output channels.
    kernel_size : int
        Taps.

    Example
    -------
    >>> CausalConv1d(4, 8, 3)(torch.rand(2, 4, 5)).shape
    torch.Size([2, 8, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) to (B, C', N)."""
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class CausalBlock(nn.Module):
    """Causal convolution, layer norm over channels, Mish.

    Arguments
    ---------
    in_channels : int
        Input channels.
    channels : int
        Output channels.

    Example
    -------
    >>> CausalBlock(4, 8)(torch.rand(2, 4, 5), torch.ones(2, 1, 5)).shape
    torch.Size([2, 8, 5])
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        # The keys are those of the released checkpoint.
        self.block = nn.ModuleDict(
            {
                "0": CausalConv1d(in_channels, channels, 3),
                "2": nn.LayerNorm(channels),
            }
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, C, N) and the mask (B, 1, N) to (B, C', N)."""
        y = self.block["0"](x * valid).transpose(1, 2)
        return F.mish(self.block["2"](y)).transpose(1, 2) * valid


class ResidualBlock(nn.Module):
    """Two causal blocks with the flow time added between them.

    Arguments
    ---------
    in_channels : int
        Input channels.
    channels : int
        Output channels.
    time_dim : int
        Channels of the time embedding.

    Example
    -------
    >>> block = ResidualBlock(4, 8, 16)
    >>> y = block(torch.rand(2, 4, 5), torch.ones(2, 1, 5), torch.rand(2, 16))
    >>> y.shape
    torch.Size([2, 8, 5])
    """

    def __init__(self, in_channels: int, channels: int, time_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, channels))
        self.block1 = CausalBlock(in_channels, channels)
        self.block2 = CausalBlock(channels, channels)
        self.res_conv = nn.Conv1d(in_channels, channels, 1)

    def forward(self, x: Tensor, valid: Tensor, time: Tensor) -> Tensor:
        """(B, C, N), (B, 1, N), (B, time_dim) to (B, C', N)."""
        y = self.block1(x, valid) + self.mlp(time)[:, :, None]
        return self.block2(y, valid) + self.res_conv(x * valid)


class SelfAttention(nn.Module):
    """Multi-head self-attention whose inner size may differ from the outer.

    Arguments
    ---------
    dim : int
        Channels.
    n_heads : int
        Heads.
    head_dim : int
        Channels per head.

    Example
    -------
    >>> SelfAttention(8, 2, 6)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, n_heads: int, head_dim: int):
        super().__init__()
        inner = n_heads * head_dim
        self.n_heads = n_heads
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim))

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        y = F.scaled_dot_product_attention(
            split_heads(self.to_q(x), self.n_heads),
            split_heads(self.to_k(x), self.n_heads),
            split_heads(self.to_v(x), self.n_heads),
            attn_mask=mask,
        )
        return self.to_out(y.transpose(1, 2).flatten(2))


class EstimatorFeedForward(nn.Module):
    """Linear, GELU, Linear with four times the channels inside.

    Arguments
    ---------
    dim : int
        Channels.

    Example
    -------
    >>> EstimatorFeedForward(8)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int):
        super().__init__()
        # The keys are those of the released checkpoint.
        self.net = nn.ModuleDict(
            {
                "0": nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}),
                "2": nn.Linear(4 * dim, dim),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.net["2"](F.gelu(self.net["0"]["proj"](x)))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward of the estimator.

    Arguments
    ---------
    dim : int
        Channels.
    n_heads : int
        Heads.
    head_dim : int
        Channels per head.

    Example
    -------
    >>> TransformerBlock(8, 2, 6)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, n_heads: int, head_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = SelfAttention(dim, n_heads, head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = EstimatorFeedForward(dim)

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


class TimeEmbedding(nn.Module):
    """Flow time in 0..1 to a vector: sinusoids, then a two-layer network.

    Arguments
    ---------
    n_sinusoids : int
        Sines and cosines together, even.
    dim : int
        Channels of the result.

    Example
    -------
    >>> TimeEmbedding(12, 16)(torch.rand(3)).shape
    torch.Size([3, 16])
    """

    def __init__(self, n_sinusoids: int, dim: int):
        super().__init__()
        self.n_sinusoids = n_sinusoids
        self.linear_1 = nn.Linear(n_sinusoids, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) to (B, dim)."""
        half = self.n_sinusoids // 2
        step = torch.arange(half, dtype=torch.float32, device=time.device)
        rate = torch.exp(step * (-math.log(10000.0) / (half - 1)))
        angle = 1000.0 * time[:, None] * rate
        embedded = torch.cat([angle.sin(), angle.cos()], dim=1)
        embedded = embedded.to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedded)))


class FlowEstimator(nn.Module):
    """Predicts the velocity of the flow: a causal U-Net of one resolution.

    Arguments
    ---------
    n_mels : int
        Mel bands.
    channels : int
        Channels of every stage.
    n_heads : int
        Attention heads.
    head_dim : int
        Channels per head.
    n_blocks : int
        Transformer blocks per stage.
    n_mid_blocks : int
        Stages between the first and the last.
    chunk_size : int
        Frames per chunk when streaming.

    Example
    -------
    >>> estimator = FlowEstimator(4, 8, 2, 4, n_blocks=1, n_mid_blocks=1)
    >>> x = torch.rand(2, 10, 4)
    >>> y = estimator(x, torch.tensor([10, 8]), x, torch.rand(2),
    ...               torch.rand(2, 4), torch.zeros_like(x))
    >>> y.shape
    torch.Size([2, 10, 4])
    """

    def __init__(
        self,
        n_mels: int = 80,
        channels: int = 256,
        n_heads: int = 8,
        head_dim: int = 64,
        n_blocks: int = 4,
        n_mid_blocks: int = 12,
        chunk_size: int = 50,
    ):
        super().__init__()
        self.chunk_size = chunk_size
        in_channels = 4 * n_mels  # x, mu, speaker, condition
        time_dim = 4 * channels

        def stage(stage_channels, last_conv):
            blocks = nn.ModuleList(
                TransformerBlock(channels, n_heads, head_dim)
                for _ in range(n_blocks)
            )
            residual = ResidualBlock(stage_channels, channels, time_dim)
            parts = [residual, blocks]
            if last_conv:
                parts.append(CausalConv1d(channels, channels, 3))
            return nn.ModuleList(parts)

        self.time_mlp = TimeEmbedding(in_channels, time_dim)
        self.down_blocks = nn.ModuleList([stage(in_channels, True)])
        self.mid_blocks = nn.ModuleList(
            stage(channels, False) for _ in range(n_mid_blocks)
        )
        self.up_blocks = nn.ModuleList([stage(2 * channels, True)])
        self.final_block = CausalBlock(channels, channels)
        self.final_proj = nn.Conv1d(channels, n_mels, 1)

    def forward(
        self,
        x: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        time: Tensor,
        speaker: Tensor,
        condition: Tensor,
        streaming: bool = False,
    ) -> Tensor:
        """Predicts.

        Arguments
        ---------
        x : Tensor
            State of the flow, (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        mu : Tensor
            Encoded tokens, (B, N, mels).
        time : Tensor
            Flow time in 0..1, (B,).
        speaker : Tensor
            Projected speaker vector, (B, mels).
        condition : Tensor
            Mel of the prompt, zero after it, (B, N, mels).
        streaming : bool
            Whether attention stops at the end of each chunk.

        Returns
        -------
        velocity : Tensor
            (B, N, mels), zero on padding.
        """
        length = x.size(1)
        valid = length_to_mask(n_frames, length, dtype=x.dtype)[:, None]
        mask = attention_mask(
            n_frames, length, self.chunk_size if streaming else None
        )
        time = self.time_mlp(time)
        speaker = speaker[:, None].expand(-1, length, -1)
        x = torch.cat([x, mu, speaker, condition], dim=2).transpose(1, 2)

        residual, blocks, conv = self.down_blocks[0]
        skip = self._stage(residual, blocks, x, valid, mask, time)
        x = conv(skip * valid)
        for residual, blocks in self.mid_blocks:
            x = self._stage(residual, blocks, x, valid, mask, time)
        residual, blocks, conv = self.up_blocks[0]
        x = torch.cat([x, skip], dim=1)
        x = self._stage(residual, blocks, x, valid, mask, time)
        x = self.final_block(conv(x * valid), valid)
        return (self.final_proj(x * valid) * valid).transpose(1, 2)

    @staticmethod
    def _stage(residual, blocks, x, valid, mask, time):
        """Residual block and transformer blocks; (B, C, N) to (B, C', N)."""
        x = residual(x, valid, time).transpose(1, 2)
        for block in blocks:
            x = block(x, mask)
        return x.transpose(1, 2)


def fixed_noise(
    n_frames: int, n_mels: int = 80, seed: int = 0, device=None
) -> Tensor:
    """The first frames of one seeded noise tensor of 300 s.

    The released model always starts from the noise of seed 0; a frame's noise
    thus does not depend on the length of the utterance. The global random
    generators are left alone.

    Arguments
    ---------
    n_frames : int
        Frames wanted.
    n_mels : int
        Mel bands.
    seed : int
        Seed.
    device : torch.device, optional
        Where the result goes; it is drawn on the CPU in any case.

    Returns
    -------
    noise : Tensor
        (n_frames, n_mels).

    Raises
    ------
    ValueError
        If more than 300 s are wanted.

    Example
    -------
    >>> fixed_noise(7).shape
    torch.Size([7, 80])
    >>> bool((fixed_noise(7)[:5] == fixed_noise(5)).all())
    True
    """
    if n_frames > NOISE_FRAMES:
        raise ValueError(
            f"{n_frames} mel frames are more than the {NOISE_FRAMES} (300 s) "
            "that the flow's noise has: split the text and join the speech."
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_mels, NOISE_FRAMES, generator=generator)
    return noise[:, :n_frames].T.contiguous().to(device)


class FlowDraws(NamedTuple):
    """What chance decides in one training step.

    Arguments
    ---------
    time : Tensor
        Flow time in 0..1 of each item, (B,).
    noise : Tensor
        Start of the flow, (B, N, mels).
    keep : Tensor
        Boolean, (B,); False drops mu, speaker and condition of the item.
    prompt_frames : Tensor
        How many of the first mel frames are given as prompt, (B,).
    streaming : bool
        Whether the batch is trained with chunked attention.
    """

    time: Tensor
    noise: Tensor
    keep: Tensor
    prompt_frames: Tensor
    streaming: bool


class ConditionalFlow(nn.Module):
    """Optimal-transport flow matching with classifier-free guidance.

    Arguments
    ---------
    estimator : nn.Module
        Predicts the velocity; see ``FlowEstimator``.
    sigma_min : float
        Noise that is left at the end of the path.

    Example
    -------
    >>> estimator = FlowEstimator(4, 8, 2, 4, n_blocks=1, n_mid_blocks=1)
    >>> flow = ConditionalFlow(estimator)
    >>> x, speaker = torch.rand(2, 10, 4), torch.rand(2, 4)
    >>> n_frames = torch.tensor([10, 8])
    >>> flow.solve(x, n_frames, x, speaker, x, n_timesteps=2).shape
    torch.Size([2, 10, 4])
    >>> keep = torch.tensor([True, False])
    >>> draws = FlowDraws(torch.rand(2), x, keep, n_frames // 4, False)
    >>> flow.loss(x, n_frames, x, speaker, draws).shape
    torch.Size([])
    """

    def __init__(self, estimator: nn.Module, sigma_min: float = 1e-6):
        super().__init__()
        self.estimator = estimator
        self.sigma_min = sigma_min

    def solve(
        self,
        noise: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        condition: Tensor,
        n_timesteps: int = 10,
        guidance: float = 0.7,
        streaming: bool = False,
    ) -> Tensor:
        """Integrates from noise to mel with Euler steps on a cosine grid.

        Arguments
        ---------
        noise : Tensor
            Start, (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        mu : Tensor
            Encoded tokens, (B, N, mels).
        speaker : Tensor
            Projected speaker vector, (B, mels).
        condition : Tensor
            Mel of the prompt, zero after it, (B, N, mels).
        n_timesteps : int
            Steps.
        guidance : float
            Weight w of v = (1 + w) v_conditional - w v_unconditional; 0
            spares the unconditional half of the work.
        streaming : bool
            Whether attention stops at the end of each chunk.

        Returns
        -------
        mel : Tensor
            (B, N, mels).
        """
        n_items = noise.size(0)
        inputs = [mu, speaker, condition]
        if guidance != 0:
            inputs = [torch.cat([i, torch.zeros_like(i)]) for i in inputs]
            n_frames = n_frames.repeat(2)
        mu, speaker, condition = inputs
        grid = torch.linspace(0, 1, n_timesteps + 1, device=noise.device)
        grid = 1 - torch.cos(grid * (math.pi / 2))
        x = noise
        for time, step in zip(grid, grid.diff()):
            velocity = self.estimator(
                x.repeat(mu.size(0) // n_items, 1, 1),
                n_frames,
                mu,
                time.expand(mu.size(0)),
                speaker,
                condition,
                streaming,
            )
            if guidance != 0:
                given, free = velocity.chunk(2)
                velocity = (1 + guidance) * given - guidance * free
            x = x + step.to(x.dtype) * velocity
        return x

    def velocity(
        self,
        mel: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        draws: FlowDraws,
    ) -> Tuple[Tensor, Tensor]:
        """Predicted and true velocity at a random point of the path.

        Arguments
        ---------
        mel : Tensor
            End of the path, (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        mu : Tensor
            Encoded tokens, (B, N, mels).
        speaker : Tensor
            Projected speaker vector, (B, mels).
        draws : FlowDraws
            The random choices.

        Returns
        -------
        predicted : Tensor
            (B, N, mels).
        true : Tensor
            (B, N, mels).
        """
        shrink = 1 - self.sigma_min
        time = draws.time[:, None, None]
        keep = draws.keep[:, None].to(mel.dtype)
        prompt = length_to_mask(
            draws.prompt_frames, mel.size(1), dtype=mel.dtype
        )
        predicted = self.estimator(
            (1 - shrink * time) * draws.noise + time * mel,
            n_frames,
            mu * keep[..., None],
            draws.time,
            speaker * keep,
            mel * (prompt * keep)[..., None],
            draws.streaming,
        )
        return predicted, mel - shrink * draws.noise

    def loss(
        self,
        mel: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        draws: FlowDraws,
    ) -> Tensor:
        """Mean squared error of the velocity; arguments as ``velocity``.

        Returns
        -------
        loss : Tensor
            Scalar: the mean over all bands of all valid frames.
        """
        predicted, true = self.velocity(mel, n_frames, mu, speaker, draws)
        valid = length_to_mask(n_frames, mel.size(1), dtype=mel.dtype)
        error = (predicted - true) * valid[..., None]
        return error.square().sum() / (valid.sum() * mel.size(2))


def _drop_trainer_counters(module, state_dict, prefix, *args):
    """Removes the counters that checkpoints of the upstream trainer hold."""
    for counter in ("epoch", "step"):
        state_dict.pop(prefix + counter, None)


class CosyVoice2Flow(nn.Module):
    """CosyVoice2's token-to-mel model.

    The defaults are the sizes of the released 0.5B model; its ``flow.pt``
    loads with ``load_state_dict`` (strict).

    Arguments
    ---------
    vocab_size : int
        Number of speech tokens.
    token_dim : int
        Channels of the token embedding.
    encoder_dim : int
        Channels of the encoder.
    encoder_heads : int
        Its attention heads.
    encoder_ffn : int
        Inner channels of its feed-forward parts.
    encoder_blocks : int
        Its layers at the token rate.
    encoder_up_blocks : int
        Its layers at the frame rate.
    dropout : float
        Its dropout.
    estimator_channels : int
        Channels of the estimator.
    estimator_heads : int
        Its attention heads.
    estimator_head_dim : int
        Channels of each of them.
    estimator_blocks : int
        Transformer blocks in each of its stages.
    estimator_mid_blocks : int
        Its stages between the first and the last.
    speaker_dim : int
        Size of the speaker vector.
    n_mels : int
        Mel bands.
    chunk_size : int
        Tokens per chunk when streaming.
    condition_dropout : float
        In training, the share of items without any condition.
    prompt_rate : float
        In training, the share of items with their first frames as prompt.
    streaming_rate : float
        In training, the share of batches with chunked attention.
    input_embedding : nn.Module, optional
        Replaces the embedding table, (B, T) to (B, T, token_dim).
    mel_mean : float
        Subtracted from log-mels inside the model; the released model has 0.
    mel_std : float
        Divides log-mels inside the model; the released model has 1.

    Example
    -------
    >>> flow = CosyVoice2Flow(
    ...     vocab_size=30, token_dim=8, encoder_dim=8, encoder_heads=2,
    ...     encoder_ffn=16, encoder_blocks=1, encoder_up_blocks=1,
    ...     estimator_channels=8, estimator_heads=2, estimator_head_dim=4,
    ...     estimator_blocks=1, estimator_mid_blocks=1, speaker_dim=4)
    >>> tokens, lens = torch.randint(30, (2, 6)), torch.tensor([1.0, 0.5])
    >>> mel, xvector = torch.rand(2, 12, 80), torch.rand(2, 4)
    >>> flow.loss(tokens, lens, mel, lens, xvector).shape
    torch.Size([])
    >>> mel, mel_lens = flow.eval().inference(
    ...     tokens, lens, xvector, n_timesteps=2)
    >>> mel.shape, mel_lens.tolist()
    (torch.Size([2, 12, 80]), [1.0, 0.5])
    """

    def __init__(
        self,
        vocab_size: int = 6561,
        token_dim: int = 512,
        encoder_dim: int = 512,
        encoder_heads: int = 8,
        encoder_ffn: int = 2048,
        encoder_blocks: int = 6,
        encoder_up_blocks: int = 4,
        dropout: float = 0.1,
        estimator_channels: int = 256,
        estimator_heads: int = 8,
        estimator_head_dim: int = 64,
        estimator_blocks: int = 4,
        estimator_mid_blocks: int = 12,
        speaker_dim: int = 192,
        n_mels: int = 80,
        chunk_size: int = 25,
        condition_dropout: float = 0.2,
        prompt_rate: float = 0.5,
        streaming_rate: float = 0.5,
        input_embedding: Optional[nn.Module] = None,
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
    ):
        super().__init__()
        self.n_mels = n_mels
        self.mel_mean = mel_mean
        self.mel_std = mel_std
        self.condition_dropout = condition_dropout
        self.prompt_rate = prompt_rate
        self.streaming_rate = streaming_rate
        if input_embedding is None:
            input_embedding = nn.Embedding(vocab_size, token_dim)
        self.input_embedding = input_embedding
        self.spk_embed_affine_layer = nn.Linear(speaker_dim, n_mels)
        self.encoder = UpsamplingEncoder(
            token_dim,
            encoder_dim,
            encoder_heads,
            encoder_ffn,
            encoder_blocks,
            encoder_up_blocks,
            chunk_size,
            dropout,
        )
        self.encoder_proj = nn.Linear(encoder_dim, n_mels)
        estimator = FlowEstimator(
            n_mels,
            estimator_channels,
            estimator_heads,
            estimator_head_dim,
            estimator_blocks,
            estimator_mid_blocks,
            chunk_size * FRAMES_PER_TOKEN,
        )
        self.decoder = ConditionalFlow(estimator)
        self.register_load_state_dict_pre_hook(_drop_trainer_counters)

    def encode(
        self,
        tokens: Tensor,
        n_tokens: Tensor,
        streaming: bool = False,
        finalize: bool = True,
        upstream_padding: bool = False,
    ) -> Tuple[Tensor, Tensor]:
        """Speech tokens to the flow's mean ``mu``.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T); negative ids (padding) count as 0.
        n_tokens : Tensor
            Number of tokens of each item, (B,).
        streaming : bool
            Whether attention stops at the end of each chunk.
        finalize : bool
            False keeps the last three tokens of each item as context only.
        upstream_padding : bool
            See ``UpsamplingEncoder.forward``.

        Returns
        -------
        mu : Tensor
            (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        """
        x = self.input_embedding(tokens.clamp(min=0))
        valid = length_to_mask(n_tokens, tokens.size(1), dtype=x.dtype)
        x, n_frames = self.encoder(
            x * valid[..., None],
            n_tokens,
            streaming,
            finalize,
            upstream_padding,
        )
        return self.encoder_proj(x), n_frames

    def project_speaker(self, xvector: Tensor) -> Tensor:
        """Normalises and projects speaker vectors.

        Arguments
        ---------
        xvector : Tensor
            (B, speaker_dim).

        Returns
        -------
        speaker : Tensor
            (B, mels).
        """
        return self.spk_embed_affine_layer(F.normalize(xvector, dim=1))

    def draw(
        self,
        n_frames: Tensor,
        generator: Optional[torch.Generator] = None,
        length: Optional[int] = None,
    ) -> FlowDraws:
        """Draws what chance decides in one training step.

        Arguments
        ---------
        n_frames : Tensor
            Number of frames of each item, (B,).
        generator : torch.Generator, optional
            Makes the draws repeatable (validation); the default is torch's.
        length : int, optional
            Number of frames with padding, N; by default the longest item's.

        Returns
        -------
        draws : FlowDraws
            On the device of ``n_frames``.
        """
        device = n_frames.device if generator is None else generator.device
        options = {"generator": generator, "device": device}
        n_items = n_frames.size(0)
        length = int(n_frames.max()) if length is None else length
        time, keep, prompt, share = torch.rand(4, n_items, **options)
        noise = torch.randn(n_items, length, self.n_mels, **options)
        streaming = torch.rand((), **options) < self.streaming_rate
        # K is uniform over the integers 0 .. floor(0.3 * frames).
        choices = (0.3 * n_frames.to(device)).floor() + 1
        prompt_frames = (share * choices).floor().long()
        prompt_frames = prompt_frames * (prompt < self.prompt_rate)
        return FlowDraws(
            time.to(n_frames.device),
            noise.to(n_frames.device),
            (keep > self.condition_dropout).to(n_frames.device),
            prompt_frames.to(n_frames.device),
            bool(streaming),
        )

    def loss(
        self,
        tokens: Tensor,
        token_lens: Tensor,
        mel: Tensor,
        mel_lens: Tensor,
        xvector: Tensor,
        draws: Optional[FlowDraws] = None,
        upstream_padding: bool = False,
    ) -> Tensor:
        """The training loss.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T).
        token_lens : Tensor
            Their relative lengths, (B,).
        mel : Tensor
            Log-mels of the same speech, (B, 2T, mels).
        mel_lens : Tensor
            Their relative lengths, (B,): two frames per token.
        xvector : Tensor
            Speaker vectors, (B, speaker_dim).
        draws : FlowDraws, optional
            The random choices; by default ``self.draw`` makes them.
        upstream_padding : bool
            See ``UpsamplingEncoder.forward``.

        Returns
        -------
        loss : Tensor
            Mean squared error of the velocity, scalar.

        Raises
        ------
        ValueError
            If the mels do not have two frames per token.
        """
        n_tokens = torch.round(token_lens * tokens.size(1)).long()
        n_frames = torch.round(mel_lens * mel.size(1)).long()
        uneven = n_frames != FRAMES_PER_TOKEN * n_tokens
        if mel.size(1) != FRAMES_PER_TOKEN * tokens.size(1) or uneven.any():
            item = int(uneven.int().argmax())
            raise ValueError(
                f"item {item} of the batch has {int(n_tokens[item])} speech "
                f"tokens and {int(n_frames[item])} mel frames (padded: "
                f"{tokens.size(1)} and {mel.size(1)}): cut the mel to two "
                "frames per token."
            )
        if draws is None:
            draws = self.draw(n_frames, length=mel.size(1))
        mu, n_frames = self.encode(
            tokens,
            n_tokens,
            draws.streaming,
            upstream_padding=upstream_padding,
        )
        speaker = self.project_speaker(xvector)
        mel = (mel - self.mel_mean) / self.mel_std
        return self.decoder.loss(mel, n_frames, mu, speaker, draws)

    @torch.no_grad()
    def inference(
        self,
        tokens: Tensor,
        lens: Tensor,
        xvector: Tensor,
        prompt_tokens: Optional[Tensor] = None,
        prompt_mel: Optional[Tensor] = None,
        n_timesteps: int = 10,
        guidance: float = 0.7,
        seed: Union[int, Sequence[int]] = 0,
        streaming: bool = False,
        finalize: bool = True,
        prompt_lens: Optional[Tensor] = None,
        noise: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Synthesises mels; each item equals the item alone.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T).
        lens : Tensor
            Their relative lengths, (B,).
        xvector : Tensor
            Speaker vectors, (B, speaker_dim).
        prompt_tokens : Tensor, optional
            Speech tokens of a reference, (B, P).
        prompt_mel : Tensor, optional
            Log-mels of the reference, (B, 2P, mels).
        n_timesteps : int
            Steps of the solver.
        guidance : float
            Weight of classifier-free guidance.
        seed : int or sequence of int
            Seed of the noise, for all items or for each.
        streaming : bool
            Whether attention stops at the end of each chunk; chunks count
            from the start of the prompt.
        finalize : bool
            False if more tokens follow: the last three tokens of each item
            are then context only and get no frames.
        prompt_lens : Tensor, optional
            Relative lengths of the prompts, (B,); by default all are full.
        noise : Tensor, optional
            Replaces the seeded noise, (B, N, mels) with the prompt's frames.

        Returns
        -------
        mel : Tensor
            Log-mels without the prompts, (B, N, mels), zero on padding.
        lens : Tensor
            Their relative lengths, (B,).

        Raises
        ------
        ValueError
            If an item has no token to speak, prompt tokens and prompt mel do
            not go together, or an item is longer than 300 s.
        """
        items, prompts = self._join_prompts(
            tokens, lens, xvector, prompt_tokens, prompt_mel, prompt_lens
        )
        n_tokens = torch.tensor([i.size(0) for i in items]).to(tokens.device)
        n_prompt = torch.tensor([p.size(0) for p in prompts])
        n_new = n_tokens.cpu() * FRAMES_PER_TOKEN - n_prompt
        if not finalize:
            n_new = n_new - LOOK_AHEAD * FRAMES_PER_TOKEN
        if n_new.min() <= 0:
            raise ValueError(
                f"item {int(n_new.argmin())} of the batch has no speech "
                "token to synthesise"
                + ("." if finalize else " beyond the 3 of context.")
                + " Leave it out of the batch."
            )
        tokens = pad_sequence(items, batch_first=True)
        mu, n_frames = self.encode(tokens, n_tokens, streaming, finalize)
        condition = torch.zeros_like(mu)
        for row, prompt in zip(condition, prompts):
            row[: prompt.size(0)] = (prompt - self.mel_mean) / self.mel_std
        if noise is None:
            noise = self._noise(seed, mu)
        mel = self.decoder.solve(
            noise.to(mu),
            n_frames,
            mu,
            self.project_speaker(xvector),
            condition,
            n_timesteps,
            guidance,
            streaming,
        ).float()
        mel = mel * self.mel_std + self.mel_mean
        spans = zip(mel, n_prompt.tolist(), n_new.tolist())
        mel = pad_sequence([m[p : p + n] for m, p, n in spans], True)
        return mel, (n_new / n_new.max()).to(mel.device)

    def _join_prompts(
        self, tokens, lens, xvector, prompt_tokens, prompt_mel, prompt_lens
    ):
        """Unpads; returns per item prompt + tokens, and the prompt's mel."""
        if (prompt_tokens is None) != (prompt_mel is None):
            raise ValueError(
                "a prompt needs both its speech tokens and its mel: pass "
                "prompt_tokens and prompt_mel, or neither."
            )
        n_tokens = torch.round(lens * tokens.size(1)).long().tolist()
        items = [row[:n] for row, n in zip(tokens.long(), n_tokens)]
        if prompt_tokens is None:
            return items, [xvector.new_zeros(0, self.n_mels)] * len(items)
        n_prompt = prompt_tokens.size(1)
        if prompt_mel.size(1) != FRAMES_PER_TOKEN * n_prompt:
            raise ValueError(
                f"the prompt has {n_prompt} speech tokens and "
                f"{prompt_mel.size(1)} mel frames: cut both so that there are "
                "two frames per token."
            )
        if prompt_lens is None:
            prompt_lens = torch.ones_like(lens)
        n_prompts = torch.round(prompt_lens * n_prompt).long().tolist()
        items = [
            torch.cat([prompt[:n].long(), item])
            for prompt, n, item in zip(prompt_tokens, n_prompts, items)
        ]
        prompts = [
            mel[: FRAMES_PER_TOKEN * n] for mel, n in zip(prompt_mel, n_prompts)
        ]
        return items, prompts

    def _noise(self, seed, mu):
        """One seeded noise per item, (B, N, mels)."""
        n_items, length, n_mels = mu.shape
        if isinstance(seed, int):
            noise = fixed_noise(length, n_mels, seed, mu.device)
            return noise.expand(n_items, -1, -1)
        if len(seed) != n_items:
            raise ValueError(
                f"{len(seed)} seeds for {n_items} items: pass one seed per "
                "item, or a single integer."
            )
        return torch.stack(
            [fixed_noise(length, n_mels, s, mu.device) for s in seed]
        )
