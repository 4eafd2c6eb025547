"""The DPO loss and the log-probabilities it compares."""

import math

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    FiLM,
    WordEmotionLoss,
)
from speechbrain_emofilm.lobes.preference import (
    PreferenceLoss,
    SpeechLogProbs,
    SpeechScorer,
)

import pytest
import torch
from torch import tensor

QWEN2 = dict(
    vocab_size=40, hidden_size=16, intermediate_size=32,
    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
)  # fmt: skip


def log_probs(values, n_tokens=10):
    return SpeechLogProbs(
        torch.tensor(values), torch.full((len(values),), n_tokens)
    )


# --- Loss -----------------------------------------------------------------


def test_loss_equals_a_computation_by_hand():
    out = PreferenceLoss(beta=0.5)(
        log_probs([-10.0, -20.0]),
        log_probs([-12.0, -15.0]),
        tensor([-11.0, -18.0]),
        tensor([-11.0, -16.0]),
    )
    # log-ratios +1 and -1; -2 and +1; times beta
    margins = [0.5 * (1 + 1), 0.5 * (-2 - 1)]
    losses = [math.log(1 + math.exp(-margin)) for margin in margins]
    assert out.preference_loss.item() == pytest.approx(sum(losses) / 2)
    assert out.margin.item() == pytest.approx(sum(margins) / 2)
    assert out.accuracy.item() == 0.5
    assert out.chosen_reward.item() == pytest.approx(0.5 * (1 - 2) / 2)
    assert out.speech_loss.item() == pytest.approx(30 / 20)
    assert out.reference_speech_loss.item() == pytest.approx(29 / 20)
    assert (int(out.n_pairs), int(out.n_speech)) == (2, 20)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_log_2_while_policy_and_reference_agree(smoothing):
    chosen, rejected = log_probs([-3.0, -40.0]), log_probs([-9.0, -2.0])
    out = PreferenceLoss(0.1, smoothing)(
        chosen, rejected, chosen.log_probs, rejected.log_probs
    )
    assert out.preference_loss.item() == pytest.approx(math.log(2))
    assert out.accuracy.item() == 0.5


def test_beta_scales_the_margin():
    def loss_at(beta, gain):
        reference = log_probs([-10.0])
        out = PreferenceLoss(beta)(
            log_probs([-10.0 + gain]), reference, *[reference.log_probs] * 2
        )
        return out.preference_loss.item()

    assert loss_at(1e-9, 5.0) == pytest.approx(math.log(2))
    assert loss_at(1e3, 5.0) == pytest.approx(0.0)
    assert loss_at(1e3, -5.0) == pytest.approx(5e3)
    assert loss_at(0.1, 4.0) == pytest.approx(loss_at(0.4, 1.0))


def test_label_smoothing_keeps_the_best_margin_finite():
    loss = PreferenceLoss(1.0, label_smoothing=0.2)
    margin = torch.zeros(1, requires_grad=True)
    optimal = math.log(0.8 / 0.2)
    for place, slope in ((0.0, -1), (optimal, 0), (optimal + 1, 1)):
        margin.data.fill_(place)
        (gradient,) = torch.autograd.grad(
            loss(
                SpeechLogProbs(margin, tensor([1])),
                SpeechLogProbs(torch.zeros(1), tensor([1])),
                torch.zeros(1),
                torch.zeros(1),
            ).preference_loss,
            margin,
        )
        assert round(gradient.item(), 5) == pytest.approx(0) or (
            gradient.sign().item() == slope
        )


def test_length_normalization_divides_by_the_tokens():
    reference = torch.zeros(1)
    short = SpeechLogProbs(tensor([2.0]), tensor([4]))
    long = SpeechLogProbs(tensor([2.0]), tensor([40]))
    out = PreferenceLoss(1.0, length_normalization=True)(
        short, long, reference, reference
    )
    assert out.margin.item() == pytest.approx(2 / 4 - 2 / 40)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beta": 0.0}, "beta is 0.0; give a number above 0"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5; give a share"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**options)


# --- Log-probabilities ----------------------------------------------------


@pytest.fixture
def emofilm():
    torch.manual_seed(0)
    return EmotionConditionedLM(
        CosyVoice2LM(QWEN2, speech_token_size=27),
        EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16)),
        WordEmotionLoss(n_emotions=5, dim=16),
        history_corruption=0.9,
        condition_dropout=0.9,
    )


@pytest.fixture
def inputs():
    return ConditionedLMInputs(
        text_tokens=torch.arange(12).reshape(2, 6),
        text_lens=tensor([1.0, 0.5]),
        word_of_token=torch.arange(6).div(2).long().repeat(2, 1),
        speech_tokens=torch.arange(8).reshape(2, 4),
        speech_lens=tensor([1.0, 0.75]),
        word_of_speech=torch.full((2, 4), -1),
        word_emotions=torch.eye(5)[tensor([[0, 1, 2], [4, 4, 4]])],
        word_intensity=torch.ones(2, 3),
    )


def test_log_probs_are_those_of_the_model(emofilm, inputs):
    scored = SpeechScorer(emofilm)(inputs)
    emofilm.eval()
    out = emofilm(inputs)
    assert scored.n_tokens.tolist() == [5, 4]
    torch.testing.assert_close(-scored.log_probs.sum() / 9, out.speech_loss)


def test_an_item_scores_the_same_alone(emofilm, inputs):
    scorer = SpeechScorer(emofilm)
    together = scorer(inputs).log_probs
    alone = scorer(
        ConditionedLMInputs(
            text_tokens=inputs.text_tokens[1:, :3],
            text_lens=torch.ones(1),
            word_of_token=inputs.word_of_token[1:, :3],
            speech_tokens=inputs.speech_tokens[1:, :3],
            speech_lens=torch.ones(1),
            word_of_speech=inputs.word_of_speech[1:, :3],
            word_emotions=inputs.word_emotions[1:],
            word_intensity=inputs.word_intensity[1:],
        )
    ).log_probs
    torch.testing.assert_close(together[1:], alone)


def test_training_neither_drops_labels_nor_corrupts_the_history(
    emofilm, inputs
):
    scorer = SpeechScorer(emofilm)
    scorer.eval()
    expected = scorer(inputs).log_probs
    scorer.train()
    assert torch.equal(scorer(inputs).log_probs, expected)


def test_a_prompt_is_read_but_not_scored(emofilm, inputs):
    from speechbrain_emofilm.dataio.prompts import Prompt

    prompt = Prompt("", tensor([30, 31]), tensor([20, 21, 22]))
    scorer = SpeechScorer(emofilm)
    plain = scorer(inputs)
    prompted = scorer(inputs.behind([prompt, None]))
    assert prompted.n_tokens.tolist() == plain.n_tokens.tolist()
    assert prompted.log_probs[0] != plain.log_probs[0]
    torch.testing.assert_close(prompted.log_probs[1], plain.log_probs[1])


def test_chosen_and_rejected_are_the_halves_of_a_batch():
    batch = SpeechLogProbs(torch.arange(4.0), torch.arange(4))
    chosen, rejected = batch.halves()
    assert chosen.log_probs.tolist() == [0, 1]
    assert rejected.n_tokens.tolist() == [2, 3]


def test_training_prefers_the_chosen_reading(emofilm, inputs):
    scorer, loss = SpeechScorer(emofilm), PreferenceLoss(0.5)
    before = scorer(inputs).log_probs.detach().chunk(2)
    optimizer = torch.optim.Adam(
        [p for p in emofilm.parameters() if p.requires_grad], 0.01
    )
    for _ in range(20):
        out = loss(*scorer(inputs).halves(), *before)
        optimizer.zero_grad()
        out.preference_loss.backward()
        optimizer.step()
    assert out.preference_loss < math.log(2) and out.accuracy == 1
