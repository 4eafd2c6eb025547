"""How well speech tokens say their text, as a recogniser hears them.

What a language model means to say, its word pointer tells; a listener, which
does not know the text, tells whether it sounds so. The two together choose
among several readings of a text.
"""

from collections.abc import Sequence
from typing import NamedTuple

from speechbrain_emofilm.lobes.word_pointer import monotonic_path

import numpy as np
import torch
import torch.nn.functional as F

#: Cost of leaving out a phoneme, and that of one that is not heard at all, as
#: negative logarithms of a probability.
LOST_COST = 8.0


class Heard(NamedTuple):
    """What a listener heard of a text.

    Arguments
    ---------
    score : float
        Log-probability of the text's phonemes, per phoneme.
    clarity : list of float or None
        For each word, the probability of its least clear phoneme where it
        should be, 0 to 1; None for a word without phonemes.
    """

    score: float
    clarity: list[float | None]


@torch.no_grad()
def listen(
    listener: torch.nn.Module,
    tokens: Sequence[int],
    phonemes: Sequence[int],
    words: Sequence[int],
    n_words: int,
) -> Heard:
    """Compare speech tokens with the text that they should say.

    Arguments
    ---------
    listener : torch.nn.Module
        ``listener(tokens, lens) -> log_probs`` (B, F, 1 + P) of a CTC
        recogniser with the blank first, such as a
        :class:`~speechbrain_emofilm.lobes.mini.token_listener.TokenListener`.
    tokens : list of int
        Speech tokens, at least one.
    phonemes : list of int
        Phoneme of each text unit, -1 for a unit that is no sound.
    words : list of int
        Word of each text unit, -1 for none.
    n_words : int
        Number of words.

    Returns
    -------
    Heard
        What was heard.

    Example
    -------
    >>> def listener(tokens, lens):
    ...     probs = torch.full((1, 4, 3), 0.01)
    ...     probs[0, [0, 1, 2, 3], [1, 0, 0, 0]] = 0.98
    ...     return probs.log()
    >>> heard = listen(listener, [5, 6], [0, 1], [0, 1], n_words=2)
    >>> [round(word, 2) for word in heard.clarity]
    [0.98, 0.01]
    """
    device = next(
        (p.device for p in getattr(listener, "parameters", list)()), "cpu"
    )
    log_probs = listener(
        torch.as_tensor(list(tokens), device=device)[None],
        torch.ones(1, device=device),
    )[0]
    log_probs = log_probs.float().cpu()
    spoken = [i for i, phoneme in enumerate(phonemes) if phoneme >= 0]
    ids = torch.tensor([phonemes[i] + 1 for i in spoken], dtype=torch.long)
    clarity: list[float | None] = [None] * n_words
    if not spoken:
        return Heard(0.0, clarity)
    cost = F.ctc_loss(
        log_probs[:, None],
        ids[None],
        torch.tensor([len(log_probs)]),
        ids.new_tensor([len(ids)]),
        reduction="sum",
    )
    # A text too long for its speech has no path at all.
    score = max(-float(cost) / len(ids), -LOST_COST)
    probs = log_probs[:, [0, *ids.tolist()]].numpy().clip(-LOST_COST)
    places = monotonic_path(probs, skip_cost=LOST_COST)
    for unit, place, own in zip(spoken, places, probs.T[1:]):
        word = words[unit]
        if word < 0:
            continue
        heard = own[slice(*place)].max(initial=-LOST_COST)
        least = clarity[word]
        heard = float(np.exp(heard))
        clarity[word] = heard if least is None else min(least, heard)
    return Heard(score, clarity)
