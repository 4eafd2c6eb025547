"""CosyVoice2's language model: from text to 25 Hz speech tokens.

A Qwen2 decoder reads ``[sos, text, task, speech]`` and predicts the speech
(Du et al., CosyVoice 2, 2024). Module names follow the released checkpoint,
which :func:`~speechbrain_emofilm.integrations.cosyvoice2.checkpoint.load_llm`
reads. Qwen2's text head is omitted, as speech does not need it.
"""

import logging
from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass

from speechbrain_emofilm.lobes.cosyvoice2.bistream import BistreamDecoding
from speechbrain_emofilm.lobes.cosyvoice2.layout import (
    FILL,
    IGNORE,
    SequenceLayout,
    sequence_layout,
)
from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    Embeddings,
    join,
    plain,
    transform,
)
from speechbrain_emofilm.lobes.cosyvoice2.qwen2 import (
    Qwen2Config,
    Qwen2Model,
)
from speechbrain_emofilm.lobes.cosyvoice2.sampling import Sampler
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    DrawnToken,
    SpeechDecoding,
    TokenDrawing,
    Utterance,
)
from speechbrain_emofilm.lobes.cosyvoice2.trunk import read_packed

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

logger = logging.getLogger(__name__)

N_SPECIAL = 3  # end, one that upstream does not use, fill


@dataclass
class LMOutput:
    """Result of a teacher-forced pass; N supervised positions in the batch.

    Arguments
    ---------
    logits : torch.Tensor
        Logits at the supervised positions, item by item, shape (N, V + 3).
    targets : torch.Tensor
        Tokens to predict there, shape (N,).
    hidden : torch.Tensor
        Last hidden states, shape (B, S + 1, C): ``hidden[:, t]`` predicts
        speech token t, and the end at t = number of tokens.
    supervised : torch.Tensor
        Whether each ``hidden`` predicts a token, bool, shape (B, S + 1).
    text_hidden : torch.Tensor
        Last hidden states at the text tokens, shape (B, T, C); any in padding.
    text_positions : torch.Tensor
        Sequence position of each text token, shape (B, T); 0 in padding.
    speech_positions : torch.Tensor
        Sequence position of each ``hidden``, shape (B, S + 1); 0 in padding.
    attentions : Optional[Tuple[torch.Tensor, ...]]
        Attention weights of each layer (B, heads, L, L), if requested.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    hidden: torch.Tensor
    supervised: torch.Tensor
    text_hidden: torch.Tensor
    text_positions: torch.Tensor
    speech_positions: torch.Tensor
    attentions: tuple[torch.Tensor, ...] | None = None


class CosyVoice2LM(nn.Module):
    """Text-to-speech-token language model on ``transformers.Qwen2Model``.

    With V speech tokens, id V ends the speech, V + 1 is unused and V + 2
    (fill) asks for more text in a bistream sequence. ``sequence_layout``
    shows the sequences.

    Arguments
    ---------
    qwen2 : dict
        Arguments of ``transformers.Qwen2Config``.
    speech_token_size : int
        Number V of speech tokens.
    speech_embedding : Optional[nn.Module]
        Maps ids (...) below V + 3 to (..., C); an ``nn.Embedding`` if None.
    llm_decoder : Optional[nn.Module]
        Maps (..., C) to logits (..., V + 3); an ``nn.Linear`` if None.
    mix_ratio : Tuple[int, int]
        Text and speech tokens in a block of a bistream sequence.
    frozen : bool
        Whether only ``llm_decoder`` is trained (see ``freeze``).
    attn_implementation : str
        Attention of the Qwen2 model; to return its weights, "eager".

    Example
    -------
    >>> qwen2 = dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    >>> lm = CosyVoice2LM(qwen2, speech_token_size=27)
    >>> text = lm.embed_text(torch.randint(40, (2, 6)))
    >>> text_lens = torch.tensor([1.0, 0.5])
    >>> speech = torch.randint(27, (2, 8))
    >>> out = lm(text, text_lens, speech, torch.tensor([0.75, 1.0]))
    >>> out.logits.shape, out.targets.shape, out.hidden.shape
    (torch.Size([16, 30]), torch.Size([16]), torch.Size([2, 9, 16]))
    >>> [len(tokens) <= 10 for tokens in lm.generate(
    ...     text, text_lens, min_ratio=1.0, max_ratio=10 / 6
    ... )]
    [True, True]
    """

    def __init__(
        self,
        qwen2: dict,
        speech_token_size: int = 6561,
        speech_embedding: nn.Module | None = None,
        llm_decoder: nn.Module | None = None,
        mix_ratio: tuple[int, int] = (5, 15),
        frozen: bool = True,
        attn_implementation: str = "sdpa",
    ):
        super().__init__()
        config = Qwen2Config(**qwen2, attn_implementation=attn_implementation)
        dim, vocabulary = config.hidden_size, speech_token_size + N_SPECIAL
        self.llm = Qwen2Model(config)
        self.llm_embedding = self._embedding(2)
        if speech_embedding is None:
            speech_embedding = self._embedding(vocabulary)
        if llm_decoder is None:
            llm_decoder = nn.Linear(dim, vocabulary)
        self.speech_embedding = speech_embedding
        self.llm_decoder = llm_decoder
        self.speech_token_size = speech_token_size
        self.end_id = speech_token_size
        self.fill_id = speech_token_size + N_SPECIAL - 1
        self.mix_ratio = (mix_ratio[0], mix_ratio[1])
        self.frozen = False
        if frozen:
            self.freeze()

    def _embedding(self, n_rows: int) -> nn.Embedding:
        """Create an embedding at the scale of the text embedding."""
        embedding = nn.Embedding(n_rows, self.llm.config.hidden_size)
        nn.init.normal_(embedding.weight, std=self.llm.config.initializer_range)
        return embedding

    def freeze(self) -> None:
        """Train only ``llm_decoder``, and disable dropout for good."""
        self.requires_grad_(False)
        self.llm_decoder.requires_grad_(True)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "CosyVoice2LM":
        """Set the training mode; a frozen model stays in evaluation mode.

        ``Brain`` calls ``modules.train()`` before every epoch, which would
        enable the dropout of a frozen model.
        """
        return super().train(mode and not self.frozen)

    def embed_text(self, text_tokens: torch.Tensor) -> torch.Tensor:
        """Embed text tokens (B, T) as vectors (B, T, C)."""
        return self.llm.embed_tokens(text_tokens)

    def forward(
        self,
        text_embeddings: Embeddings,
        text_lens: torch.Tensor,
        speech_tokens: torch.Tensor,
        speech_lens: torch.Tensor,
        history: torch.Tensor | None = None,
        n_prompt: torch.Tensor | None = None,
        bistream_probability: float = 0.0,
        generator: torch.Generator | None = None,
        output_attentions: bool = False,
    ) -> LMOutput:
        """Predict every speech token from those before it.

        Arguments
        ---------
        text_embeddings : torch.Tensor | ModulatedEmbeddings
            Shape (B, T, C).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        speech_tokens : torch.Tensor
            Tokens to predict, shape (B, S).
        speech_lens : torch.Tensor
            Relative lengths of the speech, shape (B,).
        history : Optional[torch.Tensor]
            Tokens to read instead of ``speech_tokens``, such as a corrupted
            copy, shape (B, S).
        n_prompt : Optional[torch.Tensor]
            Number of each item's first speech tokens that are a prompt: they
            are read but not predicted, long, shape (B,).
        bistream_probability : float
            Share of the items laid out as bistream, if they have enough
            speech.
        generator : Optional[torch.Generator]
            CPU generator of the one draw per item that decides this.
        output_attentions : bool
            Whether to return the attention weights.

        Raises
        ------
        ValueError
            If attention weights are requested and ``attn_implementation`` is
            not "eager".
        """
        if (
            output_attentions
            and self.llm.config._attn_implementation != "eager"
        ):
            raise ValueError(
                "CosyVoice2LM: output_attentions needs attn_implementation "
                f"'eager', not '{self.llm.config._attn_implementation}'."
            )
        n_text = _absolute(text_lens, text_embeddings.shape[1])
        n_speech = _absolute(speech_lens, speech_tokens.shape[1])
        coins = torch.rand(len(n_text), generator=generator)
        layout = self._layout(
            n_text, n_speech, coins < bistream_probability, text_embeddings
        )
        if n_prompt is not None:
            predicts = layout.predicts
            given = (predicts >= 0) & (predicts < n_prompt.unsqueeze(1))
            layout.predicts = predicts.masked_fill(given, IGNORE)
        read = speech_tokens if history is None else history
        embeddings = self._embed(layout, text_embeddings, read, n_speech)
        attentions = None
        if output_attentions:
            output = self.llm(
                inputs_embeds=embeddings,
                attention_mask=layout.mask,
                output_attentions=True,
                use_cache=False,
            )
            hidden, attentions = output.last_hidden_state, output.attentions
        else:
            hidden = read_packed(self.llm, embeddings, layout.mask)
        return self._collect(
            layout,
            hidden,
            attentions,
            text_embeddings.shape[1],
            speech_tokens,
            n_speech,
        )

    def _layout(
        self,
        n_text: torch.Tensor,
        n_speech: torch.Tensor,
        interleaved: torch.Tensor,
        text: Embeddings,
    ) -> SequenceLayout:
        """Lay sequences out, on the device of embedded text (B, T, C)."""
        layout = sequence_layout(
            n_text.tolist(),
            n_speech.tolist(),
            interleaved.tolist(),
            text.shape[1],
            self.mix_ratio,
        )
        return SequenceLayout(
            layout.source.to(text.device),
            layout.predicts.to(text.device),
            layout.mask.to(text.device),
        )

    def _embed(
        self,
        layout: SequenceLayout,
        text: Embeddings,
        speech_tokens: torch.Tensor,
        n_speech: torch.Tensor,
    ) -> Embeddings:
        """Embed the sequences, shape (B, L, C)."""
        # Padding may hold -1, which is no id.
        valid = length_to_mask(n_speech, speech_tokens.shape[1]).bool()
        speech_tokens = speech_tokens.masked_fill(
            ~valid.to(speech_tokens.device), 0
        )
        marks = self.llm_embedding.weight.to(plain(text))
        speech = self.speech_embedding(speech_tokens).to(plain(text))
        parts = join([marks.expand(len(text), -1, -1), text, speech], dim=1)
        return transform(parts, lambda x: _take(x, layout.source))

    def _collect(
        self,
        layout: SequenceLayout,
        hidden: torch.Tensor,
        attentions: tuple[torch.Tensor, ...] | None,
        text_size: int,
        speech_tokens: torch.Tensor,
        n_speech: torch.Tensor,
    ) -> LMOutput:
        """Collect logits and targets at the supervised positions."""
        predicts = layout.predicts
        tokens = F.pad(speech_tokens, (0, 1))
        ends = n_speech.to(tokens.device).unsqueeze(1)
        tokens = tokens.scatter(1, ends, self.end_id)
        targets = tokens.gather(1, predicts.clamp(min=0))
        targets = targets.masked_fill(predicts == FILL, self.fill_id)
        supervised = predicts != IGNORE

        is_text = (layout.source >= 2) & (layout.source < 2 + text_size)
        text_index = torch.where(is_text, layout.source - 2, IGNORE)
        text_positions, _ = _places(text_index, text_size)
        speech_positions, speech_found = _places(predicts, tokens.shape[1])
        return LMOutput(
            logits=self.llm_decoder(hidden[supervised]),
            targets=targets[supervised],
            hidden=_take(hidden, speech_positions),
            supervised=speech_found,
            text_hidden=_take(hidden, text_positions),
            text_positions=text_positions,
            speech_positions=speech_positions,
            attentions=attentions,
        )

    @torch.no_grad()
    def generate(
        self,
        text_embeddings: Embeddings,
        text_lens: torch.Tensor,
        prompt_speech_tokens: torch.Tensor | None = None,
        prompt_speech_lens: torch.Tensor | None = None,
        unconditional_embeddings: Embeddings | None = None,
        guidance: float = 1.0,
        candidate_top_k: int | None = None,
        candidate_top_p: float = 1.0,
        sampler: Sampler | None = None,
        min_ratio: float = 2.0,
        max_ratio: float = 20.0,
        n_target_text: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        on_text: Callable[[Hashable, torch.Tensor], None] | None = None,
        on_drawn: Callable[[DrawnToken], None] | None = None,
    ) -> list[torch.Tensor]:
        """Generate the speech of a batch; each item equals the item alone.

        Ids V + 1 and V + 2 are never drawn, and the end is not drawn before
        the minimum length; upstream ends the speech at V + 1 or V + 2.

        Arguments
        ---------
        text_embeddings : torch.Tensor | ModulatedEmbeddings
            Prompt text, if any, followed by the text, shape (B, T, C).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        prompt_speech_tokens : Optional[torch.Tensor]
            Speech of the prompt text, which is continued, shape (B, P).
        prompt_speech_lens : Optional[torch.Tensor]
            Relative lengths of the prompts' speech, shape (B,).
        unconditional_embeddings : Optional[torch.Tensor | ModulatedEmbeddings]
            Text without its condition, for guidance, shape (B, T, C).
        guidance : float
            Classifier-free guidance w: logits are
            ``unconditional + w * (conditional - unconditional)``.
        candidate_top_k : Optional[int]
            Number of tokens, the most probable by the conditional logits,
            that can be chosen at all, whatever guidance or the redraw of a
            repeated token prefers; all if None, as upstream.
        candidate_top_p : float
            Keep only the most probable of these candidates that together
            reach this probability.
        sampler : Optional[Sampler]
            Chooses tokens; a ``RepetitionAwareSampler`` if None.
        min_ratio, max_ratio : float
            Minimum and maximum number of speech tokens per token of target
            text.
        n_target_text : Optional[Sequence[int]]
            Number of text tokens after the prompt text; all if None.
        seeds : Optional[Sequence[int]]
            One random seed per item; 0 if None.
        on_text : Optional[Callable]
            As in ``SpeechDecoding``; an item's key is its index.
        on_drawn : Optional[Callable]
            Called with everything that is drawn.

        Returns
        -------
        speech_tokens : List[torch.Tensor]
            New tokens of each item, without the end, shape (S_i,).

        Raises
        ------
        ValueError
            If an item has no text to speak, the ratios contradict each
            other, or guidance is used without unconditional embeddings.
        """
        utterances = self.utterances(
            text_embeddings,
            text_lens,
            prompt_speech_tokens,
            prompt_speech_lens,
            unconditional_embeddings,
            guidance,
            min_ratio,
            max_ratio,
            n_target_text,
            seeds,
        )
        decoding = SpeechDecoding(
            self, sampler, candidate_top_k, candidate_top_p, on_text=on_text
        )
        decoding.join(utterances)
        spoken: list[list[int]] = [[] for _ in utterances]
        cut = []
        while len(decoding):
            for drawn in decoding.step():
                item, token, is_last, _ = drawn
                if on_drawn is not None:
                    on_drawn(drawn)
                if token is not None:
                    spoken[item].append(token)
                    if is_last:
                        cut.append(item)
        _report_cut(cut)
        device = text_embeddings.device
        return [
            torch.tensor(tokens, dtype=torch.long, device=device)
            for tokens in spoken
        ]

    def generate_tokens(
        self,
        text_embeddings: Embeddings,
        text_lens: torch.Tensor | None = None,
        prompt_speech_tokens: torch.Tensor | None = None,
        prompt_speech_lens: torch.Tensor | None = None,
        unconditional_embeddings: Embeddings | None = None,
        guidance: float = 1.0,
        candidate_top_k: int | None = None,
        candidate_top_p: float = 1.0,
        sampler: Sampler | None = None,
        min_ratio: float = 2.0,
        max_ratio: float = 20.0,
        n_target_text: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        on_text: Callable[[Hashable, torch.Tensor], None] | None = None,
        on_drawn: Callable[[DrawnToken], None] | None = None,
    ) -> Iterator[int]:
        """Generate the speech of one text, token by token.

        The tokens are those of ``generate``, each available as soon as it is
        drawn. Errors are raised by the call, not by the first token.

        Arguments
        ---------
        text_embeddings : torch.Tensor | ModulatedEmbeddings
            Prompt text, if any, followed by the text, shape (1, T, C).
        text_lens : Optional[torch.Tensor]
            Relative length of the text, shape (1,); the whole if None.
        prompt_speech_tokens : Optional[torch.Tensor]
            Speech of the prompt text, which is continued, shape (1, P).
        prompt_speech_lens : Optional[torch.Tensor]
            Relative length of the prompt's speech, shape (1,); the whole if
            None.
        unconditional_embeddings : Optional[torch.Tensor | ModulatedEmbeddings]
            Text without its condition, for guidance, shape (1, T, C).
        guidance, candidate_top_k, candidate_top_p : float
            See ``generate``.
        sampler : Optional[Sampler]
            See ``generate``.
        min_ratio, max_ratio : float
            See ``generate``.
        n_target_text, seeds : Optional[Sequence[int]]
            See ``generate``.
        on_text, on_drawn : Optional[Callable]
            See ``generate``.

        Returns
        -------
        tokens : Iterator[int]
            The next speech tokens, without the end.

        Raises
        ------
        ValueError
            If there is more than one text, and as ``generate``.

        Example
        -------
        >>> qwen2 = dict(
        ...     vocab_size=40, hidden_size=16, intermediate_size=32,
        ...     num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=1)
        >>> lm = CosyVoice2LM(qwen2, speech_token_size=27)
        >>> text = lm.embed_text(torch.tensor([[3, 1, 4]]))
        >>> (whole,) = lm.generate(text, torch.ones(1), max_ratio=4.0)
        >>> list(lm.generate_tokens(text, max_ratio=4.0)) == whole.tolist()
        True
        """
        if len(text_embeddings) != 1:
            raise ValueError(
                f"CosyVoice2LM: generate_tokens speaks one text, not "
                f"{len(text_embeddings)}; use SpeechDecoding for several."
            )
        whole = torch.ones(1)
        utterances = self.utterances(
            text_embeddings,
            whole if text_lens is None else text_lens,
            prompt_speech_tokens,
            whole if prompt_speech_lens is None else prompt_speech_lens,
            unconditional_embeddings,
            guidance,
            min_ratio,
            max_ratio,
            n_target_text,
            seeds,
        )
        decoding = SpeechDecoding(
            self, sampler, candidate_top_k, candidate_top_p, on_text=on_text
        )
        decoding.join(utterances)

        def draw() -> Iterator[int]:
            while len(decoding):
                for drawn in decoding.step():
                    _, token, is_last, _ = drawn
                    if on_drawn is not None:
                        on_drawn(drawn)
                    if token is not None:
                        if is_last:
                            _report_cut([0])
                        yield token

        return draw()

    def utterances(
        self,
        text_embeddings: Embeddings,
        text_lens: torch.Tensor,
        prompt_speech_tokens: torch.Tensor | None = None,
        prompt_speech_lens: torch.Tensor | None = None,
        unconditional_embeddings: Embeddings | None = None,
        guidance: float = 1.0,
        min_ratio: float = 2.0,
        max_ratio: float = 20.0,
        n_target_text: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Utterance]:
        """Make utterances for ``SpeechDecoding`` from the inputs of `generate`.

        Arguments
        ---------
        text_embeddings, text_lens, prompt_speech_tokens : torch.Tensor
            See ``generate``.
        prompt_speech_lens, unconditional_embeddings : Optional[torch.Tensor]
            See ``generate``.
        guidance, min_ratio, max_ratio : float
            See ``generate``.
        n_target_text, seeds : Optional[Sequence[int]]
            See ``generate``.

        Returns
        -------
        utterances : List[Utterance]
            One for each item of the batch, with its index as the key.

        Raises
        ------
        ValueError
            As ``generate``.

        Example
        -------
        >>> lm = CosyVoice2LM(dict(
        ...     vocab_size=40, hidden_size=16, intermediate_size=32,
        ...     num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=1), speech_token_size=27)
        >>> text = lm.embed_text(torch.tensor([[3, 1, 4]]))
        >>> (utterance,) = lm.utterances(text, torch.ones(1), seeds=[7])
        >>> utterance.min_len, utterance.max_len, utterance.seed
        (6, 60, 7)
        """
        if guidance == 1.0:
            unconditional_embeddings = None
        elif unconditional_embeddings is None:
            raise ValueError(
                f"CosyVoice2LM: guidance {guidance} needs the "
                "unconditional_embeddings."
            )
        n_text = _absolute(text_lens, text_embeddings.shape[1])
        n_target = n_text if n_target_text is None else n_target_text
        limits = _length_limits(n_target, min_ratio, max_ratio)
        min_lens, max_lens = (lens.tolist() for lens in limits)
        n_prompt = None
        if prompt_speech_tokens is not None:
            assert prompt_speech_lens is not None
            n_prompt = _absolute(
                prompt_speech_lens, prompt_speech_tokens.shape[1]
            ).tolist()
        utterances = []
        for item, n in enumerate(n_text.tolist()):
            prompt = unconditional = None
            if prompt_speech_tokens is not None and n_prompt is not None:
                prompt = prompt_speech_tokens[item, : n_prompt[item]]
            if unconditional_embeddings is not None:
                unconditional = unconditional_embeddings[item, :n]
            utterances.append(
                Utterance(
                    key=item,
                    text=text_embeddings[item, :n],
                    max_len=max_lens[item],
                    min_len=min_lens[item],
                    prompt_tokens=prompt,
                    unconditional=unconditional,
                    guidance=guidance,
                    seed=0 if seeds is None else seeds[item],
                )
            )
        return utterances

    @torch.no_grad()
    def generate_stream(
        self,
        text_pieces: Iterable[Embeddings | Sequence[Embeddings]],
        prompt_speech_tokens: torch.Tensor | None = None,
        sampler: Sampler | None = None,
        max_ratio: float = 20.0,
        seed: int = 0,
        guidance: float = 1.0,
        candidate_top_k: int | None = None,
        candidate_top_p: float = 1.0,
        on_text: Callable[[Hashable, torch.Tensor], None] | None = None,
        on_drawn: Callable[[DrawnToken], None] | None = None,
    ) -> Iterator[int]:
        """Generate speech while the text is being written (bistream).

        Speech begins after the first ``mix_ratio[0]`` text tokens and
        continues as more of them arrive. As upstream, there is no minimum
        length: the end is never drawn before the text is complete.

        Arguments
        ---------
        text_pieces : Iterable[Embeddings | Sequence[Embeddings]]
            Embeddings of the text, piece by piece, the prompt text first,
            shape (1, T_i, C). With guidance, each piece is a pair of these,
            with and without its condition, or both in one tensor
            (2, T_i, C).
        prompt_speech_tokens : Optional[torch.Tensor]
            Speech of the prompt text, which is continued, shape (1, P).
        sampler : Optional[Sampler]
            Chooses tokens; a ``RepetitionAwareSampler`` if None.
        max_ratio : float
            Maximum number of speech tokens per token of text.
        seed : int
            Random seed.
        guidance, candidate_top_k, candidate_top_p : float
            See ``generate``.
        on_text, on_drawn : Optional[Callable]
            See ``BistreamDecoding``.

        Yields
        ------
        token : int
            Next speech token.

        Raises
        ------
        ValueError
            If there is no text, or guidance is used and a piece has no
            unconditional embeddings.

        Example
        -------
        >>> qwen2 = dict(
        ...     vocab_size=40, hidden_size=16, intermediate_size=32,
        ...     num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=1)
        >>> lm = CosyVoice2LM(qwen2, speech_token_size=27)
        >>> pieces = (lm.embed_text(torch.tensor([[i, i]])) for i in range(6))
        >>> tokens = list(lm.generate_stream(pieces, max_ratio=4.0))
        >>> 0 < len(tokens) <= 48, max(tokens) < 27
        (True, True)
        """
        if prompt_speech_tokens is None:
            device = self.llm_embedding.weight.device
            prompt_speech_tokens = torch.zeros(1, 0, dtype=int, device=device)
        decoding = BistreamDecoding(
            self,
            self.speech_embedding(prompt_speech_tokens),
            TokenDrawing(self, sampler, candidate_top_k, candidate_top_p),
            seed,
            guidance,
            on_text,
            on_drawn,
        )
        for piece in text_pieces:
            yield from decoding.add_text(piece)
        _, max_lens = _length_limits([decoding.n_text], 0.0, max_ratio)
        yield from decoding.finish(int(max_lens))


def _report_cut(items: list[int]) -> None:
    """Warn of items that were cut at the maximum length."""
    if items:
        logger.warning(
            "Speech did not end by itself and was cut at max_ratio, in "
            "items %s.",
            sorted(items),
        )


def _absolute(lens: torch.Tensor, size: int) -> torch.Tensor:
    """Convert relative lengths (B,) to numbers of positions, on the CPU."""
    return torch.round(lens.float() * size).long().cpu()


def _take(sequence: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Gather the vectors of (B, L, C) at positions (B, N), (B, N, C)."""
    index = index.unsqueeze(-1).expand(-1, -1, sequence.shape[-1])
    return sequence.gather(1, index)


def _places(
    index: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the position of each number 0 to size - 1 in rows of (B, L).

    Returns the positions (B, size), 0 for a missing number, and whether the
    number was found (B, size). Negative numbers are ignored.
    """
    places = index.new_zeros(len(index), size)
    found = torch.zeros_like(places, dtype=torch.bool)
    row, place = (index >= 0).nonzero(as_tuple=True)
    places[row, index[row, place]] = place
    found[row, index[row, place]] = True
    return places, found


def _length_limits(
    n_text: Sequence[int], min_ratio: float, max_ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the minimum and maximum numbers of speech tokens, two (B,)."""
    if not 0 <= min_ratio <= max_ratio:
        raise ValueError(
            f"CosyVoice2LM: min_ratio {min_ratio} must be between 0 and "
            f"max_ratio {max_ratio}."
        )
    counts = torch.as_tensor(n_text).cpu()
    max_lens = (counts * max_ratio).long()
    silent = (max_lens < 1).nonzero().flatten().tolist()
    if silent:
        raise ValueError(
            f"CosyVoice2LM: items {silent} have no text to speak, or max_ratio "
            f"{max_ratio} leaves them no speech token; give them text."
        )
    return (counts * min_ratio).long(), max_lens
