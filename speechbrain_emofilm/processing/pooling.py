"""Pooling of frames over words, and its inverse."""

import torch
from speechbrain.dataio.dataio import length_to_mask


def word_average_pooling(
    features: torch.Tensor,
    word_times: torch.Tensor,
    frame_rate: float,
    frame_offset: float = 0.0,
    lens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the frames of each word, weighted by their overlap.

    Frame i covers the 1 / frame_rate seconds around its centre. A frame is
    weighted by the part of it that lies inside the word, so that a word
    shorter than a frame still has features, and two words share the frame of
    their boundary.

    Arguments
    ---------
    features : torch.Tensor
        Frames, shape (B, F, D).
    word_times : torch.Tensor
        Start and end of each word in seconds, shape (B, W, 2); equal in
        padding.
    frame_rate : float
        Frames per second.
    frame_offset : float
        Centre of frame 0 in seconds.
    lens : Optional[torch.Tensor]
        Relative lengths of the features, shape (B,); all full if None.

    Returns
    -------
    pooled : torch.Tensor
        Word features, shape (B, W, D); zeros for a word without frames.
    covered : torch.Tensor
        Whether any frame overlaps the word, bool, shape (B, W).

    Example
    -------
    >>> features = torch.arange(4.0).reshape(1, 4, 1)
    >>> word_times = torch.tensor([[[0.0, 0.02], [0.02, 0.07], [0.5, 0.6]]])
    >>> pooled, covered = word_average_pooling(
    ...     features, word_times, frame_rate=50, frame_offset=0.01
    ... )
    >>> pooled.squeeze(), covered
    (tensor([0.0000, 1.8000, 0.0000]), tensor([[ True,  True, False]]))
    """
    n_frames = features.shape[1]
    half = 0.5 / frame_rate
    centres = frame_offset + (
        torch.arange(n_frames, device=features.device) / frame_rate
    )
    start, end = word_times.float().unsqueeze(-1).unbind(2)  # (B, W, 1)
    weights = torch.minimum(end, centres + half) - torch.maximum(
        start, centres - half
    )
    # Rounding may let a boundary between two frames overlap one of them.
    weights = weights.masked_fill(weights < 1e-3 * half, 0.0)
    if lens is not None:
        frames = torch.round(lens * n_frames)
        padding = ~length_to_mask(frames, max_len=n_frames).bool()
        weights = weights.masked_fill(padding.unsqueeze(1), 0.0)
        # Padding may hold NaN or infinity, which times zero is not zero.
        features = features.masked_fill(padding.unsqueeze(-1), 0.0)
    total = weights.sum(-1, keepdim=True)
    covered = total > 0
    weights = weights / torch.where(covered, total, 1.0)
    return weights.to(features.dtype) @ features, covered.squeeze(-1)


def spread(
    word_values: torch.Tensor, word_of_position: torch.Tensor
) -> torch.Tensor:
    """Repeat each word's values at every position of the word.

    Arguments
    ---------
    word_values : torch.Tensor
        Values of the words, (W, ...) or, batched, (B, W, ...).
    word_of_position : torch.Tensor
        Word index of each position, (T,) or (B, T), long; -1 for no word.

    Returns
    -------
    torch.Tensor
        (T, ...) or (B, T, ...), zeros where there is no word.

    Example
    -------
    >>> spread(torch.tensor([5.0, 7.0]), torch.tensor([0, 0, -1, 1]))
    tensor([5., 5., 0., 7.])
    >>> spread(torch.ones(2, 3, 4), torch.zeros(2, 9).long()).shape
    torch.Size([2, 9, 4])
    """
    batched = word_of_position.dim() == 2
    index = word_of_position.clamp(min=0)
    if batched:
        rows = torch.arange(len(index), device=index.device)[:, None]
        spread_values = word_values[rows, index]
    else:
        spread_values = word_values[index]
    outside = (word_of_position < 0).reshape(
        *word_of_position.shape,
        *[1] * (spread_values.dim() - word_of_position.dim()),
    )
    return spread_values.masked_fill(outside, 0)
