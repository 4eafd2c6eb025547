"""The command `emofilm say`."""

import io
import os
import runpy
import sys

import speechbrain_emofilm.inference.synthesizer as synthesizer_module
from speechbrain_emofilm import __version__, cli
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.voices import Voice

import pytest
import soundfile
import torch

EMOTIONS = ["neutral", "happy", "sad"]


class RecordingSynthesizer:
    """Stands for a loaded model: remembers what it is asked for."""

    asked = []
    tags = ["[breath]", "[laughter]"]

    def __init__(self):
        self.speakers = ["0011", "0012"]

    @classmethod
    def from_hparams(cls, source):
        return cls()

    def add_voice(self, name, recording, text=None, save=False):
        self.asked.append(("voice", name, recording, text, save))
        self.speakers.append(name)
        tokens = torch.zeros(100).long()
        mel = torch.zeros(200, 80)
        return Voice(torch.zeros(192), tokens, mel, transcript=text)

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
                "instruction": None,
                "prompting": None,
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
        ("We", ["-o", "model/synthesizer.yaml/a.wav"], "cannot be written"),
        ("We", ["-o", "folder.wav"], "folder.wav is a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model, tmp_path, capsys, monkeypatch, text, options, message
):
    monkeypatch.chdir(tmp_path)
    (model / "synthesizer.yaml").touch()
    (tmp_path / "folder.wav").mkdir()
    code = cli.main(
        ["say", text, "-o", "out.wav", "--model", str(model), *options]
    )
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("emofilm: ") and message in lines[-1]
    assert not list(tmp_path.rglob("out.*"))


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


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no such folder here")
def test_an_unwritable_output_is_found_before_anything_is_spoken(model, capsys):
    output = "/proc/a.wav"
    assert cli.main(["say", "We", "-o", output, "--model", str(model)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("emofilm: /proc/a.wav cannot be written")
    assert RecordingSynthesizer.asked == []


def test_a_disk_that_fills_up_is_told_in_one_line(
    model, tmp_path, capsys, monkeypatch
):
    def write(*_):
        raise soundfile.LibsndfileError(2, "disk full: ")

    monkeypatch.setattr(soundfile, "write", write)
    out = str(tmp_path / "out.wav")
    assert cli.main(["say", "We", "-o", out, "--model", str(model)]) == 2
    assert f"{out} cannot be written" in capsys.readouterr().err


def test_a_terminal_of_ascii_prints_what_it_can(model, tmp_path, monkeypatch):
    printed = io.BytesIO()
    terminal = io.TextIOWrapper(printed, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    out = str(tmp_path / "café.wav")
    assert cli.main(["say", "Déjà vu", "-o", out, "--model", str(model)]) == 0
    terminal.flush()
    assert rb"D\xe9j\xe0" in printed.getvalue()


def test_a_text_can_come_from_standard_input(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("<happy>We won</>\n"))
    out = str(tmp_path / "out.wav")
    assert cli.main(["say", "-", "-o", out, "--model", str(model)]) == 0
    assert RecordingSynthesizer.asked[0][0] == "<happy>We won</>\n"


def test_speakers_are_listed(model, capsys):
    assert cli.main(["say", "--list-speakers", "--model", str(model)]) == 0
    assert capsys.readouterr().out == "0011\n0012\n"


@pytest.mark.parametrize("arguments", [[], ["We"], ["-o", "out.wav"]])
def test_a_text_and_a_file_are_needed(arguments, capsys):
    assert cli.main(["say", *arguments]) == 2
    assert "say TEXT -o FILE" in capsys.readouterr().err


def test_the_package_is_a_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["emofilm", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("speechbrain_emofilm", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"emofilm {__version__}\n"


def test_voices_are_added_and_listed(model, capsys):
    place = ["--model", str(model)]
    added = ["voice", "add", "me", "ref.wav", "--text", "We won."]
    assert cli.main([*added, *place]) == 0
    assert RecordingSynthesizer.asked == [
        ("voice", "me", "ref.wav", "We won.", True)
    ]
    assert capsys.readouterr().out == "me: 4.0 s, 'We won.'\n"
    assert cli.main(["voice", "list", *place]) == 0
    assert capsys.readouterr().out == "0011\n0012\n"
    assert cli.main(["tags", *place]) == 0
    assert capsys.readouterr().out == "[breath]\n[laughter]\n"


def test_a_recording_is_spoken_with_at_once(model, tmp_path):
    recording = tmp_path / "me.wav"
    recording.touch()
    command = ["say", "We won", "-o", str(tmp_path / "out.wav")]
    code = cli.main(
        [*command, "--model", str(model), "--voice", str(recording)]
        + ["--voice-text", "He left.", "--instruction", "Softly."]
    )
    assert code == 0
    voice, (_, options) = RecordingSynthesizer.asked
    assert voice == ("voice", "me", str(recording), "He left.", False)
    assert options["speaker"] == "me"
    assert options["instruction"] == "Softly."
