"""Emo-FiLM: a frozen speech language model with word-level emotion control.

One module contains everything that training needs: the language model, E-FiLM,
which modulates its text embeddings, and the emotion loss
(https://arxiv.org/abs/2509.20378). Only E-FiLM, the language model's speech
head and the classifier of the emotion loss are trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM, LMOutput
from speechbrain_emofilm.lobes.cosyvoice2.modulation import ModulatedEmbeddings
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EFiLMOutput,
    WordEmotionLoss,
    WordEmotionLossOutput,
)
from speechbrain_emofilm.lobes.word_pointer import (
    IGNORE,
    WordPointer,
    WordPointerOutput,
)

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class ConditionedLMInputs(NamedTuple):
    """Inputs of a teacher-forced pass of ``EmotionConditionedLM``.

    Arguments
    ---------
    text_tokens : torch.Tensor
        Text tokens, shape (B, T).
    text_lens : torch.Tensor
        Relative lengths of the text, shape (B,).
    word_of_token : torch.Tensor
        Index of each text token's word, -1 for none, long, shape (B, T).
    speech_tokens : torch.Tensor
        Speech tokens, shape (B, S).
    speech_lens : torch.Tensor
        Relative lengths of the speech, shape (B,).
    word_of_speech : torch.Tensor
        Index of each speech token's word, -1 in silence, long, shape (B, S).
    word_emotions : torch.Tensor
        Distributions over the emotions, all zeros for unlabelled words,
        shape (B, W, K).
    word_intensity : torch.Tensor
        Intensity of each word's emotion, 0 to 1, shape (B, W).
    n_prompt : torch.Tensor, optional
        Number of each item's first speech tokens that are the prompt, long,
        shape (B,); no item has one if None. The text of a prompt comes first
        in ``text_tokens``, and its tokens and its speech belong to no word.
    word_axes : torch.Tensor, optional
        Prosody of each word, NaN where it is not known or not asked, shape
        (B, W, A), see
        :func:`~speechbrain_emofilm.processing.prosody_axes.axes_tensor`; None
        for an encoder without axes.
    word_of_frame : torch.Tensor, optional
        Index of the word spoken in each of the R parts of a speech token, -1
        in silence, long, shape (B, S * R), to train a word pointer.
    """

    text_tokens: torch.Tensor
    text_lens: torch.Tensor
    word_of_token: torch.Tensor
    speech_tokens: torch.Tensor
    speech_lens: torch.Tensor
    word_of_speech: torch.Tensor
    word_emotions: torch.Tensor
    word_intensity: torch.Tensor
    n_prompt: torch.Tensor | None = None
    word_axes: torch.Tensor | None = None
    word_of_frame: torch.Tensor | None = None

    def behind(self, prompts: Sequence) -> "ConditionedLMInputs":
        """Put a prompt before some utterances.

        Arguments
        ---------
        prompts : list
            For each utterance None or an object with ``text_tokens`` (P,) and
            ``speech_tokens`` (Q,), such as
            :class:`~speechbrain_emofilm.dataio.prompts.Prompt`.

        Returns
        -------
        ConditionedLMInputs
            The longer batch, in which prompts belong to no word.
        """
        texts = [p if p is None else p.text_tokens for p in prompts]
        speech = [p if p is None else p.speech_tokens for p in prompts]
        text_tokens, text_lens = _prepend(
            texts, self.text_tokens, self.text_lens
        )
        word_of_token, _ = _prepend(
            texts, self.word_of_token, self.text_lens, -1
        )
        speech_tokens, speech_lens = _prepend(
            speech, self.speech_tokens, self.speech_lens
        )
        word_of_speech, _ = _prepend(
            speech, self.word_of_speech, self.speech_lens, -1
        )
        n_prompt = [0 if p is None else len(p) for p in speech]
        word_of_frame = self.word_of_frame
        if word_of_frame is not None:
            parts = word_of_frame.shape[1] // self.speech_tokens.shape[1]
            word_of_frame, _ = _prepend(
                [p if p is None else p.repeat(parts) for p in speech],
                word_of_frame,
                self.speech_lens,
                IGNORE,
            )
        return self._replace(
            word_of_frame=word_of_frame,
            text_tokens=text_tokens,
            text_lens=text_lens,
            word_of_token=word_of_token,
            speech_tokens=speech_tokens,
            speech_lens=speech_lens,
            word_of_speech=word_of_speech,
            n_prompt=torch.tensor(n_prompt, device=speech_tokens.device),
        )


@dataclass
class ConditionedLMOutput:
    """Result of a teacher-forced pass; every field is a 0-d tensor.

    The losses are unweighted means over this batch. In distributed training,
    each process weights its losses by the counts.

    Arguments
    ---------
    speech_loss : torch.Tensor
        Mean cross-entropy of the speech tokens, the end included.
    speech_accuracy : torch.Tensor
        Share of the supervised tokens that the model ranks first.
    n_speech : torch.Tensor
        Number of supervised speech positions.
    emotion_loss : torch.Tensor
        Mean cross-entropy of the words' emotions; 0 if nothing is labelled
        or there is no emotion loss.
    emotion_accuracy : torch.Tensor
        Share of the labelled positions whose emotion is classified correctly.
    n_emotion : torch.Tensor
        Number of labelled positions.
    modulation_ratio : torch.Tensor
        Norm of the modulation relative to that of the text embeddings. Far
        below 0.01 the emotion is inaudible; from about 1 the modulation masks
        the text and words are lost.
    pointer_loss : torch.Tensor
        Mean cross-entropy of the word spoken in each frame; 0 without a word
        pointer.
    pointer_accuracy : torch.Tensor
        Share of the frames whose word, or silence, the pointer finds.
    n_pointer : torch.Tensor
        Number of these frames.
    """

    speech_loss: torch.Tensor
    speech_accuracy: torch.Tensor
    n_speech: torch.Tensor
    emotion_loss: torch.Tensor
    emotion_accuracy: torch.Tensor
    n_emotion: torch.Tensor
    modulation_ratio: torch.Tensor
    pointer_loss: torch.Tensor
    pointer_accuracy: torch.Tensor
    n_pointer: torch.Tensor


class EmotionConditionedLM(nn.Module):
    """Speech language model, E-FiLM and emotion loss as one module.

    Arguments
    ---------
    llm : CosyVoice2LM
        Language model, frozen except for its speech head.
    efilm : EFiLM
        Modulation of the text embeddings.
    emotion_loss : Optional[WordEmotionLoss]
        Step-wise emotion classification loss; not used if None.
    history_corruption : float
        In training, share of the history's speech tokens that are replaced by
        other tokens of the batch. The true history already reveals the
        emotion, which leaves little to learn from the text embeddings.
    condition_dropout : float
        In training, share of the utterances whose labels are dropped, so that
        the unconditional model stays usable for classifier-free guidance.
    bistream_share : float
        In training, share of the utterances laid out as bistream (text and
        speech in turns), so that the speech head learns to ask for more text.
    word_pointer : Optional[WordPointer]
        Tells which word is being spoken, from the language model's states,
        which learn nothing from it; not used if None.

    Raises
    ------
    ValueError
        If a share is not within 0 to 1.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.efilm import EmotionEncoder, FiLM
    >>> qwen2 = dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    >>> model = EmotionConditionedLM(
    ...     CosyVoice2LM(qwen2, speech_token_size=27),
    ...     EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16)),
    ...     WordEmotionLoss(n_emotions=5, dim=16),
    ... )
    >>> inputs = ConditionedLMInputs(
    ...     text_tokens=torch.randint(40, (2, 6)),
    ...     text_lens=torch.tensor([1.0, 0.5]),
    ...     word_of_token=torch.arange(6).div(2).long().repeat(2, 1),
    ...     speech_tokens=torch.randint(27, (2, 4)),
    ...     speech_lens=torch.tensor([1.0, 0.75]),
    ...     word_of_speech=torch.tensor([[0, 1, 2, -1], [0, 1, 2, 0]]),
    ...     word_emotions=torch.eye(5)[torch.tensor([[0, 1, 2], [4, 4, 4]])],
    ...     word_intensity=torch.ones(2, 3),
    ... )
    >>> out = model(inputs)
    >>> out.speech_loss.shape, int(out.n_speech), int(out.n_emotion)
    (torch.Size([]), 9, 6)
    """

    def __init__(
        self,
        llm: CosyVoice2LM,
        efilm: EFiLM,
        emotion_loss: WordEmotionLoss | None = None,
        history_corruption: float = 0.0,
        condition_dropout: float = 0.0,
        bistream_share: float = 0.0,
        word_pointer: WordPointer | None = None,
    ):
        super().__init__()
        shares = {
            "history_corruption": history_corruption,
            "condition_dropout": condition_dropout,
            "bistream_share": bistream_share,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(
                    f"EmotionConditionedLM: {name} is {share}; give a share "
                    "from 0 to 1."
                )
        self.llm = llm
        self.efilm = efilm
        self.emotion_loss = emotion_loss
        self.word_pointer = word_pointer
        self.history_corruption = history_corruption
        self.condition_dropout = condition_dropout
        self.bistream_share = bistream_share

    def condition(
        self,
        text_tokens: torch.Tensor,
        text_lens: torch.Tensor,
        word_of_token: torch.Tensor,
        word_emotions: torch.Tensor,
        word_intensity: torch.Tensor,
        word_axes: torch.Tensor | None = None,
    ) -> EFiLMOutput:
        """Embed text and modulate it, in training and in synthesis.

        Arguments as in :class:`ConditionedLMInputs`.

        Returns
        -------
        output : EFiLMOutput
            Embeddings for ``CosyVoice2LM``, shape (B, T, C), and the size
            of the modulation.
        """
        return self.efilm(
            self.llm.embed_text(text_tokens),
            _no_word_in_padding(word_of_token, text_lens),
            word_emotions,
            word_intensity,
            # An E-FiLM of the user need not know axes.
            **({} if word_axes is None else {"word_axes": word_axes}),
        )

    def forward(self, inputs: ConditionedLMInputs) -> ConditionedLMOutput:
        """Predict the speech tokens and the emotion of their words."""
        word_emotions, word_intensity, word_axes = self._drop_labels(inputs)
        text = self.condition(
            inputs.text_tokens,
            inputs.text_lens,
            inputs.word_of_token,
            word_emotions,
            word_intensity,
            word_axes,
        )
        speech = self.llm(
            text.text_embeddings,
            inputs.text_lens,
            inputs.speech_tokens,
            inputs.speech_lens,
            history=self._corrupt(inputs.speech_tokens, inputs.speech_lens),
            n_prompt=inputs.n_prompt,
            bistream_probability=self.bistream_share * self.training,
        )
        text_states = text.text_embeddings
        if isinstance(text_states, ModulatedEmbeddings):
            text_states = text_states.applied()
        # hidden[:, t] predicts speech token t, and the last one the end.
        emotion = self._classify(
            word_emotions,
            input=(text_states, inputs.word_of_token, inputs.text_lens),
            speech=(
                speech.hidden[:, :-1],
                inputs.word_of_speech,
                inputs.speech_lens,
            ),
        )
        pointer = self._point(inputs, speech)
        return _collect(speech, emotion, text.modulation_ratio, pointer)

    def _point(
        self, inputs: ConditionedLMInputs, speech: LMOutput
    ) -> WordPointerOutput:
        """Compute the word pointer's loss, or zeros without a pointer."""
        if self.word_pointer is None or inputs.word_of_frame is None:
            zero = speech.logits.new_zeros(())
            return WordPointerOutput(zero, zero, zero.long())
        return self.word_pointer.loss(
            speech.text_hidden,
            inputs.text_lens,
            inputs.word_of_token,
            speech.hidden,
            inputs.speech_lens,
            inputs.word_of_frame,
        )

    @torch.no_grad()
    def point(
        self, inputs: ConditionedLMInputs, sees_next: bool = True
    ) -> torch.Tensor:
        """Tell which word given speech is at, with the word pointer.

        Arguments
        ---------
        inputs : ConditionedLMInputs
            Text and speech tokens.
        sees_next : bool
            As in ``WordPointer.forward``.

        Returns
        -------
        torch.Tensor
            Log-probabilities of silence and the W words in each frame, shape
            (B, S * R, 1 + W).

        Raises
        ------
        ValueError
            If there is no word pointer.
        """
        if self.word_pointer is None:
            raise ValueError(
                "This model has no word pointer: train one with "
                "recipes/ESD/emotional_tts/train_pointer.py."
            )
        text = self.condition(
            inputs.text_tokens,
            inputs.text_lens,
            inputs.word_of_token,
            inputs.word_emotions,
            inputs.word_intensity,
        )
        speech = self.llm(
            text.text_embeddings,
            inputs.text_lens,
            inputs.speech_tokens,
            inputs.speech_lens,
        )
        return self.word_pointer(
            speech.text_hidden,
            inputs.text_lens,
            inputs.word_of_token,
            speech.hidden,
            inputs.speech_lens,
            inputs.word_emotions.shape[1],
            sees_next,
        )

    def _classify(
        self, word_emotions: torch.Tensor, **places: tuple[torch.Tensor, ...]
    ) -> WordEmotionLossOutput:
        """Compute the emotion loss at its position, or zeros without a loss.

        ``places`` maps each position to states (B, N, C), the index of each
        state's word (B, N) and relative lengths (B,).
        """
        if self.emotion_loss is None:
            zero = word_emotions.new_zeros(())
            return WordEmotionLossOutput(zero, zero, zero.long())
        states, word_of_state, lens = places[self.emotion_loss.position]
        word_of_state = _no_word_in_padding(word_of_state, lens)
        return self.emotion_loss(states, word_of_state, word_emotions)

    def _drop_labels(
        self, inputs: ConditionedLMInputs
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Drop the labels of random utterances in training.

        The emotion loss does not see these labels either: without the
        condition, its classifier could only learn from the history.
        """
        word_emotions, word_axes = inputs.word_emotions, inputs.word_axes
        word_intensity = inputs.word_intensity
        if self.training and word_axes is not None:
            word_emotions, word_intensity, word_axes = self.efilm.encoder.drop(
                word_emotions, word_intensity, word_axes
            )
        if not self.training or self.condition_dropout == 0:
            return word_emotions, word_intensity, word_axes
        coins = torch.rand(
            len(word_emotions), 1, 1, device=word_emotions.device
        )
        dropped = coins < self.condition_dropout
        if word_axes is not None:
            word_axes = word_axes.masked_fill(dropped, torch.nan)
        word_emotions = word_emotions.masked_fill(dropped, 0.0)
        return word_emotions, word_intensity, word_axes

    def _corrupt(
        self, speech_tokens: torch.Tensor, speech_lens: torch.Tensor
    ) -> torch.Tensor | None:
        """Replace random tokens of the history in training.

        Replacements are drawn from the batch's own speech, so that they follow
        the distribution of speech tokens; uniformly drawn ids would not.
        """
        if not self.training or self.history_corruption == 0:
            return None
        valid = _within(speech_lens, speech_tokens)
        pool = speech_tokens[valid]
        drawn = torch.randint(
            len(pool), speech_tokens.shape, device=speech_tokens.device
        )
        coins = torch.rand(speech_tokens.shape, device=speech_tokens.device)
        wrong = valid & (coins < self.history_corruption)
        return torch.where(wrong, pool[drawn], speech_tokens)


def _prepend(
    heads: Sequence[torch.Tensor | None],
    padded: torch.Tensor,
    lens: torch.Tensor,
    value: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put heads (H_i,), or a value in their place, before padded rows (B, N).

    Returns the rows, padded anew, and their relative lengths.
    """
    rows = []
    for head, row, size in zip(heads, padded, _sizes(lens, padded).tolist()):
        parts = [row[:size]]
        if head is not None:
            head = head.to(row)
            parts.insert(
                0, head if value is None else torch.full_like(head, value)
            )
        rows.append(torch.cat(parts))
    sizes = torch.tensor([len(row) for row in rows], device=padded.device)
    return pad_sequence(rows, batch_first=True), sizes / sizes.max()


def _sizes(lens: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """Absolute lengths (B,) of relative ones."""
    return torch.round(lens * sequence.shape[1]).long()


def _within(lens: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """Mask (B, N) of the positions within the relative lengths (B,)."""
    sizes = _sizes(lens, sequence)
    return length_to_mask(sizes, max_len=sequence.shape[1]).bool()


def _no_word_in_padding(
    word_of_position: torch.Tensor, lens: torch.Tensor
) -> torch.Tensor:
    """Set the padding to -1: SpeechBrain pads with 0, which is a word."""
    return word_of_position.masked_fill(~_within(lens, word_of_position), -1)


def _collect(
    speech: LMOutput,
    emotion: WordEmotionLossOutput,
    modulation_ratio: torch.Tensor,
    pointer: WordPointerOutput,
) -> ConditionedLMOutput:
    """Compute the losses and counts of a batch."""
    logits = speech.logits.float()
    correct = logits.argmax(-1) == speech.targets
    return ConditionedLMOutput(
        speech_loss=F.cross_entropy(logits, speech.targets),
        speech_accuracy=correct.float().mean(),
        n_speech=torch.tensor(len(logits), device=logits.device),
        emotion_loss=emotion.loss,
        emotion_accuracy=emotion.accuracy,
        n_emotion=emotion.n_labelled,
        modulation_ratio=modulation_ratio,
        pointer_loss=pointer.loss,
        pointer_accuracy=pointer.accuracy,
        n_pointer=pointer.n_frames,
    )
