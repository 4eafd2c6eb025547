"""Training behind a prompt of the same speaker."""

from speechbrain_emofilm.dataio.prompts import Prompt, PromptPool
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

import pytest
import torch
from tiny_cosyvoice2 import QWEN2

TEXT, SPEECH = torch.tensor([5, 6, 7]), torch.tensor([11, 12, 13, 14])


def prompt(text="We won."):
    return Prompt(text, TEXT, SPEECH)


def inputs():
    return ConditionedLMInputs(
        text_tokens=torch.tensor([[1, 2, 3, 4], [8, 9, 0, 0]]),
        text_lens=torch.tensor([1.0, 0.5]),
        word_of_token=torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]]),
        speech_tokens=torch.tensor([[21, 22, 23], [31, 32, 0]]),
        speech_lens=torch.tensor([1.0, 2 / 3]),
        word_of_speech=torch.tensor([[0, -1, 1], [0, 1, 0]]),
        word_emotions=torch.eye(5)[torch.tensor([[0, 1], [4, 2]])],
        word_intensity=torch.ones(2, 2),
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EmotionConditionedLM(
        CosyVoice2LM(QWEN2, speech_token_size=50),
        EFiLM(EmotionEncoder(5, dim=8), FiLM(8, QWEN2["hidden_size"])),
        WordEmotionLoss(n_emotions=5, dim=QWEN2["hidden_size"]),
    ).eval()


def test_prompts_come_first_and_belong_to_no_word():
    behind = inputs().behind([None, prompt()])
    assert behind.text_tokens.tolist() == [[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]
    assert behind.word_of_token[1].tolist() == [-1, -1, -1, 0, 1]
    assert behind.speech_tokens[1].tolist() == [11, 12, 13, 14, 31, 32]
    assert behind.word_of_speech[1].tolist() == [-1] * 4 + [0, 1]
    assert behind.n_prompt.tolist() == [0, 4]
    torch.testing.assert_close(behind.text_lens, torch.tensor([0.8, 1.0]))
    torch.testing.assert_close(behind.speech_lens, torch.tensor([0.5, 1.0]))


def test_no_prompt_changes_nothing(model):
    plain, behind = model(inputs()), model(inputs().behind([None, None]))
    for name, value in vars(plain).items():
        torch.testing.assert_close(getattr(behind, name), value)


def test_only_the_speech_behind_the_prompt_is_predicted(model):
    out = model(inputs().behind([prompt(), prompt()]))
    assert int(out.n_speech) == 3 + 1 + 2 + 1
    other = Prompt("We won.", TEXT, SPEECH + 20)
    assert model(inputs().behind([other] * 2)).speech_loss != out.speech_loss


def test_training_and_generation_read_the_same_sequence(model):
    """The most probable token behind a prompt is what is generated."""
    lm = model.llm
    text = lm.embed_text(torch.tensor([[5, 6, 7, 8, 9]]))
    out = lm(
        text,
        torch.ones(1),
        torch.tensor([[11, 12, 13, 14, 31]]),
        torch.ones(1),
        n_prompt=torch.tensor([4]),
    )

    def greedy(log_probs, *others):
        return log_probs.argmax(-1)

    (spoken,) = lm.generate(
        text,
        torch.ones(1),
        prompt_speech_tokens=torch.tensor([[11, 12, 13, 14]]),
        prompt_speech_lens=torch.ones(1),
        n_target_text=[2],
        sampler=greedy,
        min_ratio=1.0,
        max_ratio=1.0,
    )
    assert len(spoken) == 2
    assert int(out.logits[0, : lm.end_id].argmax()) == int(spoken[0])


def test_a_share_of_the_utterances_gets_another_sentence_of_its_speaker():
    prompts = {"a": [prompt("one"), prompt("two")], "b": [prompt("one")]}
    torch.manual_seed(0)
    pool = PromptPool(prompts, 0.25)
    chosen = pool.choose(["a"] * 4000, ["one"] * 4000)
    drawn = [p for p in chosen if p is not None]
    assert {p.text for p in drawn} == {"two"}
    assert len(drawn) == pytest.approx(1000, abs=100)
    assert PromptPool(prompts).choose(["b", "c"], ["one", "one"]) == [None] * 2
    torch.manual_seed(0)
    assert pool.choose(["a"] * 4000, ["one"] * 4000) == chosen
    with pytest.raises(ValueError, match="prompt_share is 2"):
        PromptPool(prompts, 2)


def test_bistream_layout_supervises_the_fill_token(model):
    long = inputs()._replace(
        text_tokens=torch.ones(1, 5).long(),
        text_lens=torch.ones(1),
        word_of_token=torch.zeros(1, 5).long(),
        speech_tokens=torch.ones(1, 20).long(),
        speech_lens=torch.ones(1),
        word_of_speech=torch.zeros(1, 20).long(),
        word_emotions=torch.eye(5)[None, :1],
        word_intensity=torch.ones(1, 1),
    )
    model.train()
    try:
        counts = []
        for share in (0.0, 1.0):
            model.bistream_share = share
            counts.append(int(model(long).n_speech))
    finally:
        model.bistream_share = 0.0
        model.eval()
    assert counts == [21, 22]  # one fill after the block of text
