"""Prompts for training: an utterance behind another one of its speaker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prompt:
    """An utterance that another one may be prompted with.

    Arguments
    ---------
    text : str
        Its sentence.
    text_tokens : torch.Tensor
        Text tokens of the sentence, long, shape (T,).
    speech_tokens : torch.Tensor
        Speech tokens of the utterance, long, shape (S,).
    """

    text: str
    text_tokens: torch.Tensor
    speech_tokens: torch.Tensor


class PromptPool:
    """Utterances by speaker that precede others in training.

    A zero-shot model continues a recording of the speaker: it reads the text
    of the prompt, the text to speak and the speech of the prompt, and predicts
    the rest. Training on this layout makes it the one that is used.

    Arguments
    ---------
    prompts : dict
        Speaker to a list of Prompt.
    share : float
        Share of the utterances that get a prompt, 0 to 1.

    Raises
    ------
    ValueError
        If the share is not within 0 to 1.

    Example
    -------
    >>> one = Prompt("We won.", torch.tensor([1, 2]), torch.tensor([7, 8, 9]))
    >>> pool = PromptPool({"0011": [one]}, share=1.0)
    >>> chosen = pool.choose(["0011", "0012"], ["He left.", "He left."])
    >>> [prompt and prompt.text for prompt in chosen]
    ['We won.', None]
    """

    def __init__(
        self, prompts: Mapping[str, Sequence[Prompt]], share: float = 1.0
    ):
        if not 0 <= share <= 1:
            raise ValueError(
                f"prompt_share is {share}: give a share from 0 to 1."
            )
        self.prompts = prompts
        self.share = share

    def choose(
        self, speakers: Sequence[str], texts: Sequence[str]
    ) -> list[Prompt | None]:
        """Draw a prompt for some utterances of a batch.

        Torch's global random numbers decide, so that a resumed training draws
        the same.

        Arguments
        ---------
        speakers : list of str
            Speaker of each utterance.
        texts : list of str
            Sentence of each utterance; its prompt has another one.

        Returns
        -------
        list of Prompt or None
            One for each utterance; None where none is drawn or the speaker
            has no other sentence.
        """
        coins, places = torch.rand(2, len(texts)).tolist()
        chosen: list[Prompt | None] = []
        for speaker, text, coin, place in zip(speakers, texts, coins, places):
            others = [
                prompt
                for prompt in self.prompts.get(speaker, ())
                if prompt.text != text
            ]
            drawn = coin < self.share and len(others) > 0
            chosen.append(others[int(place * len(others))] if drawn else None)
        return chosen
