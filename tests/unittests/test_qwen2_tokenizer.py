"""CosyVoice2's text front end: tokens, and the word of each."""

import random
import shutil
import unicodedata

from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.normalization import TextNormalizer
from speechbrain_emofilm.dataio.text import (
    blank_tags,
    map_tokens_to_words,
    split_words,
    word_of_characters,
)
from speechbrain_emofilm.integrations.cosyvoice2.qwen2_tokenizer import (
    SPECIAL_TOKENS,
    TAGS,
    Qwen2TextFrontend,
)

import pytest

PIECES = [
    "We",
    "won",
    "Don't",
    "1,000.5",
    "我们",
    "赢了",
    "game,",
    "but!",
    "。",
    "(really)",
    "well-kept",
    "🎉",
    "👨‍👩‍👧",
    "é",
    "e\u0301",
    "[laughter]",
    "[breath]",
    "—",
    "\n",
]


@pytest.fixture(scope="module")
def frontend(qwen2_folder):
    return Qwen2TextFrontend(qwen2_folder)


def words_of_tokens(frontend, text):
    """Each token as it is written, with its word."""
    units = frontend.encode(text)
    tokens = frontend._tokenizer.convert_ids_to_tokens(units.ids)
    return list(zip(tokens, units.word_of_unit)), units.words


def random_texts(n=200):
    chance = random.Random(0)
    for _ in range(n):
        pieces = chance.choices(PIECES, k=chance.randint(1, 8))
        text = "".join(p + chance.choice(["", " "]) for p in pieces)
        yield unicodedata.normalize("NFC", text)  # as Qwen2 reads it


def test_every_character_but_spaces_is_covered_once(frontend):
    for text in random_texts():
        _, spans = frontend._tokenize(text)
        covered = set()
        end_before = 0
        for start, end in spans:
            # Only the bytes of one character are divided between tokens.
            assert start >= end_before - 1, text
            assert start >= end_before or not text[start].isascii(), text
            covered |= set(range(start, end))
            end_before = end
        for position, character in enumerate(text):
            assert position in covered or character.isspace(), text


def test_every_token_belongs_to_a_word_that_it_shares_characters_with(
    frontend,
):
    for text in random_texts():
        plain = blank_tags(text, TAGS)
        if not split_words(plain):
            continue
        units = frontend.encode(text)
        owner = word_of_characters(plain)
        _, spans = frontend._tokenize(text)
        for word, (start, end) in zip(units.word_of_unit, spans):
            inside = {owner[i] for i in range(start, end)} - {-1}
            assert word in inside or (word == -1 and not inside)


def test_every_english_word_has_tokens_in_order(frontend):
    for text in random_texts():
        words = [word.text for word in split_words(blank_tags(text, TAGS))]
        if not words or not text.isascii():
            continue
        units = frontend.encode(text)
        assert units.words == words
        known = [word for word in units.word_of_unit if word >= 0]
        assert known == sorted(known)
        assert set(known) == set(range(len(words)))


def test_words_of_mixed_text(frontend):
    pairs, words = words_of_tokens(frontend, "We won, 我们赢了!")
    assert words == ["We", "won", "我", "们", "赢", "了"]
    assert pairs[0] == ("We", 0)
    assert ("Ġwon", 1) in pairs and (",", 1) in pairs
    assert pairs[-1][1] == 5


def test_emoji_belongs_to_the_word_before_it(frontend):
    units = frontend.encode("We won 🎉")
    assert units.word_of_unit[-1] == 1
    assert units.words == ["We", "won"]


def test_special_tokens_are_one_token_each_behind_qwen2s(frontend):
    base = frontend._tokenizer.vocab_size
    for number, special in enumerate(SPECIAL_TOKENS, start=1):
        ids, _ = frontend._tokenize(special)
        assert ids == [base + number]  # <|endoftext|> comes first
    assert frontend.vocab_size == base + 1 + len(SPECIAL_TOKENS)


def test_a_tag_is_no_word(frontend):
    units = frontend.encode("We [laughter] <strong>won</strong>")
    assert units.words == ["We", "won"]
    for tag in ("[laughter]", "<strong>", "</strong>"):
        (token,) = frontend._tokenize(tag)[0]
        assert units.word_of_unit[units.ids.index(token)] == -1


def test_instruction_comes_first_and_belongs_to_no_word(frontend):
    units = frontend.encode("Speak softly.<|endofprompt|>We won.")
    spoken = frontend.encode("We won.")
    n = len(units.ids) - len(spoken.ids)
    assert units.words == ["We", "won"]
    assert units.ids[n:] == spoken.ids
    assert units.word_of_unit == [-1] * n + spoken.word_of_unit
    (mark,) = frontend._tokenize("<|endofprompt|>")[0]
    assert units.ids[n - 1] == mark


def test_a_word_that_becomes_five_passes_its_place_on(qwen2_folder):
    pytest.importorskip("wetext")
    frontend = Qwen2TextFrontend(qwen2_folder, TextNormalizer())
    pairs, words = words_of_tokens(frontend, "[breath]He paid $5.21 now")
    assert words == ["He", "paid", "5.21", "now"]
    text = "[breath]He paid five point two one dollars now."
    assert (
        frontend.encode(text).ids
        == frontend.encode("[breath]He paid $5.21 now").ids
    )
    _, spans = frontend._tokenize(text)
    first, last = text.index("five"), text.index(" now")
    for (start, end), (_, word) in zip(spans, pairs):
        if text[start:end].strip():
            assert (word == 2) == (start >= first - 1 and end <= last)
    assert pairs[0][1] == -1
    assert pairs[-1][1] == 3


def test_mandarin_and_english_are_normalised_by_their_letters(qwen2_folder):
    pytest.importorskip("wetext")
    frontend = Qwen2TextFrontend(qwen2_folder, TextNormalizer())
    for written, spoken, word_of_number in (
        ("我有5块", "我有五块。", 2),
        ("I have 5", "I have five.", 2),
    ):
        units = frontend.encode(written)
        assert units.ids == frontend.encode(spoken).ids
        assert units.words[word_of_number] == "5"
        assert word_of_number in units.word_of_unit


def test_tokens_are_those_of_the_whole_text(frontend):
    units = frontend.encode("We won the game.")
    assert units.ids == frontend._tokenizer("We won the game.")["input_ids"]


@pytest.mark.parametrize("text", ["", "  ", "!?", "🎉", "Hi<|endofprompt|>"])
def test_text_without_words_is_refused(frontend, text):
    with pytest.raises(ValueError, match="no word to speak"):
        frontend.encode(text)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt"])
def test_folder_without_tokenizer_is_refused(qwen2_folder, tmp_path, name):
    shutil.copytree(qwen2_folder, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}: give"):
        Qwen2TextFrontend(tmp_path / "copy")


def test_damaged_tokenizer_is_refused(qwen2_folder, tmp_path):
    shutil.copytree(qwen2_folder, tmp_path / "copy")
    vocabulary = (qwen2_folder / "vocab.json").read_text()
    (tmp_path / "copy" / "vocab.json").write_text(vocabulary[:100])
    with pytest.raises(ValueError, match="no readable tokenizer"):
        Qwen2TextFrontend(tmp_path / "copy")


def test_spans_of_special_tokens_are_mapped(frontend):
    text = "We[breath]won"
    _, spans = frontend._tokenize(text)
    words = map_tokens_to_words(spans, text)
    assert words[:2] == [0, 1] and set(words[2:]) == {2}


def test_decomposed_letters_are_read_like_composed_ones(frontend):
    composed = frontend.encode("\u00e9t\u00e9 won")
    decomposed = frontend.encode("e\u0301te\u0301 won")
    assert decomposed.ids == composed.ids
    assert decomposed.word_of_unit == composed.word_of_unit


def test_tokens_are_split_only_where_the_emotion_changes(frontend):
    text = "我们赢了,但是he走了。"
    whole = frontend.encode(text)
    _, spans = frontend._tokenize(text)
    assert max(b - a for a, b in spans) > 2
    assert set(whole.word_of_unit) != set(range(9))  # some are swallowed
    split = frontend.encode(text, borders=range(1, 9))
    assert set(split.word_of_unit) == set(range(9))
    assert frontend._tokenizer.decode(split.ids) == text
    assert frontend.encode(text, borders=[]) == whole
    for text in random_texts():
        places = list(range(len(text)))
        ids, _ = frontend._tokenize(text, places)
        assert frontend._tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text, emotions",
    [
        ("我<happy>们赢</happy>了", "nhhn"),
        ("<sad>我们</sad>赢了,<angry>但</angry>是他走了。", "ssnnannnn"),
        ("他say<happy>今天很</happy>好!", "nnhhhn"),
    ],
)
def test_a_mark_covers_any_characters(frontend, text, emotions):
    known = ["neutral", "happy", "sad", "angry"]
    marked = parse_markup(text, known)
    names = [
        known[max(range(4), key=w.probs.__getitem__)][0] for w in marked.words
    ]
    assert "".join(names) == emotions
    borders = [i for i in range(1, len(names)) if names[i - 1] != names[i]]
    units = frontend.encode(marked.text, borders)
    words = split_words(marked.text)
    assert units.words == [word.text for word in words]
    starts = [words[border].start for border in borders]
    _, spans = frontend._tokenize(marked.text, starts)
    owner = word_of_characters(marked.text)
    heard = {}
    for word, (start, end) in zip(units.word_of_unit, spans):
        for place in range(start, end):
            if owner[place] >= 0:
                heard.setdefault(owner[place], set()).add(names[word])
    assert heard == {index: {name} for index, name in enumerate(names)}
