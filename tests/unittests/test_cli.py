"""The command `emofilm say`."""

import os

import speechbrain_emofilm.inference.synthesizer as synthesizer_module
from speechbrain_emofilm import cli
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import parse_markup

import pytest
import soundfile
import torch

EMOTIONS = ["neutral", "happy", "sad"]


class RecordingSynthesizer:
    """Stands for a loaded model: remembers what it is asked for."""

    asked = []

    @classmethod
    def from_hparams(cls, source):
        return cls()

    def synthesize(self, text, **options):
        marked = parse_markup(text, EMOTIONS, options["unmarked"])
        self.asked.append((text, options))
        words = [Word(w.word, 0.0, 0.5) for w in marked.words]
        return synthesizer_module.SynthesisResult(
            0.5 * torch.ones(12000),
            24000,
            words,
            "proportional",
            marked.text,
            *marked.tensors(),
            torch.zeros(12),
        )


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(
        synthesizer_module, "EmoFiLMSynthesizer", RecordingSynthesizer
    )
    monkeypatch.setattr(RecordingSynthesizer, "asked", [])
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def test_say_writes_a_wav_and_prints_word_times(model, tmp_path, capsys):
    out = tmp_path / "new" / "out.wav"
    code = cli.main(
        ["say", "<happy>We won</>", "-o", str(out), "--model", str(model)]
        + ["--seed", "3", "--guidance", "1.5", "--speaker", "0012"]
        + ["--unmarked", "neutral", "--intensity", "0.5"]
    )
    assert code == 0
    wav, rate = soundfile.read(out)
    assert rate == 24000 and wav == pytest.approx(0.5, abs=1e-3)
    assert soundfile.info(out).subtype == "PCM_16"
    assert RecordingSynthesizer.asked == [
        (
            "<happy>We won</>",
            {
                "speaker": "0012",
                "seed": 3,
                "guidance": 1.5,
                "unmarked": "neutral",
                "intensity": 0.5,
            },
        )
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["0.00", "0.50", "We"]
    assert printed[-1].startswith(f"{out}: 0.50 s")


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("", [], "The text is empty"),
        ("<happy>We", [], "Character 0: <happy> is not closed"),
        ("<joy>We</joy>", [], "'joy' is not known"),
        ("We", ["--unmarked", "joy"], "cannot be 'joy'"),
        ("We", ["--model", "missing"], "missing is not a folder"),
        ("We", ["-o", "out.mp3"], "out.mp3 is not a wav file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model, tmp_path, capsys, monkeypatch, text, options, message
):
    monkeypatch.chdir(tmp_path)
    code = cli.main(
        ["say", text, "-o", "out.wav", "--model", str(model), *options]
    )
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("emofilm: ") and message in lines[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_folder_that_is_no_model_is_named(tmp_path, capsys):
    out = str(tmp_path / "out.wav")
    assert cli.main(["say", "We", "-o", out, "--model", str(tmp_path)]) == 2
    assert "has no synthesizer.yaml" in capsys.readouterr().err


def test_the_newest_trained_model_is_the_default(tmp_path):
    for age, name in enumerate(["new", "old"]):
        path = tmp_path / "demo" / name / "synthesizer.yaml"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert cli.find_model(tmp_path) == tmp_path / "demo" / "new"


def test_a_model_of_the_package_comes_second(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped" / "synthesizer.yaml"
    monkeypatch.setattr(cli, "SHIPPED_MODEL", str(shipped))
    with pytest.raises(FileNotFoundError, match="run `make demo`"):
        cli.find_model(tmp_path / "results")
    shipped.parent.mkdir()
    shipped.touch()
    assert cli.find_model(tmp_path / "results") == shipped.parent


def test_nothing_to_do_is_an_error_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
