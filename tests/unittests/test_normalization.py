"""Text is read as by the original front end; emotions stay on their words."""

import builtins
import json
import logging
import random
import sys
import types
from itertools import groupby
from pathlib import Path

from speechbrain_emofilm.dataio import normalization
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.normalization import (
    TextNormalizer,
    clean_text,
    spell_number,
)
from speechbrain_emofilm.dataio.text import split_words

import pytest

needs_wetext = pytest.mark.skipif(
    normalization.find_spec("wetext") is None, reason="needs wetext"
)
EMOTIONS = ["neutral", "happy", "sad"]
CASES = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "text_cases.json").read_text(
        encoding="utf-8"
    )
)["cases"]

#: Parts of sentences that are read the same way whatever stands next to them.
ENGLISH = [
    *["we", "won", "Dr.", "Mr.", "$25", "$3.50", "21%", "March 3rd, 2021"],
    *["3/14/2024", "7:05pm", "the", "U.S.A.", "5 kg", "mp3", "well-kept"],
    *["don't", "100°C", "2nd-hand", "(cheap)", '"wait"', "a@b.com", "20"],
]
CHINESE = [
    *["我们", "赢了", "2024年3月14日", "￥5.50", "3个", "苹果", "25.5度"],
    *["20%", "100m²", "“真的吗”", "Python", "13812345678", "玩儿", "（注）"],
]


@pytest.fixture(scope="module")
def normalizer():
    pytest.importorskip("wetext")
    return TextNormalizer()


def labels_of(marked):
    """Name of each word's emotion, None where it has none."""
    return [
        EMOTIONS[word.probs.index(max(word.probs))] if any(word.probs) else None
        for word in marked.words
    ]


def spoken_words(normalizer, text, label="happy"):
    """The words of a marked text that are spoken with an emotion."""
    spoken = normalizer.normalize_words(parse_markup(text, EMOTIONS))
    return [
        word.word
        for word, name in zip(spoken.words, labels_of(spoken))
        if name == label
    ]


@pytest.mark.parametrize("case", CASES, ids=[c["text"][:20] for c in CASES])
def test_pieces_are_those_of_the_original(case, normalizer):
    expected = [piece.replace('\\"', '"') for piece in case["pieces"]]
    assert normalizer.split(case["text"]) == expected
    assert normalizer(case["text"]) == "".join(expected)


@pytest.mark.parametrize(
    "text, spoken",
    [
        ("Wait... what?!", "Wait. what?"),
        ("He left;; then", "He left; then."),
        ("我们赢了，", "我们赢了。"),
        ("我们赢了、，,", "我们赢了。"),
        ("去KTV - OK吗", "去KTV，OK吗。"),
        ("他走了 - 真的", "他走了-真的。"),
        ("（注）我们`赢`了【一】", "注我们赢了一。"),
        ("我 们 use AI now 赢", "我们use AI now赢。"),
        ("一共3m³", "一共三立方米。"),
        ("x³的值", "x立方的值。"),
        ("版本v.二", "版本v。二。"),
        ("x² is 4", "x squared is four."),
        ("<5> left", "<five> left."),
        ("7", "seven."),
        ("", ""),
        ("  ", ""),
    ],
)
def test_marks_and_digits_that_the_grammar_leaves(normalizer, text, spoken):
    assert normalizer(text) == spoken


@pytest.mark.parametrize("text", ['He said "5"', '"5"个人', "a\\b 5", "5\\个"])
def test_backslashes_of_the_grammar_are_undone(normalizer, text):
    spoken = normalizer(text)
    assert spoken.count("\\") == text.count("\\")
    assert spoken.count('"') == text.count('"')


def test_text_with_special_tokens_stays(normalizer):
    text = "Softly. <|endofprompt|>It costs $5"
    assert normalizer(text) == text
    assert normalizer.split(text) == [text]


def test_language_is_chosen_by_the_characters_or_the_caller():
    pytest.importorskip("wetext")
    assert TextNormalizer()("AI 5") == "AI five."
    assert TextNormalizer()("人 5") == "人五。"
    assert TextNormalizer("zh")("AI 5") == "AI五。"
    assert TextNormalizer("en")("人 5") == "人 five."


@pytest.mark.parametrize("language", ["en", "zh"])
def test_long_text_is_cut_between_sentences(normalizer, language):
    sentence = {"en": "We won the game today.", "zh": "我们今天赢了比赛。"}
    joint = " " if language == "en" else ""
    text = joint.join([sentence[language]] * 40)
    pieces = normalizer.split(text)
    assert "".join(pieces) == text
    count = len if language == "zh" else lambda piece: 6 * piece.count(".")
    sizes = [count(piece) for piece in pieces]
    assert len(sizes) > 2
    assert all(60 < size <= 80 for size in sizes[:-1])
    assert 20 <= sizes[-1] <= 80 + 20


def test_short_end_is_joined_to_the_piece_before(normalizer):
    sentence = "我们今天赢了这一场很长的比赛。"  # 15 characters
    assert len(normalizer.split(sentence * 6)) == 1  # 75 and 15
    assert len(normalizer.split(sentence * 7)) == 2  # 75 and 30


def test_english_is_measured_by_the_tokenizer(normalizer):
    text = "We won. They lost. We won. They lost."
    pieces = normalizer.split(text, lambda part: 35 * part.count("."))
    assert pieces == ["We won. They lost.", " We won. They lost."]
    assert normalizer.split(text) == [text]


def test_pieces_of_punctuation_are_left_out(normalizer):
    assert normalizer.split("...") == []
    assert normalizer.split("。") == []


@pytest.mark.parametrize(
    "text, language, cleaned",
    [
        ("It’s “good”", "en", 'It\'s "good"'),
        ("‘so’ «said» 5′10″", "en", "'so' \"said\" 5'10\""),
        ("他说“好”", "zh", "他说“好”"),
        ("他说it’s好", "zh", "他说it's好"),
        ("we won — really—yes", "en", "we won, really, yes"),
        ("— We won.", "en", "We won."),
        ("We won —", "en", "We won"),
        ("We won. – They lost", "en", "We won. They lost"),
        ("“No—” he said", "en", '"No" he said'),
        ("pages 5–10", "en", "pages 5-10"),
        ("well‑kept −5", "en", "well-kept -5"),
        ("你好—世界——吗", "zh", "你好，世界——吗"),
        ("第5–10页", "zh", "第5-10页"),
        ("a\u00a0b\u2009c\u202fd", "en", "a b c d"),
        ("a\u200bb\ufeffc\u00add\u2060e", "en", "abcde"),
        ("*so* **bold** ***x***", "en", "so bold x"),
        ("* one\n* two", "en", " one\n two"),
        ("3*4 and 3 * 4", "en", "3*4 and 3 * 4"),
        ("**3** and *4*", "en", "3 and 4"),
        ("a--b", "en", "a--b"),
    ],
)
def test_typesetting_is_cleaned(text, language, cleaned):
    assert clean_text(text, language) == cleaned


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("hi 😀 there 👍🏽 you", "hi there you"),
        ("a😀b", "a b"),
        ("Great 🎉🎉!", "Great!"),
        ("family 👨‍👩‍👧 and 🇩🇪 ☀️", "family and"),
    ],
)
def test_emoji_are_dropped_with_one_warning(text, cleaned, caplog):
    with caplog.at_level(logging.WARNING):
        assert clean_text(text) == cleaned
    assert len(caplog.records) == 1
    assert "Emoji" in caplog.text


def test_emoji_of_a_marked_text_give_one_warning(normalizer, caplog):
    with caplog.at_level(logging.WARNING):
        assert spoken_words(normalizer, "<happy>We 😀 won</> 5") == [
            "We",
            "won",
        ]
    assert len(caplog.records) == 1


def test_keycaps_and_numbers_in_circles_are_words():
    assert clean_text("5\ufe0f\u20e3 and ①") == "5 and ①"


def test_cleaning_can_be_left_to_the_caller():
    pytest.importorskip("wetext")
    assert TextNormalizer(clean=False)("It’s") == "It’s."


def test_part_without_a_reading_spoils_no_other(normalizer, caplog):
    with caplog.at_level(logging.WARNING):
        spoken = normalizer("I paid $20 to #1 on March 3rd, 2021")
    assert spoken == (
        "I paid twenty dollars to #one on the third of march, twenty twenty "
        "one."
    )
    assert len(caplog.records) == 1
    assert "'#1'" in caplog.text
    text = "<sad>I paid $20</> to <happy>#1</> on <sad>March 3rd, 2021</>"
    assert spoken_words(normalizer, text) == ["one"]


@pytest.mark.parametrize(
    "text, happy",
    [
        ("She paid <happy>$25</happy> today", "twenty five dollars"),
        ("<happy>Dr.</happy> Smith", "doctor"),
        ("Dr. <happy>Smith</happy> paid $5", "Smith"),
        ("on <happy>March</happy> 3rd, 2021", "of march"),
        ("on March <happy>3rd</happy>, 2021", "the third"),
        ("on March 3rd, <happy>2021</happy>", "twenty twenty one"),
        ("<happy>$3 million</happy> and 3", "three million dollars"),
        ("<happy>salt</happy> & pepper", "salt"),
        ("salt & <happy>pepper</happy>", "pepper"),
        ("<happy>salt & pepper</happy>", "salt and pepper"),
        ("the <happy>U.S.A.</happy> won", "USA"),
        ("three, <happy>3</happy>, three", "three"),
        ("<happy>“It’s</happy> **5**”", "It's"),
        ("<happy>**We**</happy> won 5", "We"),
        ("<happy>We won...</happy> and 5", "We won"),
        ("今天是<happy>2024年</happy>3月", "二 零 二 四 年"),
        ("他花了<happy>$5</happy>", "五 美 元"),
        ("<happy>100m²</happy>的地", "一 百 平 方 米"),
        ("（<happy>我</happy>）们", "我"),
    ],
)
def test_every_word_that_a_word_becomes_has_its_emotion(
    normalizer, text, happy
):
    assert spoken_words(normalizer, text) == happy.split()


@pytest.mark.parametrize(
    "text, happy",
    [
        ("<happy>3</> x 4 is 12", "three"),
        ("3 x <happy>4</> is 12", "four"),
        ("<happy>1,000.5 kg</> of 5", "thousand point five kilograms"),
        ("from 7 to 9 or <happy>7</>-9", "seven"),
        ("<happy>5%-10%</> off", "five ten percent"),
        ("<happy>我</>用Python花了$5", "我"),
        ("我用<happy>Python</>花了$5", "Python"),
    ],
)
def test_labels_follow_parts_whose_reading_is_not_unique(
    normalizer, text, happy
):
    assert spoken_words(normalizer, text) == happy.split()


def test_weights_and_intensity_go_with_the_word(normalizer):
    marked = parse_markup(
        "<happy=0.7 sad=0.3 intensity=0.4>$5</> now", EMOTIONS
    )
    spoken = normalizer.normalize_words(marked)
    assert [word.probs for word in spoken.words] == [
        *[[0.0, 0.7, 0.3]] * 2,
        [0.0] * 3,
    ]
    assert [word.intensity for word in spoken.words] == [0.4, 0.4, None]
    assert spoken.emotions == EMOTIONS
    for word in spoken.words:
        assert spoken.text[word.start : word.end] == word.word


def test_words_outside_of_marks_stay_what_they_were(normalizer):
    marked = parse_markup("<happy>$5</> & 6 now", EMOTIONS, "neutral")
    spoken = normalizer.normalize_words(marked)
    assert labels_of(spoken) == ["happy", "happy", None, "neutral", "neutral"]


def random_sentence(draw, parts, joint):
    """Parts and the emotion of each, and the sentence with marks."""
    chosen = [draw.choice(parts) for _ in range(draw.randrange(1, 12))]
    emotions = [draw.choice([None, None, "happy", "sad"]) for _ in chosen]
    text = joint.join(
        part if emotion is None else f"<{emotion}>{part}</>"
        for part, emotion in zip(chosen, emotions)
    )
    return chosen, emotions, text


@needs_wetext
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("parts, joint", [(ENGLISH, ", "), (CHINESE, "，又")])
def test_marked_spans_survive_and_nothing_else_is_marked(
    normalizer, parts, joint, seed
):
    chosen, emotions, text = random_sentence(random.Random(seed), parts, joint)
    language = "en" if parts is ENGLISH else "zh"
    alone = TextNormalizer(language)
    marked = parse_markup(text, EMOTIONS)
    spoken = alone.normalize_words(marked)
    assert spoken.text == alone(marked.text)
    words = [word.text for word in split_words(spoken.text)]
    assert [word.word for word in spoken.words] == words
    between = [(word.text, None) for word in split_words(joint)]
    expected = []
    for part, emotion in zip(chosen, emotions):
        expected += between if expected else []
        expected += [(w.text, emotion) for w in split_words(alone(part))]
    assert list(zip(words, labels_of(spoken))) == expected
    pieces = alone.split_words(marked)
    assert [p.text for p in pieces] == alone.split(marked.text)
    assert [w.word for p in pieces for w in p.words] == words
    assert sum(map(labels_of, pieces), []) == labels_of(spoken)


@needs_wetext
@pytest.mark.parametrize("seed", range(40))
def test_spans_survive_where_parts_change_each_other(normalizer, seed):
    """Without commas, neighbours may be read together ("20 $25")."""
    draw = random.Random(seed)
    _, emotions, text = random_sentence(draw, ENGLISH, " ")
    marked = parse_markup(text, EMOTIONS)
    spoken = normalizer.normalize_words(marked)
    assert spoken.text == normalizer(marked.text)
    found = {name for name in labels_of(spoken) if name}
    assert found == {name for name in emotions if name}
    runs = [name for name, _ in groupby(labels_of(spoken)) if name]
    assert runs == [name for name, _ in groupby(emotions) if name]


def test_trace_says_where_words_come_from(normalizer):
    text = "Mr. A & I paid $5 on March 3rd"
    spoken, origin = normalizer.trace(text)
    assert spoken == normalizer(text)
    words = [word.text for word in split_words(text)]
    assert [
        (word.text, None if i < 0 else words[i])
        for word, i in zip(split_words(spoken), origin)
    ] == [
        ("Mister", "Mr"),
        ("A", "A"),
        ("and", None),
        ("I", "I"),
        ("paid", "paid"),
        ("five", "5"),
        ("dollars", "5"),
        ("on", "on"),
        ("the", "3rd"),
        ("third", "3rd"),
        ("of", "March"),
        ("march", "March"),
    ]


@pytest.mark.parametrize(
    "digits, words",
    [
        ("0", "zero"),
        ("007", "seven"),
        ("13", "thirteen"),
        ("40", "forty"),
        ("21", "twenty-one"),
        ("101", "one hundred and one"),
        ("1001", "one thousand and one"),
        ("1100", "one thousand, one hundred"),
        ("12345", "twelve thousand, three hundred and forty-five"),
        ("1010000", "one million, ten thousand"),
        ("1" + "0" * 33, "one decillion"),
        ("1" + "0" * 36, "one" + " zero" * 36),
        ("³", "three"),
        ("①", "one"),
        ("٣४", "thirty-four"),
    ],
)
def test_numbers_are_spelt(digits, words):
    assert spell_number(digits) == words


def test_numbers_are_spelt_as_by_the_original():
    inflect = pytest.importorskip("inflect").engine()
    draw = random.Random(0)
    for _ in range(300):
        digits = str(draw.randrange(10 ** draw.randrange(1, 36)))
        assert spell_number(digits) == inflect.number_to_words(digits)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(normalization, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"wetext.*emofilm\[cosyvoice\]"):
        TextNormalizer()


def test_missing_part_of_the_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "wetext":
            raise ImportError("no such package", name="kaldifst")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(normalization, "find_spec", lambda name: object())
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"kaldifst.*emofilm\[cosyvoice\]"):
        TextNormalizer()("We won")


def test_grammars_are_loaded_with_the_first_text_of_a_language(monkeypatch):
    loaded = []

    class Grammar:
        def __init__(self, lang, **kwargs):
            loaded.append(lang)

        def normalize(self, text):
            return text

    monkeypatch.setattr(normalization, "find_spec", lambda name: object())
    monkeypatch.setitem(
        sys.modules, "wetext", types.SimpleNamespace(Normalizer=Grammar)
    )
    normalizer = TextNormalizer()
    assert loaded == []
    assert [normalizer("We won"), normalizer("So")] == ["We won.", "So."]
    assert loaded == ["en"]
    normalizer("我们")
    assert loaded == ["en", "zh"]


def test_grammar_that_tells_no_parts_keeps_labels_too(monkeypatch, normalizer):
    class Grammar:
        def __init__(self, **kwargs):
            self.normalize = normalizer._grammar("en").normalize

    monkeypatch.setitem(
        sys.modules, "wetext", types.SimpleNamespace(Normalizer=Grammar)
    )
    monkeypatch.setattr(normalization, "find_spec", lambda name: object())
    other = TextNormalizer()
    assert spoken_words(other, "paid <happy>$25</> on May 3") == [
        "twenty",
        "five",
        "dollars",
    ]


def test_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'fr'.*en, zh, both"):
        TextNormalizer("fr")


def test_breaks_stay_between_the_readings_of_their_words():
    marked = parse_markup(
        "<break time=1s/>Dr. A paid $5 <break time=2s/>on March 3rd. "
        "<break time=3s/>We won.<break time=4s/>",
        ["sad"],
    )
    spoken = TextNormalizer().normalize_words(marked)
    words = [word.word for word in spoken.words]
    places = [pause.word for pause in spoken.breaks]
    assert places[0] == 0
    assert words[places[1] - 1] == "dollars"
    assert words[places[2] :] == ["We", "won"]
    assert places[3] == len(words)
    assert [pause.seconds for pause in spoken.breaks] == [1, 2, 3, 4]
    pieces = TextNormalizer().split_words(
        marked, lambda part: 70 * part.count(".")
    )
    assert [pause.seconds for piece in pieces for pause in piece.breaks] == [
        1,
        2,
        3,
        4,
    ]
