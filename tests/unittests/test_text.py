"""Words of a text, and tokens mapped to them."""

import random

from speechbrain_emofilm.dataio.text import (
    TextUnits,
    map_tokens_to_words,
    same_word,
    split_words,
    word_of_characters,
)
from speechbrain_emofilm.processing.pooling import spread

import pytest
import torch

ALPHABET = (
    list("abcXYZ019éß")
    + list("'’.,!?;:-—…()[]“”\"/&<>_ \n\t　")
    + list("你好赢。，！")
    + ["🎉", "👍🏽", "e\u0301", "\u0301", "\u200b", "\ufe0f"]
)


def random_texts(n=400, seed=0):
    generator = random.Random(seed)
    return [
        "".join(generator.choices(ALPHABET, k=generator.randrange(40)))
        for _ in range(n)
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("We won!", ["We", "won"]),
        ("“Don’t,” she said.", ["Don’t", "she", "said"]),
        ("It cost 1,000.50, then 3.", ["It", "cost", "1,000.50", "then", "3"]),
        ("well-kept and/or", ["well", "kept", "and", "or"]),
        ("end.Next", ["end", "Next"]),
        ("我们won了", ["我", "们", "won", "了"]),
        ("e\u0301migre\u0301 ok", ["e\u0301migre\u0301", "ok"]),
        ("🎉 ... !", []),
        ("", []),
    ],
)
def test_words_are_found(text, words):
    assert [word.text for word in split_words(text)] == words


def test_words_are_slices_of_the_text_in_order():
    for text in random_texts():
        end = 0
        for word in split_words(text):
            assert end <= word.start < word.end
            assert text[word.start : word.end] == word.text
            end = word.end


def test_every_character_but_spaces_belongs_to_exactly_one_word():
    for text in random_texts():
        owner = word_of_characters(text)
        words = split_words(text)
        assert len(owner) == len(text)
        if not words:
            assert set(owner) <= {-1}
            continue
        for character, word in zip(text, owner):
            assert (word == -1) == character.isspace()
        assert [w for w in owner if w >= 0] == sorted(
            w for w in owner if w >= 0
        )
        assert set(owner) - {-1} == set(range(len(words)))


@pytest.mark.parametrize(
    "text, owner",
    [
        ("(We) won!", [0, 0, 0, 0, -1, 1, 1, 1, 1]),
        ("so (very-odd)", [0, 0, -1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]),
        ("a — b", [0, -1, 0, -1, 1]),
        ("… a", [0, -1, 0]),
        ("“好”了", [0, 0, 0, 1]),
    ],
)
def test_punctuation_belongs_to_the_word_it_is_written_at(text, owner):
    assert word_of_characters(text) == owner


def test_random_tokens_belong_to_the_word_of_their_characters():
    generator = random.Random(1)
    for text in random_texts(seed=1):
        cuts = sorted(generator.choices(range(len(text) + 1), k=6))
        offsets = list(zip([0, *cuts], [*cuts, len(text)]))
        owner = word_of_characters(text)
        for (start, end), word in zip(
            offsets, map_tokens_to_words(offsets, text)
        ):
            candidates = {w for w in owner[start:end] if w >= 0}
            assert word in candidates or (word == -1 and not candidates)


def test_letters_decide_before_punctuation():
    # The token ",..he" shares three marks with "won" and two letters with
    # "he".
    assert map_tokens_to_words([(0, 3), (3, 8)], "won,..he") == [0, 1]


def test_byte_level_tokens_with_leading_spaces_and_split_characters():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {
                byte: index
                for index, byte in enumerate(
                    sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
                )
            },
            [],
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    text = " We won, 我们 é!"
    offsets = tokenizer.encode(text).offsets
    words = map_tokens_to_words(offsets, text)
    # Three bytes for each Chinese character, two for the accented letter.
    assert [w for w in words if w >= 0] == (
        [0] * 2 + [1] * 4 + [2] * 3 + [3] * 3 + [4] * 3
    )


def test_special_tokens_belong_to_no_word():
    assert map_tokens_to_words([(0, 0), (0, 2), (2, 2)], "We") == [-1, 0, -1]


def test_offsets_of_another_text_are_refused():
    with pytest.raises(ValueError, match="Token 1 spans characters 2 to 9"):
        map_tokens_to_words([(0, 2), (2, 9)], "We won")


def test_spread_repeats_word_values_and_leaves_zeros_between():
    values = torch.arange(12.0).reshape(2, 3, 2)
    positions = torch.tensor([[0, 0, -1, 2], [1, -1, -1, 0]])
    result = spread(values, positions)
    assert result.shape == (2, 4, 2)
    assert torch.equal(result[0, 1], values[0, 0])
    assert torch.equal(result[0, 3], values[0, 2])
    assert torch.equal(result[1, 0], values[1, 1])
    assert result[0, 2].eq(0).all() and result[1, 1:3].eq(0).all()
    for row in range(2):
        assert torch.equal(spread(values[row], positions[row]), result[row])


def test_spread_carries_gradient_to_the_words():
    values = torch.ones(2, 3, requires_grad=True)
    spread(values, torch.tensor([0, 0, -1])).sum().backward()
    assert values.grad.tolist() == [[2.0] * 3, [0.0] * 3]


def test_case_and_punctuation_do_not_make_another_word():
    assert same_word("WON!", "won")
    assert same_word("Don’t", "don't")
    assert not same_word("won", "one")
    assert not same_word("你", "好")


@pytest.mark.parametrize(
    "ids, word_of_unit, message",
    [
        ([1, 2], [0], "2 ids but 1 word indices"),
        ([1], [1], "belongs to word 1"),
        ([1], [-2], "belongs to word -2"),
    ],
)
def test_units_that_do_not_fit_their_words_are_refused(
    ids, word_of_unit, message
):
    with pytest.raises(ValueError, match=message):
        TextUnits(ids, word_of_unit, ["we"])
