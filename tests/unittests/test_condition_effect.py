"""What emotions do to predictions, and the failure that it shows."""

from types import SimpleNamespace

from speechbrain_emofilm.lobes.conditioned_lm import ConditionedLMInputs
from speechbrain_emofilm.metrics.condition_effect import (
    ConditionEffect,
    beside_switch,
    other_emotions,
)
from speechbrain_emofilm.metrics.failure_modes import diagnose, untested

import pytest
import torch
import torch.nn.functional as F

K, W, TOKENS_PER_WORD = 3, 8, 3
UNUSED = 3  # tokens that are never spoken
V = K + UNUSED


class Model:
    """Speech token k is spoken in emotion k; predicts by the emotions given.

    Arguments
    ---------
    spoken : float
        By how much an emotion's own token is likelier.
    unused : float
        By how much an unused token is likelier, another for each emotion.
    """

    def __init__(self, spoken=0.0, unused=0.0):
        own = torch.cat([spoken * torch.eye(K), unused * torch.eye(K)], 1)
        self.scores = F.pad(own, (0, 1))  # and the end

    def condition(self, tokens, lens, word_of_token, emotions, intensity):
        return SimpleNamespace(text_embeddings=emotions)

    def llm(self, emotions, text_lens, speech_tokens, speech_lens):
        size = speech_tokens.shape[1]
        n_speech = (speech_lens * size).round().long()
        place = torch.arange(size + 1)
        supervised = place <= n_speech[:, None]
        targets = F.pad(speech_tokens, (0, 1), value=V)
        targets = targets.masked_fill(place == n_speech[:, None], V)
        word = (place // TOKENS_PER_WORD).clamp(max=emotions.shape[1] - 1)
        logits = emotions[:, word] @ self.scores
        return SimpleNamespace(
            logits=logits[supervised],
            targets=targets[supervised],
            supervised=supervised,
        )


def batch_of(spoken, labelled=None):
    """Utterances spoken in some emotions and labelled with others."""
    spoken = torch.tensor(spoken)
    labelled = spoken if labelled is None else torch.tensor(labelled)
    n, words = spoken.shape
    return ConditionedLMInputs(
        text_tokens=torch.zeros(n, words, dtype=torch.long),
        text_lens=torch.ones(n),
        word_of_token=torch.arange(words).repeat(n, 1),
        speech_tokens=spoken.repeat_interleave(TOKENS_PER_WORD, 1),
        speech_lens=torch.ones(n),
        word_of_speech=torch.arange(words)
        .repeat_interleave(TOKENS_PER_WORD)
        .repeat(n, 1),
        word_emotions=torch.eye(K)[labelled],
        word_intensity=torch.ones(n, words),
    )


#: Each emotion is followed by each other, after four of eight words.
SWITCHING = [
    [a] * (W // 2) + [b] * (W // 2)
    for a in range(K)
    for b in range(K)
    if a != b
]


def measure(model, batch):
    effect = ConditionEffect()
    ids = [str(i) for i in range(len(batch.text_tokens))]
    effect.append(ids, model, batch)
    return effect


def failures(model, batch):
    """Names found as train.py finds them."""
    unlabelled = batch._replace(word_emotions=batch.word_emotions * 0)
    floor = measure(Model(), unlabelled).values()
    floor = {"speech_loss": floor["speech_loss"]}
    return [
        failure.name
        for failure in diagnose(measure(model, batch).values(), floor=floor)
    ]


# --- The four failures, and none -----------------------------------------


def test_a_model_that_understands_the_emotions_has_no_failure():
    batch = batch_of(SWITCHING)
    assert failures(Model(spoken=2.0), batch) == []
    floor = {"speech_loss": 2.0}
    figures = measure(Model(spoken=2.0), batch).values()
    assert untested(figures, floor=floor) == []


def test_emotions_without_effect_are_flat_prosody():
    assert failures(Model(), batch_of(SWITCHING)) == ["flat prosody"]


def test_emotions_that_drown_the_speech_are_forgetting():
    drowned = Model(unused=9.0)
    assert failures(drowned, batch_of(SWITCHING)) == ["catastrophic forgetting"]


def test_labels_that_switch_at_the_wrong_word_are_noisy_transitions():
    late = [[a[0]] + a[:-1] for a in SWITCHING]
    early = [a[1:] + [a[-1]] for a in SWITCHING]
    batch = batch_of(SWITCHING * 2, late + early)
    assert failures(Model(spoken=2.0), batch) == ["noisy transitions"]


def test_an_effect_on_what_is_not_spoken_is_missing_dynamics():
    shortcut = Model(unused=0.4)
    assert failures(shortcut, batch_of(SWITCHING)) == ["missing dynamics"]


# --- The figures ----------------------------------------------------------


def test_gain_is_that_of_the_own_emotion_over_another():
    figures = measure(Model(spoken=2.0), batch_of(SWITCHING)).values()
    assert figures["emotion_gain"] == pytest.approx(2.0)
    assert figures["switch_gain"] == pytest.approx(2.0)
    assert figures["inside_gain"] == pytest.approx(2.0)


def test_the_end_and_the_padding_belong_to_no_word():
    batch = batch_of([[0, 1, 2, 0]] * 2)
    whole = measure(Model(spoken=2.0), batch)
    batch = batch._replace(speech_lens=torch.tensor([1.0, 0.5]))
    padded = measure(Model(spoken=2.0), batch)
    n = [row["condition_effect_n"] for row in padded.rows]
    assert n == [12, 6]
    assert [row["speech_loss_n"] for row in padded.rows] == [13, 7]
    assert whole.rows[0] == padded.rows[0]


def test_words_without_emotion_are_not_counted():
    batch = batch_of(SWITCHING)
    batch.word_emotions[:] = 0
    values = measure(Model(spoken=2.0), batch).values()
    assert list(values) == ["speech_loss"]
    assert measure(Model(), batch).results()["emotion_gain"] == {
        "emotion_gain": None, "low": None, "high": None,
    }  # fmt: skip


def test_words_that_cannot_get_another_emotion_are_not_counted():
    batch = batch_of([[0] * W, [0] * (W - 1) + [1]])
    (first, second) = measure(Model(spoken=2.0), batch).rows
    counts = [
        row["emotion_gain_n"] / TOKENS_PER_WORD for row in (first, second)
    ]
    assert sum(counts) == 2  # one 1 and the 0 that it is exchanged with


def test_labels_are_exchanged_and_not_made():
    emotions = batch_of(SWITCHING).word_emotions
    emotions[0, :3] = 0
    intensity = torch.rand(emotions.shape[:2])
    others, strengths = other_emotions(emotions, intensity)
    assert (others[0, :3] == 0).all()
    labelled = emotions.sum(-1) > 0
    assert (others.argmax(-1) != emotions.argmax(-1))[labelled].all()
    pairs = [
        sorted(zip(e[labelled].argmax(-1).tolist(), i[labelled].tolist()))
        for e, i in ((emotions, intensity), (others, strengths))
    ]
    assert pairs[0] == pairs[1]


def test_no_switch_leads_to_or_from_a_word_without_emotion():
    emotions = torch.eye(K)[torch.tensor([[0, 0, 1, 2]])]
    emotions[0, 2] = 0
    assert not beside_switch(emotions).any()
