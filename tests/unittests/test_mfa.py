"""The Montreal Forced Aligner: its command, its folders, its TextGrids."""

import stat
import sys

from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    AlignmentInput,
    UnusableInputError,
)
from speechbrain_emofilm.integrations.aligner.mfa import MFAAligner

import numpy as np
import pytest
import soundfile

RATE = 24000
#: A stand-in for the program: checks command line and corpus as MFA does, and
#: gives every word 0.2 s in TextGrids of MFA's long format. It finds no
#: alignment for a speaker named 0013, and cannot pronounce "zorb".
MFA = """#!{python}
import pathlib, sys, wave

assert sys.argv[1:3] == ["align", "--clean"], sys.argv
corpus, dictionary, model, output = map(pathlib.Path, sys.argv[3:])
assert (str(dictionary), str(model)) == ("my.dict", "my_model"), sys.argv
assert not output.exists()

def tier(number, name, end, intervals):
    yield f"    item [{{number}}]:"
    yield '        class = "IntervalTier"'
    yield f'        name = "{{name}}"'
    yield f"        xmin = 0"
    yield f"        xmax = {{end}}"
    yield f"        intervals: size = {{len(intervals)}}"
    for index, (first, last, label) in enumerate(intervals, start=1):
        yield f"        intervals [{{index}}]:"
        yield f"            xmin = {{first}}"
        yield f"            xmax = {{last}}"
        yield f'            text = "{{label}}"'

for lab in sorted(corpus.glob("*/*.lab")):
    with wave.open(str(lab.with_suffix(".wav"))) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 16000)
        end = file.getnframes() / 16000
    words = lab.read_text(encoding="utf-8").split()
    if lab.parent.name == "0013":
        continue
    spoken = [(0.2 * i, 0.2 * i + 0.2, w.lower()) for i, w in enumerate(words)]
    phones = [(a, b, "spn" if w == "zorb" else "AH0") for a, b, w in spoken]
    pause = [(spoken[-1][1], end, "")]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {{end}}", "tiers? <exists>", "size = 2"]
    lines += ["item []:", *tier(1, "words", end, spoken + pause)]
    lines += tier(2, "phones", end, phones + pause)
    path = output / lab.parent.name / (lab.stem + ".TextGrid")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\\n".join(lines) + "\\n", encoding="utf-8")
"""


@pytest.fixture
def mfa(tmp_path, monkeypatch):
    """Puts a stand-in on PATH."""
    program = tmp_path / "bin" / "mfa"
    program.parent.mkdir()
    program.write_text(MFA.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return MFAAligner("my.dict", "my_model")


def utterance(folder, name, text, wav=None):
    path = folder / f"{name}.wav"
    noise = 0.1 * np.random.default_rng(0).normal(size=(2 * RATE, 2))
    soundfile.write(path, noise if wav is None else wav, RATE)
    return AlignmentInput(name, str(path), text, name[:4], "en", 2.0)


def test_a_corpus_is_written_aligned_and_read(mfa, tmp_path):
    utterances = [
        utterance(tmp_path, "0011_000001", "Don’t go, zorb!"),
        utterance(tmp_path, "0012_000001", "We won."),
    ]
    found = dict(mfa.align_corpus(utterances, tmp_path / "work"))
    first = found["0011_000001"]
    assert [word.text for word in first] == ["Don’t", "go", "zorb"]
    assert [word.start for word in first] == pytest.approx([0.0, 0.2, 0.4])
    assert [word.confidence for word in first] == [1.0, 1.0, 0.0]
    assert [word.text for word in found["0012_000001"]] == ["We", "won"]
    assert list((tmp_path / "work").iterdir()) == []


def test_what_cannot_be_aligned_is_an_error_of_its_own(mfa, tmp_path):
    utterances = [
        utterance(tmp_path, "0011_000001", "We won."),
        utterance(tmp_path, "0013_000001", "He left."),
        utterance(tmp_path, "0011_000002", "She left.", np.zeros(RATE)),
        utterance(tmp_path, "0011_000003", "?!"),
    ]
    found = dict(mfa.align_corpus(utterances, tmp_path / "work"))
    assert len(found["0011_000001"]) == 2
    assert isinstance(found["0013_000001"], AlignmentError)
    assert "0013_000001 ('He left.')" in str(found["0013_000001"])
    assert isinstance(found["0011_000002"], UnusableInputError)
    assert isinstance(found["0011_000003"], UnusableInputError)


def test_one_utterance_has_the_interface_of_all_aligners(mfa):
    noise = 0.1 * np.random.default_rng(0).normal(size=RATE)
    words = mfa.align(noise, RATE, "We won.", "en")
    assert [(w.text, w.end) for w in words] == [("We", 0.2), ("won", 0.4)]
    with pytest.raises(UnusableInputError, match="'zh'"):
        mfa.align(noise, RATE, "我们", "zh")


def test_a_failing_command_is_shown(mfa, tmp_path):
    mfa.acoustic_model = "another"
    items = [utterance(tmp_path, "0011_000001", "We won.")]
    with pytest.raises(RuntimeError, match="mfa align --clean .* status 1"):
        list(mfa.align_corpus(items, tmp_path / "work"))


def test_a_missing_program_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'mfa' .*conda install"):
        MFAAligner("my.dict", "my_model")


SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1
<exists>
1
"IntervalTier"
"{tier}"
0
1
2
0
0.4
"we"
0.4
{end}
"{word}"
"""


@pytest.mark.parametrize("tier", ["words", "0011 - words"])
def test_an_earlier_output_is_read_without_the_program(
    monkeypatch, tmp_path, tier
):
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "mfa" / "0011"
    output.mkdir(parents=True)
    (output / "0011_000001.TextGrid").write_text(
        SHORT.format(tier=tier, word="<unk>", end=0.9)
    )
    aligner = MFAAligner("d", "m", textgrid_folder=tmp_path / "mfa")
    items = [utterance(tmp_path, "0011_000001", "We zorb.")]
    ((_, words),) = aligner.align_corpus(items, tmp_path / "work")
    assert [(w.text, w.end, w.confidence) for w in words] == [
        ("We", 0.4, 1.0),
        ("zorb", 0.9, 0.0),
    ]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("word", "end", "text", "message"),
    [
        ("won", 0.9, "We lost.", "word 1 is 'won', but 'lost'"),
        ("won", 0.9, "We won it.", "word 2 is missing, but 'it' in the text"),
        ("won", 0.3, "We won.", "cannot be read as a TextGrid"),
    ],
    ids=["another utterance", "word count", "reversed"],
)
def test_a_textgrid_that_does_not_fit_is_named(
    tmp_path, word, end, text, message
):
    output = tmp_path / "mfa" / "0011"
    output.mkdir(parents=True)
    (output / "0011_000001.TextGrid").write_text(
        SHORT.format(tier="words", word=word, end=end)
    )
    aligner = MFAAligner("d", "m", textgrid_folder=tmp_path / "mfa")
    items = [utterance(tmp_path, "0011_000001", text)]
    ((name, error),) = aligner.align_corpus(items, tmp_path / "work")
    assert name == "0011_000001"
    with pytest.raises(ValueError, match=f"0011_000001.TextGrid.*{message}"):
        raise error
