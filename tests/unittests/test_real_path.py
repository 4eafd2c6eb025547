"""The stand-ins and the commands of benchmarks/real_path.sh."""

import hashlib
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import match_words, read_alignment
from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import QWEN2_0_5B
from speechbrain_emofilm.integrations.cosyvoice2.hub import FILES
from speechbrain_emofilm.utils.files import read_json

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Makes the scripts importable."""
    folders = [ROOT / "recipes" / "ESD", ROOT / "benchmarks"]
    monkeypatch.setattr(sys, "path", [*map(str, folders), *sys.path])


def test_the_original_sizes_give_the_original_config(tmp_path):
    from common.fake_snapshot import write_config

    write_config(tmp_path, QWEN2_0_5B)
    content = (tmp_path / "config.json").read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    size = len(content)
    assert (size, checksum) == FILES["CosyVoice-BlankEN/config.json"]


def test_ranks_become_merges_that_make_the_same_tokens(tmp_path):
    pytest.importorskip("tiktoken")
    from common.fake_snapshot import write_config
    from common.qwen2_vocabulary import check_vocabulary, write_vocabulary

    # "they" is merged from "th" and "ey", although "the" is a token, too.
    pieces = [*map(str.encode, ("th", "ey", "they", "the", " th", " they"))]
    pieces += [b"\xe4\xbd", b"\xe4\xbd\xa0"]
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {piece: 256 + i for i, piece in enumerate(pieces)}
    write_config(tmp_path, QWEN2_0_5B)
    write_vocabulary(tmp_path, ranks)
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8")
    assert merges.splitlines()[2] == "th ey"
    sentences = ["they, the they 你们 you", "don't 12 你", "éa\n  they"]
    check_vocabulary(tmp_path, ranks, sentences)
    ranks[b"they"], ranks[b"the"] = ranks[b"the"], ranks[b"they"]
    with pytest.raises(ValueError, match="other tokens for 'they, the"):
        check_vocabulary(tmp_path, ranks, sentences)


def test_the_corpus_is_one_in_esds_layout(tmp_path):
    from common.fake_esd import SPEAKERS, write_corpus
    from esd_prepare import prepare_esd

    grids = tmp_path / "textgrids"
    labels = write_corpus(tmp_path / "ESD", grids, n_sentences=3)
    prepare_esd(tmp_path / "ESD", tmp_path / "out", language="both")
    n_utterances = 0
    for split in ("train", "valid", "test"):
        manifest = read_json(tmp_path / "out" / f"{split}.json")
        n_utterances += len(manifest)
        assert {item["speaker"] for item in manifest.values()} == set(SPEAKERS)
        assert len({item["emotion"] for item in manifest.values()}) == 5
        for utterance, item in manifest.items():
            assert 1.2 < item["duration"] < 4.5
            path = grids / item["speaker"] / f"{utterance}.TextGrid"
            words = match_words(read_alignment(path), item["text"], path)
            assert words[-1].end < item["duration"]
            assert len(labels[utterance].words) == len(words)
    assert n_utterances == 3 * 5 * len(SPEAKERS)


def test_the_commands_are_those_of_the_readme():
    from common.real_path import changes_state, name_of, readme_commands

    text = "## A\nText\n```shell\n# note\nx=1\npython a.py b \\\n    --c=1\n```"
    lines = list(readme_commands("A", f"\n{text}"))
    assert lines == ["x=1", "python a.py b --c=1"]
    assert [changes_state(line) for line in lines] == [True, False]
    assert name_of(lines[1]) == "a.py b"
    assert name_of('emofilm say "We won." -o out.wav') == "emofilm say"
    with pytest.raises(ValueError, match="no commands below 'B'"):
        list(readme_commands("B", text))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = "\n".join(readme_commands("With CosyVoice2-0.5B", readme))
    scripts = ("extract_speech_tokens", "extract_speaker_embeddings", "train")
    for script in (*(f"{name}.py" for name in scripts), "emofilm say"):
        assert script in commands
    assert "label.py" in "\n".join(readme_commands("On ESD", readme))


def test_a_failed_command_is_reported_with_its_output(tmp_path, capsys):
    from common.real_path import FailedCommand, Runner

    runner = Runner(tmp_path)
    runner.remember("word=spoken")
    runner.run("fine", "echo $word", "spoken")
    with pytest.raises(FailedCommand):
        runner.run("not fine", "echo $word; false | cat; echo never")
    with pytest.raises(FailedCommand):
        runner.run("silent", "true", "sound")
    printed = capsys.readouterr().out
    assert printed.startswith("ok ")
    assert "spoken\n\nexit code 1" in printed and "never\n" in printed
    assert "no 'sound'; the whole output is in" in printed
