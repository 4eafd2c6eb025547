"""Whatever text comes, it is read whole or refused by one ValueError.

The quick profile draws the same examples every time; ``make fuzz`` draws new
ones for ten minutes (``HYPOTHESIS_PROFILE=long``).
"""

import json
import math
import os

from speechbrain_emofilm.dataio.alignments import (
    Word,
    match_words,
    read_alignment,
    read_tiers,
    word_of_speech,
    write_alignment,
    write_tiers,
)
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    check_labels,
    read_label_textgrid,
    read_word_labels,
    words_to_tensors,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import Break, parse_markup, write_markup
from speechbrain_emofilm.dataio.splitting import cut_marked
from speechbrain_emofilm.dataio.text import (
    map_rewritten_words,
    map_tokens_to_words,
    same_word,
    split_words,
    word_of_characters,
)
from speechbrain_emofilm.utils.files import read_json

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

COMMON = dict(
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
    ],
)
settings.register_profile("quick", max_examples=100, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=1000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

EMOTIONS = ["neutral", "happy", "sad"]
#: Text with many marks, quotes, digits, spaces, accents and other scripts.
PIECES = [
    *"<>/=&;\"'.,-()…’“”éß٣½İſ赢了𝟘 \t\n\r\0\x1c\u2028\u200b\ufeff\u0301",
    *("<happy>", "</happy>", "</>", "<sad intensity=", "intensity", "0.4>"),
    *("<break time=", "<break time=0.3s/>", "/>", "300ms"),
    *("happy=0.7", "sad=.3", "&lt;", "&amp;", "1e999", "1,000.5", "don't"),
    *("We", "won", "nan", "-1", "HAPPY", "ⅷ", "ǅ", "क्ष", "\U0001f600"),
]
TEXTS = st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
)
NUMBERS = st.floats() | st.sampled_from([0, 1, -1, 0.5, 10**400])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def attempt(function, *args, **kwargs):
    """The result, or None where it is refused with a message."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        # Not one of Python's own messages, which know no file and no remedy
        assert type(error) is ValueError or "MarkupError" in repr(type(error))
        assert len(str(error)) > 20
        return None


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file, written anew by each example."""
    return tmp_path_factory.mktemp("fuzz") / "file.TextGrid"


# --- Text --------------------------------------------------------------------


@given(TEXTS)
def test_words_are_slices_of_the_text_in_order(text):
    end = 0
    for word in split_words(text):
        assert end <= word.start < word.end <= len(text)
        assert text[word.start : word.end] == word.text
        end = word.end
    assert len(word_of_characters(text)) == len(text)


@given(TEXTS, st.lists(st.tuples(st.integers(-1, 30), st.integers(-1, 30))))
def test_tokens_belong_to_words_of_the_text(text, offsets):
    words = attempt(map_tokens_to_words, offsets, text)
    if words is not None:
        assert len(words) == len(offsets)
        assert all(-1 <= word < len(split_words(text)) for word in words)


@given(TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_rewritten_words_have_an_origin(text, rewritten, table):
    origin = map_rewritten_words(
        text, rewritten, lambda part: table.get(part, part)
    )
    n_words = len(split_words(text))
    assert len(origin) == len(split_words(rewritten))
    lowest = 0 if n_words else -1
    assert all(lowest <= word < n_words for word in origin)


# --- Markup ------------------------------------------------------------------


@given(TEXTS)
def test_marked_text_is_whole_or_refused(text):
    marked = attempt(parse_markup, text, EMOTIONS)
    if marked is None:
        return
    assert marked.words
    assert [w.text for w in split_words(marked.text)] == [
        word.word for word in marked.words
    ]
    for word in marked.words:
        assert sum(word.probs) == pytest.approx(1) or not any(word.probs)
        assert all(0 <= share <= 1 for share in word.probs)
        assert word.intensity is None or 0 <= word.intensity <= 1
    places = [pause.word for pause in marked.breaks]
    assert places == sorted(places)
    assert all(0 <= place <= len(marked.words) for place in places)
    assert all(0 <= pause.seconds <= 10 for pause in marked.breaks)
    emotions, intensity = marked.tensors()
    assert emotions.shape == (len(marked.words), 3)
    assert emotions.isfinite().all() and intensity.isfinite().all()


@given(st.dictionaries(st.sampled_from([*EMOTIONS, "x", "HAPPY"]), st.floats()))
def test_unmarked_words_are_a_mixture_or_refused(unmarked):
    marked = attempt(parse_markup, "We won", EMOTIONS, unmarked=unmarked)
    if marked is not None:
        assert sum(marked.words[0].probs) == pytest.approx(1)


SHARES = st.floats(0, 1)


@given(TEXTS, st.data())
def test_written_marks_are_read_back(text, data):
    labels = [
        WordLabel(
            word.text,
            0,
            1,
            emotion := data.draw(st.sampled_from([None, *EMOTIONS])),
            intensity=data.draw(SHARES) if emotion else None,
        )
        for word in split_words(text)
    ]
    if not 0 < len(labels) <= 400:
        return
    places = st.integers(0, len(labels))
    breaks = data.draw(st.lists(st.builds(Break, places, st.floats(0, 10))))
    breaks.sort(key=lambda pause: pause.word)
    marked = parse_markup(write_markup(text, labels, breaks), EMOTIONS)
    assert marked.breaks == breaks
    plain = parse_markup(write_markup(text, labels), EMOTIONS)
    assert (marked.text, marked.words) == (plain.text, plain.words)
    assert [word.word for word in marked.words] == [w.word for w in labels]
    for word, label in zip(marked.words, labels):
        assert word.intensity == label.intensity
        expected = [float(name == label.emotion) for name in EMOTIONS]
        assert word.probs == expected


@given(TEXTS, st.data())
def test_parts_of_a_text_hold_all_its_words(text, data):
    marked = attempt(parse_markup, text, EMOTIONS)
    if marked is None:
        return
    n = len(marked.words)
    ends = sorted({*data.draw(st.lists(st.integers(1, n))), n})
    parts = cut_marked(marked, ends)
    assert [len(part.words) for part in parts] == [
        end - start for start, end in zip([0, *ends], ends)
    ]
    words = [word for part in parts for word in part.words]
    assert [(w.word, w.probs) for w in words] == [
        (w.word, w.probs) for w in marked.words
    ]
    for part in parts:
        for word in part.words:
            assert part.text[word.start : word.end] == word.word


# --- JSON --------------------------------------------------------------------


BYTES = st.binary() | TEXTS.map(lambda text: text.encode(errors="replace"))


@given(BYTES | JSON.map(lambda content: json.dumps(content).encode()))
def test_bytes_are_json_or_refused(path, content):
    path.write_bytes(content)
    attempt(read_json, path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000])
def test_deeply_nested_json_is_refused(path, content):
    path.write_text(content)
    assert attempt(read_json, path) is None


GOOD_WORD = {
    "word": "We",
    "start": 0.1,
    "end": 0.4,
    "emotion": "sad",
    "probs": {"sad": 0.6, "happy": 0.4},
    "intensity": 0.5,
    "confidence": 0.9,
}
ANYTHING = st.one_of(
    NUMBERS,
    JSON,
    st.sampled_from(["0.2", "1e999", "nan", *EMOTIONS]),
    st.dictionaries(st.sampled_from([*EMOTIONS, "x"]), NUMBERS | JSON),
)
CHANGES = st.dictionaries(
    st.sampled_from([*GOOD_WORD, "x"]), ANYTHING, max_size=2
)


@st.composite
def label_files(draw):
    """Content of a good label file, of which some values are replaced."""
    words = [{**GOOD_WORD, **changes} for changes in draw(st.lists(CHANGES))]
    entry = {"words": draw(st.just(words) | JSON)}
    if draw(st.booleans()):
        entry["source"] = draw(st.just({"labeler": "x"}) | JSON)
    return draw(st.just({"a": entry}) | JSON)


@given(label_files())
@example({"a": {"words": [{**GOOD_WORD, "start": 10**400}]}})
@example({"a": {"words": [{**GOOD_WORD, "probs": {"sad": None}}]}})
@example({"a": {"words": [], "source": None}})
def test_word_labels_are_whole_or_refused(path, content):
    path.write_text(json.dumps(content))
    labels = attempt(read_word_labels, path, EMOTIONS)
    for utterance in (labels or {}).values():
        check_labels(utterance, EMOTIONS, "a")
        assert isinstance(utterance.source, dict)
        emotions, intensity = words_to_tensors(utterance, EMOTIONS)
        assert emotions.isfinite().all() and intensity.isfinite().all()
        assert utterance.corrected(utterance, "a") == utterance


@given(st.data())
def test_good_word_labels_are_read_back(path, data):
    labels = UtteranceLabels(data.draw(label_lists()), {"labeler": "fuzz"})
    write_word_labels(path, {"a": labels}, EMOTIONS)
    assert read_word_labels(path, EMOTIONS) == {"a": labels}


# --- TextGrids ---------------------------------------------------------------


@st.composite
def label_lists(draw, names=TEXTS):
    """Words with labels, in order of time."""
    end, labels = 0.0, []
    for _ in range(draw(st.integers(0, 4))):
        start = end + draw(st.integers(0, 100)) / 100
        end = start + draw(st.integers(1, 100)) / 100
        emotion = draw(st.sampled_from([None, *EMOTIONS]))
        intensity = draw(st.none() | SHARES)
        labels.append(
            WordLabel(draw(names), start, end, emotion, intensity=intensity)
        )
    return labels


SPOKEN = st.text("abcé赢\"'<", min_size=1, max_size=5)


@given(label_lists(SPOKEN))
def test_label_textgrids_are_read_back(path, words):
    write_label_textgrid(path, UtteranceLabels(words), 9.0)
    read = read_label_textgrid(path, EMOTIONS).words
    assert [w.word for w in read] == [w.word for w in words]
    for one, other in zip(read, words):
        assert (one.emotion, one.end) == (
            other.emotion,
            pytest.approx(other.end, abs=1e-4),
        )


TIERS = st.dictionaries(
    TEXTS | st.sampled_from(["words", "emotion", "intensity", "confidence"]),
    st.lists(st.tuples(st.floats(), st.floats(), TEXTS), max_size=3),
    max_size=4,
)


@given(TIERS, st.floats(0, 1e6))
def test_tiers_are_written_so_that_they_can_be_read_or_refused(
    path, tiers, duration
):
    path.unlink(missing_ok=True)
    if attempt(write_tiers, path, tiers, duration) is None and path.exists():
        attempt(read_tiers, path)
        check_alignment(path)
        labels = attempt(read_label_textgrid, path, EMOTIONS)
        if labels is not None:
            check_labels(labels, EMOTIONS, "a")


def check_alignment(path):
    """Words of a file are in order and finite, or the file is refused."""
    words = attempt(read_alignment, path)
    for word in words or []:
        assert math.isfinite(word.start) and math.isfinite(word.end)
        assert 0 <= word.confidence <= 1
    if words:
        attempt(word_of_speech, words, 50)
        attempt(match_words, words, "We won", path)


def good_textgrid(path):
    words = [Word("We", 0.1, 0.4), Word("won", 0.4, 0.9, 0.5)]
    write_alignment(path, words, 1.0)
    return path.read_bytes()


@given(st.data())
def test_changed_textgrids_are_whole_or_refused(path, data):
    content = bytearray(good_textgrid(path))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 20))
        content[place : place + length] = data.draw(BYTES)
    path.write_bytes(content)
    check_alignment(path)
    attempt(read_label_textgrid, path, EMOTIONS)


@given(BYTES)
def test_other_files_are_no_textgrids(path, content):
    path.write_bytes(content)
    assert attempt(read_tiers, path) in (None, {})


# --- Spelling ----------------------------------------------------------------


@given(TEXTS, TEXTS)
def test_same_word_is_symmetric(one, other):
    assert same_word(one, one)
    assert same_word(one, other) == same_word(other, one)
