"""Word alignments and their map to speech tokens."""

import random

from speechbrain_emofilm.dataio.alignments import (
    Word,
    find_textgrid,
    match_words,
    read_alignment,
    word_of_speech,
    write_alignment,
    write_tiers,
)

import pytest

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.2
            text = ""
        intervals [2]:
            xmin = 0.2
            xmax = 0.5
            text = "we"
        intervals [3]:
            xmin = 0.5
            xmax = 0.9
            text = "won"
        intervals [4]:
            xmin = 0.9
            xmax = 1.5
            text = "<eps>"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0.2
            xmax = 0.5
            text = "W"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"0011 - words"
0
1.5
4
0
0.2
""
0.2
0.5
"we"
0.5
0.9
"won"
0.9
1.5
""
"""
WORDS = [Word("we", 0.2, 0.5), Word("won", 0.5, 0.9)]


@pytest.mark.parametrize("content", [LONG, SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_long_and_short_textgrids_are_read_without_silence(
    tmp_path, content, encoding
):
    path = tmp_path / "a.TextGrid"
    path.write_text(content, encoding=encoding)
    assert read_alignment(path) == WORDS


def test_written_alignments_come_back(tmp_path):
    words = [Word("don't", 0.1, 0.2), Word('say "hi"', 0.5, 0.625)]
    path = tmp_path / "0011" / "a.TextGrid"
    write_alignment(path, words, duration=1.0)
    assert read_alignment(path) == words
    assert [p.name for p in path.parent.iterdir()] == ["a.TextGrid"]


def test_confidences_come_back(tmp_path):
    words = [Word("we", 0.1, 0.2, 0.75), Word("won", 0.5, 0.625, 0.0)]
    path = tmp_path / "a.TextGrid"
    write_alignment(path, words, duration=1.0)
    assert read_alignment(path) == words


@pytest.mark.parametrize("label", ["1.5", "nan", "high"])
def test_confidences_that_are_none_are_refused(tmp_path, label):
    path = tmp_path / "a.TextGrid"
    words = [(0.1, 0.2, "we"), (0.5, 0.7, "won")]
    tier = [(0.1, 0.2, "1.0"), (0.5, 0.7, label)]
    write_tiers(path, {"words": words, "confidence": tier}, 1.0)
    with pytest.raises(ValueError, match="a.TextGrid: the tier 'confidence'"):
        read_alignment(path)


@pytest.mark.parametrize("times", [(0.2, 0.6, 0.5, 0.9), (0.6, 0.2, 0.6, 0.9)])
def test_overlapping_and_reversed_intervals_are_refused(tmp_path, times):
    path = tmp_path / "a.TextGrid"
    lines = SHORT.splitlines()
    place = lines.index('"we"')
    lines[place - 2 : place] = [str(times[0]), str(times[1])]
    lines[place + 1 : place + 3] = [str(times[2]), str(times[3])]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="a.TextGrid cannot be read") as error:
        read_alignment(path)
    assert "\n" not in str(error.value)


def test_an_alignment_of_another_text_is_refused():
    with pytest.raises(ValueError, match="a.TextGrid: word 2 is missing, .*it"):
        match_words(WORDS, "We won it.", "a.TextGrid")
    with pytest.raises(ValueError, match="word 1 is 'won', but 'lost'"):
        match_words(WORDS, "We lost.", "a.TextGrid")
    assert [w.text for w in match_words(WORDS, "We WON!", "a")] == ["We", "WON"]


def textgrid(tmp_path, intervals, end=1.5):
    """A TextGrid in the short format, whatever its intervals are."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["0", str(end), "<exists>", "1", '"IntervalTier"', '"words"']
    lines += ["0", str(end), str(len(intervals))]
    for start, last, label in intervals:
        lines += [str(start), str(last), f'"{label}"']
    path = tmp_path / "a.TextGrid"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "labels, text, expected",
    [
        # One interval, several words: divided by the letters.
        (
            [(0, 0.8, "well-kept"), (0.8, 1, "won")],
            "Well-kept won.",
            [
                ("Well", 0, 0.4, 0.5),
                ("kept", 0.4, 0.8, 0.5),
                ("won", 0.8, 1, 1),
            ],
        ),
        (
            [(0, 1.1, "years'result")],
            "years' result",
            [("years", 0, 0.5, 0.5), ("result", 0.5, 1.1, 0.5)],
        ),
        (
            [(0, 0.9, "21"), (0.9, 1, "men")],
            "Twenty one men",
            [
                ("Twenty", 0, 0.6, 0.5),
                ("one", 0.6, 0.9, 0.5),
                ("men", 0.9, 1, 1),
            ],
        ),
        # Several intervals, one word.
        (
            [(0, 0.2, "we"), (0.2, 0.3, "'re"), (0.4, 0.5, "in")],
            "We're in",
            [("We're", 0, 0.3, 1), ("in", 0.4, 0.5, 1)],
        ),
        (
            [(0, 0.2, "twenty"), (0.2, 0.3, "one")],
            "21",
            [("21", 0, 0.3, 1)],
        ),
        # Mandarin: a character is a word, and words have equal characters.
        (
            [(0, 0.4, "我们"), (0.5, 0.7, "赢"), (0.7, 1, "了")],
            "我们赢了。",
            [
                ("我", 0, 0.2, 0.5),
                ("们", 0.2, 0.4, 0.5),
                ("赢", 0.5, 0.7, 1),
                ("了", 0.7, 1, 1),
            ],
        ),
        (
            [(0, 0.4, " 我 们 "), (0.4, 0.8, "，赢了")],
            "我们，赢了",
            [
                ("我", 0, 0.2, 0.5),
                ("们", 0.2, 0.4, 0.5),
                ("赢", 0.4, 0.6, 0.5),
                ("了", 0.6, 0.8, 0.5),
            ],
        ),
        (
            [(0, 0.4, "说OK"), (0.4, 0.6, "十"), (0.6, 0.8, "五")],
            "说OK 15",
            [("说", 0, 0.4 / 3, 0.5), ("OK", 0.4 / 3, 0.4, 0.5)]
            + [("15", 0.4, 0.8, 1)],
        ),
        (
            [(0, 0.6, "二十一"), (0.6, 0.8, "天")],
            "21天",
            [("21", 0, 0.6, 1), ("天", 0.6, 0.8, 1)],
        ),
        (
            [(0, 0.4, "<unk>"), (0.4, 0.6, "了")],
            "饕餮了",
            [("饕", 0, 0.2, 0), ("餮", 0.2, 0.4, 0), ("了", 0.4, 0.6, 1)],
        ),
        # Noise and punctuation are skipped, unknown words are not.
        (
            [
                (0, 0.1, "[laugh]"),
                (0.1, 0.2, "we"),
                (0.2, 0.3, "{LG}"),
                (0.3, 0.4, "won"),
                (0.4, 0.5, "."),
                (0.5, 0.6, "<UNK>"),
                (0.6, 0.7, "<cutoff>"),
                (0.7, 0.8, "spn"),
            ],
            "We won.",
            [("We", 0.1, 0.2, 1), ("won", 0.3, 0.4, 1)],
        ),
        (
            [(0, 0.1, "[bracketed]"), (0.1, 0.2, "<UNK>"), (0.2, 0.3, "won")],
            "We won.",
            [("We", 0.1, 0.2, 0), ("won", 0.2, 0.3, 1)],
        ),
        (
            [(0, 0.1, "spn"), (0.2, 0.3, "won")],
            "We won.",
            [("We", 0, 0.1, 0), ("won", 0.2, 0.3, 1)],
        ),
    ],
)
def test_words_are_matched_by_their_letters(tmp_path, labels, text, expected):
    path = textgrid(tmp_path, labels)
    words = match_words(read_alignment(path), text, path)
    assert [word.text for word in words] == [word[0] for word in expected]
    for word, (_, start, end, confidence) in zip(words, expected):
        found = (word.start, word.end, word.confidence)
        assert found == pytest.approx((start, end, confidence))


@pytest.mark.parametrize(
    "labels, text, message",
    [
        (
            ["[noise]", "we", "lost"],
            "We won it.",
            "word 2 is 'lost', but 'won'",
        ),
        (["we", "21"], "We won", "word 1 is '21', but 'won'"),
        (["我们", "输了"], "我们赢了", "word 1 is '输了', but '赢'"),
        (["<unk>", "won"], "We have won", "word 1 is 'won', but 'have'"),
        (["we", "won", "it"], "We won", "word 2 is 'it', but missing"),
        (["[laugh]", "won"], "We won", "word 1 is 'won', but 'We'"),
    ],
)
def test_the_two_words_that_differ_are_named(labels, text, message):
    found = [Word(label, i, i + 1) for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match=f"a.TextGrid: {message}"):
        match_words(found, text, "a.TextGrid")


def test_overlaps_of_rounding_are_removed(tmp_path):
    path = textgrid(tmp_path, [(0.2, 0.5000001, "we"), (0.4999, 0.9, "won")])
    first, second = read_alignment(path)
    assert first.end == second.start == pytest.approx(0.5, abs=1e-6)
    write_alignment(path, [Word("a", 0, 0.5), Word("b", 0.4995, 1.0)], 1.0)
    assert read_alignment(path)[1] == Word("b", 0.5, 1.0)


def test_a_negative_start_is_set_to_0(tmp_path):
    path = textgrid(tmp_path, [(-0.02, 0.5, "we"), (0.5, 0.9, "won")])
    assert read_alignment(path)[0] == Word("we", 0.0, 0.5)


def test_words_are_cut_where_the_recording_ends(tmp_path):
    path = textgrid(tmp_path, [(0.2, 0.5, "we"), (0.5, 0.9, "won")])
    assert read_alignment(path, duration=0.8)[1].end == 0.8
    with pytest.raises(ValueError, match="a.TextGrid: word 1 .*ends at 0.450"):
        read_alignment(path, duration=0.45)


def test_a_word_of_no_length_gets_some_of_the_next(tmp_path):
    labels = [(0.2, 0.5, "we"), (0.5, 0.5, "a"), (0.5, 0.9, "won")]
    words = read_alignment(textgrid(tmp_path, labels))
    assert words[1:] == [Word("a", 0.5, 0.51, 0.0), Word("won", 0.51, 0.9)]


def test_a_truncated_textgrid_is_refused(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG[: LONG.index('text = "won"')])
    with pytest.raises(ValueError, match="cannot be read .*missing at the end"):
        read_alignment(path)


def test_overlapping_words_are_not_written(tmp_path):
    path = tmp_path / "a.TextGrid"
    words = [Word("we", 0.0, 0.5), Word("won", 0.3, 0.6)]
    with pytest.raises(ValueError, match="a.TextGrid cannot be written"):
        write_alignment(path, words, duration=1.0)
    assert not path.exists()


def test_textgrids_are_found_in_speaker_folders_and_beside_them(tmp_path):
    (tmp_path / "0011").mkdir()
    nested = tmp_path / "0011" / "0011_000001.TextGrid"
    flat = tmp_path / "0012_000001.TextGrid"
    nested.touch()
    flat.touch()
    assert find_textgrid(tmp_path, "0011_000001", "0011") == nested
    assert find_textgrid(tmp_path, "0012_000001", "0012") == flat
    assert find_textgrid(tmp_path, "0012_000001") == flat
    with pytest.raises(FileNotFoundError, match="0011_000002 has no align"):
        find_textgrid(tmp_path, "0011_000002", "0011")


def test_a_file_that_is_no_textgrid_is_named(tmp_path):
    path = tmp_path / "a.TextGrid"
    with pytest.raises(FileNotFoundError, match="a.TextGrid does not exist"):
        read_alignment(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="a.TextGrid cannot be read"):
        read_alignment(path)


def test_a_missing_tier_is_named_with_the_tiers_there_are(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG)
    with pytest.raises(ValueError, match="has the tiers words, phones, and 0"):
        read_alignment(path, tier="syllables")


def test_tokens_belong_to_the_word_at_their_time():
    assert word_of_speech(WORDS, n_tokens=30).tolist() == (
        [-1] * 5 + [0] * 8 + [1] * 10 + [-1] * 7
    )


def test_the_rate_of_the_tokens_counts():
    assert word_of_speech(WORDS, 60, rate=50.0).tolist() == (
        [-1] * 10 + [0] * 15 + [1] * 20 + [-1] * 15
    )


def test_every_word_has_a_token_and_words_stay_in_order():
    generator = random.Random(0)
    for _ in range(500):
        n_words = generator.randrange(1, 12)
        times = sorted(generator.uniform(0, 1.2) for _ in range(2 * n_words))
        words = [
            Word(str(i), times[2 * i], times[2 * i + 1]) for i in range(n_words)
        ]
        n_tokens = generator.randrange(max(n_words, 18), 40)
        found = word_of_speech(words, n_tokens).tolist()
        spoken = [word for word in found if word >= 0]
        assert spoken == sorted(spoken)
        assert set(spoken) == set(range(n_words))
        assert len(found) == n_tokens


def test_the_densest_alignment_fits_exactly():
    words = [Word(str(i), 0.001 * i, 0.001 * (i + 1)) for i in range(6)]
    assert word_of_speech(words, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_more_words_than_tokens_are_refused():
    words = [Word(str(i), i, i + 1) for i in range(6)]
    with pytest.raises(ValueError, match="6 words .* 5 speech tokens"):
        word_of_speech(words, 5)


def test_words_out_of_order_are_refused():
    words = [Word("we", 0.5, 0.9), Word("won", 0.2, 0.4)]
    with pytest.raises(ValueError, match="Word 1 .'won'.* out of order"):
        word_of_speech(words, 30)


def test_the_alignment_of_a_longer_recording_is_refused():
    with pytest.raises(ValueError, match="words end at 0.90 s .* at 0.20 s"):
        word_of_speech(WORDS, 5)


def test_no_words_is_all_silence():
    assert word_of_speech([], 3).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("end", [float("inf"), float("nan")])
def test_tiers_with_times_that_are_not_finite_are_refused(tmp_path, end):
    path = tmp_path / "a.TextGrid"
    with pytest.raises(ValueError, match="finite"):
        write_tiers(path, {"words": [(0.0, end, "We")]}, 1.0)
    assert not path.exists()
