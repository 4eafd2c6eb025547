"""Text with emotion marks."""

import random
from dataclasses import replace

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.dataio.markup import (
    MAX_WORDS,
    Break,
    MarkupError,
    parse_markup,
    write_markup,
)
from speechbrain_emofilm.dataio.text import split_words

import pytest
import torch

EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]


def test_words_carry_the_emotion_of_their_mark():
    marked = parse_markup(
        "<happy>We won!</happy> <sad intensity=0.4>but he left.</sad> Ok",
        EMOTIONS,
    )
    assert marked.text == "We won! but he left. Ok"
    assert [w.word for w in marked.words] == "We won but he left Ok".split()
    assert marked.words[0].probs == [0, 0, 1, 0, 0]
    assert marked.words[0].intensity is None
    assert marked.words[2].probs == [0, 0, 0, 1, 0]
    assert [w.intensity for w in marked.words[2:5]] == [0.4] * 3
    assert marked.words[5].probs == [0] * 5


def test_spans_point_into_the_clean_text():
    marked = parse_markup(" <happy> We  won!</> 3 &lt; 4 ", EMOTIONS)
    assert marked.text == "We won! 3 < 4"
    for word in marked.words:
        assert marked.text[word.start : word.end] == word.word


def test_mixtures_are_closed_by_their_first_name_or_by_nothing():
    for closing in ("</happy>", "</>", "</ Happy >"):
        marked = parse_markup(
            f"<happy=0.75 surprise=0.25 intensity='0.5'>Oh{closing}", EMOTIONS
        )
        assert marked.words[0].probs == [0, 0, 0.75, 0, 0.25]
        assert marked.words[0].intensity == 0.5


def test_thirds_may_be_rounded_and_are_made_to_sum_to_one():
    marked = parse_markup("<happy=.33 sad=.33 angry=.33>Oh</>", EMOTIONS)
    assert sum(marked.words[0].probs) == pytest.approx(1)


def test_names_ignore_case_and_the_taxonomy_is_the_callers():
    marked = parse_markup("<JOY>Oh</Joy> no", ["Calm", "Joy"])
    assert marked.words[0].probs == [0, 1]


def test_unmarked_words_have_the_emotion_the_caller_chooses():
    text = "We <sad>won</>"
    assert parse_markup(text, EMOTIONS).words[0].probs == [0] * 5
    for unmarked, probs in [
        ("neutral", [1, 0, 0, 0, 0]),
        ("Happy", [0, 0, 1, 0, 0]),
        ({"happy": 0.75, "sad": 0.25}, [0, 0, 0.75, 0.25, 0]),
    ]:
        marked = parse_markup(text, EMOTIONS, unmarked)
        assert marked.words[0].probs == probs
        assert marked.words[1].probs == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "unmarked", ["joy", {}, {"happy": 0.5}, {"happy": 1.5, "sad": -0.5}]
)
def test_an_impossible_emotion_of_unmarked_words_is_refused(unmarked):
    with pytest.raises(ValueError, match="choose 'unlabelled', one of neut"):
        parse_markup("We", EMOTIONS, unmarked)


def test_chinese_characters_can_be_marked_one_by_one():
    marked = parse_markup("我<happy>们赢</>了", EMOTIONS)
    assert [sum(w.probs) for w in marked.words] == [0, 1, 1, 0]


def test_tensors_fill_in_the_intensity_that_marks_leave_out():
    marked = parse_markup(
        "<sad intensity=0.4>a</> <sad>b</> c <neutral>d</> "
        "<neutral=0.5 sad=0.5>e</>",
        EMOTIONS,
    )
    word_emotions, word_intensity = marked.tensors(intensity=0.7)
    assert word_emotions.shape == (5, 5)
    assert word_emotions[2].eq(0).all()
    expected = torch.tensor([0.4, 0.7, 0.0, 0.0, 0.35])
    assert torch.allclose(word_intensity, expected)


@pytest.mark.parametrize(
    "text, position, message",
    [
        ("Oh <happy>we won", 3, "<happy> is not closed. Write </happy>"),
        ("We <hapy>won</>", 3, "'hapy' is not known: did you mean 'happy'"),
        ("<strong>won</strong>", 0, "This model has neutral, angry"),
        ("<sad intensity=1.5>a</>", 0, "intensity=1.5 is not a number from 0"),
        ("<sad intensity=-0.1>a</>", 0, "intensity=-0.1 is not"),
        ("<sad intensity=nan>a</>", 0, "intensity=nan is not"),
        ("<sad intensity=>a</>", 0, "intensity= is not"),
        ("<sad intensity=1 intensity=1>a</>", 0, "intensity twice"),
        ("<intensity=1>a</>", 0, "names no emotion"),
        ("<happy=0.7>a</>", 0, "sum to 0.7, not to 1"),
        ("<happy=0.7 sad=0.7>a</>", 0, "sum to 1.4, not to 1"),
        ("<happy=0 sad=0>a</>", 0, "sum to 0, not to 1"),
        ("<happy sad>a</>", 0, "Give each its weight"),
        ("<happy=1 sad>a</>", 0, "Give each its weight"),
        ("<happy=.5 happy=.5>a</>", 0, "names happy twice"),
        ("<happy>a <sad>b</sad></happy>", 9, "opens inside of <happy>"),
        ("<happy>a</sad>", 8, "Write </happy> or </>"),
        ("a</happy>", 1, "was never opened"),
        ("a </> b", 2, "was never opened"),
        ("<happy></happy> a", 0, "<happy> has no text"),
        ("I <3 you", 2, "write &lt; for a plain '<'"),
        ("a < b > c", 2, "'b' is not known"),
        ("3 < 4", 2, "write &lt; for a plain '<'"),
        ("3 < 4, but 5 > 4", 2, "Write &lt; for a plain '<'"),
        ("We [happy]won[/happy]", 3, "<happy>...</happy>"),
        ("We [SAD intensity=0.5]won[/SAD]", 3, "<SAD>...</SAD>"),
        ("a<happy> </happy>b", 1, "<happy> has no text"),
        ("a <happy>\n</> b", 2, "<happy> has no text"),
        ("a <happy>!</> b", 2, "<happy> has no text"),
        ("a <> b", 2, "is not a mark"),
        ("a <|endofprompt|> b", 2, "is not known"),
        ("<happy a</happy>", 0, "has no '>'"),
        ("un<happy>believ</>able", 0, "cuts the word 'unbelievable'"),
        ("", 0, "no word to speak"),
        ("  \n ", 0, "no word to speak"),
        ("<happy>!?</happy>", 0, "no word to speak"),
        ("🎉", 0, "no word to speak"),
    ],
)
def test_bad_markup_names_the_character_and_the_correction(
    text, position, message
):
    with pytest.raises(MarkupError) as caught:
        parse_markup(text, EMOTIONS)
    assert caught.value.position == position
    assert str(caught.value).startswith(f"Character {position}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_of_2000_words_is_refused_at_the_first_word_too_many():
    with pytest.raises(MarkupError, match="2000 words, more than the 400"):
        parse_markup("word " * 2000, EMOTIONS)
    with pytest.raises(MarkupError) as caught:
        parse_markup("a b c d", EMOTIONS, max_words=2)
    assert caught.value.position == 4
    assert len(parse_markup("word " * MAX_WORDS, EMOTIONS).words) == 400


def test_emoji_beside_words_is_left_to_the_front_end():
    assert parse_markup("We won 🎉", EMOTIONS).text == "We won 🎉"


def test_random_markup_either_parses_consistently_or_says_where_it_fails():
    pieces = (
        ["<happy>", "</happy>", "</>", "<sad=0.5 angry=0.5>", "<", ">", "/"]
        + ["<sad intensity=0.3>", "</sad>", "=", "&lt;", "&amp;", "&", "0.5"]
        + ["we", "won", " ", "  ", ".", "你", "🎉", '"', "'", "\n", "é"]
    )
    generator = random.Random(0)
    parsed = 0
    for _ in range(3000):
        text = "".join(generator.choices(pieces, k=generator.randrange(10)))
        try:
            marked = parse_markup(text, EMOTIONS)
        except MarkupError as error:
            assert 0 <= error.position <= len(text)
            continue
        parsed += 1
        assert marked.text == " ".join(marked.text.split())
        for word in marked.words:
            assert marked.text[word.start : word.end] == word.word
            assert sum(word.probs) == pytest.approx(1) or not any(word.probs)
        again = marked.text.replace("&", "&amp;").replace("<", "&lt;")
        assert parse_markup(again, EMOTIONS).text == marked.text
    assert parsed > 300


def test_marks_built_from_words_come_back():
    generator = random.Random(1)
    for _ in range(200):
        expected, text = [], []
        for _ in range(generator.randrange(1, 5)):
            words = generator.choices(["we", "won", "don't"], k=2)
            emotion = generator.choice([None, *EMOTIONS])
            intensity = round(generator.random(), 3)
            body = " ".join(words)
            if emotion:
                body = f"<{emotion} intensity={intensity}>{body}</{emotion}>"
            text.append(body)
            expected += [(w, emotion, intensity) for w in words]
        marked = parse_markup(" ".join(text), EMOTIONS)
        for word, (spelling, emotion, intensity) in zip(
            marked.words, expected, strict=True
        ):
            assert word.word == spelling
            if emotion is None:
                assert not any(word.probs) and word.intensity is None
            else:
                assert word.probs[EMOTIONS.index(emotion)] == 1
                assert word.intensity == intensity


# --- Writing --------------------------------------------------------------


def label(word, emotion=None, probs=None, intensity=None):
    return WordLabel(word, 0.0, 1.0, emotion, probs, intensity)


def random_labels(generator, words):
    """Words without an emotion, with one, and with a mixture."""
    labels = []
    for word in words:
        intensity = generator.choice([None, 0.0, 1e-7, 1.0, generator.random()])
        emotion, other = generator.sample(EMOTIONS, 2)
        weight = generator.choice([0.25, 0.5, 1e-5, generator.random()])
        probs = generator.choice(
            [None, {emotion: 1.0}, {emotion: 1 - weight, other: weight}]
        )
        if generator.random() < 0.2:
            emotion = probs = intensity = None
        labels.append(label(word, emotion, probs, intensity))
        if generator.random() < 0.5:  # neighbours that agree
            labels[-1] = replace(labels[max(len(labels) - 2, 0)], word=word)
    return labels


def test_what_is_written_is_read_as_the_same():
    generator = random.Random(2)
    pieces = ["we", "don't", "U.S.", "我", "well-kept", "2", "\u201cwon\u201d"]
    gaps = [" ", ", ", " & ", " < ", "! ", " \u201c", "... ", " > ", " &lt; "]
    for _ in range(1000):
        text = "".join(
            generator.choice(pieces) + generator.choice(gaps)
            for _ in range(generator.randrange(1, 7))
        ).strip()
        text = generator.choice(["", "(", "\u00bf"]) + text
        words = [word.text for word in split_words(text)]
        labels = random_labels(generator, words)
        marked = write_markup(text, labels)
        read = parse_markup(marked, EMOTIONS)
        assert read.text == text
        for word, expected in zip(read.words, labels, strict=True):
            probs = expected.probs or (
                {expected.emotion: 1.0} if expected.emotion else {}
            )
            # Reading divides by the sum, which may be off by one rounding.
            assert word.probs == pytest.approx(
                [probs.get(name, 0.0) for name in EMOTIONS], rel=1e-15, abs=0
            )
            assert word.intensity == expected.intensity
        again = [
            label(
                word.word,
                probs={n: p for n, p in zip(EMOTIONS, word.probs) if p},
                intensity=word.intensity,
            )
            for word in read.words
        ]
        assert parse_markup(write_markup(text, again), EMOTIONS).text == text


def test_an_intensity_of_zero_is_written():
    labels = [label("a", "sad", intensity=0.0), label("b", "sad")]
    assert write_markup("a b", labels) == "<sad intensity=0>a</> <sad>b</>"


def test_punctuation_stays_with_its_word_and_joints_between_marks():
    labels = [label("well", "happy"), label("kept", "sad"), label("We")]
    assert (
        write_markup("(we) said: \u201cwon!\u201d", labels)
        == "<happy>(we)</> <sad>said:</> \u201cwon!\u201d"
    )


def test_labels_of_other_words_are_refused():
    with pytest.raises(ValueError, match="1 labels cannot mark the 2 words"):
        write_markup("We won", [label("We")])


TAGS = ["[laughter]", "[breath]", "<strong>", "</strong>", "<laughter>"]


def test_tags_stay_in_the_text_and_are_no_words():
    marked = parse_markup(
        "[breath]We <happy><strong>won</strong> [laughter] today</happy>",
        ["happy", "sad"],
        tags=TAGS,
    )
    assert marked.text == "[breath]We <strong>won</strong> [laughter] today"
    assert [word.word for word in marked.words] == ["We", "won", "today"]
    assert [sum(word.probs) for word in marked.words] == [0, 1, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("We [laugh] won", r"\[laugh\] is not known: .* mean \[laughter\]"),
        ("We <stron>won</stron>", "did you mean 'strong'"),
        ("<happy>[breath]</happy> We won", "has no text"),
        ("[breath]", "no word to speak"),
    ],
)
def test_unknown_tags_and_marks_around_tags_only_are_refused(text, message):
    with pytest.raises(MarkupError, match=message):
        parse_markup(text, ["happy", "sad"], tags=TAGS)


def test_a_model_without_tags_reads_brackets_as_before():
    assert parse_markup("[We] won", ["happy"]).text == "[We] won"


@pytest.mark.parametrize(
    "mark, seconds",
    [
        ('<break time="300ms"/>', 0.3),
        ("<break time='300ms'/>", 0.3),
        ("<break time=300ms/>", 0.3),
        ("<Break  Time = 0.3s / >", 0.3),
        ('<break time="10s"/>', 10.0),
        ("<break time=0s/>", 0.0),
        ("<break time=.25s />", 0.25),
    ],
)
def test_a_break_comes_before_the_word_behind_it(mark, seconds):
    marked = parse_markup(f"We won. {mark} But he left.", EMOTIONS)
    assert marked.text == "We won. But he left."
    assert marked.breaks == [Break(2, seconds)]


def test_breaks_may_stand_anywhere_between_words():
    marked = parse_markup(
        "<break time=1s/><happy>We <break time=1s/><break time=2s/> won</>, "
        "he left.<break time=3s/>",
        EMOTIONS,
    )
    assert marked.text == "We won, he left."
    words = [pause.word for pause in marked.breaks]
    assert words == [0, 1, 1, 4]
    assert [word.probs[2] for word in marked.words] == [1, 1, 0, 0]
    assert parse_markup("我们<break time=1s/>赢了", EMOTIONS).breaks == [
        Break(2, 1.0)
    ]


@pytest.mark.parametrize(
    "text, position, message",
    [
        ("We <break/> won", 3, "not a break of 0 to 10 seconds"),
        ("We <break time=300ms> won", 3, "not a break"),
        ("We <break time=300/> won", 3, "not a break"),
        ("We <break time=11s/> won", 3, "not a break"),
        ("We <break time=-1s/> won", 3, "not a break"),
        ("We <break time='1s/> won", 3, "not a break"),
        ("We <break strength=weak/> won", 3, "not a break"),
        ("We <break time=1s/> won</break>", 23, "a break has no end"),
        ("We wo<break time=1s/>n", 5, "a break cuts the word 'won'"),
        ("<break time=1s/>", 0, "no word to speak"),
    ],
)
def test_bad_breaks_name_the_character(text, position, message):
    with pytest.raises(MarkupError, match=message) as caught:
        parse_markup(text, EMOTIONS)
    assert caught.value.position == position


def test_breaks_are_written_where_they_are():
    text = 'We "won" (it), well-kept.'
    labels = [label(w.text, "happy") for w in split_words(text)]
    breaks = [Break(0, 0.0), Break(1, 10.0), Break(2, 0.3), Break(2, 0.1)]
    breaks += [Break(4, 1.0), Break(5, 2.0)]
    written = write_markup(text, labels, breaks)
    assert written == (
        '<happy><break time=0s/>We <break time=10s/>"won" <break time=0.3s/>'
        "<break time=0.1s/>(it), well-<break time=1s/>kept.<break time=2s/></>"
    )
    assert parse_markup(written, EMOTIONS).breaks == breaks


@pytest.mark.parametrize("wrong", [Break(3, 1.0), Break(-1, 1.0), Break(0, 11)])
def test_breaks_that_cannot_be_written_are_refused(wrong):
    labels = [label("We"), label("won")]
    with pytest.raises(ValueError, match="cannot be written"):
        write_markup("We won", labels, [wrong])


# --- Prosody of words --------------------------------------------------------

AXES = ["pitch", "pace", "level"]


def axes_of(text, axes=AXES, **options):
    return [
        word.axes
        for word in parse_markup(text, EMOTIONS, axes=axes, **options).words
    ]


def test_marks_ask_for_prosody_beside_an_emotion_or_alone():
    text = "<happy pitch=+2st pace=0.8 level='+3 dB'>a</> <pace=.7>b</pace> c"
    marked = parse_markup(text, EMOTIONS, axes=AXES)
    assert [word.axes for word in marked.words] == [
        {"pitch": 2.0, "pace": 0.8, "level": 3.0},
        {"pace": 0.7},
        {},
    ]
    assert [sum(word.probs) for word in marked.words] == [1, 0, 0]
    assert axes_of("<level=-3 PITCH=\u22121.5ST>a</>") == [
        {"pitch": -1.5, "level": -3.0}
    ]


def test_a_mark_without_emotion_keeps_the_emotion_of_unmarked_words():
    marked = parse_markup("<pace=2>a</> b", EMOTIONS, "sad", axes=AXES)
    assert [word.probs for word in marked.words] == [[0, 0, 0, 1, 0]] * 2


def test_stress_raises_the_axes_that_the_model_has_and_explicit_values_win():
    assert axes_of("<stress>a</stress>") == [
        {"pitch": 2.0, "pace": 0.8, "level": 3.0}
    ]
    assert axes_of("<stress level=0dB>a</stress>") == [
        {"pitch": 2.0, "pace": 0.8, "level": 0.0}
    ]
    assert axes_of("<stress>a</>", axes=["level"]) == [{"level": 3.0}]


def test_axes_become_steps_that_add_up_and_nan_where_nothing_is_asked():
    marked = parse_markup("<pace=0.5 level=2>a</> b", EMOTIONS, axes=AXES)
    steps = marked.axes_tensor(AXES)
    nan = float("nan")
    torch.testing.assert_close(
        steps,
        torch.tensor([[nan, -1.0, 2.0], [nan] * 3]),
        equal_nan=True,
    )
    assert marked.axes_tensor([]).shape == (2, 0)
    plain = parse_markup("a b", EMOTIONS)
    for one, other in zip(marked.tensors(), plain.tensors()):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "text, axes, message",
    [
        ("<pitch=2st>a</>", [], "asks for pitch.*this model lacks. It has n"),
        ("<stress>a</>", [], "asks for stress.*trained with axes"),
        ("<happy pace=2>a</>", ["pitch"], "It changes pitch only"),
        ("<pitch=13st>a</>", AXES, "a change in st from -12 to 12"),
        ("<pitch>a</>", AXES, "Write for example pitch=\\+2st"),
        ("<pitch=2dB>a</>", AXES, "pitch=2dB is not a change in st"),
        ("<pace=0.4>a</>", AXES, "a factor from 0.5 to 2. .*pace=0.8"),
        ("<pace=-10%>a</>", AXES, "pace=-10% is not a factor"),
        ("<level=nan>a</>", AXES, "a change in dB from -12 to 12"),
        ("<stress=0.5>a</>", AXES, "stress a value, but it has none"),
        ("<pitch=1 pitch=1>a</>", AXES, "gives the pitch twice"),
        ("<stress intensity=1>a</>", AXES, "names no emotion"),
        ("<pich=2>a</>", AXES, "emotion or axis 'pich'.*did you mean 'pitch'"),
        ("<pace=2>a</happy>", AXES, "closes <pace>"),
    ],
)
def test_wrong_prosody_is_refused_with_the_correction(text, axes, message):
    with pytest.raises(MarkupError, match=message):
        parse_markup(text, EMOTIONS, axes=axes)


def test_prosody_is_written_as_marks_that_read_as_the_same():
    rng = random.Random(1)
    asked = [
        {},
        {"pitch": 2.0, "pace": 0.8, "level": 3.0},
        {"pitch": -1.25},
        {"level": 0.0, "pace": 1.0},
        {"pace": 0.1 + 0.4},
    ]
    for _ in range(50):
        words = [chr(97 + i) for i in range(rng.randint(1, 6))]
        labels = [
            WordLabel(
                word,
                0,
                1,
                emotion,
                intensity=rng.choice([None, 0.5]) if emotion else None,
                axes=rng.choice(asked),
            )
            for word in words
            for emotion in [rng.choice([None, "sad", "happy"])]
        ]
        text = write_markup(", ".join(words), labels)
        marked = parse_markup(text, EMOTIONS, axes=AXES)
        assert [word.axes for word in marked.words] == [
            label.axes for label in labels
        ]
        again = write_markup(marked.text, labels)
        assert again == text
    assert write_markup("a", [WordLabel("a", 0, 1, axes=asked[1])]) == (
        "<stress>a</>"
    )
