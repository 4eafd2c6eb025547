"""Words keep their place when text is written as it is spoken."""

from speechbrain_emofilm.dataio.text import map_rewritten_words

import pytest

SPELT = {"3rd": "third", "&": "and", "7": "seven", "$5": "five dollars"}


def spell(text):
    """Rewrites word by word what `SPELT` knows."""
    return " ".join(SPELT.get(part, part) for part in text.split())


@pytest.mark.parametrize(
    "text, rewritten, origin",
    [
        ("I paid 5 now", "I paid five dollars now", [0, 1, 2, 2, 3]),
        ("21 22", "twenty one twenty two", [0, 0, 1, 1]),
        ("2023 12", "twenty twenty three twelve", [0, 0, 0, 1]),
        ("Dr Smith", "doctor Smith", [0, 1]),
        ("salt & pepper", "salt and pepper", [0, 0, 1]),
        ("& then", "and then", [0, 0]),
        ("we won", "we won", [0, 1]),
        ("We won!", "we won", [0, 1]),
        ("我有100块", "我有一百块", [0, 1, 2, 2, 3]),
        ("um we won", "we won", [1, 2]),
        ("", "and", [-1]),
        ("on May 3rd too", "on the third of may too", [0, 2, 2, 1, 1, 3]),
        ("$5 million", "five million dollars", [0, 1, 0]),
        ("at 7-9 now", "at seven to nine now", [0, 1, 2, 2, 3]),
        ("7-9% off", "seven percent to nine percent off", [0, 1, 1, 1, 1, 2]),
    ],
)
def test_each_word_comes_from_one(text, rewritten, origin):
    assert map_rewritten_words(text, rewritten, spell) == origin


def test_words_without_a_reading_never_change_their_order():
    for n_words in range(1, 6):
        for n_spoken in range(1, 12):
            text = " ".join(f"w{i}" for i in range(n_words))
            spoken = " ".join(f"s{i}" * (1 + i % 3) for i in range(n_spoken))
            origin = map_rewritten_words(text, spoken, spell)
            assert origin == sorted(origin)
            assert len(origin) == n_spoken
            assert 0 <= min(origin) and max(origin) < n_words
