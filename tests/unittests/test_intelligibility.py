"""Word error rate."""

from speechbrain_emofilm.evaluation.scores import score_rows
from speechbrain_emofilm.metrics.intelligibility import (
    WordErrorRate,
    normalize_english,
    rate_of_language,
)

import pytest


def measure(recognised, references):
    wer = WordErrorRate()
    ids = [str(index) for index in range(len(references))]
    wer.append(ids, recognised, references)
    return wer.summarize()


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("The girl sold 50 bonds.", "the girl sold fifty bonds"),
        ("Four hours, 2 fish!", "4 hours two fish"),
        ("The man's fall - it's over", "the man's fall it is over"),
        ("One hundred and five", "105"),
    ],
)
def test_spelling_does_not_count_as_an_error(written, spoken):
    assert normalize_english(written) == normalize_english(spoken)


def test_perfect_recognition_has_no_error():
    summary = measure(["We won!", "two fish"], ["we won", "Two fish."])
    assert summary["wer"] == summary["low"] == summary["high"] == 0.0
    assert (summary["words"], summary["utterances"]) == (4, 2)


def test_nothing_recognised_is_every_word_deleted():
    summary = measure(["", "..."], ["the old dog", "we won"])
    assert summary["wer"] == summary["deletions"] == 1.0
    assert summary["insertions"] == summary["substitutions"] == 0.0


def test_babble_is_not_capped_and_shows_as_insertions():
    summary = measure(["so so so so so so"], ["so sad"])
    assert summary["wer"] == pytest.approx(2.5)
    assert summary["insertions"] == pytest.approx(2.0)
    assert summary["substitutions"] == pytest.approx(0.5)


def test_the_parts_add_up_and_words_not_utterances_are_averaged():
    summary = measure(
        ["a cat sat here", "dog"], ["the cat sat on the mat", "dog"]
    )
    parts = ("insertions", "deletions", "substitutions")
    assert summary["wer"] == pytest.approx(sum(summary[p] for p in parts))
    assert summary["wer"] == pytest.approx(4 / 7)
    assert summary["low"] <= summary["wer"] <= summary["high"]


def test_utterances_may_be_added_in_several_calls():
    wer = WordErrorRate()
    wer.append(["a"], ["one two"], ["one two"])
    wer.append(["b"], ["x"], ["three four"])
    assert wer.summarize()["utterances"] == 2


def test_unusable_input_is_refused():
    wer = WordErrorRate()
    with pytest.raises(ValueError, match="No utterance"):
        wer.summarize()
    with pytest.raises(ValueError, match="Utterance b has no word"):
        wer.append(["a", "b"], ["x", "y"], ["x", "?!"])
    with pytest.raises(ValueError, match="1 recognised"):
        wer.append(["a", "b"], ["x"], ["x", "y"])


def test_characters_have_their_own_rate():
    summary = measure(["we wan"], ["we won"])
    assert summary["wer"] == 0.5
    assert summary["cer"]["cer"] == pytest.approx(1 / 6)


def test_repeats_are_counted_beyond_those_of_the_text():
    summary = measure(
        ["we won we won the game", "so so good"],
        ["we won the game", "so so good"],
    )
    assert summary["repeats"] == {"words": 2, "utterances": 1}


def test_truncations_are_words_missing_at_the_end():
    summary = measure(
        ["the old", "old dog", ""], ["the old dog", "the old dog", "we won"]
    )
    assert summary["truncations"] == {"words": 3, "utterances": 2}


def test_each_utterance_has_a_row(tmp_path):
    wer = WordErrorRate()
    wer.append(["a"], ["we won won"], ["we won"])
    wer.write_rows(tmp_path / "rows.csv")
    header, row = (tmp_path / "rows.csv").read_text().splitlines()
    assert header.startswith("id,wer,cer,words,insertions")
    assert row.startswith("a,0.5,")
    with open(tmp_path / "stats.json", "w") as file:
        wer.write_stats(file)
    assert '"repeats"' in (tmp_path / "stats.json").read_text()


def test_a_missing_recogniser_is_named():
    with pytest.raises(ValueError, match="a was not recognised.*`asr`"):
        WordErrorRate().append(["a"], [None], ["we won"])


def test_systems_are_compared_on_the_same_sentences():
    """A hard sentence is hard for both: it widens no interval."""
    ours, theirs = WordErrorRate(), WordErrorRate()
    ids = [str(index) for index in range(10)]
    said = ["a cat sat here"] * 10
    heard = ["so"] * 5 + said[5:]
    theirs.append(ids, heard, said)
    ours.append(ids[::-1], heard[::-1], said)
    assert ours.above(theirs) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    worse = WordErrorRate()
    worse.append(ids, ["so"] * 6 + said[6:], said)
    above = worse.above(theirs)
    assert above["difference"] == pytest.approx(0.1)
    assert above["low"] == 0.0 and 0.2 <= above["high"] <= 0.4
    fewer = WordErrorRate()
    fewer.append(ids[:9], heard[:9], said[:9])
    with pytest.raises(ValueError, match="1 utterances were measured of one"):
        fewer.above(theirs)


def test_mandarin_is_measured_by_characters():
    summary = measure(["我们赢了!", "今天"], ["我们，输了。", "今天好"])
    assert summary["wer"] == pytest.approx(2 / 7)
    assert summary["substitutions"] == summary["deletions"] == 1 / 7
    assert summary["cer"]["cer"] == summary["wer"]
    rate = rate_of_language(summary, "zh")
    assert rate["cer"] == summary["wer"]
    assert rate["low"] <= rate["cer"] <= rate["high"]
    assert (rate["characters"], rate["utterances"]) == (7, 2)
    assert rate_of_language(summary, "en") is None


def test_each_language_has_its_own_rate():
    texts = ["We won it all.", "我们赢了OK", "But he left."]
    summary = measure(["we won", "Ｏｋ我们赢", "but he left"], texts)
    english = rate_of_language(summary, "en")
    assert english["wer"] == pytest.approx(2 / 7)
    assert (english["words"], english["utterances"]) == (7, 2)
    mandarin = rate_of_language(summary, "zh")
    assert mandarin["cer"] == pytest.approx(3 / 5)
    assert "wer" not in mandarin and "cer" not in english
    assert summary["words"] == 12
    assert summary["wer"] == pytest.approx(5 / 12)


def test_a_summary_of_english_alone_is_as_before():
    summary = measure(["we won"], ["We won!"])
    assert "languages" not in summary
    assert rate_of_language(summary, "en") is summary
    assert rate_of_language(summary, "zh") is None


def test_english_heard_for_mandarin_is_all_wrong():
    summary = measure(["we won"], ["我们赢了"])
    assert rate_of_language(summary, "zh")["cer"] == 1.0


@pytest.mark.parametrize(
    "texts, names",
    [
        (["We won."], ["Word error rate"]),
        (["我们赢了"], ["Character error rate, Mandarin"]),
        (
            ["We won.", "我们赢了"],
            ["Word error rate", "Character error rate, Mandarin"],
        ),
    ],
)
def test_a_table_has_a_row_for_each_language(texts, names):
    summary = measure(["won"] * len(texts), texts)
    rows = score_rows({"efilm": {"wer": summary}})
    assert [row.name for row in rows] == names
    expected = {"Word": 0.5, "Character": 1.0}
    for row in rows:
        assert row.values["efilm"].value == expected[row.name.split()[0]]
