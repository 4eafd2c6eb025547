"""English text front end of the mini backbone."""

import hashlib
import sys

from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.integrations.hibari import (
    INSTRUCTION_WORDS,
    N_CUES,
    UNITS,
    Cues,
    HibariTextFrontend,
    read_cues,
    written_tokens,
)

import pytest

pytest.importorskip("hibari")

ALL_CUES = [Cues.from_code(code) for code in range(N_CUES)]
END = "<|endofprompt|>"


@pytest.fixture(scope="module")
def frontend():
    return HibariTextFrontend()


# --- Written cues ----------------------------------------------------------


def test_every_combination_of_cues_has_its_own_code():
    assert len(set(ALL_CUES)) == 82
    assert [cues.code for cues in ALL_CUES] == list(range(82))


def test_plain_text_has_code_zero():
    assert Cues().code == 0
    assert Cues().write("won") == "won"


@pytest.mark.parametrize(
    "word", ["so", "won", "don't", "happily", "rhythm", "strength"]
)
def test_what_is_written_can_be_read(word):
    for cues in ALL_CUES:
        assert read_cues(cues.write(word)) == (word, cues)


@pytest.mark.parametrize(
    "token, word, cues",
    [
        ("WON", "won", Cues(loudness=1)),
        ("(won)", "won", Cues(loudness=-1)),
        ("won!", "won", Cues(pitch=1)),
        ("won...", "won", Cues(pitch=-1)),
        ("won…", "won", Cues(pitch=-1)),
        ("sooo", "so", Cues(tempo=1)),
        ("won-", "won", Cues(tempo=-1)),
        ("(won-)", "won", Cues(loudness=-1, tempo=-1)),
        ("won?", "won", Cues(contour=1)),
        ("won;", "won", Cues(contour=-1)),
        ("[won]", "won", Cues(plain=True)),
        ("[WON]!", "won", Cues(plain=True)),
        ("SOOO!?,", "so", Cues(1, 1, 1, 1)),
        ("won,", "won", Cues()),
        ("won.", "won", Cues()),
        ('"won"', "won", Cues()),
        ("I", "I", Cues()),
        ("tree", "tree", Cues()),
        ("IIII", "I", Cues(tempo=1)),
        ("aaa", "a", Cues(tempo=1)),
    ],
)
def test_a_spelling_tells_how_to_speak(token, word, cues):
    assert read_cues(token) == (word, cues)


def test_token_without_a_word_has_no_cues():
    assert read_cues("...!") == ("", Cues())


@pytest.mark.parametrize(
    "text",
    [
        "(Well), it was well-kept!",
        "  Wow...   'em?\n\tDon’t - stop; e.g. this -- NOW (please)",
        "“Sooo,” she said… ‘no’",
        "one",
    ],
)
def test_every_word_of_a_text_keeps_its_marks(text):
    tokens = written_tokens(text)
    words = split_words(text)
    assert len(tokens) == len(words)
    for token, word in zip(tokens, words):
        assert word.text in token and not set(token) & set(" \t\n")
    written = "".join(text.split())
    assert all(token.replace(" ", "") in written for token in tokens)


def test_hyphen_of_a_compound_is_no_cue():
    first, second = written_tokens("well-kept")
    assert read_cues(first) == ("well", Cues())
    assert read_cues(second) == ("kept", Cues())


@pytest.mark.parametrize(
    "text, soft",
    [
        ("(we won) it", "we won"),
        ("We (won, and - so it) goes", "won and so it"),
        ("(well-kept) it is", "well kept"),
        ("(we) won (it all)", "we it all"),
        ("(we won it", "we"),  # never closed
        ("we won) it", ""),
        ("(we) WON", "we"),
    ],
)
def test_parentheses_make_every_word_in_them_soft(text, soft):
    cues = [read_cues(token) for token in written_tokens(text)]
    assert " ".join(w for w, c in cues if c.loudness < 0) == soft


def test_brackets_make_every_word_in_them_plain():
    tokens = written_tokens("We [won (it), and] SO it goes")
    cues = [read_cues(token)[1] for token in tokens]
    plain, loud = Cues(plain=True), Cues(loudness=1)
    assert cues == [Cues(), plain, plain, plain, loud, Cues(), Cues()]


# --- Text to units ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "We WON the game, (but) he left...",
        "  well-kept,   e.g. this\nand that  ",
        "“Don’t,” she said: ‘Nooo!’",
        "a b c I x",
        "Thieves who rob friends deserve jail.",
        "Mr. and Mrs. Smith of the USA",
        "strengthlessnesses xqzt Brrr",
    ],
)
def test_every_word_has_units(frontend, text):
    units = frontend.encode(text)
    n_words = len(split_words(text))
    assert len(units.words) == n_words
    assert sorted(set(units.word_of_unit)) == list(range(n_words))
    assert units.word_of_unit == sorted(units.word_of_unit)
    assert len(units.ids) == len(units.word_of_unit)
    assert 0 <= min(units.ids) and max(units.ids) < frontend.vocab_size


def test_cues_change_the_units_of_their_word_only(frontend):
    plain = frontend.encode("we won it")
    cued = frontend.encode("we WON! it")
    assert plain.words == cued.words
    assert plain.word_of_unit == cued.word_of_unit
    code = Cues(loudness=1, pitch=1).code
    for word, old, new in zip(plain.word_of_unit, plain.ids, cued.ids):
        assert new - old == (code * len(UNITS) if word == 1 else 0)


@pytest.mark.parametrize(
    "stretched, word",
    [
        ("goooood", "good"),
        ("Goood", "Good"),
        ("GOOOOOD", "good"),
        ("soooooo", "so"),
        ("nooo", "no"),
        ("wellll", "well"),
        ("hellooo", "hello"),
        ("seeeee", "see"),
        ("looooose", "loose"),
        ("loooose", "lose"),  # as Cues.write stretches it
        ("xqqqqz", "xqz"),
    ],
)
def test_a_stretched_word_is_found_in_the_dictionary(frontend, stretched, word):
    units = frontend.encode(f"a {stretched}")
    assert units.words == ["a", word]
    code = Cues(tempo=1, loudness=int(stretched.isupper())).code
    plain = frontend.encode(f"a {word}")
    assert [
        unit - code * len(UNITS) * (place == 1)
        for unit, place in zip(units.ids, units.word_of_unit)
    ] == plain.ids


@pytest.mark.parametrize("word", ["feel", "good", "keep", "so", "lose", "won"])
def test_what_is_written_is_found_again(frontend, word):
    for cues in ALL_CUES:
        assert read_cues(cues.write(word), frontend._is_word) == (word, cues)


def test_plain_texts_keep_their_units(frontend):
    """The shipped language model was trained on them."""
    content = repr(
        [
            frontend.encode(text).ids
            for text in (
                "We won the game today, but my old friend has left the town.",
                "Add the sum to the product of these three.",
                "SOOO! (well), it was well-kept; wasn't it?",
                f"loud fast{END}We WON...",
            )
        ]
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert digest == "aaedf925bcf32b10"


def test_a_place_is_counted_from_the_start_of_the_text(frontend):
    text = f"loud{END}Won 2"
    with pytest.raises(ValueError, match=f"'2' at character {len(text) - 1}"):
        frontend.encode(text)
    with pytest.raises(ValueError, match="'%' at character 21"):
        frontend.encode(f"loud{END}Wo%n")


def test_units_are_the_pronunciation(frontend):
    ids = frontend.encode("we won").ids
    symbols = "".join(UNITS[i] for i in ids)
    assert symbols.endswith(" " + frontend.pronounce("won") + ".")


def test_comma_belongs_to_the_word_before_it(frontend):
    units = frontend.encode("well, we won")
    comma = [UNITS[i] for i in units.ids].index(",")
    assert units.word_of_unit[comma] == 0


def test_instruction_comes_first_and_belongs_to_no_word(frontend):
    plain = frontend.encode("We won.")
    units = frontend.encode(f"loud fast{END}We won.")
    first = N_CUES * len(UNITS)
    expected = [
        first + INSTRUCTION_WORDS.index(word) for word in ("loud", "fast", END)
    ]
    assert units.ids == expected + plain.ids
    assert units.word_of_unit == [-1] * 3 + plain.word_of_unit
    assert units.words == plain.words


def test_same_text_gives_same_units(frontend):
    text = "loud<|endofprompt|>He READ it... (again)"
    assert frontend.encode(text) == HibariTextFrontend().encode(text)


def test_long_text_is_read_to_its_end(frontend):
    units = frontend.encode("so it goes " * 200)
    assert len(units.words) == 600
    assert set(units.word_of_unit) == set(range(600))


@pytest.mark.parametrize(
    "text, named, fix",
    [
        ("", "''", "at least one English word"),
        ("  ", "'  '", "at least one English word"),
        ("?!...", "'?!...'", "at least one English word"),
        (f"loud{END}", END, "at least one English word"),
        ("We won 3 games", "digit '3' at character 7", "numbers as words"),
        ("We won ٣", "'٣'", "words"),
        ("We won 🎉", "'🎉' at character 7", "as words"),
        ("我们赢了。", "'我' at character 0", "backbone that reads it"),
        ("We won in a café", "'é' at character 15", "as words"),
        ("You & me", "'&' at character 4", "as words"),
        ("We won <b>it</b>", "'<' at character 7", "as words"),
        (f"shrill{END}We won", "'shrill'", "knows loud, soft, high"),
    ],
)
def test_what_cannot_be_read_is_named(frontend, text, named, fix):
    with pytest.raises(ValueError) as error:
        frontend.encode(text)
    assert named in str(error.value) and fix in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_package_names_the_extra(monkeypatch):
    for name in ("hibari", "hibari.g2p"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"hibari.*emofilm\[demo\]"):
        HibariTextFrontend()
