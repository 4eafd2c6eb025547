"""Utterances that are decoded together, and join and leave in mid-flight."""

from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    SpeechDecoding,
    TokenDrawing,
    Utterance,
)

import pytest
import torch

TINY = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
GUIDANCES = (1.0, 2.5, 1.0, 0.5, 1.7)


def tiny_lm(seed=0):
    """A model whose speech ends at any time."""
    torch.manual_seed(seed)
    lm = CosyVoice2LM(TINY, speech_token_size=27)
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] += 1.5
    return lm


def make_utterances(lm, n_utterances=5, seed=0, max_len=30):
    """Utterances of various sizes, with and without guidance and prompt."""
    generator = torch.Generator().manual_seed(seed)
    utterances = []
    for item in range(n_utterances):
        n_text, n_prompt, min_len = torch.randint(
            1, 9, (3,), generator=generator
        ).tolist()
        text = lm.embed_text(torch.randint(30, (n_text,), generator=generator))
        guidance = GUIDANCES[(item + seed) % len(GUIDANCES)]
        prompt = torch.randint(27, (n_prompt,), generator=generator)
        utterances.append(
            Utterance(
                key=f"utterance {item}",
                text=text,
                max_len=max_len - item,
                min_len=min_len,
                prompt_tokens=prompt if item % 2 else None,
                unconditional=None if guidance == 1.0 else text / 2,
                guidance=guidance,
                seed=100 * seed + item,
            )
        )
    return utterances


class Ledger:
    """Tokens of every utterance, checked for what a step may return."""

    def __init__(self):
        self.tokens, self.ended, self.orders = {}, set(), []

    def note(self, drawn):
        self.orders.append([d.key for d in drawn])
        for key, token, is_last, hidden in drawn:
            assert key not in self.ended
            assert hidden.shape == (16,)
            tokens = self.tokens.setdefault(key, [])
            if token is None:
                assert is_last
            else:
                tokens.append(token)
            if is_last:
                self.ended.add(key)


def speak(lm, utterances, **options):
    """All tokens of utterances that are decoded together from the start."""
    decoding, ledger = SpeechDecoding(lm, **options), Ledger()
    decoding.join(utterances)
    while len(decoding):
        ledger.note(decoding.step())
    return ledger


def speak_alone(lm, utterances):
    """Tokens of ``CosyVoice2LM.generate`` for each utterance alone."""
    tokens = {}
    for u in utterances:
        prompt = u.prompt_tokens
        if prompt is not None:
            prompt = prompt[None]
        (spoken,) = lm.generate(
            u.text[None],
            torch.ones(1),
            prompt,
            torch.ones(1),
            None if u.unconditional is None else u.unconditional[None],
            u.guidance,
            min_ratio=float(u.min_len),
            max_ratio=float(u.max_len),
            n_target_text=[1],
            seeds=[u.seed],
        )
        tokens[u.key] = spoken.tolist()
    return tokens


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_mixed_guidance_speaks_as_each_alone(seed):
    lm = tiny_lm(seed)
    utterances = make_utterances(lm, seed=seed)
    alone = speak_alone(lm, utterances)
    assert speak(lm, utterances).tokens == alone
    assert len({len(tokens) for tokens in alone.values()}) > 2
    for u in utterances:
        assert u.min_len <= len(alone[u.key]) <= u.max_len


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_rows", [None, 3])
def test_an_utterance_speaks_the_same_whatever_joins_and_leaves(seed, max_rows):
    lm = tiny_lm(seed)
    utterances = make_utterances(lm, 12, seed)
    alone = speak_alone(lm, utterances)
    decoding, ledger = SpeechDecoding(lm, max_rows=max_rows), Ledger()
    generator = torch.Generator().manual_seed(seed)
    coming, gone = list(utterances), set()
    while coming or len(decoding):
        n_joining = int(torch.randint(3, (1,), generator=generator))
        decoding.join(coming[:n_joining])
        del coming[:n_joining]
        ledger.note(decoding.step())
        assert max_rows is None or len(ledger.orders[-1]) <= max_rows
        if len(ledger.orders) % 7 == 0 and ledger.orders[-1]:
            gone.add(ledger.orders[-1][0])
            decoding.leave(ledger.orders[-1][0])
    assert gone
    gone -= ledger.ended
    for key, expected in alone.items():
        tokens = ledger.tokens.get(key, [])
        if key in gone:
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected


def test_long_utterances_outgrow_every_room():
    lm = tiny_lm()
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    utterances = make_utterances(lm, 3, max_len=300)
    decoding, ledger = SpeechDecoding(lm), Ledger()
    decoding.join(utterances[:1])
    for _ in range(140):
        ledger.note(decoding.step())
    decoding.join(utterances[1:])
    while len(decoding):
        ledger.note(decoding.step())
    assert ledger.tokens == speak_alone(lm, utterances)
    assert [len(t) for t in ledger.tokens.values()] == [300, 299, 298]


def test_guidance_of_one_is_read_once():
    lm = tiny_lm()
    rows = []
    lm.llm.norm.register_forward_hook(lambda _, x, y: rows.append(len(y)))
    decoding = SpeechDecoding(lm)
    decoding.join(make_utterances(lm, 5))
    decoding.step()
    assert rows == [5 + sum(w != 1.0 for w in GUIDANCES)]


def test_an_ended_utterance_makes_room_for_one_that_waits():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    lens = {"a": 1, "b": 3, "c": 2, "d": 1}
    utterances = [Utterance(k, text, n, n) for k, n in lens.items()]
    ledger = speak(lm, utterances, max_rows=2)
    assert ledger.orders == [["a", "b"], ["b", "c"], ["b", "c"], ["d"]]


def test_leaving_frees_a_row_and_a_place_in_the_queue():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    decoding = SpeechDecoding(lm, max_rows=1)
    decoding.join(Utterance(key, text, 5, 5) for key in "abc")
    decoding.step()
    assert decoding.n_live == 1 and len(decoding) == 3
    decoding.leave("b")  # waits
    decoding.leave("a")  # speaks
    decoding.leave("nobody")
    assert decoding.n_live == 0 and len(decoding) == 1
    assert [d.key for d in decoding.step()] == ["c"]
    decoding.leave("c")
    assert not len(decoding) and decoding.step() == []


def test_memory_follows_the_longest_that_speaks():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    decoding = SpeechDecoding(lm)
    decoding.join([Utterance("long", text, 500, 500)])
    for _ in range(200):
        decoding.step()
    decoding.join([Utterance("short", text, 500, 500)])
    decoding.step()
    assert decoding._cached.size > 200
    decoding.leave("long")
    assert decoding._cached.size == 3 + 2
    assert decoding._drawing._spoken.shape[1] < 200


def test_the_hidden_state_predicted_the_token():
    lm = tiny_lm()
    utterances = make_utterances(lm, 3)
    utterances[1].guidance = 1.0
    decoding = SpeechDecoding(lm, sampler=lambda p, *_: p.argmax(-1))
    decoding.join(utterances)
    for _ in range(3):
        for _, token, _, hidden in decoding.step():
            scores = lm.llm_decoder(hidden.clone())
            token = lm.end_id if token is None else token
            ids = torch.arange(lm.end_id)
            assert scores[token] >= scores[ids].max()


def test_the_last_token_tells_a_cut_from_an_end():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] += 100.0
    decoding = SpeechDecoding(lm)
    decoding.join([Utterance("cut", text, 1, 1), Utterance("end", text, 9, 1)])
    first, second = decoding.step(), decoding.step()
    assert [(d.token is None, d.is_last) for d in first] == [
        (False, True),
        (False, False),
    ]
    assert [(d.key, d.token, d.is_last) for d in second] == [
        ("end", None, True)
    ]


def test_a_sampler_sees_each_history_padded_on_the_left():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    seen = []

    def sampler(log_probs, history, uniforms):
        seen.append(history.tolist())
        return torch.arange(len(log_probs)) + len(seen)

    decoding = SpeechDecoding(lm, sampler)
    decoding.join([Utterance("a", text, 9)])
    decoding.step()
    decoding.step()
    decoding.join([Utterance("b", text, 9)])
    decoding.step()
    decoding.step()
    decoding.leave("a")
    decoding.step()
    assert seen == [
        [[]],
        [[1]],
        [[1, 2], [-1, -1]],
        [[1, 2, 3], [-1, -1, 4]],
        [[4, 5]],
    ]


def test_refuses_what_cannot_be_decoded():
    lm = tiny_lm()
    text = lm.embed_text(torch.arange(3))
    decoding = SpeechDecoding(lm)
    decoding.join([Utterance("a", text, 5)])
    with pytest.raises(ValueError, match="the key 'a'"):
        decoding.join([Utterance("b", text, 5), Utterance("a", text, 5)])
    assert len(decoding) == 1
    with pytest.raises(ValueError, match="unconditional embeddings"):
        Utterance("a", text, 5, guidance=2.0)
    for lens in ((0, 0), (5, 6), (5, -1)):
        with pytest.raises(ValueError, match="'a' has lengths"):
            Utterance("a", text, *lens)
    with pytest.raises(ValueError, match="max_rows 0"):
        SpeechDecoding(lm, max_rows=0)


def test_only_the_allowed_special_id_is_drawn():
    lm = tiny_lm()
    seen = []

    def sampler(log_probs, history, uniforms):
        seen.append((log_probs[:, lm.end_id :] > -torch.inf).tolist())
        return log_probs.argmax(-1)

    drawing = TokenDrawing(lm, sampler)
    drawing.join([0, 0, 0], [1.0] * 3)
    drawing.draw(torch.randn(3, 16), [None, lm.end_id, lm.fill_id])
    assert seen == [[[False] * 3, [True, False, False], [False, False, True]]]
