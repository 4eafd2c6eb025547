"""Words keep their place when text is written as it is spoken."""

import builtins

from speechbrain_emofilm.dataio.text import map_rewritten_words, split_words
from speechbrain_emofilm.integrations.text_normalization import (
    WeTextNormalizer,
)

import pytest


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
    ],
)
def test_each_word_comes_from_one(text, rewritten, origin):
    words = [word.text for word in split_words(text)]
    spoken = [word.text for word in split_words(rewritten)]
    assert map_rewritten_words(words, spoken) == origin


def test_words_never_change_their_order():
    for n_words in range(1, 6):
        for n_spoken in range(1, 12):
            words = [f"w{i}" for i in range(n_words)]
            spoken = [f"s{i}" * (1 + i % 3) for i in range(n_spoken)]
            origin = map_rewritten_words(words, spoken)
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
