"""CosyVoice2's language model: from text to 25 Hz speech tokens.

A Qwen2 decoder reads ``[sos, text, task, speech]`` and predicts the speech
(Du et al., CosyVoice 2, 2024). The modules are named so that a released
checkpoint loads (``load_upstream_state_dict``). The text head of Qwen2, which
speech never needs, is left out.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import logging
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    RepetitionAwareSampler,
    UtteranceNoise,
)

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, Qwen2Config, Qwen2Model

Sampler = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
logger = logging.getLogger(__name__)

N_SPECIAL = 3  # end, one that upstream never uses, fill
IGNORE = -1  # no target here
_FILL = -2  # in a layout: the target is the fill token
_SOS, _TASK = 0, 1  # rows of llm_embedding
_UPSTREAM_TRUNK = "llm.model.model."
_UPSTREAM_TEXT_HEAD = "llm.model.lm_head.weight"


@dataclass
class LMOutput:
    """Result of a teacher-forced pass; N supervised positions in the batch.

    Arguments
    ---------
    logits : torch.Tensor
        At the supervised positions, item after item, shape (N, V + 3).
    targets : torch.Tensor
        The tokens to be predicted there, shape (N,).
    hidden : torch.Tensor
        Last hidden states, shape (B, S + 1, C): ``hidden[:, t]`` predicts
        speech token t, and the end at t = number of tokens.
    supervised : torch.Tensor
        Which ``hidden`` predict something, bool, shape (B, S + 1).
    text_positions : torch.Tensor
        Place of each text token in the sequence, shape (B, T); 0 in padding.
    speech_positions : torch.Tensor
        Place in the sequence of each ``hidden``, shape (B, S + 1); 0 in
        padding.
    attentions : Optional[Tuple[torch.Tensor, ...]]
        Attention weights of each layer (B, heads, L, L), if asked for.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    hidden: torch.Tensor
    supervised: torch.Tensor
    text_positions: torch.Tensor
    speech_positions: torch.Tensor
    attentions: Optional[Tuple[torch.Tensor, ...]] = None


@dataclass
class SequenceLayout:
    """Where everything of a batch stands in the sequence of length L.

    Arguments
    ---------
    source : torch.Tensor
        Index of each position's embedding in the concatenation of sos, task,
        the padded text and the padded speech, shape (B, L).
    predicts : torch.Tensor
        Index of the speech token that each position predicts (the number of
        tokens for the end), -2 for fill, -1 for nothing, shape (B, L).
    mask : torch.Tensor
        1 where there is something, 0 in padding, shape (B, L).
    """

    source: torch.Tensor
    predicts: torch.Tensor
    mask: torch.Tensor


def sequence_layout(
    text_lens: Sequence[int],
    speech_lens: Sequence[int],
    interleaved: Sequence[bool],
    text_size: int,
    mix_ratio: Tuple[int, int] = (5, 15),
) -> SequenceLayout:
    """Lays out a batch as unistream or bistream sequences, padded right.

    Unistream, three text tokens t and two speech tokens s, one of padding::

        input    sos  t0   t1   t2   task s0   s1   pad
        target    -    -    -    -   s0   s1   end   -
        mask      1    1    1    1    1    1    1    0

    Bistream, here with blocks of two text and three speech tokens: blocks
    while text lasts, then what remains as above. Fill, the target after a
    block, asks for more text and is never an input. ::

        input    sos  t0   t1   s0   s1   s2   t2   task s3   s4
        target    -    -   s0   s1   s2   fill  -   s3   s4   end
        mask      1    1    1    1    1    1    1    1    1    1

    The mask is that of padding; within it each position sees those before.

    Arguments
    ---------
    text_lens : Sequence[int]
        Number of text tokens of each item.
    speech_lens : Sequence[int]
        Number of speech tokens of each item.
    interleaved : Sequence[bool]
        Which items are bistream. One that has no more than
        ``mix_ratio[1] / mix_ratio[0]`` speech per text token is unistream
        all the same, as its speech would end before its text.
    text_size : int
        Length T of the padded text.
    mix_ratio : Tuple[int, int]
        Text and speech tokens of a bistream block.

    Returns
    -------
    layout : SequenceLayout

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
    text: List[int], speech: List[int], mix_ratio: Optional[Tuple[int, int]]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Source and predictions of one item, two (L,); see sequence_layout."""
    source, predicts, done = [_SOS], [IGNORE], 0
    n_text, n_speech = mix_ratio or (1, 1)
    if mix_ratio and len(speech) * n_text > len(text) * n_speech:
        for _ in range(len(text) // n_text):
            source += text[:n_text] + speech[done : done + n_speech]
            predicts += [IGNORE] * (n_text - 1)
            predicts += [*range(done, done + n_speech), _FILL]
            text, done = text[n_text:], done + n_speech
    source += [*text, _TASK, *speech[done:]]
    predicts += [IGNORE] * len(text) + [*range(done, len(speech) + 1)]
    return torch.tensor(source), torch.tensor(predicts)


class CosyVoice2LM(nn.Module):
    """Text-to-speech-token language model on ``transformers.Qwen2Model``.

    With V speech tokens, id V ends the speech, V + 1 is unused and V + 2
    (fill) asks for more text in a bistream sequence. ``sequence_layout``
    draws the sequences.

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
        Attention of transformers: "sdpa", "eager" (needed to return
        attention weights), "flash_attention_2".

    Example
    -------
    >>> lm = CosyVoice2LM(
    ...     dict(
    ...         vocab_size=40,
    ...         hidden_size=16,
    ...         intermediate_size=32,
    ...         num_hidden_layers=1,
    ...         num_attention_heads=2,
    ...         num_key_value_heads=1,
    ...     ),
    ...     speech_token_size=27,
    ... )
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
        speech_embedding: Optional[nn.Module] = None,
        llm_decoder: Optional[nn.Module] = None,
        mix_ratio: Tuple[int, int] = (5, 15),
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
        self.mix_ratio = tuple(mix_ratio)
        self.frozen = False
        if frozen:
            self.freeze()

    def _embedding(self, n_rows: int) -> nn.Embedding:
        """An embedding at the scale of the text's."""
        embedding = nn.Embedding(n_rows, self.llm.config.hidden_size)
        nn.init.normal_(embedding.weight, std=self.llm.config.initializer_range)
        return embedding

    def freeze(self) -> None:
        """Leaves ``llm_decoder`` alone trainable; no dropout from now on."""
        self.requires_grad_(False)
        self.llm_decoder.requires_grad_(True)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "CosyVoice2LM":
        """Sets training mode; when frozen, evaluation mode in any case.

        ``Brain`` calls ``modules.train()`` before every epoch, which would
        turn a frozen model's dropout on.
        """
        return super().train(mode and not self.frozen)

    def embed_text(self, text_tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, C) of text tokens (B, T)."""
        return self.llm.embed_tokens(text_tokens)

    def forward(
        self,
        text_embeddings: torch.Tensor,
        text_lens: torch.Tensor,
        speech_tokens: torch.Tensor,
        speech_lens: torch.Tensor,
        history: Optional[torch.Tensor] = None,
        bistream_probability: float = 0.0,
        generator: Optional[torch.Generator] = None,
        output_attentions: bool = False,
    ) -> LMOutput:
        """Predicts every speech token from those before it.

        Arguments
        ---------
        text_embeddings : torch.Tensor
            Shape (B, T, C).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        speech_tokens : torch.Tensor
            The tokens to be predicted, shape (B, S).
        speech_lens : torch.Tensor
            Relative lengths of the speech, shape (B,).
        history : Optional[torch.Tensor]
            Tokens to be read in the place of ``speech_tokens``, such as a
            corrupted copy, shape (B, S).
        bistream_probability : float
            Share of the items laid out as bistream, where they have speech
            enough.
        generator : Optional[torch.Generator]
            CPU generator of the one coin per item that decides this.
        output_attentions : bool
            Whether to return the attention weights.

        Returns
        -------
        output : LMOutput

        Raises
        ------
        ValueError
            If attention weights are asked for of an attention that computes
            none.
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
        read = speech_tokens if history is None else history
        output = self.llm(
            inputs_embeds=self._embed(layout, text_embeddings, read, n_speech),
            attention_mask=layout.mask,
            output_attentions=output_attentions,
            use_cache=False,
        )
        return self._collect(
            layout, output, text_embeddings.shape[1], speech_tokens, n_speech
        )

    def _layout(
        self,
        n_text: torch.Tensor,
        n_speech: torch.Tensor,
        interleaved: torch.Tensor,
        text: torch.Tensor,
    ) -> SequenceLayout:
        """The layout on the device of the embedded ``text`` (B, T, C)."""
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
        text: torch.Tensor,
        speech_tokens: torch.Tensor,
        n_speech: torch.Tensor,
    ) -> torch.Tensor:
        """The sequences' embeddings, shape (B, L, C)."""
        # Whatever stands in the padding, even -1, has to be an id.
        valid = length_to_mask(n_speech, speech_tokens.shape[1]).bool()
        speech_tokens = speech_tokens.masked_fill(
            ~valid.to(speech_tokens.device), 0
        )
        parts = torch.cat(
            [
                self.llm_embedding.weight.to(text).expand(len(text), -1, -1),
                text,
                self.speech_embedding(speech_tokens).to(text),
            ],
            dim=1,
        )
        return _take(parts, layout.source)

    def _collect(
        self,
        layout: SequenceLayout,
        output,
        text_size: int,
        speech_tokens: torch.Tensor,
        n_speech: torch.Tensor,
    ) -> LMOutput:
        """Logits and targets where there are any, and who stands where."""
        predicts, hidden = layout.predicts, output.last_hidden_state
        tokens = F.pad(speech_tokens, (0, 1))
        ends = n_speech.to(tokens.device).unsqueeze(1)
        tokens = tokens.scatter(1, ends, self.end_id)
        targets = tokens.gather(1, predicts.clamp(min=0))
        targets = targets.masked_fill(predicts == _FILL, self.fill_id)
        supervised = predicts != IGNORE

        is_text = (layout.source >= 2) & (layout.source < 2 + text_size)
        text_index = torch.where(is_text, layout.source - 2, IGNORE)
        speech_positions, speech_found = _places(predicts, tokens.shape[1])
        return LMOutput(
            logits=self.llm_decoder(hidden[supervised]),
            targets=targets[supervised],
            hidden=_take(hidden, speech_positions),
            supervised=speech_found,
            text_positions=_places(text_index, text_size)[0],
            speech_positions=speech_positions,
            attentions=output.attentions,
        )

    @torch.no_grad()
    def generate(
        self,
        text_embeddings: torch.Tensor,
        text_lens: torch.Tensor,
        prompt_speech_tokens: Optional[torch.Tensor] = None,
        prompt_speech_lens: Optional[torch.Tensor] = None,
        unconditional_embeddings: Optional[torch.Tensor] = None,
        guidance: float = 1.0,
        sampler: Optional[Sampler] = None,
        min_ratio: float = 2.0,
        max_ratio: float = 20.0,
        n_target_text: Optional[Sequence[int]] = None,
        seeds: Optional[Sequence[int]] = None,
    ) -> List[torch.Tensor]:
        """Speaks a batch of texts, each as it would be spoken alone.

        Ids V + 1 and V + 2 are never drawn and the end not before the
        minimum length; upstream lets the former two end the speech at once.

        Arguments
        ---------
        text_embeddings : torch.Tensor
            Prompt text, if any, and text, shape (B, T, C).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        prompt_speech_tokens : Optional[torch.Tensor]
            Speech of the prompt text, to be continued, shape (B, P).
        prompt_speech_lens : Optional[torch.Tensor]
            Their relative lengths, shape (B,).
        unconditional_embeddings : Optional[torch.Tensor]
            The text without its condition, shape (B, T, C).
        guidance : float
            Classifier-free guidance w: logits are
            ``unconditional + w * (conditional - unconditional)``.
        sampler : Optional[Sampler]
            Chooses tokens; a ``RepetitionAwareSampler`` if None.
        min_ratio : float
            Least number of speech tokens per token of target text.
        max_ratio : float
            Greatest number of speech tokens per token of target text.
        n_target_text : Optional[Sequence[int]]
            Number of text tokens after the prompt text; all if None.
        seeds : Optional[Sequence[int]]
            One random seed per item; 0 if None.

        Returns
        -------
        speech_tokens : List[torch.Tensor]
            For each item its new tokens, without the end, shape (S_i,).

        Raises
        ------
        ValueError
            If an item has no text to speak, the ratios contradict each
            other, or guidance comes without unconditional embeddings.
        """
        texts = [text_embeddings]
        if guidance != 1.0:
            if unconditional_embeddings is None:
                raise ValueError(
                    f"CosyVoice2LM: guidance {guidance} needs the "
                    "unconditional_embeddings."
                )
            texts.append(unconditional_embeddings)
        n_text = _absolute(text_lens, text_embeddings.shape[1])
        if prompt_speech_tokens is None:
            prompt_speech_tokens = n_text.new_zeros(len(n_text), 0)
            prompt_speech_lens = torch.zeros(len(n_text))
        decoding = self._prefill(
            texts, n_text, prompt_speech_tokens, prompt_speech_lens
        )
        n_target = n_text if n_target_text is None else n_target_text
        min_lens, max_lens = _length_limits(n_target, min_ratio, max_ratio)
        return self._decode(
            decoding,
            guidance,
            sampler or RepetitionAwareSampler(),
            min_lens.to(text_embeddings.device),
            max_lens.to(text_embeddings.device),
            UtteranceNoise([0] * len(n_text) if seeds is None else seeds),
        )

    def _prefill(
        self,
        texts: List[torch.Tensor],
        n_text: torch.Tensor,
        prompt_tokens: torch.Tensor,
        prompt_lens: torch.Tensor,
    ) -> "_Decoding":
        """Left-padded prefixes of each of the texts' variants, stacked."""
        device = texts[0].device
        n_prompt = _absolute(prompt_lens, prompt_tokens.shape[1])
        unistream = torch.zeros(len(n_text), dtype=torch.bool)
        layout = self._layout(n_text, n_prompt, unistream, texts[0])
        prompt_tokens = prompt_tokens.to(device)
        prefixes = [
            self._embed(layout, text, prompt_tokens, n_prompt) for text in texts
        ]
        size = layout.mask.shape[1]
        padding = size - layout.mask.sum(1, keepdim=True)
        positions = torch.arange(size, device=device) - padding
        return _Decoding(
            embeddings=torch.cat(
                [_take(p, positions.clamp(min=0)) for p in prefixes]
            ),
            mask=(positions >= 0).long().repeat(len(texts), 1),
            positions=positions.clamp(min=0).repeat(len(texts), 1),
            n_variants=len(texts),
        )

    def _decode(
        self,
        decoding: "_Decoding",
        guidance: float,
        sampler: Sampler,
        min_lens: torch.Tensor,
        max_lens: torch.Tensor,
        noise: UtteranceNoise,
    ) -> List[torch.Tensor]:
        """Draws tokens until every item has ended; see ``generate``."""
        device = min_lens.device
        n_steps = int(max_lens.max())
        spoken = torch.full((len(min_lens), n_steps), IGNORE, device=device)
        rows = torch.arange(len(min_lens), device=device)  # still speaking
        for step in range(n_steps):
            logits = self._next_logits(decoding, guidance)
            logits[:, self.end_id + 1 :] = -torch.inf
            logits[step < min_lens[rows], self.end_id] = -torch.inf
            tokens = sampler(
                logits.log_softmax(-1), spoken[rows, :step], noise(rows)
            )
            ended = tokens == self.end_id
            spoken[rows, step] = tokens.masked_fill(ended, IGNORE)
            going = ~ended & (step + 1 < max_lens[rows])
            if not going.all():
                rows, tokens = rows[going], tokens[going]
                decoding.keep(going)
            if not len(rows):
                break
            decoding.append(self.speech_embedding(tokens))
        cut = (spoken != IGNORE).sum(1) == max_lens
        if cut.any():
            logger.warning(
                "Speech did not end by itself and was cut at max_ratio, in "
                "items %s.",
                cut.nonzero().flatten().tolist(),
            )
        return [row[row != IGNORE] for row in spoken]

    def _next_logits(
        self, decoding: "_Decoding", guidance: float
    ) -> torch.Tensor:
        """Scores of the next token, shape (rows, V + 3)."""
        output = self.llm(
            inputs_embeds=decoding.embeddings,
            attention_mask=decoding.mask,
            position_ids=decoding.positions,
            past_key_values=decoding.cache,
            use_cache=True,
        )
        decoding.cache = output.past_key_values
        logits = self.llm_decoder(output.last_hidden_state[:, -1]).float()
        if decoding.n_variants == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def load_upstream_state_dict(self, state: Dict[str, object]) -> None:
        """Loads the tensors of an ``llm.pt`` of CosyVoice2.

        The text head, which is never used, and the trainer's counters are
        dropped.

        Arguments
        ---------
        state : Dict[str, object]
            The checkpoint as ``torch.load(path, weights_only=True)`` gives it.

        Raises
        ------
        ValueError
            If tensors are missing, unexpected or of another shape; the
            message names them, and nothing is loaded.
        """
        given = {
            _local_name(name): tensor
            for name, tensor in state.items()
            if isinstance(tensor, torch.Tensor) and name != _UPSTREAM_TEXT_HEAD
        }
        own = self.state_dict()
        problems = {
            "missing": sorted(own.keys() - given.keys()),
            "unexpected": sorted(given.keys() - own.keys()),
            "of another shape": [
                f"{name} {tuple(given[name].shape)} instead of "
                f"{tuple(tensor.shape)}"
                for name, tensor in own.items()
                if name in given and given[name].shape != tensor.shape
            ],
        }
        if any(problems.values()):
            report = "; ".join(
                f"{len(names)} {kind}: {', '.join(names[:8])}"
                + (", ..." if len(names) > 8 else "")
                for kind, names in problems.items()
                if names
            )
            raise ValueError(
                "CosyVoice2LM: the checkpoint does not fit the model's sizes "
                f"({report}). Give the sizes that it was trained with."
            )
        self.load_state_dict(given)


@dataclass
class _Decoding:
    """What the next step reads, and the keys and values of the steps before.

    ``n_variants`` blocks of rows: the conditional items, then with guidance
    the unconditional ones in the same order. Padding is on the left.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    n_variants: int
    cache: Optional[Cache] = None

    def keep(self, going: torch.Tensor) -> None:
        """Drops the items that have ended, so that they cost nothing."""
        kept = going.repeat(self.n_variants).nonzero().squeeze(1)
        self.mask, self.positions = self.mask[kept], self.positions[kept]
        self.cache.batch_select_indices(kept)

    def append(self, embeddings: torch.Tensor) -> None:
        """Lets the next step read the new tokens' embeddings (rows, C)."""
        embeddings = embeddings.to(self.embeddings.dtype)
        self.embeddings = embeddings.repeat(self.n_variants, 1).unsqueeze(1)
        self.mask = torch.cat(
            [self.mask, self.mask.new_ones(len(self.mask), 1)], 1
        )
        self.positions = self.positions[:, -1:] + 1


def _absolute(lens: torch.Tensor, size: int) -> torch.Tensor:
    """Relative lengths (B,) as numbers of positions, on the CPU."""
    return torch.round(lens.float() * size).long().cpu()


def _take(sequence: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The vectors of (B, L, C) at the places (B, N), shape (B, N, C)."""
    index = index.unsqueeze(-1).expand(-1, -1, sequence.shape[-1])
    return sequence.gather(1, index)


def _places(
    index: torch.Tensor, size: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Where in each row of (B, L) the numbers 0 to size - 1 stand.

    Returns the places (B, size), 0 for a number that is not there, and
    whether it is there (B, size). Negative numbers are passed over.
    """
    places = index.new_zeros(len(index), size)
    found = torch.zeros_like(places, dtype=torch.bool)
    row, place = (index >= 0).nonzero(as_tuple=True)
    places[row, index[row, place]] = place
    found[row, index[row, place]] = True
    return places, found


def _length_limits(
    n_text: Sequence[int], min_ratio: float, max_ratio: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest number of speech tokens of each item, two (B,)."""
    if not 0 <= min_ratio <= max_ratio:
        raise ValueError(
            f"CosyVoice2LM: min_ratio {min_ratio} must be between 0 and "
            f"max_ratio {max_ratio}."
        )
    n_text = torch.as_tensor(n_text).cpu()
    max_lens = (n_text * max_ratio).long()
    silent = (max_lens < 1).nonzero().flatten().tolist()
    if silent:
        raise ValueError(
            f"CosyVoice2LM: items {silent} have no text to speak, or max_ratio "
            f"{max_ratio} leaves them no speech token; give them text."
        )
    return (n_text * min_ratio).long(), max_lens


def _local_name(name: str) -> str:
    """The name here of a tensor of an upstream checkpoint."""
    if name.startswith(_UPSTREAM_TRUNK):
        return "llm." + name[len(_UPSTREAM_TRUNK) :]
    return name
