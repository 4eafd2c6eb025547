"""Layout of text and speech in the sequences of the language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch.nn.utils.rnn import pad_sequence

IGNORE = -1  # no target here
FILL = -2  # the target is the fill token
SOS, TASK = 0, 1  # rows of CosyVoice2LM.llm_embedding


@dataclass
class SequenceLayout:
    """Position of every token in the padded batch of length L.

    Arguments
    ---------
    source : torch.Tensor
        Index of each position's embedding in the concatenation of sos, task,
        the padded text and the padded speech, shape (B, L).
    predicts : torch.Tensor
        Index of the speech token that each position predicts (the number of
        tokens for the end), -2 for fill, -1 for nothing, shape (B, L).
    mask : torch.Tensor
        1 in the sequence, 0 in padding, shape (B, L).
    """

    source: torch.Tensor
    predicts: torch.Tensor
    mask: torch.Tensor


def sequence_layout(
    text_lens: Sequence[int],
    speech_lens: Sequence[int],
    interleaved: Sequence[bool],
    text_size: int,
    mix_ratio: tuple[int, int] = (5, 15),
) -> SequenceLayout:
    """Lay out a batch as unistream or bistream sequences, padded right.

    Unistream, with three text tokens t, two speech tokens s and padding::

        input    sos  t0   t1   t2   task s0   s1   pad
        target    -    -    -    -   s0   s1   end   -
        mask      1    1    1    1    1    1    1    0

    Bistream, here with blocks of two text and three speech tokens: as many
    full blocks as the text allows, then the rest as above. Fill, the target
    after a block, asks for more text and is never an input. ::

        input    sos  t0   t1   s0   s1   s2   t2   task s3   s4
        target    -    -   s0   s1   s2   fill  -   s3   s4   end
        mask      1    1    1    1    1    1    1    1    1    1

    The mask is that of the padding; attention is causal.

    Arguments
    ---------
    text_lens : Sequence[int]
        Number of text tokens of each item.
    speech_lens : Sequence[int]
        Number of speech tokens of each item.
    interleaved : Sequence[bool]
        Whether each item is bistream. An item with at most
        ``mix_ratio[1] / mix_ratio[0]`` speech tokens per text token is always
        unistream, as its speech would end before its text.
    text_size : int
        Length T of the padded text.
    mix_ratio : Tuple[int, int]
        Text and speech tokens of a bistream block.

    Example
    -------
    >>> layout = sequence_layout([3], [2], [False], text_size=3)
    >>> layout.source.tolist(), layout.predicts.tolist()
    ([[0, 2, 3, 4, 1, 5, 6]], [[-1, -1, -1, -1, 0, 1, 2]])
    """
    first_speech = 2 + text_size
    items = [
        _item_layout(
            list(range(2, 2 + n_text)),
            list(range(first_speech, first_speech + n_speech)),
            mix_ratio if mix else None,
        )
        for n_text, n_speech, mix in zip(text_lens, speech_lens, interleaved)
    ]
    sources, predictions = zip(*items)
    lens = torch.tensor([len(source) for source in sources])
    return SequenceLayout(
        source=pad_sequence(sources, batch_first=True),
        predicts=pad_sequence(predictions, True, padding_value=IGNORE),
        mask=length_to_mask(lens, dtype=torch.long),
    )


def _item_layout(
    text: list[int], speech: list[int], mix_ratio: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ``source`` and ``predicts`` of one item, two (L,)."""
    source, predicts, done = [SOS], [IGNORE], 0
    n_text, n_speech = mix_ratio or (1, 1)
    if mix_ratio and len(speech) * n_text > len(text) * n_speech:
        for _ in range(len(text) // n_text):
            source += text[:n_text] + speech[done : done + n_speech]
            predicts += [IGNORE] * (n_text - 1)
            predicts += [*range(done, done + n_speech), FILL]
            text, done = text[n_text:], done + n_speech
    source += [*text, TASK, *speech[done:]]
    predicts += [IGNORE] * len(text) + [*range(done, len(speech) + 1)]
    return torch.tensor(source), torch.tensor(predicts)
