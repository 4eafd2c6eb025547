"""The word pointer, its paths through the words, and what it leaves alone."""

import itertools
from pathlib import Path

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    SpeechDecoding,
    Utterance,
)
from speechbrain_emofilm.lobes.efilm import EFiLM, EmotionEncoder, FiLM
from speechbrain_emofilm.lobes.word_pointer import (
    IGNORE,
    WordPointer,
    monotonic_path,
    word_pointer,
)

import numpy as np
import pytest
import torch
import yaml

QWEN2 = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def tiny_pointer(**options):
    sizes = dict(reduced_dim=8, hidden=8, dim=4, resolution=2)
    return WordPointer(16, **sizes, **options).eval()


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return dict(
        text_states=torch.randn(2, 5, 16, generator=generator),
        text_lens=torch.tensor([1.0, 0.6]),
        word_of_token=torch.tensor([[0, 0, -1, 1, 2], [0, 1, -1, 0, 0]]),
        speech_states=torch.randn(2, 7, 16, generator=generator),
        speech_lens=torch.tensor([1.0, 0.5]),
    )


def brute_force(log_probs, skip_cost):
    """Score of the best path among all, and the path."""
    n_frames, n_words = len(log_probs), log_probs.shape[1] - 1
    best = (-np.inf, None)
    borders = range(n_frames + 1)
    for ends in itertools.combinations_with_replacement(borders, 2 * n_words):
        pairs = list(zip(ends[::2], ends[1::2]))
        labels = np.zeros(n_frames, int)
        cost = 0.0
        for word, (start, end) in enumerate(pairs):
            labels[start:end] = word + 1
            cost += skip_cost * (start == end)
        score = log_probs[np.arange(n_frames), labels].sum() - cost
        best = max(best, (score, pairs), key=lambda item: item[0])
    return best


def score_of(path, log_probs, skip_cost):
    labels = np.zeros(len(log_probs), int)
    for word, (start, end) in enumerate(path):
        labels[start:end] = word + 1
    skipped = (path[:, 0] == path[:, 1]).sum()
    score = log_probs[np.arange(len(log_probs)), labels].sum()
    return score - skip_cost * skipped if skipped else score


@pytest.mark.parametrize("skip_cost", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all(seed, skip_cost):
    generator = np.random.default_rng(seed)
    log_probs = np.log(generator.dirichlet(np.ones(4) * 0.3, 7) + 1e-6)
    path = monotonic_path(log_probs, skip_cost)
    expected, _ = brute_force(log_probs, skip_cost)
    assert score_of(path, log_probs, skip_cost) == pytest.approx(expected)
    assert (np.diff(path.ravel()) >= 0).all()


def test_silence_alone_leaves_every_word_out():
    log_probs = np.log([[0.999998, 1e-6, 1e-6]] * 40)
    path = monotonic_path(log_probs)
    assert (path[:, 0] == path[:, 1]).all()


def test_one_word_between_silences():
    probs = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    assert monotonic_path(np.log(probs)).tolist() == [[1, 3]]


def test_more_words_than_frames_leave_words_out():
    path = monotonic_path(np.log(np.full((2, 6), 1 / 6)))
    assert (path[:, 1] > path[:, 0]).sum() == 2
    assert path.min() >= 0 and path.max() <= 2


def test_an_unfinished_path_ends_where_the_speech_is():
    probs = np.full((6, 4), 0.02)
    probs[[0, 1], 1] = probs[[2, 3], 2] = probs[[4, 5], 3] = 0.94
    path = monotonic_path(np.log(probs[:4]), is_whole=False)
    assert path.tolist() == [[0, 2], [2, 4], [-1, -1]]
    whole = monotonic_path(np.log(probs))
    assert whole.tolist() == [[0, 2], [2, 4], [4, 6]]


def test_probabilities_do_not_depend_on_padding():
    batch = make_batch()
    both = tiny_pointer()(**batch, n_words=3)
    alone = tiny_pointer()(
        batch["text_states"][1:, :3],
        torch.ones(1),
        batch["word_of_token"][1:, :3],
        batch["speech_states"][1:, :4],
        torch.ones(1),
        n_words=3,
    )
    # The last state of a row is that behind its last token.
    torch.testing.assert_close(both[1:, :6], alone)


def test_without_the_next_state_the_pointer_does_not_look_ahead():
    pointer, batch = tiny_pointer(), make_batch()
    before = pointer(**batch, n_words=3, sees_next=False)
    batch["speech_states"][:, 3:] += 1
    after = pointer(**batch, n_words=3, sees_next=False)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:8], after[:, 6:8])
    seeing = pointer(**batch, n_words=3)
    assert not torch.allclose(seeing[:, :6], after[:, :6])


def test_each_utterance_may_see_or_not():
    pointer, batch = tiny_pointer(), make_batch()
    mixed = pointer(**batch, n_words=3, sees_next=torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], pointer(**batch, n_words=3)[0])
    blind = pointer(**batch, n_words=3, sees_next=False)
    torch.testing.assert_close(mixed[1], blind[1])


def test_words_without_a_text_token_are_never_probable():
    log_probs = tiny_pointer()(**make_batch(), n_words=4)
    assert (log_probs[..., 4] < -13).all()
    assert (log_probs[1, :, 3] < -13).all()  # its token is padding


def test_the_loss_leaves_out_padding_prompts_and_unwritten_words():
    pointer, batch = tiny_pointer(), make_batch()
    frames = torch.tensor([[0] * 6 + [-1] * 6, [1] * 12])
    expected = pointer.loss(**batch, word_of_frame=frames)
    assert int(expected.n_frames) == 12 + 6
    frames[1, 6:] = 7
    assert pointer.loss(**batch, word_of_frame=frames).loss == expected.loss
    frames[0, :2] = IGNORE
    frames[0, 2] = 9  # written nowhere
    assert int(pointer.loss(**batch, word_of_frame=frames).n_frames) == 15


def test_it_learns_which_state_belongs_to_which_word():
    torch.manual_seed(0)
    pointer = tiny_pointer(dropout=0.0, next_dropout=0.0).train()
    batch = make_batch()
    frames = torch.tensor([0, 0, 0, 0, -1, -1, 1, 1, 2, 2, 2, 2]).repeat(2, 1)
    optimizer = torch.optim.Adam(pointer.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        pointer.loss(**batch, word_of_frame=frames).loss.backward()
        optimizer.step()
    pointer.eval()
    log_probs = pointer(**batch, n_words=3)[0].detach()
    assert monotonic_path(log_probs).tolist() == [[0, 4], [6, 8], [8, 12]]


def test_a_weight_of_zero_makes_no_pointer():
    assert word_pointer(0, state_dim=16) is None
    assert isinstance(word_pointer(1.0, state_dim=16), WordPointer)


def test_making_and_training_it_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pointer = tiny_pointer().train()
    pointer.loss(**make_batch(), word_of_frame=torch.zeros(2, 12).long())
    assert torch.equal(torch.rand(4), expected)


def make_model(pointer):
    torch.manual_seed(0)
    model = EmotionConditionedLM(
        CosyVoice2LM(QWEN2, speech_token_size=27),
        EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16)),
        history_corruption=0.3,
        condition_dropout=0.3,
        bistream_share=0.5,
    )
    model.word_pointer = pointer
    return model


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    return ConditionedLMInputs(
        text_tokens=torch.randint(40, (2, 6), generator=generator),
        text_lens=torch.tensor([1.0, 0.5]),
        word_of_token=torch.arange(6).div(2).long().repeat(2, 1),
        speech_tokens=torch.randint(27, (2, 4), generator=generator),
        speech_lens=torch.tensor([1.0, 0.75]),
        word_of_speech=torch.tensor([[0, 1, 2, -1], [0, 1, 2, 0]]),
        word_emotions=torch.eye(5)[torch.tensor([[0, 1, 2], [4, 4, 4]])],
        word_intensity=torch.ones(2, 3),
        word_of_frame=torch.tensor([[0, 0, 1, 1, 2, 2, -1, -1]] * 2),
    )


def gradients(model, weight):
    torch.manual_seed(5)
    output = model.train()(make_inputs())
    (output.speech_loss + weight * output.pointer_loss).backward()
    return {n: p.grad for n, p in model.named_parameters()}


def test_the_pointer_gives_no_gradient_to_anything_else():
    alone = gradients(make_model(None), 0.0)
    beside = gradients(make_model(tiny_pointer()), 1.0)
    for name, gradient in alone.items():
        if gradient is None:
            assert beside[name] is None
        else:
            assert torch.equal(gradient, beside[name]), name
    assert beside["word_pointer.key.weight"].abs().sum() > 0


def test_prompts_are_not_pointed_at():
    class Prompt:
        text_tokens = torch.tensor([3, 4])
        speech_tokens = torch.tensor([5, 6, 7])

    model = make_model(tiny_pointer()).eval()
    inputs = make_inputs()
    behind = inputs.behind([Prompt, None])
    assert behind.word_of_frame[0, :6].tolist() == [IGNORE] * 6
    assert behind.word_of_frame[0, 6:].tolist() == [0, 0, 1, 1, 2, 2, -1, -1]
    assert int(model(behind).n_pointer) == int(model(inputs).n_pointer) == 12


def test_pointing_needs_a_pointer():
    with pytest.raises(ValueError, match="has no word pointer: train one"):
        make_model(None).point(make_inputs())


def test_states_while_decoding_are_those_of_reading_the_whole():
    model = make_model(tiny_pointer()).eval()
    lm, inputs = model.llm, make_inputs()
    texts = [
        lm.embed_text(inputs.text_tokens)[i, :n] for i, n in ((0, 6), (1, 3))
    ]
    heard = {}
    decoding = SpeechDecoding(lm, on_text=heard.__setitem__)
    decoding.join([Utterance(i, t, 5, 5) for i, t in enumerate(texts)])
    tokens, states = {0: [], 1: []}, {0: [], 1: []}
    while len(decoding):
        for drawn in decoding.step():
            tokens[drawn.key].append(drawn.token)
            states[drawn.key].append(drawn.hidden.clone())
    for key, text in enumerate(texts):
        with torch.no_grad():
            whole = lm(
                text[None],
                torch.ones(1),
                torch.tensor([tokens[key]]),
                torch.ones(1),
            )
        torch.testing.assert_close(
            heard[key].clone(), whole.text_hidden[0], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            torch.stack(states[key]), whole.hidden[0, :5], atol=1e-4, rtol=1e-4
        )


def test_the_pointer_of_cosyvoice2_is_small():
    hparams = Path(__file__).parents[2] / "recipes/ESD/emotional_tts/hparams"
    document = yaml.compose((hparams / "cosyvoice2.yaml").read_text())
    entries = {key.value: value for key, value in document.value}
    sizes = {
        key.value: int(value.value)
        for key, value in entries["word_pointer"].value
        if key.value in ("reduced_dim", "hidden", "dim", "resolution")
    }
    assert len(sizes) == 4
    pointer = WordPointer(896, **sizes)  # the width of Qwen2-0.5B
    assert sum(p.numel() for p in pointer.parameters()) <= 2e6
