"""Speech while it is made, and while its text is written."""

import itertools

from speechbrain_emofilm.dataio.markup import MarkupError
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.assets import find_file

import pytest
import torch

MINI = "speechbrain_emofilm/assets/mini/synthesizer.yaml"
SHORT = "<happy>We won!</happy> <sad>But he left.</sad>"
LONG = (
    "<happy>The children went to the river.</happy> Nobody knew the answer "
    '<sad>to that question, <break time="400ms"/> which was strange.</sad> '
    "He left early. And <happy>we stayed at home until the evening.</happy>"
)


@pytest.fixture(scope="module")
def synthesizer():
    return EmoFiLMSynthesizer.from_hparams(find_file(MINI).parent)


@pytest.fixture
def reads_pieces(synthesizer, monkeypatch):
    """The model as one that reads text and speech in turns."""
    monkeypatch.setattr(synthesizer, "reads_pieces", True)
    # The mini model never asks for text: a small block is always full.
    return synthesizer


def join(chunks):
    return torch.cat([chunk.wav for chunk in chunks])


@pytest.mark.parametrize("text", [SHORT, LONG])
@pytest.mark.parametrize("options", [{}, {"guidance": 1.5, "seed": 3}])
def test_a_stream_is_the_whole_speech_in_chunks(synthesizer, text, options):
    whole = synthesizer.synthesize(text, **options)
    chunks = list(synthesizer.stream(text, **options))
    assert len(chunks) > 2
    assert torch.allclose(join(chunks), whole.wav, atol=1e-3)
    assert [w.text for w in chunks[-1].words] == [w.text for w in whole.words]


def test_the_first_chunk_comes_before_the_text_is_spoken(
    synthesizer, monkeypatch
):
    lm, drawn = synthesizer.mods.emofilm.llm, []
    generate = lm.generate_tokens

    def count(*args, **kwargs):
        for token in generate(*args, **kwargs):
            drawn.append(token)
            yield token

    monkeypatch.setattr(lm, "generate_tokens", count)
    chunks = synthesizer.stream(LONG)
    next(chunks)
    n_first = len(drawn)
    list(chunks)
    assert n_first < 0.2 * len(drawn)


def test_words_begin_in_order_and_within_the_sound(synthesizer):
    n_samples, begun = 0, []
    for chunk in synthesizer.stream(LONG):
        n_samples += len(chunk.wav)
        now = n_samples / chunk.sample_rate
        texts = [word.text for word in chunk.words]
        assert texts[: len(begun)] == begun
        begun = texts
        starts = [word.start for word in chunk.words]
        assert starts == sorted(starts)
        assert all(w.start <= w.end <= now + 1e-6 for w in chunk.words)


def test_speed_shortens_a_stream(synthesizer):
    normal = len(join(synthesizer.stream(SHORT)))
    fast = len(join(synthesizer.stream(SHORT, speed=2.0)))
    assert fast == pytest.approx(normal / 2, abs=2 * 480)


def pieces_of(text, size):
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_sentences_in_pieces_sound_the_same_however_they_are_cut(
    synthesizer, size
):
    by_size = list(synthesizer.stream(iter(pieces_of(LONG, size))))
    expected = list(synthesizer.stream([LONG]))
    # One piece is known as a whole; its sentences are spoken together.
    if size < 1000:
        expected = list(synthesizer.stream(pieces_of(LONG, 2)))
    assert join(by_size).shape == join(expected).shape
    assert torch.allclose(join(by_size), join(expected), atol=1e-3)


def test_a_sentence_is_spoken_before_the_next_is_written(synthesizer):
    given = []

    def write():
        for piece in pieces_of(LONG, 5):
            given.append(piece)
            yield piece

    next(synthesizer.stream(write()))
    assert len("".join(given)) < LONG.index("strange")


def test_text_in_pieces_is_spoken_word_by_word(reads_pieces):
    given, known = [], []
    words = [
        "<happy>We ",
        "won ",
        "the ",
        "ga",
        "me and ",
        "he</happy> ",
        "ran.",
    ]

    def write():
        for piece in words:
            given.append(piece)
            yield piece

    lm = reads_pieces.mods.emofilm.llm
    stream = reads_pieces.stream(write())
    generate = lm.generate_stream

    def watch(*args, **kwargs):
        for token in generate(*args, **kwargs):
            known.append(len(given))
            yield token

    lm.generate_stream = watch
    try:
        chunks = list(stream)
    finally:
        del lm.generate_stream
    assert [w.text for w in chunks[-1].words] == (
        "We won the game and he ran".split()
    )
    assert known[0] < len(words)


def test_words_in_pieces_get_the_units_and_emotions_of_the_whole(
    reads_pieces, monkeypatch
):
    read = []
    lm = reads_pieces.mods.emofilm.llm

    def record(texts, *args, **kwargs):
        read.append(torch.cat([torch.cat(list(t)) for t in texts], 1))
        return iter([7] * 30)

    monkeypatch.setattr(lm, "generate_stream", record)
    list(reads_pieces.stream(pieces_of(SHORT, 3), guidance=1.5))
    (piece,) = reads_pieces.plan(SHORT)
    prompt = reads_pieces.prompt("0011", None, None)
    whole = reads_pieces._lm_inputs([piece], [prompt], 1.5)
    assert len(read) == 1
    assert torch.allclose(read[0][0], whole["text_embeddings"][0], atol=1e-6)
    assert torch.allclose(
        read[0][1], whole["unconditional_embeddings"][0], atol=1e-6
    )


def test_breaks_and_sentences_end_utterances_in_pieces(
    reads_pieces, monkeypatch
):
    n_texts = []
    lm = reads_pieces.mods.emofilm.llm

    def record(texts, *args, **kwargs):
        n_texts.append(sum(text[0].shape[1] for text in texts))
        return iter([7] * 30)

    monkeypatch.setattr(lm, "generate_stream", record)
    chunks = list(reads_pieces.stream(pieces_of(LONG, 4)))
    assert len(n_texts) == 4
    text = reads_pieces.synthesize(LONG).words
    assert [w.text for w in chunks[-1].words] == [w.text for w in text]


def test_bad_input_is_told_at_once(synthesizer):
    for arguments, message in (
        (("<happy>We won",), "closed"),
        (("We won.", "nobody"), "nobody"),
        (("We won.", None, 0, -1.0), "guidance"),
        (("",), "no word"),
    ):
        with pytest.raises(ValueError, match=message):
            synthesizer.stream(*arguments)
    with pytest.raises(ValueError, match="from 0.5"):
        synthesizer.stream("We won.", speed=3)


@pytest.mark.parametrize(
    "pieces, message",
    [
        ([], "no word"),
        (["", " "], "no word"),
        (["We won. <jolly>He", " left.</jolly>"], "jolly"),
        (["We ", 3], "3"),
        (["Softly.<|endofprompt|>", "We won."], "instruction="),
    ],
)
@pytest.mark.parametrize("by_word", [False, True])
def test_bad_pieces_are_told_where_they_come(
    synthesizer, monkeypatch, pieces, message, by_word
):
    monkeypatch.setattr(synthesizer, "reads_pieces", by_word)
    with pytest.raises((MarkupError, ValueError), match=message):
        list(synthesizer.stream(pieces))


def test_two_streams_at_once_do_not_disturb_each_other(synthesizer):
    texts = SHORT, "He left early in the morning."
    alone = [join(synthesizer.stream(text)) for text in texts]
    both = [[], []]
    for pair in itertools.zip_longest(*map(synthesizer.stream, texts)):
        for own, chunk in zip(both, pair):
            if chunk is not None:
                own.append(chunk)
    for own, expected in zip(both, alone):
        assert torch.equal(join(own), expected)
