"""The velocity estimator of CosyVoice2's flow."""

import math

from speechbrain_emofilm.lobes.cosyvoice2 import flow_cache
from speechbrain_emofilm.lobes.cosyvoice2.flow_attention import (
    attention_mask,
    split_heads,
)

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import Tensor, nn


class CausalConv1d(nn.Conv1d):
    """Convolution over the present and the past.

    Arguments
    ---------
    in_channels, out_channels, kernel_size : int
        As in ``torch.nn.Conv1d``.

    Example
    -------
    >>> CausalConv1d(4, 8, 3)(torch.rand(2, 4, 5)).shape
    torch.Size([2, 8, 5])
    """

    def forward(
        self, x: Tensor, cache: flow_cache.StreamingCache | None = None
    ) -> Tensor:
        """Map (B, C, N) to (B, C', N)."""
        size = self.kernel_size[0] - 1
        return super().forward(flow_cache.left_context(self, x, size, cache))


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

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        cache: flow_cache.StreamingCache | None = None,
    ) -> Tensor:
        """Map (B, C, N) and the mask (B, 1, N) to (B, C', N)."""
        y = self.block["0"](x * valid, cache).transpose(1, 2)
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

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        time: Tensor,
        cache: flow_cache.StreamingCache | None = None,
    ) -> Tensor:
        """Map (B, C, N), (B, 1, N), (B, time_dim) to (B, C', N)."""
        y = self.block1(x, valid, cache) + self.mlp(time)[:, :, None]
        return self.block2(y, valid, cache) + self.res_conv(x * valid)


class SelfAttention(nn.Module):
    """Multi-head self-attention with an inner size of its own.

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

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: flow_cache.StreamingCache | None = None,
    ) -> Tensor:
        """Transform (B, N, C) to (B, N, C)."""
        query, key, value = (
            split_heads(project(x), self.n_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if cache is not None:
            key, value = cache.extend(self, key, value)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(y.transpose(1, 2).flatten(2))


class EstimatorFeedForward(nn.Module):
    """Linear, GELU, Linear, with four times the channels inside.

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
        """Transform (B, N, C) to (B, N, C)."""
        return self.net["2"](F.gelu(self.net["0"]["proj"](x)))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward of the estimator.

    Arguments
    ---------
    dim, n_heads, head_dim : int
        As in ``SelfAttention``.

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

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: flow_cache.StreamingCache | None = None,
    ) -> Tensor:
        """Transform (B, N, C) to (B, N, C)."""
        x = x + self.attn1(self.norm1(x), mask, cache)
        return x + self.ff(self.norm3(x))


class TimeEmbedding(nn.Module):
    """Vector of the flow time in 0..1: sinusoids, then a two-layer network.

    Arguments
    ---------
    n_sinusoids : int
        Sines and cosines together, even.
    dim : int
        Channels of the vector.

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
        """Map (B,) to (B, dim)."""
        half = self.n_sinusoids // 2
        step = torch.arange(half, dtype=torch.float32, device=time.device)
        rate = torch.exp(step * (-math.log(10000.0) / (half - 1)))
        angle = 1000.0 * time[:, None] * rate
        embedded = torch.cat([angle.sin(), angle.cos()], dim=1)
        embedded = embedded.to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedded)))


class FlowEstimator(nn.Module):
    """Causal U-Net of one resolution that predicts the flow's velocity.

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
        cache: flow_cache.StreamingCache | None = None,
    ) -> Tensor:
        """Predict the velocity.

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
        cache : StreamingCache, optional
            Cache of previous chunks; the input is then one chunk of items
            without padding.

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
        skip = self._stage(residual, blocks, x, valid, mask, time, cache)
        x = conv(skip * valid, cache)
        for residual, blocks in self.mid_blocks:
            x = self._stage(residual, blocks, x, valid, mask, time, cache)
        residual, blocks, conv = self.up_blocks[0]
        x = torch.cat([x, skip], dim=1)
        x = self._stage(residual, blocks, x, valid, mask, time, cache)
        x = self.final_block(conv(x * valid, cache), valid, cache)
        return (self.final_proj(x * valid) * valid).transpose(1, 2)

    @staticmethod
    def _stage(residual, blocks, x, valid, mask, time, cache):
        """Run the blocks of a stage; (B, C, N) to (B, C', N)."""
        x = residual(x, valid, time, cache).transpose(1, 2)
        for block in blocks:
            x = block(x, mask, cache)
        return x.transpose(1, 2)
