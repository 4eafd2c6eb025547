"""What a listener hears in speech tokens, and what follows from it."""

from speechbrain_emofilm.inference.listening import LOST_COST, listen
from speechbrain_emofilm.inference.pointing import (
    LOST_CLARITY,
    Pointing,
    WordCoverage,
)
from speechbrain_emofilm.lobes.mini.token_listener import TokenListener

import numpy as np
import pytest
import torch


def heard(phonemes, said, words=None):
    """Listen to sharp probabilities of what is said, a frame each."""

    def listener(tokens, lens):
        probs = torch.full((1, 2 * len(said), 6), 1e-6)
        for place, phoneme in enumerate(said):
            probs[0, 2 * place, 0] = 0.9
            probs[0, 2 * place + 1, phoneme + 1] = 0.9
        return probs.log()

    words = list(range(len(phonemes))) if words is None else words
    return listen(listener, said, phonemes, words, max(words) + 1)


def test_a_text_that_is_said_is_heard():
    found = heard([0, 1, 2], [0, 1, 2])
    assert found.clarity == pytest.approx([0.9] * 3)
    assert found.score > -0.5


@pytest.mark.parametrize("said", [[0, 2], [0, 3, 2]])
def test_a_word_that_is_left_out_or_replaced_is_not_heard(said):
    found = heard([0, 1, 2], said)
    first, lost, last = found.clarity
    assert first == last == pytest.approx(0.9) and lost < 1e-3
    assert found.score < heard([0, 1, 2], [0, 1, 2]).score - 1


def test_the_least_clear_phoneme_counts_for_a_word():
    found = heard([0, 1, 2], [0, 3, 2], words=[0, 0, 1])
    assert found.clarity[0] < 1e-3 and found.clarity[1] > 0.8


def test_units_without_sound_are_not_waited_for():
    found = heard([-1, 0, -1, 1], [0, 1], words=[-1, 0, 0, 1])
    assert found.clarity == pytest.approx([0.9, 0.9])
    silent = heard([-1, -1], [0], words=[0, 1])
    assert silent.clarity == [None, None] and silent.score == 0


def test_a_text_too_long_for_its_speech_is_improbable_only():
    found = heard([0, 1, 2, 3, 4], [0])
    assert np.isfinite(found.score) and found.score >= -LOST_COST
    assert sum(word < LOST_CLARITY for word in found.clarity) >= 3


def test_what_is_not_heard_is_lost_whatever_was_meant():
    coverage = [WordCoverage("spoken", 1.0, 0.9)] * 3
    pointing = Pointing(np.tile([0.0, 1.0], (3, 1)), np.ones(3), coverage)
    found = pointing.heard([0.9, LOST_CLARITY / 2, None])
    assert [w.status for w in found.coverage] == ["spoken", "lost", "spoken"]
    assert [w.clarity for w in found.coverage] == [0.9, LOST_CLARITY / 2, None]
    assert found.n_lost == 1 and pointing.n_lost == 0


def test_a_listener_learns_what_tokens_say():
    torch.manual_seed(0)
    listener = TokenListener(4, hidden=16, dropout=0.0, token_dropout=0.0)
    codes = torch.tensor([3, 80, 500, 6000])
    phonemes = torch.randint(0, 4, (16, 4))
    # A repeated phoneme would need a blank between the two.
    tokens = codes[phonemes].repeat_interleave(2, 1)
    optimizer = torch.optim.Adam(listener.parameters(), 0.01)
    lens = torch.ones(16)
    for _ in range(150):
        loss = listener.loss(tokens, lens, phonemes, lens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    listener.eval()
    right = [
        listen(listener, t, p, [0] * 4, 1)
        for t, p in zip(tokens.tolist(), phonemes.tolist())
    ]
    wrong = [
        listen(listener, t, [(q + 1) % 4 for q in p], [0] * 4, 1)
        for t, p in zip(tokens.tolist(), phonemes.tolist())
    ]
    assert all(r.score > w.score + 1 for r, w in zip(right, wrong))


def test_tokens_are_hidden_in_training_only():
    listener = TokenListener(4, hidden=8, dropout=0.0, token_dropout=0.5)
    tokens, lens = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.ones(1)
    with torch.no_grad():
        assert not torch.equal(listener(tokens, lens), listener(tokens, lens))
        listener.eval()
        assert torch.equal(listener(tokens, lens), listener(tokens, lens))


def test_a_listener_leaves_the_random_state_as_it_is():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    TokenListener(n_phonemes=4, hidden=8)
    assert torch.equal(torch.rand(3), expected)
