"""The listening test: blind, whole, and scored by hand-made answers."""

import csv
import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json

import numpy as np
import pytest
import soundfile

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
EMOTIONS = ["neutral", "happy", "sad"]


def load(name):
    spec = spec_from_file_location(name, RECIPE / f"{name}.py")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load("make_listening_test")
scoring = load("score_listening_test")


@pytest.fixture
def material(tmp_path):
    """Four items in two systems."""
    with open(tmp_path / "items.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance", "asked"])
        for index in range(4):
            writer.writerow([f"u{index}", "<happy>We won,</> <sad>he left.</>"])
    for system in ("secretive", "hidden"):
        (tmp_path / system).mkdir()
        for index in range(4):
            wav = 0.1 * np.random.default_rng(index).normal(size=2400)
            soundfile.write(tmp_path / system / f"u{index}.wav", wav, 24000)
    return tmp_path


def make_page(folder, **options):
    return make.make_listening_test(
        folder / "test",
        make.read_items(folder / "items.csv", EMOTIONS),
        {name: folder / name for name in ("secretive", "hidden")},
        **options,
    )


def data_of(page):
    text = page.read_text()
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', text
    )
    return json.loads(found[1])


# --- The page -------------------------------------------------------------


def test_each_item_is_there_in_every_system_and_checks_are_added(material):
    page = make_page(material, n_checks=2)
    trials = data_of(page)["trials"]
    key = read_json(material / "test" / "key.json")["trials"]
    assert len(trials) == 4 * 2 + 2 and {t["code"] for t in trials} == set(key)
    pairs = [(e["item"], e["system"]) for e in key.values() if "item" in e]
    assert len(set(pairs)) == 8
    checks = [t["check"] for t in trials if "check" in t]
    assert len(checks) == 2
    assert all(1 <= c["emos"] <= 5 and 1 <= c["nmos"] <= 5 for c in checks)


def test_the_page_names_no_system_and_loads_nothing(material):
    text = make_page(material).read_text()
    assert "secretive" not in text and "hidden" not in text.replace(
        "hidden>", ""
    ).replace("[hidden]", "").replace(".hidden", "")
    assert not re.search(r"(src|href)\s*=\s*[\"']?http", text)
    assert "@import" not in text and "fetch(" not in text


def test_places_do_not_tell_the_systems(material):
    page = make_page(material, n_checks=0)
    key = read_json(material / "test" / "key.json")["trials"]
    order = [key[t["code"]]["system"] for t in data_of(page)["trials"]]
    assert order != sorted(order) and order != sorted(order, reverse=True)
    assert order[::2] != [order[0]] * 4


def test_words_carry_the_asked_emotion_and_their_punctuation(material):
    trial = data_of(make_page(material, n_checks=0))["trials"][0]
    assert trial["words"] == [
        ["We", "happy"], ["won,", "happy"], ["he", "sad"], ["left.", "sad"],
    ]  # fmt: skip
    assert trial["audio"].startswith("data:audio/flac;base64,")


def test_the_same_seed_makes_the_same_test(material):
    first = make_page(material, seed=1).read_text()
    assert make_page(material, seed=1).read_text() == first
    assert make_page(material, seed=2).read_text() != first


def test_text_cannot_end_the_script(material):
    path = material / "items.csv"
    path.write_text("id,asked\nu0,<happy>a &lt;/script> b</>\n")
    page = make_page(material, n_checks=0)
    words = data_of(page)["trials"][0]["words"]
    assert "".join(word for word, _ in words) == "a </script>b"


def test_missing_recordings_and_bad_lists_are_refused(material):
    (material / "hidden" / "u2.wav").unlink()
    with pytest.raises(FileNotFoundError, match="1 recordings.*u2.wav"):
        make_page(material)
    with pytest.raises(FileNotFoundError, match="no such file"):
        make.read_items(material / "no.csv", EMOTIONS)
    bad = material / "bad.csv"
    bad.write_text("id,asked\nu0,<furious>a</>\n")
    with pytest.raises(ValueError, match="line 2: .*furious"):
        make.read_items(bad, EMOTIONS)
    bad.write_text("id,asked\n")
    with pytest.raises(ValueError, match="the list is empty"):
        make.read_items(bad, EMOTIONS)
    bad.write_text("id,text\nu0,a\n")
    with pytest.raises(ValueError, match="add asked"):
        make.read_items(bad, EMOTIONS)
    with pytest.raises(ValueError, match="compares two"):
        make.make_listening_test(material, {}, {"one": material})


# --- The scores -----------------------------------------------------------

KEY = {
    "test": "abc",
    "trials": {
        **{
            f"{system}{item}": {"item": str(item), "system": system}
            for system in ("good", "poor")
            for item in range(8)
        },
        "check": {"check": {"emos": 2, "nmos": 4}},
    },
}


def answers_of(rate, check=(2, 4)):
    """A listener's answers."""
    answers = {
        trial: dict(zip(scoring.SCALES, rate(entry)))
        for trial, entry in KEY["trials"].items()
        if "item" in entry
    }
    answers["check"] = dict(zip(scoring.SCALES, check))
    return answers


def honest(entry):
    """The good system is better by 1 or 2, on emotion only."""
    extra = 2 - int(entry["item"]) % 2 if entry["system"] == "good" else 0
    return 2 + extra, 3


def test_means_and_intervals_are_those_of_the_ratings():
    summary, rows = scoring.score({"l1": answers_of(honest)}, KEY)
    good = summary["systems"]["good"]["emos"]
    assert good["mean"] == 3.5 and 3 <= good["low"] < 3.5 < good["high"] <= 4
    assert good["items"] == 8
    assert summary["systems"]["poor"]["nmos"]["mean"] == 3.0
    assert len(rows) == 16 and summary["unrated"] == 0


def test_paired_tests_see_the_difference_and_only_that():
    summary, _ = scoring.score({"l1": answers_of(honest)}, KEY)
    emos, nmos = summary["comparisons"]
    assert emos["scale"] == "emos" and emos["difference"] == -1.5
    assert emos["p"] < 0.02 and emos["items"] == 8
    assert nmos["difference"] == 0 and nmos["p"] == 1.0


def test_p_values_are_corrected_for_the_number_of_comparisons():
    means = {
        (system, str(item)): base + 0.01 * item * (base - 1)
        for system, base in (("a", 1.0), ("b", 2.0), ("c", 3.0))
        for item in range(8)
    }
    comparisons = scoring._compare(means, ["a", "b", "c"], "emos")
    assert len(comparisons) == 3
    for comparison in comparisons:
        assert comparison["p"] < comparison["p_holm"] <= 3 * comparison["p"]


def test_inattentive_listeners_are_left_out_and_named():
    answers = {
        "l1": answers_of(honest),
        "l2": answers_of(lambda entry: (5, 5), check=(5, 5)),
    }
    summary, _ = scoring.score(answers, KEY)
    assert summary["listeners"] == ["l1"]
    assert summary["excluded"] == {"l2": "failed 1 of 1 checks"}
    assert summary["systems"]["good"]["emos"]["mean"] == 3.5
    both, _ = scoring.score(answers, KEY, allowed_failures=1)
    assert both["listeners"] == ["l1", "l2"]
    with pytest.raises(ValueError, match="None of 1 listeners"):
        scoring.score({"l2": answers["l2"]}, KEY)


def test_unrated_trials_are_counted():
    answers = answers_of(honest)
    del answers["good0"], answers["poor1"]
    summary, _ = scoring.score({"l1": answers}, KEY)
    assert summary["unrated"] == 2
    assert summary["systems"]["good"]["emos"]["items"] == 7
    assert summary["comparisons"][0]["items"] == 6


def write_answers(path, *rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, scoring.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


ROW = {
    "listener": "l1", "test": "abc", "trial": "good0", "emos": 4, "nmos": 5,
}  # fmt: skip


def test_saved_answers_are_read(tmp_path):
    path = write_answers(tmp_path / "a.csv", ROW)
    answers = scoring.read_answers([path], KEY)
    assert answers == {"l1": {"good0": {"emos": 4, "nmos": 5}}}


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{**ROW, "emos": 6}], "line 2: emos is '6'; ratings are 1 to 5"),
        ([{**ROW, "nmos": ""}], "line 2: nmos is missing"),
        ([{**ROW, "test": "xyz"}], "not in the key"),
        ([{**ROW, "trial": "t9"}], "trial t9 of test abc is not in the key"),
        ([ROW, ROW], "line 3: listener l1 rated trial good0 twice"),
        ([], "no answers in it"),
    ],
)
def test_bad_answers_are_named(tmp_path, rows, message):
    path = write_answers(tmp_path / "a.csv", *rows)
    with pytest.raises(ValueError, match=message):
        scoring.read_answers([path], KEY)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        scoring.read_answers([tmp_path / "a.csv"], KEY)
