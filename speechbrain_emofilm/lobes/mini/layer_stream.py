"""Convolutional layers of the mini backbone, run piece by piece.

Each convolution keeps the end of what it has seen, so that every position is
computed once, from the same values as in one call. Matrix products of few rows
are padded: libraries sum those in another order, and the phase of a voice adds
up the rounding of its pitch.
"""

from collections.abc import Callable, Iterable

from speechbrain_emofilm.lobes.mini.speech_tokenizer import ConvNeXtBlock

import torch
import torch.nn.functional as F
from torch import nn

#: Rows from which on matrix products no longer depend on the number of rows.
_MIN_ROWS = 16


def apply_to_rows(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """Apply a layer that treats each position by itself to a piece.

    Arguments
    ---------
    layer : callable
        Maps (B, T, C) to (B, T, C').
    x : torch.Tensor
        The piece, (B, T, C).

    Returns
    -------
    torch.Tensor
        (B, T, C').

    Example
    -------
    >>> layer, x = nn.Linear(192, 576), torch.randn(1, 100, 192)
    >>> pieces = [apply_to_rows(layer, piece) for piece in x.split(1, dim=1)]
    >>> torch.allclose(torch.cat(pieces, 1), layer(x), atol=1e-6)
    True
    """
    n_rows = x.size(1)
    if n_rows < _MIN_ROWS:
        x = F.pad(x, (0, 0, 0, _MIN_ROWS - n_rows))
    return layer(x)[:, :n_rows]


class ConvStream:
    """Convolution that keeps the length, on a sequence that arrives in pieces.

    Arguments
    ---------
    conv : nn.Conv1d
        Stride and dilation 1, an odd kernel, and zeros on both sides.

    Raises
    ------
    ValueError
        If the convolution is of another kind.

    Example
    -------
    >>> stream = ConvStream(nn.Conv1d(1, 1, 3, padding=1, bias=False))
    >>> _ = nn.init.ones_(stream.conv.weight)
    >>> x = torch.tensor([1.0, 2.0, 4.0])[None, :, None]
    >>> with torch.no_grad():
    ...     first, rest = stream.push(x[:, :2]), stream.push(x[:, 2:], True)
    >>> first.flatten().tolist(), rest.flatten().tolist()
    ([3.0], [7.0, 6.0])
    """

    def __init__(self, conv: nn.Conv1d):
        (size,) = conv.kernel_size
        if (
            conv.stride != (1,)
            or conv.dilation != (1,)
            or conv.padding != (size // 2,)
            or conv.padding_mode != "zeros"
            or size % 2 == 0
        ):
            raise ValueError(
                f"The layer {conv} cannot run piece by piece: give it an odd "
                "kernel, stride 1, dilation 1 and half a kernel of zeros on "
                "each side."
            )
        self.conv = conv
        #: Positions after the present one that its output depends on.
        self.look_ahead = size // 2
        self._kept: torch.Tensor | None = None

    def push(self, x: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Add a piece (B, T, C), and return the output (B, T', C') it allows.

        Arguments
        ---------
        x : torch.Tensor
            The piece; may be empty.
        last : bool
            Whether the sequence ends with this piece.
        """
        margin = x.new_zeros(x.size(0), self.look_ahead, x.size(2))
        before = margin if self._kept is None else self._kept
        x = torch.cat([before, x, margin] if last else [before, x], dim=1)
        n_out = x.size(1) - 2 * self.look_ahead
        # Copied, since a view would keep the whole piece in memory.
        self._kept = x[:, max(n_out, 0) :].clone()
        if n_out <= 0:
            return x.new_zeros(x.size(0), 0, self.conv.out_channels)
        if n_out < _MIN_ROWS:
            x = F.pad(x, (0, 0, 0, _MIN_ROWS - n_out))
        y = F.conv1d(
            x.transpose(1, 2),
            self.conv.weight,
            self.conv.bias,
            groups=self.conv.groups,
        )
        return y.transpose(1, 2)[:, :n_out]


class BlockStream:
    """ConvNeXt block on a sequence that arrives in pieces.

    Arguments
    ---------
    block : ConvNeXtBlock
        The block.

    Example
    -------
    >>> block, x = ConvNeXtBlock(8), torch.randn(1, 9, 8)
    >>> stream = BlockStream(block)
    >>> pieces = [stream.push(x[:, :4]), stream.push(x[:, 4:], last=True)]
    >>> torch.allclose(torch.cat(pieces, 1), block(x), atol=1e-6)
    True
    """

    def __init__(self, block: ConvNeXtBlock):
        self.block = block
        self._depthwise = ConvStream(block.depthwise)
        self.look_ahead = self._depthwise.look_ahead
        self._waiting: torch.Tensor | None = None

    def push(self, x: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Add a piece; see :meth:`ConvStream.push`."""
        y = self._depthwise.push(x, last)
        if self._waiting is not None:
            x = torch.cat([self._waiting, x], dim=1)
        x, waiting = x.tensor_split([y.size(1)], dim=1)
        self._waiting = waiting.clone()
        branch = apply_to_rows(self.block.residual, y)
        return x + branch


class LayersStream:
    """Sequence of layers, on input that arrives in pieces.

    Arguments
    ---------
    layers : iterable of nn.Module
        Convolutions, ConvNeXt blocks, and layers that treat each position by
        itself.

    Raises
    ------
    ValueError
        If a layer is of another kind.

    Example
    -------
    >>> layers = nn.Sequential(ConvNeXtBlock(8), nn.Linear(8, 2))
    >>> stream, x = LayersStream(layers), torch.randn(1, 9, 8)
    >>> pieces = [stream.push(x[:, :4]), stream.push(x[:, 4:], last=True)]
    >>> torch.allclose(torch.cat(pieces, 1), layers(x), atol=1e-6)
    True
    >>> stream.look_ahead
    3
    """

    def __init__(self, layers: Iterable[nn.Module]):
        self._layers = [_layer_stream(layer) for layer in layers]
        #: Positions after the present one that its output depends on.
        self.look_ahead = sum(layer.look_ahead for layer in self._layers)

    def push(self, x: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Add a piece; see :meth:`ConvStream.push`."""
        for layer in self._layers:
            x = layer.push(x, last)
        return x


class _PositionWise:
    """Layer that treats each position by itself."""

    look_ahead = 0

    def __init__(self, layer: Callable[[torch.Tensor], torch.Tensor]):
        self._layer = layer

    def push(self, x: torch.Tensor, last: bool = False) -> torch.Tensor:
        return apply_to_rows(self._layer, x)


def _layer_stream(layer):
    """Build the stream of a layer."""
    if isinstance(layer, ConvNeXtBlock):
        return BlockStream(layer)
    if isinstance(layer, nn.Conv1d):
        return ConvStream(layer)
    if isinstance(layer, (nn.LayerNorm, nn.Linear, nn.GELU)):
        return _PositionWise(layer)
    raise ValueError(
        f"The layer {layer} cannot run piece by piece: use convolutions, "
        "ConvNeXt blocks, linear layers, layer normalisation and GELU."
    )
