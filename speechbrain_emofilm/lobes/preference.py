"""Preference training of a speech language model: DPO.

Of two readings of a text one is preferred. Direct preference optimisation
(Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) raises the probability
of the chosen reading relative to that of the rejected one, both measured
against a frozen reference, the model before this training.
"""

from dataclasses import dataclass
from typing import NamedTuple

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)

import torch
import torch.nn.functional as F
from torch import nn


class SpeechLogProbs(NamedTuple):
    """Log-probabilities of utterances' speech tokens.

    Arguments
    ---------
    log_probs : torch.Tensor
        Sum over the tokens of each utterance, the end included, shape (B,).
    n_tokens : torch.Tensor
        Number of tokens in each sum, long, shape (B,).
    """

    log_probs: torch.Tensor
    n_tokens: torch.Tensor

    def halves(self) -> tuple["SpeechLogProbs", "SpeechLogProbs"]:
        """Split a batch of chosen utterances followed by the rejected ones.

        Returns
        -------
        chosen, rejected : SpeechLogProbs
            Shape (B / 2,) each.
        """
        chosen, rejected = zip(*(part.chunk(2) for part in self))
        return SpeechLogProbs(*chosen), SpeechLogProbs(*rejected)


class SpeechScorer(nn.Module):
    """Log-probability of speech under an emotion-conditioned language model.

    Nothing is dropped or corrupted, in training neither: policy and reference
    read the same. A prompt (``n_prompt``) is read and not scored.

    Arguments
    ---------
    emofilm : EmotionConditionedLM
        The model. What is not trained has to be frozen by the caller.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> from speechbrain_emofilm.lobes.efilm import EFiLM, EmotionEncoder, FiLM
    >>> qwen2 = dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    >>> scorer = SpeechScorer(EmotionConditionedLM(
    ...     CosyVoice2LM(qwen2, speech_token_size=27),
    ...     EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16)),
    ... ))
    >>> out = scorer(ConditionedLMInputs(
    ...     text_tokens=torch.randint(40, (2, 6)),
    ...     text_lens=torch.tensor([1.0, 0.5]),
    ...     word_of_token=torch.arange(6).div(2).long().repeat(2, 1),
    ...     speech_tokens=torch.randint(27, (2, 4)),
    ...     speech_lens=torch.tensor([1.0, 0.75]),
    ...     word_of_speech=torch.full((2, 4), -1),
    ...     word_emotions=torch.eye(5)[torch.tensor([[0, 1, 2], [4, 4, 4]])],
    ...     word_intensity=torch.ones(2, 3),
    ... ))
    >>> out.log_probs.shape, out.n_tokens.tolist()
    (torch.Size([2]), [5, 4])
    """

    def __init__(self, emofilm: EmotionConditionedLM):
        super().__init__()
        self.emofilm = emofilm

    def forward(self, inputs: ConditionedLMInputs) -> SpeechLogProbs:
        """Compute the log-probability of each utterance's speech.

        Arguments
        ---------
        inputs : ConditionedLMInputs
            Utterances; ``word_of_speech`` is not used.

        Returns
        -------
        SpeechLogProbs
            Sums over the tokens and the end.
        """
        text = self.emofilm.condition(
            text_tokens=inputs.text_tokens,
            text_lens=inputs.text_lens,
            word_of_token=inputs.word_of_token,
            word_emotions=inputs.word_emotions,
            word_intensity=inputs.word_intensity,
        )
        speech = self.emofilm.llm(
            text.text_embeddings,
            inputs.text_lens,
            inputs.speech_tokens,
            inputs.speech_lens,
            n_prompt=inputs.n_prompt,
        )
        log_probs = -F.cross_entropy(
            speech.logits.float(), speech.targets, reduction="none"
        )
        # The supervised positions come item by item.
        n_tokens = speech.supervised.sum(1)
        items = torch.arange(len(n_tokens), device=n_tokens.device)
        sums = log_probs.new_zeros(len(n_tokens)).index_add(
            0, items.repeat_interleave(n_tokens), log_probs
        )
        return SpeechLogProbs(sums, n_tokens)


@dataclass
class PreferenceOutput:
    """Losses and statistics of a batch of pairs; all tensors are 0-d.

    Arguments
    ---------
    preference_loss : torch.Tensor
        Mean DPO loss of the pairs; log 2 while policy and reference agree.
    speech_loss : torch.Tensor
        Mean cross-entropy of the chosen readings' tokens.
    reference_speech_loss : torch.Tensor
        The same under the reference.
    accuracy : torch.Tensor
        Share of the pairs whose chosen reading has gained more than the
        rejected one; a pair without any difference counts half.
    margin : torch.Tensor
        Mean difference of the implicit rewards of chosen and rejected.
    chosen_reward : torch.Tensor
        Mean implicit reward of the chosen readings. Below 0 they have become
        less probable, which loses words long before the loss shows it.
    n_pairs : torch.Tensor
        Number of pairs.
    n_speech : torch.Tensor
        Number of the chosen readings' tokens.
    """

    preference_loss: torch.Tensor
    speech_loss: torch.Tensor
    reference_speech_loss: torch.Tensor
    accuracy: torch.Tensor
    margin: torch.Tensor
    chosen_reward: torch.Tensor
    n_pairs: torch.Tensor
    n_speech: torch.Tensor


class PreferenceLoss(nn.Module):
    """DPO loss of pairs of readings, and the likelihood of the chosen ones.

    With the log-ratio r of policy and reference, a pair's loss is
    ``-log sigmoid(beta * (r_chosen - r_rejected))``.

    Arguments
    ---------
    beta : float
        Strength of the tie to the reference: the larger, the smaller the
        change that satisfies the loss.
    label_smoothing : float
        Assumed share of pairs whose order is wrong, 0 to below 0.5
        (conservative DPO).
    length_normalization : bool
        Whether log-ratios are means over the tokens instead of sums, so that
        a long reading weighs as much as a short one; `beta` is then to be
        larger by about the number of tokens.

    Raises
    ------
    ValueError
        If `beta` is not above 0, or `label_smoothing` not from 0 to below
        0.5.

    Example
    -------
    >>> n_tokens = torch.tensor([10, 20])
    >>> before = SpeechLogProbs(torch.tensor([-30.0, -60.0]), n_tokens)
    >>> after = SpeechLogProbs(torch.tensor([-28.0, -58.0]), n_tokens)
    >>> loss = PreferenceLoss(beta=0.1)
    >>> same = loss(before, before, before.log_probs, before.log_probs)
    >>> same.preference_loss
    tensor(0.6931)
    >>> better = loss(after, before, before.log_probs, before.log_probs)
    >>> better.preference_loss, better.accuracy
    (tensor(0.5981), tensor(1.))
    """

    def __init__(
        self,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        length_normalization: bool = False,
    ):
        super().__init__()
        if not beta > 0:
            raise ValueError(
                f"PreferenceLoss: beta is {beta}; give a number above 0."
            )
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(
                f"PreferenceLoss: label_smoothing is {label_smoothing}; give "
                "a share from 0 to below 0.5."
            )
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.length_normalization = length_normalization

    def forward(
        self,
        chosen: SpeechLogProbs,
        rejected: SpeechLogProbs,
        reference_chosen: torch.Tensor,
        reference_rejected: torch.Tensor,
    ) -> PreferenceOutput:
        """Compute the loss of a batch.

        Arguments
        ---------
        chosen, rejected : SpeechLogProbs
            Readings under the policy, N of each.
        reference_chosen, reference_rejected : torch.Tensor
            Log-probabilities of the same readings under the reference, (N,).

        Returns
        -------
        PreferenceOutput
            Losses and statistics.
        """
        reward_chosen = self._reward(chosen, reference_chosen)
        reward_rejected = self._reward(rejected, reference_rejected)
        margin = reward_chosen - reward_rejected
        losses = -(1 - self.label_smoothing) * F.logsigmoid(
            margin
        ) - self.label_smoothing * F.logsigmoid(-margin)
        n_speech = chosen.n_tokens.sum()
        return PreferenceOutput(
            preference_loss=losses.mean(),
            speech_loss=-chosen.log_probs.sum() / n_speech,
            reference_speech_loss=-reference_chosen.sum() / n_speech,
            accuracy=(margin.sign() / 2 + 0.5).mean().detach(),
            margin=margin.mean().detach(),
            chosen_reward=reward_chosen.mean().detach(),
            n_pairs=torch.tensor(len(margin), device=margin.device),
            n_speech=n_speech,
        )

    def _reward(
        self, policy: SpeechLogProbs, reference: torch.Tensor
    ) -> torch.Tensor:
        """Implicit rewards (N,)."""
        ratio = policy.log_probs - reference
        if self.length_normalization:
            ratio = ratio / policy.n_tokens
        return self.beta * ratio
