"""The command `emofilm say`."""

import io
import json
import os
import runpy
import subprocess
import sys

import speechbrain_emofilm.inference.synthesizer as synthesizer_module
from speechbrain_emofilm import __version__, cli
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.voices import Voice
from speechbrain_emofilm.utils.assets import find_file

import pytest
import soundfile
import torch

EMOTIONS = ["neutral", "happy", "sad"]
MINI = "speechbrain_emofilm/assets/mini/synthesizer.yaml"


class RecordingSynthesizer:
    """Stands for a loaded model: remembers what it is asked for."""

    asked = []
    places = []
    broken = ()
    tags = ["[breath]", "[laughter]"]

    def __init__(self):
        self.speakers = ["0011", "0012"]

    @classmethod
    def from_hparams(cls, source, **where):
        cls.places.append(where)
        return cls()

    def add_voice(self, name, recording, text=None, save=False):
        self.asked.append(("voice", name, recording, text, save))
        self.speakers.append(name)
        tokens = torch.zeros(100).long()
        mel = torch.zeros(200, 80)
        return Voice(torch.zeros(192), tokens, mel, transcript=text)

    def plan(self, text, unmarked, emotion, intensity):
        parse_markup(text, EMOTIONS, emotion or unmarked)

    def synthesize(self, text, **options):
        if not isinstance(text, str):
            if self.broken and any(
                word in t for t in text for word in self.broken
            ):
                raise RuntimeError("no memory")
            size = options.pop("batch_size")
            assert size == len(text)
            return [
                self.synthesize(t, **{**options, "speaker": name, "seed": seed})
                for t, name, seed in zip(
                    text, options["speaker"], options["seed"], strict=True
                )
            ]
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
    monkeypatch.setattr(RecordingSynthesizer, "places", [])
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


def test_where_a_model_runs_is_passed_on_only_if_given(model, tmp_path):
    place = ["--model", str(model)]
    assert cli.main(["tags", *place]) == 0
    assert cli.main(["voice", "list", "--device", "cpu", *place]) == 0
    command = ["say", "We", "-o", str(tmp_path / "a.wav"), *place]
    where = ["--device", "cuda:1", "--precision", "bf16", "--threads", "3"]
    assert cli.main([*command, *where]) == 0
    assert RecordingSynthesizer.places == [
        {},
        {"device": "cpu"},
        {"device": "cuda:1", "precision": "bf16", "threads": 3},
    ]


@pytest.mark.parametrize(
    "option", [["--threads", "0"], ["--speed", "3"], ["--precision", "fp8"]]
)
def test_impossible_options_are_refused(option, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["say", "We", "-o", "a.wav", *option])
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_candidates_and_retry_are_passed_on_only_if_given(model, tmp_path):
    command = ["say", "We won", "-o", str(tmp_path / "a.wav")]
    command += ["--model", str(model)]
    assert cli.main(command) == 0
    assert cli.main([*command, "--candidates", "4", "--retry", "2"]) == 0
    plain, asked = (options for _, options in RecordingSynthesizer.asked)
    assert not {"candidates", "retry"} & plain.keys()
    assert (asked["candidates"], asked["retry"]) == (4, 2)


def test_a_stream_has_no_candidates(model, capsys):
    command = ["say", "We won", "--stream", "--model", str(model)]
    assert cli.main([*command, "--candidates", "2"]) == 2
    assert "leave them out with --stream" in capsys.readouterr().err


def test_a_list_has_candidates_of_its_own_and_keeps_older_items(
    model, tmp_path, capsys
):
    table, folder = tmp_path / "list.csv", tmp_path / "out"
    table.write_text("id,text\na,We won\n")
    command = ["say", "--file", str(table), "--output-folder", str(folder)]
    command += ["--model", str(model)]
    assert cli.main(command) == 0
    (line,) = (folder / "items.jsonl").read_text().splitlines()
    assert '"candidates"' not in line  # as before there were any
    table.write_text("id,text,candidates,retry\na,We won,,\nb,he left,3,\n")
    assert cli.main([*command, "--retry", "1"]) == 2  # a was made without
    assert "was not made from this" in capsys.readouterr().err
    assert cli.main(command) == 0
    asked = dict(RecordingSynthesizer.asked)
    assert asked["he left"]["candidates"] == 3
    table.write_text("id,text,candidates\nc,We won,0\n")
    assert cli.main(command) == 2
    assert "candidates is 0: give a number of 1 or more" in (
        capsys.readouterr().err
    )


def test_the_speed_is_passed_on_only_if_given(model, tmp_path):
    command = ["say", "We", "-o", str(tmp_path / "a.wav")]
    assert cli.main([*command, "--model", str(model)]) == 0
    assert "speed" not in RecordingSynthesizer.asked[0][1]
    fast = ["--model", str(model), "--speed", "1.5"]
    assert cli.main([*command, *fast]) == 0
    assert RecordingSynthesizer.asked[1][1]["speed"] == 1.5


def say_list(model, source, folder, *options):
    """Speak a list; return the exit code."""
    return cli.main(
        ["say", "--file", str(source), "--output-folder", str(folder)]
        + ["--model", str(model), *options]
    )


def items_of(folder):
    """Read items.jsonl."""
    lines = (folder / "items.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_line_of_a_file_is_spoken(model, tmp_path):
    source, folder = tmp_path / "list.txt", tmp_path / "new" / "out"
    source.write_text("We won\n\n<sad>he left</sad>\n", "utf-16")
    assert say_list(model, source, folder, "--seed", "7") == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "0001.wav",
        "0002.wav",
        "items.jsonl",
    ]
    assert [options["seed"] for _, options in RecordingSynthesizer.asked] == [
        7,
        7,
    ]
    first, second = items_of(folder)
    assert (first["id"], first["text"], first["seconds"]) == (
        "0001",
        "We won",
        0.5,
    )
    assert second["words"] == [
        {"text": "he", "start": 0.0, "end": 0.5},
        {"text": "left", "start": 0.0, "end": 0.5},
    ]


def test_a_row_of_a_table_has_its_own_settings(model, tmp_path):
    source, folder = tmp_path / "list.csv", tmp_path / "out"
    source.write_text(
        "name;text;speaker;seed;emotion;guidance;speed\n"
        "b;We won;0012;3;happy;2;1.5\n"
        "a;he left;;;;;\n"
    )
    assert say_list(model, source, folder, "--guidance", "1.25") == 0
    asked = dict(RecordingSynthesizer.asked)
    assert asked["We won"]["speaker"] == "0012"
    assert asked["We won"]["seed"] == 3
    assert asked["We won"]["emotion"] == "happy"
    assert asked["We won"]["speed"] == 1.5
    assert (asked["We won"]["guidance"], asked["he left"]["guidance"]) == (
        2,
        1.25,
    )
    assert asked["he left"]["speaker"] == "0011"
    assert "speed" not in asked["he left"]
    assert [item["id"] for item in items_of(folder)] == ["b", "a"]


def test_every_bad_row_is_named_and_nothing_is_spoken(model, tmp_path, capsys):
    source, folder = tmp_path / "list.csv", tmp_path / "out"
    source.write_text(
        "id,text,seed,speed\na,We,1,\na,won,,\n../c,he,,\nd,,,\n"
        "e,left,soon,\nf,left,,9\n"
    )
    assert say_list(model, source, folder) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("line ")[1][0] for line in lines] == list("45673")
    assert RecordingSynthesizer.asked == []
    source.write_text("id,text,speaker\na,We,nobody\nb,<joy>he</joy>,\n")
    assert say_list(model, source, folder) == 2
    printed = capsys.readouterr().err
    assert "line 2: the speaker 'nobody'" in printed
    assert "line 3: " in printed and "'joy' is not known" in printed
    assert RecordingSynthesizer.asked == []


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,text,sped\na,We,1\n", "the column 'sped' is not known"),
        ("id,name,text\na,b,We\n", "both name the files"),
        ("id,words\na,We\n", "add text"),
        ("id,text\n", "has no text"),
    ],
)
def test_a_table_of_other_columns_is_refused(
    content, message, model, tmp_path, capsys
):
    source = tmp_path / "list.csv"
    source.write_text(content)
    assert say_list(model, source, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_a_list_goes_on_where_it_stopped(model, tmp_path, capsys):
    source, folder = tmp_path / "list.txt", tmp_path / "out"
    source.write_text("We\nwon\n")
    assert say_list(model, source, folder) == 0
    (folder / "0002.wav").unlink()
    with open(folder / "items.jsonl", "a") as file:
        file.write('{"id": "0003", "te')  # a line that was cut off
    RecordingSynthesizer.asked.clear()
    source.write_text("We\nwon\nhe\n")
    assert say_list(model, source, folder) == 0
    assert [text for text, _ in RecordingSynthesizer.asked] == ["won", "he"]
    assert [item["id"] for item in items_of(folder)] == ["0001", "0002", "0003"]
    RecordingSynthesizer.asked.clear()
    assert say_list(model, source, folder) == 0
    assert RecordingSynthesizer.asked == []
    assert say_list(model, source, folder, "--overwrite") == 0
    assert len(RecordingSynthesizer.asked) == 3


def test_the_sound_of_another_text_is_not_replaced(model, tmp_path, capsys):
    source, folder = tmp_path / "list.txt", tmp_path / "out"
    source.write_text("We\n")
    assert say_list(model, source, folder) == 0
    source.write_text("won\n")
    assert say_list(model, source, folder) == 2
    assert "line 1" in capsys.readouterr().err
    assert say_list(model, source, folder, "--overwrite") == 0
    assert [item["text"] for item in items_of(folder)] == ["won"]


def test_a_failing_item_does_not_lose_the_others(
    model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(RecordingSynthesizer, "broken", ("won",))
    source, folder = tmp_path / "list.txt", tmp_path / "out"
    source.write_text("We\nwon\nhe\n")
    assert say_list(model, source, folder) == cli.SOME_FAILED
    printed = capsys.readouterr()
    assert "list.txt line 2: no memory" in printed.err
    assert printed.out == f"{folder}: 2 of 3 texts\n"
    assert [item["id"] for item in items_of(folder)] == ["0001", "0003"]


def test_lines_can_come_from_standard_input(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("We\nwon\n"))
    assert say_list(model, "-", tmp_path / "out", "--batch-size", "1") == 0
    assert [text for text, _ in RecordingSynthesizer.asked] == ["We", "won"]


def test_a_recording_is_the_voice_of_a_list(model, tmp_path):
    recording = tmp_path / "me.wav"
    recording.touch()
    source = tmp_path / "list.txt"
    source.write_text("We\n")
    out = tmp_path / "out"
    for _ in range(2):  # the second time, all exists
        assert say_list(model, source, out, "--voice", str(recording)) == 0
    _, (_, options) = RecordingSynthesizer.asked
    assert options["speaker"] == "me"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--file", "a.txt"], "--file FILE --output-folder FOLDER"),
        (["--output-folder", "a"], "--file FILE --output-folder FOLDER"),
        (["We", "--file", "a.txt", "--output-folder", "a"], "leave out TEXT"),
        (["--file", "no.txt", "--output-folder", "a"], "no such file"),
        (["We", "-o", "a.wav", "--overwrite"], "--overwrite is for --file"),
        (
            ["--file", "a", "--output-folder", "b", "--batch-size", "0"],
            "--batch-size is 0",
        ),
    ],
)
def test_options_that_do_not_go_together_are_told(arguments, message, capsys):
    assert cli.main(["say", *arguments]) == 2
    assert message in capsys.readouterr().err


#: Packages that speaking a sentence does not need, each slow to import.
UNUSED = (
    "transformers",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.onnx",
    "onnxruntime",
    "matplotlib",
    "pandas",
    "librosa",
    "numba",
    "wetext",
)


def test_a_sentence_is_spoken_without_unused_packages(tmp_path):
    pytest.importorskip("hibari")
    out = tmp_path / "a.wav"
    script = (
        "import sys; from speechbrain_emofilm import cli; "
        f"code = cli.main(['say', 'We won!', '-o', {str(out)!r}]); "
        f"print('loaded:', *(n for n in {UNUSED!r} if n in sys.modules)); "
        "sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].strip() == "loaded:"
    assert soundfile.info(out).duration > 0.5


# --- Streaming --------------------------------------------------------------


@pytest.fixture
def shipped(monkeypatch):
    """The shipped model, whatever was trained below the present folder."""
    monkeypatch.setattr(cli, "find_model", lambda: find_file(MINI).parent)


def test_a_stream_is_written_with_the_words_as_they_begin(
    shipped, tmp_path, capsys
):
    output = tmp_path / "a.wav"
    assert cli.main(["say", "We won!", "--stream", "-o", str(output)]) == 0
    wav, rate = soundfile.read(output)
    assert rate == 24000 and abs(wav).max() > 0.05
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["We", "won"]


def test_a_stream_goes_to_a_player(shipped, tmp_path, monkeypatch):
    player, heard = tmp_path / "aplay", tmp_path / "heard.wav"
    player.write_text(f"#!/bin/sh\ncat > {heard}\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert cli.main(["say", "We won!", "--stream"]) == 0
    assert heard.read_bytes()[:4] == b"RIFF"
    assert len(heard.read_bytes()) > 24000


def test_a_player_that_fails_or_is_missing_is_told(
    shipped, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["say", "We won!", "--stream"]) == 2
    assert "-o FILE" in capsys.readouterr().err
    player = tmp_path / "aplay"
    player.write_text("#!/bin/sh\n/bin/cat > /dev/null; exit 3\n")
    player.chmod(0o755)
    assert cli.main(["say", "We won!", "--stream"]) == 2
    assert "exit code 3" in capsys.readouterr().err


def test_a_text_from_a_pipe_is_spoken_in_pieces(tmp_path):
    command = [
        *(sys.executable, "-m", "speechbrain_emofilm", "say", "-", "--stream"),
        *("-o", "-", "--model", str(find_file(MINI).parent)),
    ]
    done = subprocess.run(
        command, input=b"<happy>We won!</happy> He left.", capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout[:4] == b"RIFF" and len(done.stdout) > 48000
    words = [line.split()[-1] for line in done.stderr.decode().splitlines()]
    assert {"We", "won", "He", "left"} <= set(words)
