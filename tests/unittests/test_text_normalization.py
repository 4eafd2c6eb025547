"""Words keep their place when text is written as it is spoken."""

import builtins

from speechbrain_emofilm.dataio.text import map_rewritten_words, split_words
from speechbrain_emofilm.integrations.cosyvoice2.text_normalization import (
    WeTextNormalizer,
)

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


def test_missing_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "wetext":
            raise ImportError("no such package", name="wetext")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"emofilm\[cosyvoice\]"):
        WeTextNormalizer()


class Shouting:
    """Stands for one of wetext's normalizers."""

    def __init__(self, lang, operator):
        self.lang = lang

    def normalize(self, text):
        if text == "#1":
            raise AssertionError
        return f"<{self.lang} {text}>"


@pytest.fixture
def shouting(monkeypatch):
    import sys
    import types

    stand_in = types.SimpleNamespace(Normalizer=Shouting)
    monkeypatch.setitem(sys.modules, "wetext", stand_in)
    return WeTextNormalizer()


def test_special_tokens_are_left_alone(shouting):
    spoken = shouting("I paid [laughter] 5.")
    assert spoken == "<en I paid> [laughter] <en 5.>"


def test_language_is_that_of_the_piece(shouting):
    assert shouting("我有5块")[:4] == "<zh "
    assert shouting("five")[:4] == "<en "


def test_text_without_a_reading_stays(shouting):
    assert shouting("#1") == "#1"


def test_wetext_itself_writes_numbers_as_words():
    pytest.importorskip("wetext")
    normalize = WeTextNormalizer()
    assert normalize("I paid $5.") == "I paid five dollars."
    assert normalize("我有100块") == "我有一百块"


@pytest.mark.parametrize(
    "text, becomes",
    [
        (
            "On March 3rd, 2020 we met 2 friends.",
            {
                "March": "of march",
                "3rd": "the third",
                "2020": "twenty twenty",
                "2": "two",
            },
        ),
        (
            "from the 3rd of May to March 4th, 2021",
            {
                "3rd": "third",
                "March": "of march",
                "4th": "the fourth",
                "2021": "twenty twenty one",
            },
        ),
        ("left at 7:05pm sadly", {"7": "seven", "05pm": "o five PM"}),
        ("-5°C outside", {"5": "negative five", "C": "degrees Celsius"}),
        ("it took $3 million", {"3": "three dollars"}),
        ("12 Main St.", {"12": "twelve", "St": "Street"}),
        (
            "3 x 4 is 12",
            {"3": "three", "x": "times", "4": "four", "12": "twelve"},
        ),
        ("Mr. A & I", {"Mr": "Mister", "A": "A and"}),
        ("5%-10% off", {"5": "five", "10": "ten percent"}),
        ("今天是2020年3月。", {"2020": "二零二零", "3": "三"}),
        ("他要50%的票", {"50": "百分之五十"}),
    ],
)
def test_words_of_wetext_come_from_those_that_they_say(text, becomes):
    pytest.importorskip("wetext")
    normalize = WeTextNormalizer()
    spoken = normalize(text)
    words = [word.text for word in split_words(text)]
    found = {index: [] for index in range(len(words))}
    for place, index in zip(
        split_words(spoken), map_rewritten_words(text, spoken, normalize)
    ):
        found[index].append(place.text)
    for index, word in enumerate(words):
        expected = becomes.get(word, word)
        assert found[index] == [w.text for w in split_words(expected)]
