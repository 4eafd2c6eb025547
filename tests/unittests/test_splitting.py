"""Where long texts are cut, and what goes with which part."""

from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.normalization import TextNormalizer
from speechbrain_emofilm.dataio.splitting import TextSplitter, cut_marked
from speechbrain_emofilm.dataio.text import TextUnits, split_words

import pytest


def parse(text):
    return parse_markup(text, ["sad"], max_words=None)


def units_of(marked, per_word=1):
    n = len(marked.words)
    owners = [word for word in range(n) for _ in range(per_word)]
    return TextUnits([0] * len(owners), owners, ["w"] * n)


def pieces(text, splitter, per_word=1):
    marked = parse(text)
    ends = splitter.split(marked, units_of(marked, per_word))
    return [part.text for part in cut_marked(marked, ends)]


EACH = dict(min_units=0, max_units=1, min_last_units=0)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("We won. He left!", ["We won.", "He left!"]),
        ('"Why?" he asked. "So."', ['"Why?" he asked.', '"So."']),
        ("It cost 3.5 euros. Yes.", ["It cost 3.5 euros.", "Yes."]),
        ("Dr. Smith came. So did I. Mr. J. R. Lee left.", None),
        ("Some, e.g. Paris, are big. Others are not.", None),
        ("no capitals here. none at all.", None),
        ("Well... perhaps. Really?! No way.", None),
        ("我们赢了。他走了！“为什么？”她问。", None),
        ("One (the first). “Two.” [Three.] Four", None),
    ],
)
def test_text_is_cut_at_sentence_ends(text, expected):
    expected = (
        expected
        or {
            "Dr": ["Dr. Smith came.", "So did I.", "Mr. J. R. Lee left."],
            "So": ["Some, e.g. Paris, are big.", "Others are not."],
            "no": ["no capitals here.", "none at all."],
            "We": ["Well...", "perhaps.", "Really?!", "No way."],
            "我们": ["我们赢了。", "他走了！", "“为什么？”", "她问。"],
            "On": ["One (the first).", "“Two.”", "[Three.]", "Four"],
        }[text[:2]]
    )
    splitter = TextSplitter(**EACH)
    assert pieces(text, splitter) == expected


def test_a_text_up_to_the_whole_size_is_never_cut():
    text = "We won it. He left us. They stayed."
    small = dict(min_units=2, max_units=4, min_last_units=2)
    assert len(pieces(text, TextSplitter(**small))) == 3
    assert pieces(text, TextSplitter(**small, whole_units=8)) == [text]
    assert len(pieces(text, TextSplitter(**small, whole_units=7))) == 3


def test_a_short_last_piece_is_joined():
    text = "We won it all. He left us. Yes."
    splitter = TextSplitter(min_units=2, max_units=4, min_last_units=2)
    assert pieces(text, splitter) == ["We won it all.", "He left us. Yes."]


def test_sizes_are_those_of_the_front_end():
    text = "We won it. He left us."
    splitter = TextSplitter(min_units=60, max_units=80)
    assert len(pieces(text, splitter, per_word=10)) == 1
    assert len(pieces(text, splitter, per_word=30)) == 2


def test_a_sentence_without_an_end_is_cut_at_commas_and_between_words():
    splitter = TextSplitter(min_units=5, max_units=10, max_sentence_units=12)
    long = " ".join(["word"] * 100)
    found = pieces(long, splitter)
    assert " ".join(found) == long
    assert max(len(split_words(piece)) for piece in found) <= 12
    listed = "a b c d e f, g h i j k l m n, o p q r s t"
    assert pieces(listed, splitter) == [
        "a b c d e f,",
        "g h i j k l m n,",
        "o p q r s t",
    ]


@pytest.mark.parametrize(
    "text, end, pause",
    [
        ("We won. He left", 2, 0.5),
        ("We won, he left", 2, 0.25),
        ("We won he left", 2, 0.1),
        ("我们赢了。他走了", 4, 0.5),
        ("我们赢了，他走了", 4, 0.25),
    ],
)
def test_pauses_follow_the_punctuation(text, end, pause):
    assert TextSplitter().pause(parse(text), end) == pause


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="min_units 90, max_units 80"):
        TextSplitter(min_units=90)
    with pytest.raises(ValueError, match="pauses -1"):
        TextSplitter(sentence_pause=-1)


def test_marks_and_tags_go_with_their_words():
    tags = ["[breath]", "<strong>", "</strong>"]
    marked = parse_markup(
        "We <sad>won</> <strong>it</strong>. [breath] He <sad>left</>.",
        ["sad"],
        tags=tags,
    )
    one, two = cut_marked(marked, [3, 5], tags)
    assert one.text == "We won <strong>it</strong>."
    assert two.text == "[breath] He left."
    assert [word.probs for word in two.words] == [[0.0], [1.0]]
    assert [two.text[w.start : w.end] for w in two.words] == ["He", "left"]


ENGLISH = (
    "Dr. Smith paid $25 on March 3rd, i.e. too much; nobody minded. It was "
    "3:30 p.m. and 5–10 people said so! Was it “good”? Yes. The U.S. sent "
    "1,000 men at 7.5 knots. We won & he left. And that was all of it, really."
)
MANDARIN = (
    "今天是3月14日，我们赢了100块。他走了！为什么？没有人知道：真的。" * 4
)


@pytest.mark.parametrize(
    "text", [ENGLISH * 2, MANDARIN, ENGLISH + "\n" + ENGLISH]
)
def test_a_normalizer_cuts_where_the_original_does(text):
    pytest.importorskip("wetext")
    normalizer = TextNormalizer()
    marked = parse(text)
    # Each word has as many units as its reading has words and marks.
    spoken = normalizer.split(text)
    assert len(spoken) > 1
    whole, origin = normalizer.trace(text)
    units = TextUnits(
        [0] * len(origin),
        [max(o, 0) for o in origin],
        ["w"] * len(marked.words),
    )
    splitter = TextSplitter(normalizer=normalizer)
    assert splitter.split(marked, units)[-1] == len(marked.words)
    parts = cut_marked(marked, splitter.split(marked, units))
    counted = normalizer.split(marked.text, lambda part: len(split_words(part)))
    assert [normalizer(part.text).strip() for part in parts] == [
        piece.strip() for piece in counted
    ]
