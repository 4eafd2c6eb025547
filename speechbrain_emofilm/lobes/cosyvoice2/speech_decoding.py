"""Step-by-step decoding of speech tokens, the engine of all generation.

``SpeechDecoding`` speaks utterances together that may join and leave between
any two tokens; ``TokenDrawing`` scores and draws the tokens, there and in
``BistreamDecoding``.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

from speechbrain_emofilm.lobes.cosyvoice2.decoding import CachedQwen2
from speechbrain_emofilm.lobes.cosyvoice2.layout import IGNORE, SOS, TASK
from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    Embeddings,
    join,
    plain,
    transform,
)
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    RepetitionAwareSampler,
    Sampler,
    UtteranceNoise,
    candidate_columns,
)

import torch
import torch.nn.functional as F
from torch import nn

_ROOM = 128  # tokens by which the history grows
_FEW = 64  # tokens for each candidate from which on only these are looked at
_INFERENCE_DEVICES = ("cpu", "cuda")


def without_gradients(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of an object with a ``_lm`` without gradients.

    Inference mode costs less per operation than ``no_grad``, but not every
    other backend supports its tensors.
    """

    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        device = self._lm.llm_embedding.weight.device.type
        is_inference = device in _INFERENCE_DEVICES
        with torch.inference_mode() if is_inference else torch.no_grad():
            return method(self, *args, **kwargs)

    return run


class TokenDrawing:
    """Score and draw the next tokens of utterances decoded together.

    An utterance with a guidance other than 1 is read twice, with and without
    its condition: all utterances come first, then the unconditional variants
    of the guided ones, in the same order.

    Arguments
    ---------
    lm : nn.Module
        A ``CosyVoice2LM``.
    sampler : Optional[Sampler]
        Chooses tokens; a ``RepetitionAwareSampler`` if None.
    candidate_top_k : Optional[int]
        See ``CosyVoice2LM.generate``.
    candidate_top_p : float
        See ``CosyVoice2LM.generate``.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> lm = CosyVoice2LM(dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2,
    ...     num_key_value_heads=1), speech_token_size=27)
    >>> drawing = TokenDrawing(lm)
    >>> drawing.join(seeds=[1, 2], guidances=[1.0, 2.5])
    >>> drawing.variants([0, 1])
    [0, 1, 2]
    >>> with torch.no_grad():
    ...     tokens = drawing.draw(torch.randn(3, 16), [None, lm.end_id])
    ...     drawing.record(tokens)
    ...     drawing.embed(tokens).shape
    torch.Size([3, 1, 16])
    """

    def __init__(
        self,
        lm: nn.Module,
        sampler: Sampler | None = None,
        candidate_top_k: int | None = None,
        candidate_top_p: float = 1.0,
    ):
        self._lm = lm
        self._sampler = sampler or RepetitionAwareSampler()
        self._top_k, self._top_p = candidate_top_k, candidate_top_p
        weight = lm.llm_embedding.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._guidances: list[float] = []
        self._noise = UtteranceNoise(device=self._device)
        # Tokens so far, -1 before the first, (B, room), and how many columns
        # the longest utterance fills.
        self._spoken = torch.full((0, _ROOM), IGNORE, device=self._device)
        self._n_spoken: list[int] = []
        self._width = 0
        self._changed()

    def __len__(self) -> int:
        """Return the number of utterances B."""
        return len(self._guidances)

    def _changed(self) -> None:
        """Renew what depends on which utterances there are."""
        guided = [i for i, w in enumerate(self._guidances) if w != 1.0]
        self._guided, self._n_guided = guided, len(guided)
        # The same on the device, needed if not all are guided.
        self._guided_rows = torch.tensor(
            guided, dtype=torch.long, device=self._device
        )
        self._weights = torch.tensor(
            [[self._guidances[i]] for i in guided], device=self._device
        )
        self._allowed: list[int | None] | None = None
        self._forbidden: torch.Tensor | None = None

    def join(self, seeds: Sequence[int], guidances: Sequence[float]) -> None:
        """Add utterances with these seeds and guidances, behind the others."""
        self._guidances += guidances
        self._noise.join(seeds)
        self._n_spoken += [0] * len(seeds)
        self._spoken = F.pad(self._spoken, (0, 0, 0, len(seeds)), value=IGNORE)
        self._changed()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the utterances of these indices and forget the others."""
        self._guidances = [self._guidances[row] for row in rows]
        self._noise.keep(rows)
        self._n_spoken = [self._n_spoken[row] for row in rows]
        unused = self._width - max(self._n_spoken, default=0)
        index = torch.tensor(rows, dtype=torch.long, device=self._device)
        self._spoken = self._spoken[:, unused:].index_select(0, index)
        self._width -= unused
        self._changed()

    def variants(self, rows: Sequence[int]) -> list[int]:
        """Return the rows of the language model that read utterances."""
        places = {row: i for i, row in enumerate(self._guided, len(self))}
        return [*rows, *(places[row] for row in rows if row in places)]

    def draw(
        self, hidden: torch.Tensor, allowed: Sequence[int | None]
    ) -> torch.Tensor:
        """Draw the next token of every utterance.

        Arguments
        ---------
        hidden : torch.Tensor
            Hidden states of all variants, shape (B + guided, C).
        allowed : Sequence[Optional[int]]
            The only special id that each utterance may draw, if any.

        Returns
        -------
        tokens : torch.Tensor
            Shape (B,); not part of the history yet, see ``record``.
        """
        logits, ids = self._score(hidden, self._forbid(allowed))
        drawn_from = (
            logits.log_softmax(-1),
            self._spoken[:, : self._width],
            self._noise(),
        )
        if ids is None:
            return self._sampler(*drawn_from)
        return self._sampler(*drawn_from, ids)

    def record(self, tokens: torch.Tensor) -> None:
        """Append tokens (B,) to the utterances' histories."""
        if self._width == self._spoken.shape[1]:
            self._spoken = F.pad(self._spoken, (0, _ROOM), value=IGNORE)
        self._spoken[:, self._width] = tokens
        self._width += 1
        self._n_spoken = [n + 1 for n in self._n_spoken]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens (B,) for all variants, shape (B + guided, 1, C)."""
        embeddings = self._lm.speech_embedding(tokens).to(self._dtype)
        if self._n_guided == len(self):
            embeddings = embeddings.repeat(2, 1)
        elif self._n_guided:
            guided = embeddings[self._guided_rows]
            embeddings = torch.cat([embeddings, guided])
        return embeddings.unsqueeze(1)

    def _forbid(self, allowed: Sequence[int | None]) -> torch.Tensor:
        """Build the mask of forbidden tokens, bool, shape (B, V + 3)."""
        allowed = list(allowed)
        if self._forbidden is None or self._allowed != allowed:
            lm = self._lm
            ids = torch.arange(lm.fill_id + 1)
            forbidden = (ids >= lm.end_id).repeat(len(allowed), 1)
            for row, special in enumerate(allowed):
                if special is not None:
                    forbidden[row, special] = False
            self._forbidden = forbidden.to(self._device)
            self._allowed = allowed
        return self._forbidden

    def _score(
        self, hidden: torch.Tensor, forbidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the scores of the next tokens.

        They are those of all tokens, shape (B, V + 3), and None, or those of
        some columns and the columns' ids, see ``candidate_columns``.
        """
        logits = self._lm.llm_decoder(hidden).float()
        conditional = logits[: len(self)]
        if self._n_guided:
            logits = self._guide(conditional, logits[len(self) :])
        logits = logits.masked_fill(forbidden, -torch.inf)
        if self._top_k is None and self._top_p >= 1:
            return logits, None
        # Guidance compares probabilities: it may prefer a token that is
        # improbable both with and without the condition.
        if self._n_guided:
            conditional = conditional.masked_fill(forbidden, -torch.inf)
        else:
            conditional = logits
        n_candidates = self._top_k or logits.shape[1]
        probs, ids = conditional.softmax(-1).topk(n_candidates, -1)
        outside = probs.cumsum(-1) - probs >= self._top_p
        # The end is a candidate like any other: if it always were one, the
        # redraw of an almost certain repeated token would end the speech.
        candidates = logits.gather(1, ids).masked_fill(outside, -torch.inf)
        few = n_candidates * _FEW < logits.shape[1]
        if few and getattr(self._sampler, "takes_ids", False):
            return candidate_columns(candidates, ids)
        logits = torch.full_like(logits, -torch.inf)
        return logits.scatter(1, ids, candidates), None

    def _guide(
        self, conditional: torch.Tensor, unconditional: torch.Tensor
    ) -> torch.Tensor:
        """Apply the guidances to the logits (B, V + 3) of all utterances."""
        if self._n_guided == len(self):
            return unconditional + self._weights * (conditional - unconditional)
        guided = conditional[self._guided_rows]
        guided = unconditional + self._weights * (guided - unconditional)
        return conditional.index_copy(0, self._guided_rows, guided)


@dataclass
class Utterance:
    """What ``SpeechDecoding`` needs to know to speak a text.

    Arguments
    ---------
    key : Hashable
        Name of the utterance, unique among those that are decoded together.
    text : torch.Tensor | ModulatedEmbeddings
        Embedded prompt text, if any, followed by the text, shape (T, C).
    max_len : int
        Maximum number of speech tokens.
    min_len : int
        Number of speech tokens before which the speech does not end.
    prompt_tokens : Optional[torch.Tensor]
        Speech of the prompt text, which is continued, shape (P,).
    unconditional : Optional[torch.Tensor | ModulatedEmbeddings]
        The text without its condition, for guidance, shape (T, C).
    guidance : float
        Classifier-free guidance, see ``CosyVoice2LM.generate``; 1 needs no
        ``unconditional`` and costs nothing.
    seed : int
        Random seed.
    """

    key: Hashable
    text: Embeddings
    max_len: int
    min_len: int = 0
    prompt_tokens: torch.Tensor | None = None
    unconditional: Embeddings | None = None
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.guidance != 1.0 and self.unconditional is None:
            raise ValueError(
                f"CosyVoice2LM: guidance {self.guidance} needs the "
                f"unconditional embeddings of utterance {self.key!r}."
            )
        if not 0 <= self.min_len <= self.max_len or self.max_len < 1:
            raise ValueError(
                f"CosyVoice2LM: utterance {self.key!r} has lengths from "
                f"{self.min_len} to {self.max_len} tokens; give a minimum of "
                "at least 0 and a maximum of at least 1 that is no smaller."
            )


class DrawnToken(NamedTuple):
    """What a step drew for one utterance.

    Arguments
    ---------
    key : Hashable
        The utterance.
    token : Optional[int]
        Speech token; None for the end.
    is_last : bool
        Whether the utterance has left. With a token, it was cut at its
        maximum length.
    hidden : torch.Tensor
        Hidden state of the position that predicted the token, with the
        condition, shape (C,); an inference tensor on CPU and CUDA.
    """

    key: Hashable
    token: int | None
    is_last: bool
    hidden: torch.Tensor


class SpeechDecoding:
    """Speak utterances together that join and leave between any two tokens.

    Each utterance gets the tokens that it gets alone, whatever joins or
    leaves. One that ends leaves by itself and makes room for one that waits.

    Arguments
    ---------
    lm : nn.Module
        A ``CosyVoice2LM``.
    sampler : Optional[Sampler]
        Chooses tokens; a ``RepetitionAwareSampler`` if None.
    candidate_top_k : Optional[int]
        See ``CosyVoice2LM.generate``.
    candidate_top_p : float
        See ``CosyVoice2LM.generate``.
    max_rows : Optional[int]
        Maximum number of utterances that are decoded at once; further ones
        wait. No limit if None.
    on_text : Optional[Callable]
        Called with the key of an utterance and the hidden states at its text
        tokens, with the condition, (T, C), when its text has been read.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> lm = CosyVoice2LM(dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2,
    ...     num_key_value_heads=1), speech_token_size=27)
    >>> def utterance(key, n_tokens):
    ...     text = lm.embed_text(torch.arange(4))
    ...     return Utterance(key, text, max_len=n_tokens, min_len=n_tokens)
    >>> decoding = SpeechDecoding(lm, max_rows=2)
    >>> decoding.join([utterance("a", 2), utterance("b", 3)])
    >>> steps = [decoding.step()]
    >>> decoding.join([utterance("c", 1)])
    >>> while len(decoding):
    ...     steps.append(decoding.step())
    >>> [[drawn.key for drawn in step] for step in steps]
    [['a', 'b'], ['a', 'b'], ['b', 'c']]
    """

    def __init__(
        self,
        lm: nn.Module,
        sampler: Sampler | None = None,
        candidate_top_k: int | None = None,
        candidate_top_p: float = 1.0,
        max_rows: int | None = None,
        on_text: Callable[[Hashable, torch.Tensor], None] | None = None,
    ):
        if max_rows is not None and max_rows < 1:
            raise ValueError(
                f"SpeechDecoding: max_rows {max_rows} must be at least 1."
            )
        self._lm = lm
        self._max_rows = max_rows
        self._on_text = on_text
        self._waiting: list[Utterance] = []
        self._live: list[Utterance] = []
        self._drawing = TokenDrawing(
            lm, sampler, candidate_top_k, candidate_top_p
        )
        # The last token of each live utterance, (B,), not read yet.
        self._tokens: torch.Tensor | None = None
        self._n_drawn: list[int] = []
        self._cached: CachedQwen2 | None = None

    def __len__(self) -> int:
        """Return the number of utterances that speak or wait."""
        return len(self._live) + len(self._waiting)

    @property
    def n_live(self) -> int:
        """Number of utterances that have begun to speak."""
        return len(self._live)

    def join(self, utterances: Iterable[Utterance]) -> None:
        """Add utterances, which begin with the next step that has room.

        Arguments
        ---------
        utterances : Iterable[Utterance]
            Those with many and with few text tokens are padded to the same
            size while their text is read.

        Raises
        ------
        ValueError
            If a key is in use.
        """
        new = list(utterances)
        keys = [u.key for u in [*self._live, *self._waiting, *new]]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(
                f"SpeechDecoding: there are two utterances with the key "
                f"{twice!r}; give each its own."
            )
        self._waiting += new

    @without_gradients
    def leave(self, key: Hashable) -> None:
        """Remove an utterance; does nothing if it has ended already."""
        self._waiting = [u for u in self._waiting if u.key != key]
        going = [i for i, u in enumerate(self._live) if u.key != key]
        if len(going) < len(self._live):
            self._keep(going)

    @without_gradients
    def step(self) -> list[DrawnToken]:
        """Draw one token for every utterance, after letting waiting ones in.

        Returns
        -------
        drawn : List[DrawnToken]
            One item for each utterance, in the order in which they joined;
            empty if there are none.
        """
        hidden = self._read()
        if hidden is None:
            return []
        live, end_id = self._live, self._lm.end_id
        allowed = [
            end_id if n >= utterance.min_len else None
            for n, utterance in zip(self._n_drawn, live)
        ]
        self._tokens = self._drawing.draw(hidden, allowed)
        drawn, going = [], []
        for row, (utterance, token, state) in enumerate(
            zip(live, self._tokens.tolist(), hidden.unbind())
        ):
            if token == end_id:
                drawn.append(DrawnToken(utterance.key, None, True, state))
                continue
            self._n_drawn[row] += 1
            is_last = self._n_drawn[row] >= utterance.max_len
            drawn.append(DrawnToken(utterance.key, token, is_last, state))
            if not is_last:
                going.append(row)
        if len(going) < len(live):
            self._keep(going)
        if going:
            self._drawing.record(self._tokens)
        return drawn

    def _keep(self, rows: list[int]) -> None:
        """Keep these live utterances only."""
        variants = self._drawing.variants(rows)
        self._drawing.keep(rows)
        self._live = [self._live[row] for row in rows]
        self._n_drawn = [self._n_drawn[row] for row in rows]
        if not rows:
            self._cached = self._tokens = None
            return
        assert self._cached is not None and self._tokens is not None
        self._cached.keep(variants)
        index = torch.tensor(rows, device=self._tokens.device)
        self._tokens = self._tokens[index]

    def _read(self) -> torch.Tensor | None:
        """Read what is new of all utterances, and let waiting ones in.

        Returns the last hidden states of all variants, (B + guided, C); None
        if there is no utterance.
        """
        room = len(self._waiting)
        if self._max_rows is not None:
            room = min(room, self._max_rows - len(self._live))
        hidden = new_hidden = None
        if room:
            new = self._waiting[:room]
            prefixes = [
                self._prefix(u, text)
                for texts in (
                    [(u, u.text) for u in new],
                    [(u, u.unconditional) for u in new if u.guidance != 1.0],
                )
                for u, text in texts
            ]
            size = max(len(prefix) for prefix in prefixes)
            padding = [size - len(prefix) for prefix in prefixes]
            cached = CachedQwen2(self._lm.llm, padding)
            states = cached(_stack(prefixes, padding))
            new_hidden = states[:, -1]
            if self._on_text is not None:
                for u, own, n in zip(new, states, padding):
                    # Behind the padding and the first mark.
                    self._on_text(u.key, own[n + 1 : n + 1 + len(u.text)])
        if self._live:
            assert self._cached is not None and self._tokens is not None
            hidden = self._cached(self._drawing.embed(self._tokens))[:, -1]
        if new_hidden is None:
            return hidden
        n_live, n_variants = (
            len(self._live),
            0 if hidden is None else len(hidden),
        )
        del self._waiting[:room]
        self._live += new
        self._n_drawn += [0] * room
        self._drawing.join([u.seed for u in new], [u.guidance for u in new])
        if hidden is None:
            self._cached = cached
            return new_hidden
        # All utterances, then the unconditional variants.
        n_new = len(new_hidden)
        order = [
            *range(n_live),
            *range(n_variants, n_variants + room),
            *range(n_live, n_variants),
            *range(n_variants + room, n_variants + n_new),
        ]
        assert self._cached is not None
        self._cached.merge(cached, order)
        index = torch.tensor(order, device=hidden.device)
        return torch.cat([hidden, new_hidden])[index]

    def _prefix(
        self, utterance: Utterance, text: Embeddings | None
    ) -> Embeddings:
        """Embed everything before the first new token, shape (L, C)."""
        assert text is not None
        lm, tokens = self._lm, utterance.prompt_tokens
        marks = lm.llm_embedding.weight.to(plain(text))
        parts: list[Embeddings] = [
            marks[SOS : SOS + 1],
            text,
            marks[TASK : TASK + 1],
        ]
        if tokens is not None:
            tokens = tokens.to(text.device)
            parts.append(lm.speech_embedding(tokens).to(plain(text)))
        return join(parts, 0)


def _stack(rows: Sequence[Embeddings], padding: Sequence[int]) -> Embeddings:
    """Stack rows (L_i, C) with so many positions of padding on their left."""

    def pad(row: Embeddings, n: int) -> Embeddings:
        return transform(row, lambda x: F.pad(x, (0, 0, n, 0))[None])

    return join([pad(row, n) for row, n in zip(rows, padding)], 0)
