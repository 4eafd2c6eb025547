"""A corpus is aligned: TextGrids, confidences, what is bad, going on."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    Word,
    read_alignment,
    write_alignment,
)
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    check_alignment_input,
    fit_times,
)
from speechbrain_emofilm.integrations.aligner.mfa import MFAAligner
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import pytest
import soundfile
from hyperpyyaml import load_hyperpyyaml

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
RECIPE = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"
sys.path.insert(0, str(RECIPE))
import align  # noqa: E402

sys.path.remove(str(RECIPE))

RATE = 16000
TEXTS = {
    "0011_000001": "We won it.",
    "0011_000002": "But he left.",
    "0012_000001": "Come and see.",
    "0012_000002": "I lost myself.",
}


class EvenAligner:
    """Gives words the same time each; loses sentences with "lost"."""

    def __init__(self, confidence=0.9, die_at=None):
        self.confidence = confidence
        self.die_at = die_at

    def align(self, wav, sample_rate, text, language="en"):
        wav, words = check_alignment_input(wav, sample_rate, text)
        if "lost" in words:
            raise AlignmentError(f"{text!r} does not fit.")
        if self.die_at in words:
            os.kill(os.getpid(), signal.SIGKILL)
        step = len(wav) / sample_rate / len(words)
        return [
            Word(word, i * step, (i + 1) * step, self.confidence)
            for i, word in enumerate(words)
        ]


even_aligner = functools.partial(EvenAligner)


@pytest.fixture
def corpus(tmp_path):
    """A folder with wavs, a manifest and the recipe's hyperparameters."""
    return make_corpus(tmp_path)


def make_corpus(folder, texts=TEXTS):
    noise = 0.1 * np.random.default_rng(0).normal(size=RATE)
    manifest = {}
    for name, text in texts.items():
        soundfile.write(folder / f"{name}.wav", noise, RATE)
        manifest[name] = {
            "wav": f"{{data_root}}/{name}.wav",
            "duration": 1.0,
            "speaker": name[:4],
            "language": "en",
            "text": text,
            "emotion": "sad",
        }
    write_json(folder / "train.json", manifest)
    return {
        "data_folder": str(folder),
        "manifest": folder / "train.json",
        "alignment_folder": str(folder / "alignments"),
        "max_duration": 60,
        "max_bad_share": 0.25,
        "n_workers": 1,
    }


def run(hparams, make_aligner=even_aligner, **others):
    """What the script does after it has prepared the corpus."""
    utterances = align.read_utterances(
        [hparams["manifest"]], hparams["data_folder"]
    )
    aligners = {"en": make_aligner, **others}
    aligners = align.choose_aligners(aligners, utterances)
    described = align.open_folder(hparams["alignment_folder"], aligners)
    bad = align.align_corpus(aligners, utterances, hparams)
    align.report_bad(described, utterances, *bad, hparams)
    return contents(hparams["alignment_folder"])


def contents(folder):
    """All files of a folder by their path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def change_text(hparams, name, text):
    manifest = read_json(hparams["manifest"])
    manifest[name]["text"] = text
    write_json(hparams["manifest"], manifest)


def test_textgrids_stand_in_speaker_folders_with_confidences(corpus):
    made = run(corpus)
    assert set(made) == {
        "alignment.json",
        "skipped.json",
        *(f"{name[:4]}/{name}.TextGrid" for name in TEXTS),
    }
    folder = Path(corpus["alignment_folder"])
    words = read_alignment(folder / "0011" / "0011_000001.TextGrid")
    assert [word.text for word in words] == ["We", "won", "it"]
    assert {word.confidence for word in words} == {0.9}


def test_an_utterance_that_cannot_be_aligned_is_guessed_and_listed(corpus):
    run(corpus)
    folder = Path(corpus["alignment_folder"])
    words = read_alignment(folder / "0012" / "0012_000002.TextGrid")
    assert [word.text for word in words] == ["I", "lost", "myself"]
    assert {word.confidence for word in words} == {0.0}
    report = read_json(folder / "alignment.json")
    assert report["n_utterances"] == 4
    assert report["n_aligned"] == 3
    assert (report["n_guessed"], report["n_skipped"]) == (1, 0)
    bad = read_json(folder / "skipped.json")
    assert list(bad) == ["0012_000002"]
    assert "does not fit. Its word times are guessed" in bad["0012_000002"]
    # One list: the report only counts.
    assert "0012_000002" not in (folder / "alignment.json").read_text()


def test_too_many_bad_utterances_fail_with_the_first_and_the_list(corpus):
    corpus["max_bad_share"] = 0.2
    with pytest.raises(
        ValueError, match="1 of 4 .* 0012_000002: .*json.* max_bad_share = 0.2"
    ):
        run(corpus)
    path = Path(corpus["alignment_folder"], "alignment.json")
    assert read_json(path)["n_aligned"] == 3


def write_bad_wav(kind, path):
    """One of the sounds that users have."""
    noise = 0.1 * np.random.default_rng(0).normal(size=RATE)
    if kind == "unreadable":
        path.write_bytes(b"no audio")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "nan":
        noise[100] = np.nan
        soundfile.write(path, noise, RATE, subtype="FLOAT")
    elif kind == "silent":
        soundfile.write(path, 0 * noise, RATE)
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    "kind", ["unreadable", "empty", "nan", "silent", "missing"]
)
def test_unusable_sound_is_skipped_with_file_and_reason(corpus, kind):
    run(corpus)
    wav = Path(corpus["data_folder"], "0011_000001.wav")
    write_bad_wav(kind, wav)
    if wav.exists():
        os.utime(wav, (wav.stat().st_mtime + 10,) * 2)
    corpus["max_bad_share"] = 0.5
    made = run(corpus)
    assert "0011/0011_000001.TextGrid" not in made  # none of the old sound
    bad = read_json(Path(corpus["alignment_folder"], "skipped.json"))
    assert list(bad) == ["0011_000001", "0012_000002"]
    reason = bad["0011_000001"]
    assert "silent" in reason if kind == "silent" else str(wav) in reason


def test_ten_minutes_are_skipped_before_they_are_read(corpus):
    manifest = read_json(corpus["manifest"])
    manifest["0011_000001"]["duration"] = 600.0
    write_json(corpus["manifest"], manifest)
    corpus["max_bad_share"] = 0.5
    run(corpus)
    bad = read_json(Path(corpus["alignment_folder"], "skipped.json"))
    assert "600.0 s is longer" in bad["0011_000001"]


def test_a_text_without_words_is_skipped(corpus):
    change_text(corpus, "0011_000001", "... !")
    corpus["max_bad_share"] = 0.5
    run(corpus)
    bad = read_json(Path(corpus["alignment_folder"], "skipped.json"))
    assert "No word" in bad["0011_000001"]


def test_stereo_and_8_khz_are_aligned(corpus):
    folder = Path(corpus["data_folder"])
    noise = 0.1 * np.random.default_rng(0).normal(size=(8000, 2))
    soundfile.write(folder / "0011_000001.wav", noise, 8000)
    made = run(corpus)
    assert "0011/0011_000001.TextGrid" in made


def run_to_death():
    """Aligns the corpus in the working folder until SIGKILL strikes."""
    corpus = make_corpus(Path.cwd())
    utterances = align.read_utterances(
        [corpus["manifest"]], corpus["data_folder"]
    )
    make_aligner = functools.partial(EvenAligner, die_at="Come")
    align.align_corpus({"en": make_aligner}, utterances, corpus)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    expected = run(make_corpus(tmp_path / "whole"))
    corpus = make_corpus(tmp_path / "killed")
    killed = subprocess.run(
        [sys.executable, "-c", "import test_align; test_align.run_to_death()"],
        cwd=tmp_path / "killed",
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{HERE}"},
    )
    assert killed.returncode == -signal.SIGKILL
    begun = contents(corpus["alignment_folder"])
    assert set(begun) == {
        f"0011/{name}.TextGrid" for name in TEXTS if name.startswith("0011")
    }
    done = Path(corpus["alignment_folder"], "0011", "0011_000001.TextGrid")
    before = done.stat().st_mtime_ns
    assert run(corpus) == expected
    assert done.stat().st_mtime_ns == before


@pytest.mark.slow
def test_several_processes_give_the_same(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = run(make_corpus(tmp_path / "one"))
    assert run({**make_corpus(tmp_path / "two"), "n_workers": 2}) == expected


def test_an_utterance_is_aligned_again_with_a_new_text(corpus):
    run(corpus)
    change_text(corpus, "0011_000001", "We have won it.")
    run(corpus)
    path = Path(corpus["alignment_folder"], "0011", "0011_000001.TextGrid")
    assert len(read_alignment(path)) == 4


def test_a_folder_is_of_one_aligner(corpus):
    run(corpus)
    other = functools.partial(EvenAligner, confidence=0.5)
    with pytest.raises(ValueError, match="alignment.json: .* another align"):
        run(corpus, other)


def test_a_folder_of_an_earlier_version_is_of_one_aligner(corpus):
    path = Path(corpus["alignment_folder"], "alignment.json")
    report = {"aligner": {"name": "earlier.Aligner"}, "n_utterances": 4}
    write_json(path, report)
    with pytest.raises(ValueError, match="'en'.*earlier.Aligner.*, not by"):
        run(corpus)


def change_language(hparams, name, text):
    manifest = read_json(hparams["manifest"])
    manifest[name] |= {"text": text, "language": "zh"}
    write_json(hparams["manifest"], manifest)


def test_each_language_has_its_aligner(corpus):
    change_language(corpus, "0011_000001", "我们赢了。")
    mandarin = functools.partial(EvenAligner, confidence=0.7)
    for _ in range(2):  # the second run accepts the first one's folder
        run(corpus, zh=mandarin, fr=None)
    folder = Path(corpus["alignment_folder"])
    words = read_alignment(folder / "0011" / "0011_000001.TextGrid")
    assert [word.text for word in words] == list("我们赢了")
    assert {word.confidence for word in words} == {0.7}
    words = read_alignment(folder / "0011" / "0011_000002.TextGrid")
    assert {word.confidence for word in words} == {0.9}
    described = read_json(folder / "alignment.json")["aligners"]
    assert described["zh"]["confidence"] == 0.7
    assert set(described) == {"en", "zh"}
    with pytest.raises(ValueError, match="'zh' in this folder .* 0.7"):
        run(corpus, zh=even_aligner)


def test_a_language_without_aligner_is_named_before_work(corpus):
    change_language(corpus, "0011_000001", "我们赢了。")
    with pytest.raises(ValueError, match="'zh' of 0011_000001, only of en"):
        run(corpus)
    assert not Path(corpus["alignment_folder"]).exists()


def test_an_aligner_of_corpora_gets_all_utterances(corpus, tmp_path):
    for name, text in list(TEXTS.items())[:3]:
        words = [word.text.lower() for word in split_words(text)]
        times = [Word(w, 0.2 * i, 0.2 * i + 0.2) for i, w in enumerate(words)]
        path = tmp_path / "mfa" / name[:4] / f"{name}.TextGrid"
        write_alignment(path, times, 1.0)
    mfa = functools.partial(MFAAligner, textgrid_folder=str(tmp_path / "mfa"))
    run(corpus, mfa)
    folder = Path(corpus["alignment_folder"])
    words = read_alignment(folder / "0011" / "0011_000002.TextGrid")
    assert words[0] == Word("But", 0.0, 0.2)
    assert list(read_json(folder / "skipped.json")) == ["0012_000002"]


@pytest.mark.parametrize("name", ["pocketsphinx", "mfa", "ctc"])
def test_an_aligner_is_swapped_by_one_line(name):
    lines = (RECIPE / "hparams" / "align.yaml").read_text().splitlines()
    place = "!include:../../../../hparams/aligner"
    lines = [
        f"aligner: {place}/{name}.yaml" if line.startswith("aligner:") else line
        for line in lines
    ]
    folder = RECIPE / "hparams"
    text = "\n".join(lines).replace("../../../..", str(folder.parents[3]))
    hparams = load_hyperpyyaml(text, {"data_folder": "unused"})
    described = align.describe(hparams["aligner"])
    assert described["name"].split(".")[3] == name
    assert hparams["aligners"]["en"] is hparams["aligner"]
    mandarin = align.describe(hparams["aligners"]["zh"])
    assert mandarin["name"].endswith("ctc.CTCAligner")
    assert mandarin["language"] == "zh"


def test_times_are_moved_into_the_utterance():
    generator = np.random.default_rng(0)
    for _ in range(200):
        borders = np.sort(generator.uniform(-0.5, 1.5, 12)).reshape(-1, 2)
        fitted = fit_times([tuple(pair) for pair in borders], 1.0)
        flat = np.array(fitted).reshape(-1)
        assert (np.diff(flat) >= -1e-12).all()
        assert flat[0] >= 0 and flat[-1] <= 1 + 1e-12
        assert all(end - start > 0.0099 for start, end in fitted)


def test_times_inside_the_utterance_stay():
    times = [(0.0, 0.25), (0.25, 0.5), (0.75, 1.0)]
    assert fit_times(times, 1.0) == times


def test_channels_are_not_taken_for_one_long_sound():
    with pytest.raises(AlignmentError, match="'We won' has the shape"):
        check_alignment_input(np.ones((2, RATE)), RATE, "We won")


def broken_aligner():
    raise ImportError("Alignment needs the package x.")


def test_an_aligner_that_cannot_be_made_ends_the_run(corpus):
    with pytest.raises(ImportError, match="needs the package x"):
        run({**corpus, "n_workers": 2}, broken_aligner)
