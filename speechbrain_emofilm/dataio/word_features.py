"""Word features: pooled frames and timing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    Word,
    find_textgrid,
    match_words,
    read_alignment,
)
from speechbrain_emofilm.processing.pooling import word_average_pooling

import torch

#: Approximate mean and standard deviation of the logarithm of a word's
#: duration in seconds, and of its duration per letter.
_TIMING_MEAN = (-1.4, -2.8)
_TIMING_STD = (0.5, 0.4)
_SHORTEST = 0.02  # s


def aligned_words(
    alignment_folder: str | Path, utterance: str, item: Mapping
) -> list[Word]:
    """Read the words of an utterance with their times.

    Arguments
    ---------
    alignment_folder : str or Path
        An aligner's output folder.
    utterance : str
        Utterance id.
    item : mapping
        Manifest entry of the utterance, with ``speaker``, ``text`` and, if
        known, ``duration`` in seconds, at which words are cut.

    Returns
    -------
    list of Word
        Words, spelled as in the text.

    Raises
    ------
    FileNotFoundError
        If the utterance has no TextGrid.
    ValueError
        If the TextGrid cannot be read, has no words, or does not match the
        text.
    """
    path = find_textgrid(alignment_folder, utterance, item["speaker"])
    timed = read_alignment(path, duration=item.get("duration"))
    words = match_words(timed, item["text"], path)
    if not words:
        raise ValueError(f"{path} has no words: leave the utterance out.")
    return words


def word_features(
    frames: torch.Tensor,
    words: Sequence[Word],
    frame_rate: float,
    frame_offset: float,
    timing: bool = True,
) -> torch.Tensor:
    """Pool the frames of each word and append its timing.

    Arguments
    ---------
    frames : torch.Tensor
        Emotion features (F, D) of an utterance.
    words : sequence of Word
        Words of the utterance.
    frame_rate : float
        Frames per second.
    frame_offset : float
        Centre of frame 0 in seconds.
    timing : bool
        Whether to append the two features of :func:`word_timing`, which a
        mean over frames cannot represent.

    Returns
    -------
    torch.Tensor
        Word features, (W, D) or, with timing, (W, D + 2).

    Raises
    ------
    ValueError
        If a word lies outside of the frames.

    Example
    -------
    >>> words = [Word("We", 0.0, 0.2), Word("won", 0.2, 0.6)]
    >>> word_features(torch.ones(30, 4), words, 50.0, 0.0).shape
    torch.Size([2, 6])
    """
    times = torch.tensor([[word.start, word.end] for word in words])
    times = times.reshape(len(words), 2)
    pooled, covered = word_average_pooling(
        frames.unsqueeze(0), times.unsqueeze(0), frame_rate, frame_offset
    )
    if not covered.all():
        index = int((~covered[0]).nonzero()[0])
        word = words[index]
        raise ValueError(
            f"word {index} ({word.text!r}, {word.start:.2f} to "
            f"{word.end:.2f} s) lies outside of the {len(frames)} frames of "
            f"{len(frames) / frame_rate:.2f} s: use the alignment of this "
            "recording."
        )
    if not timing:
        return pooled[0]
    return torch.cat([pooled[0], word_timing(words)], dim=-1)


def word_timing(words: Sequence[Word]) -> torch.Tensor:
    """Compute the normalised log duration of words, in all and per letter.

    Arguments
    ---------
    words : sequence of Word
        Words of an utterance.

    Returns
    -------
    torch.Tensor
        (W, 2): logarithm of the duration, and of the duration per letter,
        with a mean of about 0 and a variance of about 1.

    Example
    -------
    >>> word_timing([Word("a", 0.0, 0.1), Word("one", 0.1, 0.4)])
    tensor([[-1.8052,  1.2435],
            [ 0.3921,  1.2435]])
    """
    duration = torch.tensor(
        [max(word.end - word.start, _SHORTEST) for word in words]
    )
    letters = torch.tensor([float(max(len(word.text), 1)) for word in words])
    log_duration = duration.log()
    timing = torch.stack([log_duration, log_duration - letters.log()], dim=-1)
    return (timing - torch.tensor(_TIMING_MEAN)) / torch.tensor(_TIMING_STD)
