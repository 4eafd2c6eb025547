"""Speech for a text that is still being written (bistream decoding)."""

from collections.abc import Callable, Hashable, Iterator, Sequence

from speechbrain_emofilm.lobes.cosyvoice2.decoding import CachedQwen2
from speechbrain_emofilm.lobes.cosyvoice2.layout import SOS, TASK
from speechbrain_emofilm.lobes.cosyvoice2.modulation import Embeddings, join
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    DrawnToken,
    TokenDrawing,
    without_gradients,
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
    drawing : TokenDrawing
        Draws the tokens; without an utterance yet.
    seed : int
        Seed of the utterance.
    guidance : float
        Classifier-free guidance; 1 reads the text with its condition only.
    on_text, on_drawn : Optional[Callable]
        As in ``CosyVoice2LM.generate``; the key is 0. Text is told of in the
        pieces in which it is read; that more text is asked for is not told.
    """

    def __init__(
        self,
        lm: nn.Module,
        prompt_speech: torch.Tensor,
        drawing: TokenDrawing,
        seed: int,
        guidance: float = 1.0,
        on_text: Callable[[Hashable, torch.Tensor], None] | None = None,
        on_drawn: Callable[[DrawnToken], None] | None = None,
    ):
        self.tokens: list[int] = []
        self.n_text = 0
        self._lm = lm
        self._cached = CachedQwen2(lm.llm)
        self._guidance = guidance
        self._drawing = drawing
        drawing.join([seed], [guidance])
        n_variants = 1 if guidance == 1.0 else 2
        # The parts of the prompt and of the text that are not read yet.
        self._prompt = prompt_speech.expand(n_variants, -1, -1)
        self._text: Embeddings = self._prompt[:, :0]
        self._unread: list[Embeddings] = [self._mark(SOS)]
        self._text_places: list[slice] = []  # in what is unread
        self._on_text, self._on_drawn = on_text, on_drawn

    def add_text(
        self, piece: Embeddings | Sequence[Embeddings]
    ) -> Iterator[int]:
        """Speak the blocks that a piece of text completes.

        Arguments
        ---------
        piece : Embeddings | Sequence[Embeddings]
            Embeddings with the condition and, for guidance, without it:
            (variants, T, C) or a sequence of (1, T, C).

        Yields
        ------
        token : int
            Next speech token.

        Raises
        ------
        ValueError
            If guidance is used and the piece has no unconditional variant.
        """
        n_text, n_speech = self._lm.mix_ratio
        if isinstance(piece, Sequence):
            piece = join(piece, 0)
        n_variants = len(self._prompt)
        if len(piece) < n_variants:
            raise ValueError(
                f"CosyVoice2LM: guidance {self._guidance} needs pieces of "
                "text with and without their condition, two each."
            )
        embeddings = piece[:n_variants]
        self.n_text += embeddings.shape[1]
        self._text = join([self._text, embeddings], 1)
        while self._text.shape[1] >= n_text:
            prompt = self._prompt[:, :n_speech]
            self._read_text(self._text[:, :n_text])
            self._unread.append(prompt)
            self._text = self._text[:, n_text:]
            self._prompt = self._prompt[:, n_speech:]
            yield from self._speak(n_speech - prompt.shape[1], self._lm.fill_id)

    def finish(self, max_len: int) -> Iterator[int]:
        """Speak the rest, up to ``max_len`` tokens in total."""
        self._read_text(self._text)
        self._unread += [self._mark(TASK), self._prompt]
        yield from self._speak(max_len - len(self.tokens), self._lm.end_id)

    def _read_text(self, text: Embeddings) -> None:
        """Add text to what is to be read."""
        start = sum(part.shape[1] for part in self._unread)
        self._text_places.append(slice(start, start + text.shape[1]))
        self._unread.append(text)

    def _speak(self, n_tokens: int, stop_id: int) -> Iterator[int]:
        """Draw tokens until ``stop_id``, ``n_tokens`` at most."""
        for _ in range(n_tokens):
            token = self._draw(stop_id)
            if token == stop_id:
                return
            self.tokens.append(token)
            yield token

    @without_gradients
    def _draw(self, stop_id: int) -> int:
        """Read what is new and draw a token, which is read next."""
        states = self._cached(join(self._unread, 1))
        hidden = states[:, -1]
        if self._on_text is not None:
            for place in self._text_places:
                self._on_text(0, states[0, place])
        self._unread, self._text_places = [], []
        tokens = self._drawing.draw(hidden, [stop_id])
        token = int(tokens)
        is_end = token == self._lm.end_id
        if self._on_drawn is not None and (token != stop_id or is_end):
            said = None if is_end else token
            self._on_drawn(DrawnToken(0, said, is_end, hidden[0]))
        if token != stop_id:
            self._drawing.record(tokens)
            self._unread = [self._drawing.embed(tokens)]
        return token

    def _mark(self, row: int) -> torch.Tensor:
        """Return a row of ``llm_embedding`` as embeddings (variants, 1, C)."""
        weight = self._lm.llm_embedding.weight[row].to(self._prompt)
        return weight.expand(len(self._prompt), 1, -1)
