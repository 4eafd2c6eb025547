import importlib.util
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import read_alignment
from speechbrain_emofilm.utils.files import read_json

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def load(path):
    """A module that no package holds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


world = load(REPOSITORY / "tests" / "integration" / "tiny_iemocap.py")
make_iemocap, write_dialogue = world.make_iemocap, world.write_dialogue


@pytest.fixture(scope="module")
def recipe():
    return load(REPOSITORY / "recipes" / "IEMOCAP" / "iemocap_prepare.py")


@pytest.fixture
def corpus(tmp_path):
    make_iemocap(tmp_path / "IEMOCAP")
    return tmp_path / "IEMOCAP"


def read_split(folder, split):
    return read_json(folder / f"{split}.json")


def values(folder, split, name):
    return [item[name] for item in read_split(folder, split).values()]


def test_manifest_of_a_fold(recipe, corpus, tmp_path):
    recipe.prepare_iemocap(corpus, tmp_path / "out", test_session=2)
    test = read_split(tmp_path / "out", "test")
    assert sorted(test) == [
        "Ses02F_impro01_F000",
        "Ses02F_impro01_F001",
        "Ses02F_impro01_M000",
    ]
    assert test["Ses02F_impro01_M000"] == {
        "wav": "{data_root}/Session2/sentences/wav/Ses02F_impro01/"
        "Ses02F_impro01_M000.wav",
        "duration": 1.216,
        "speaker": "Ses02M",
        "language": "en",
        "text": "Oh, don't! Please.",
        "emotion": "happy",
        "valence": 0.75,
        "arousal": 1.0,
        "dominance": 0.0,
        "intensity": 1.0,
    }
    valid = read_split(tmp_path / "out", "valid")
    assert {turn[:5] for turn in valid} == {"Ses01"}
    train = read_split(tmp_path / "out", "train")
    assert {turn[:5] for turn in train} == {"Ses03", "Ses04", "Ses05"}


def test_folds_share_no_speaker(recipe, corpus, tmp_path):
    for session in (1, 2, 3, 4, 5):
        recipe.prepare_iemocap(corpus, tmp_path / "out", session)
        speakers = [
            {
                item["speaker"]
                for item in read_split(tmp_path / "out", s).values()
            }
            for s in ("train", "valid", "test")
        ]
        assert [len(found) for found in speakers] == [6, 2, 2]
        assert len(set.union(*speakers)) == 10


def test_excited_can_stay_a_category(recipe, corpus, tmp_path):
    recipe.prepare_iemocap(
        corpus,
        tmp_path / "out",
        excited_is_happy=False,
        emotions=["angry", "excited", "frustrated"],
    )
    emotions = [
        item["emotion"]
        for item in read_split(tmp_path / "out", "test").values()
    ]
    assert sorted(emotions) == ["angry", "excited", "frustrated"]


def test_forced_alignments_become_textgrids(recipe, corpus, tmp_path, caplog):
    recipe.prepare_iemocap(corpus, tmp_path / "out")
    grids = tmp_path / "out" / "textgrids"
    words = read_alignment(grids / "Ses01F" / "Ses01F_impro01_F000.TextGrid")
    assert [(w.text, w.start, w.end) for w in words] == [
        ("EXCUSE", 0.52, 0.67),
        ("ME", 0.67, 0.99),
    ]
    # Of other words than the transcript's, and without any.
    assert not (grids / "Ses01F" / "Ses01F_impro01_F001.TextGrid").exists()
    assert not (grids / "Ses01M" / "Ses01M_impro01_M000.TextGrid").exists()
    assert "Ses01F_impro01_F001" in read_split(tmp_path / "out", "train")


def test_nothing_is_done_twice_unless_options_change(recipe, corpus, tmp_path):
    out = tmp_path / "out"
    recipe.prepare_iemocap(corpus, out)
    before = (out / "train.json").stat().st_mtime_ns
    recipe.prepare_iemocap(corpus, out)
    assert (out / "train.json").stat().st_mtime_ns == before
    recipe.prepare_iemocap(corpus, out, test_session=1)
    assert {turn[:5] for turn in read_split(out, "test")} == {"Ses01"}


def test_bad_turns_are_skipped_and_listed(recipe, corpus, tmp_path):
    wavs = corpus / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    (wavs / "Ses01F_impro01_F000.wav").write_bytes(b"")
    recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.1)
    skipped = read_json(tmp_path / "out" / "skipped.json")
    assert list(skipped) == ["Ses01F_impro01_F000"]
    assert "empty" in skipped["Ses01F_impro01_F000"]
    with pytest.raises(ValueError, match="1 of 15 turns cannot be used"):
        recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.01)


def test_a_turn_without_words_is_bad(recipe, corpus, tmp_path):
    transcript = corpus.joinpath(
        "Session3", "dialog", "transcriptions", "Ses03F_impro01.txt"
    )
    text = transcript.read_text().replace("Excuse me.", "[LAUGHTER]")
    transcript.write_text(text)
    recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.1)
    (reason,) = read_json(tmp_path / "out" / "skipped.json").values()
    assert "no words of Ses03F_impro01_F000" in reason


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test_session": 2, "valid_session": 2}, "Session 2 cannot be"),
        ({"test_session": 6}, "Session 6 does not exist"),
        ({"emotions": ["joyful"]}, "no emotion 'joyful'"),
    ],
)
def test_options_that_do_not_exist(recipe, corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        recipe.prepare_iemocap(corpus, tmp_path / "out", **options)


def test_a_missing_session_is_named(recipe, tmp_path):
    write_dialogue(tmp_path / "IEMOCAP", 1)
    with pytest.raises(ValueError, match="split 'train' is empty"):
        recipe.prepare_iemocap(
            tmp_path / "IEMOCAP", tmp_path / "out", test_session=1
        )
    with pytest.raises(FileNotFoundError, match="no folder Session1"):
        recipe.prepare_iemocap(tmp_path, tmp_path / "out")


def test_a_file_of_something_else_is_named(recipe, corpus, tmp_path):
    path = corpus.joinpath(
        "Session1", "dialog", "EmoEvaluation", "Ses01F_impro01.txt"
    )
    path.write_text("nothing of use\n")
    with pytest.raises(ValueError, match="Ses01F_impro01.txt: no line such as"):
        recipe.prepare_iemocap(corpus, tmp_path / "out")
    path.write_text("[1.0 - 2.0]\tSes01F_impro01_F000\tzzz\t[1, 2, 3]\n")
    with pytest.raises(ValueError, match="line 1: 'zzz' is no category"):
        recipe.prepare_iemocap(corpus, tmp_path / "out")


def test_braces_are_doubled_for_speechbrain(recipe, tmp_path):
    turns = {"F000": ("So {this}.", "sad", "1.0, 1.0, 1.0")}
    make_iemocap(tmp_path / "IEMOCAP", turns)
    recipe.prepare_iemocap(tmp_path / "IEMOCAP", tmp_path / "out")
    (item,) = read_split(tmp_path / "out", "test").values()
    assert item["text"] == "So {{this}}."


def evaluation_file(corpus, session=1):
    name = f"Ses{session:02d}F_impro01.txt"
    return corpus / f"Session{session}" / "dialog" / "EmoEvaluation" / name


def test_unwanted_turns_are_not_counted_as_bad(recipe, corpus, tmp_path):
    for session in (1, 2, 3):
        path = evaluation_file(corpus, session)
        transcript = path.parents[1] / "transcriptions" / path.name
        lines = transcript.read_text().replace("I can't bear it.", "[SIGH]")
        transcript.write_text(lines.replace("Who knows?", "[LAUGHTER]"))
        path.write_text(path.read_text().replace("[2.0000, 3.5", "[-, 3.5"))
    recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.0)
    assert read_json(tmp_path / "out" / "skipped.json") == {}
    recipe.prepare_iemocap(
        corpus,
        tmp_path / "out",
        emotions=["angry", "frustrated"],
        max_bad_share=0.5,
    )
    assert list(read_json(tmp_path / "out" / "skipped.json")) == [
        f"Ses0{session}F_impro01_M001" for session in (1, 2, 3)
    ]


def test_ratings_without_spaces_are_read(recipe, corpus, tmp_path):
    recipe.prepare_iemocap(corpus, tmp_path / "whole", test_session=1)
    path = evaluation_file(corpus)
    path.write_text(path.read_text().replace(", ", ","))
    recipe.prepare_iemocap(corpus, tmp_path / "tight", test_session=1)
    test = read_split(tmp_path / "tight", "test")
    assert test == read_split(tmp_path / "whole", "test") and len(test) == 3


@pytest.mark.parametrize(
    "line, key",
    [
        (
            "[6.29 - 8.24]\tSes01F_impro01_F000\tneu",
            "Ses01F_impro01.txt line 3",
        ),
        (
            "[6.29 - 8.24]\tSes01F_impro01_F000\tneu\t[2.5, 2.5]",
            "Ses01F_impro01_F000",
        ),
        (
            "[6.29 - 8.24]\tSes01F_impro01_F000\tneu\t[1.2.3, 2, 2]",
            "Ses01F_impro01_F000",
        ),
    ],
)
def test_malformed_rating_lines_are_listed(recipe, corpus, tmp_path, line, key):
    path = evaluation_file(corpus)
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines))
    recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.1)
    skipped = read_json(tmp_path / "out" / "skipped.json")
    assert list(skipped) == [key]
    with pytest.raises(ValueError, match="1 of 15 turns cannot be used"):
        recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.01)


@pytest.mark.parametrize(
    "old, new",
    [
        ("52    66", "66    52"),  # reversed
        ("67    98", "60    98"),  # overlapping
        ("52    66", "52    " + "9" * 400),
        ("EXCUSE", "\x00\xff"),
    ],
)
def test_a_damaged_alignment_is_not_used(recipe, corpus, tmp_path, old, new):
    path = corpus.joinpath(
        "Session1",
        "sentences",
        "ForcedAlignment",
        "Ses01F_impro01",
        "Ses01F_impro01_F000.wdseg",
    )
    path.write_bytes(path.read_text().replace(old, new).encode("latin-1"))
    recipe.prepare_iemocap(corpus, tmp_path / "out", max_bad_share=0.0)
    assert "Ses01F_impro01_F000" in read_split(tmp_path / "out", "train")
    grids = tmp_path / "out" / "textgrids"
    assert not (grids / "Ses01F" / "Ses01F_impro01_F000.TextGrid").exists()
    assert (grids / "Ses02F" / "Ses02F_impro01_F000.TextGrid").is_file()
