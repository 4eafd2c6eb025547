"""Plans of long texts, and their synthesis with tiny random modules."""

import importlib.util
from pathlib import Path

from speechbrain_emofilm.dataio.markup import Break, MarkupError
from speechbrain_emofilm.dataio.splitting import TextSplitter
from speechbrain_emofilm.inference.long_text import (
    MAX_HISTORY_TOKENS,
    Piece,
    carry_history,
    piece_seed,
    pieces_and_gaps,
)
from speechbrain_emofilm.inference.prompting import LMPrompt

import pytest
import torch

# The tiny modules of the test of short texts
spec = importlib.util.spec_from_file_location(
    "tiny", Path(__file__).with_name("test_synthesizer.py")
)
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

SENTENCES = ["We won it all.", "He left us there.", "They stayed at home."]
TEXT = " ".join(SENTENCES)
SMALL = dict(min_units=5, max_units=15, min_last_units=5)


@pytest.fixture(scope="module")
def synthesizer():
    return tiny.make_synthesizer(text_splitter=TextSplitter(**SMALL))


def texts(plan):
    return [
        part.marked.text if isinstance(part, Piece) else part for part in plan
    ]


def test_a_plan_has_the_sentences_and_the_pauses(synthesizer):
    plan = synthesizer.plan(TEXT)
    assert texts(plan) == SENTENCES
    assert [piece.pause for piece in plan] == [0.5, 0.5, 0.0]
    assert pieces_and_gaps(plan)[1] == [None, 0.5, 0.5, None]


def test_a_mark_holds_in_every_piece(synthesizer):
    result = synthesizer.synthesize(f"<sad intensity=0.5>{TEXT}</>")
    assert result.text == TEXT
    assert result.word_emotions.tolist() == [[0, 0, 0, 1, 0]] * 12
    assert result.word_intensity.tolist() == [0.5] * 12


def test_breaks_stand_between_pieces_and_add_up(synthesizer):
    plan = synthesizer.plan(
        "<break time=1s/><sad>We <break time=1s/><break time=500ms/>won.</> "
        f"{SENTENCES[1]} {SENTENCES[2]}<break time=2s/>"
    )
    assert texts(plan) == [
        Break(0, 1.0),
        "We",
        Break(1, 1.5),
        f"won. {SENTENCES[1]}",
        SENTENCES[2],
        Break(10, 2.0),
    ]
    assert plan[3].word_emotions[0, 3] == 1
    assert pieces_and_gaps(plan)[1] == [1.0, 1.5, 0.5, 2.0]


def test_a_break_is_silence_in_the_wave(synthesizer):
    plain = synthesizer.synthesize("We won")
    result = synthesizer.synthesize("We <break time=300ms/> won")
    assert plain.text == result.text
    silent = (result.wav == 0).long()
    assert abs(int(silent.sum()) - 0.3 * 24000) <= 0.02 * 24000
    first, second = result.words
    assert second.start - first.end == pytest.approx(0.3, abs=0.02)


def test_the_whole_is_made_of_its_pieces(synthesizer):
    result = synthesizer.synthesize(TEXT, seed=3)
    alone = synthesizer.synthesize(
        SENTENCES, seed=[piece_seed(3, index) for index in range(3)]
    )
    assert result.text == TEXT
    assert torch.equal(
        result.speech_tokens, torch.cat([r.speech_tokens for r in alone])
    )
    assert [word.text for word in result.words] == [
        word.text for one in alone for word in one.words
    ]
    times = [t for word in result.words for t in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= len(result.wav) / 24000
    assert result.word_times_source == "proportional"


@pytest.mark.parametrize("history", [False, True])
def test_long_and_short_texts_share_batches(synthesizer, history):
    options = dict(seed=[3, 4, 5], history=history)
    mixed = ["Yes.", TEXT, "We won."]
    whole = synthesizer.synthesize(mixed, **options)
    parts = synthesizer.synthesize(mixed, batch_size=2, **options)
    for text, seed, one, other in zip(mixed, options["seed"], whole, parts):
        alone = synthesizer.synthesize(text, seed=seed, history=history)
        assert torch.equal(one.speech_tokens, alone.speech_tokens)
        assert torch.equal(other.speech_tokens, alone.speech_tokens)
        assert one.text == alone.text == text


def test_a_batch_has_at_most_its_size(synthesizer, monkeypatch):
    sizes, generate = [], synthesizer._generate

    def count(batch, *args):
        sizes.append(len(batch))
        return generate(batch, *args)

    monkeypatch.setattr(synthesizer, "_generate", count)
    synthesizer.synthesize([TEXT, TEXT], batch_size=4)
    assert sizes == [4, 2]
    sizes.clear()
    synthesizer.synthesize([TEXT, "Yes."], history=True)
    assert sizes == [2, 1, 1]


def test_history_prompts_with_the_piece_before(monkeypatch):
    synthesizer = tiny.make_synthesizer(
        text_splitter=TextSplitter(**SMALL), history=True
    )
    seen, generate = [], synthesizer._generate

    def keep(batch, prompts, *args):
        tokens = generate(batch, prompts, *args)
        seen.append((batch[0], prompts[0], tokens[0]))
        return tokens

    monkeypatch.setattr(synthesizer, "_generate", keep)
    synthesizer.synthesize(TEXT)
    assert not seen[0][1].text_ids
    for (piece, _, tokens), (_, prompt, _) in zip(seen, seen[1:]):
        assert prompt.text_ids == piece.units.ids
        assert torch.equal(prompt.speech_tokens, tokens)
    seen.clear()
    synthesizer.synthesize(TEXT, history=False)
    assert not any(prompt.text_ids for _, prompt, _ in seen)


def test_history_does_not_grow_without_bound(synthesizer):
    (piece,) = synthesizer.plan("We won")
    tokens = torch.zeros(MAX_HISTORY_TOKENS + 1, dtype=torch.long)
    prompt = LMPrompt([7])
    assert carry_history(prompt, piece, tokens) == prompt
    carried = carry_history(prompt, piece, tokens[1:])
    assert carried.text_ids == [7, *piece.units.ids]
    assert len(carried.speech_tokens) == MAX_HISTORY_TOKENS


def test_a_text_of_any_length_has_a_plan():
    plan = tiny.make_synthesizer().plan("word " * 2000)
    assert sum(len(piece.marked.words) for piece in plan) == 2000
    assert max(len(piece.units.ids) for piece in plan) <= 200


@pytest.mark.parametrize(
    "text, message",
    [
        (f"{TEXT} <joy>We</joy>", "Character 54: the emotion 'joy'"),
        (f"{TEXT} <break time=99s/> We", "Character 54: <break"),
        (f"{TEXT} We <break time=1s/> won 🎉", "We won 🎉' cannot be read"),
    ],
)
def test_bad_long_texts_are_refused_before_anything_is_spoken(
    synthesizer, text, message, monkeypatch
):
    monkeypatch.setattr(synthesizer, "_speak", None)
    with pytest.raises(ValueError, match=message):
        synthesizer.synthesize(text)


def test_a_text_of_breaks_only_is_refused(synthesizer):
    with pytest.raises(MarkupError, match="no word to speak"):
        synthesizer.plan("<break time=1s/>")
