"""Attention mask and heads of CosyVoice2's flow."""

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import Tensor


def attention_mask(
    n_valid: Tensor, length: int, chunk_size: int | None = None
) -> Tensor | None:
    """Build the attention mask.

    Padded keys are masked for every query. With a chunk size, keys beyond the
    end of the query's chunk are masked as well.

    Arguments
    ---------
    n_valid : Tensor
        Number of valid positions of each item, (B,).
    length : int
        Number of positions with padding, T.
    chunk_size : int, optional
        Positions per chunk; None lets every query attend to the whole item.

    Returns
    -------
    mask : Tensor or None
        Bool, broadcastable to (B, heads, T, T), True where attended; None if
        nothing is masked, which enables the fastest attention kernel.

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
    """Reshape (B, T, heads * d) to (B, heads, T, d)."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)
