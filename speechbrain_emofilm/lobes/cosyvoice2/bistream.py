"""Speech for a text that is still being written (bistream decoding)."""

from collections.abc import Iterator

from speechbrain_emofilm.lobes.cosyvoice2.decoding import CachedQwen2
from speechbrain_emofilm.lobes.cosyvoice2.layout import SOS, TASK
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    Sampler,
    UtteranceNoise,
)

import torch
from torch import nn


class BistreamDecoding:
    """State of one utterance in ``CosyVoice2LM.generate_stream``.

    The sequence grows as ``sequence_layout`` lays out a bistream item. The
    fill token ends a block: the model may draw it early, and after a full
    block it is implied. It is never read: text or the task token follows.

    Arguments
    ---------
    lm : nn.Module
        A ``CosyVoice2LM``.
    prompt_speech : torch.Tensor
        Embeddings of the speech to continue, shape (1, P, C).
    sampler : Sampler
        Chooses tokens.
    seed : int
        Seed of the utterance.
    """

    def __init__(
        self,
        lm: nn.Module,
        prompt_speech: torch.Tensor,
        sampler: Sampler,
        seed: int,
    ):
        self.tokens: list[int] = []
        self.n_text = 0
        self._lm = lm
        self._cached = CachedQwen2(lm.llm)
        self._sampler = sampler
        self._noise = UtteranceNoise([seed])
        self._prompt = prompt_speech  # the part not read yet
        self._text = prompt_speech[:, :0]  # not yet enough for a block
        self._unread = [self._mark(SOS)]

    def add_text(self, embeddings: torch.Tensor) -> Iterator[int]:
        """Speak the blocks that a piece of text (1, T, C) completes."""
        n_text, n_speech = self._lm.mix_ratio
        self.n_text += embeddings.shape[1]
        self._text = torch.cat([self._text, embeddings], 1)
        while self._text.shape[1] >= n_text:
            prompt = self._prompt[:, :n_speech]
            self._unread += [self._text[:, :n_text], prompt]
            self._text = self._text[:, n_text:]
            self._prompt = self._prompt[:, n_speech:]
            yield from self._speak(n_speech - prompt.shape[1], self._lm.fill_id)

    def finish(self, max_len: int) -> Iterator[int]:
        """Speak the rest, up to ``max_len`` tokens in total."""
        self._unread += [self._text, self._mark(TASK), self._prompt]
        yield from self._speak(max_len - len(self.tokens), self._lm.end_id)

    def _speak(self, n_tokens: int, stop_id: int) -> Iterator[int]:
        """Draw tokens until ``stop_id``, ``n_tokens`` at most."""
        lm = self._lm
        for _ in range(n_tokens):
            hidden = self._cached(torch.cat(self._unread, 1))[:, -1]
            self._unread = []
            logits = lm.llm_decoder(hidden).float()
            specials = torch.arange(lm.end_id, logits.shape[1])
            logits[:, specials[specials != stop_id]] = -torch.inf
            token = self._sampler(
                logits.log_softmax(-1),
                torch.tensor([self.tokens], device=logits.device),
                self._noise(torch.tensor([0])).to(logits.device),
            )
            if token == stop_id:
                return
            self.tokens.append(token.item())
            self._unread = [lm.speech_embedding(token)[None].to(hidden)]
            yield self.tokens[-1]

    def _mark(self, row: int) -> torch.Tensor:
        """Return a row of ``llm_embedding`` as an embedding (1, 1, C)."""
        weight = self._lm.llm_embedding.weight[row]
        return weight.view(1, 1, -1).to(self._prompt)
