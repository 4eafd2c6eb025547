"""The demo does what is not done, and tells what came out."""

import sys
from pathlib import Path

from speechbrain_emofilm.utils import steps as steps_module
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.steps import StepFailed, run_command, run_steps

import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "MiniESD"
sys.path.insert(0, str(FOLDER))
import run_demo  # noqa: E402

sys.path.remove(str(FOLDER))


@pytest.fixture
def ran(monkeypatch):
    """What was run; instead of running, the outputs are made."""
    commands = []

    def run(command, *_):
        commands.append(command[0].rsplit("/", 1)[-1])
        flags = dict(c[2:].split("=", 1) for c in command if "=" in c)
        for folder, names in {
            command[1]: ["corpus.json"],
            flags.get("prepared_folder"): ["speech_tokens.safetensors"],
            flags.get("output_folder"): [
                "synthesizer.yaml",
                "efilm.ckpt",
                "llm_decoder.ckpt",
                "summary.json",
                "report.html",
            ],
        }.items():
            if folder and not folder.endswith(".yaml"):
                for name in names:
                    write_json(Path(folder) / name, {})

    monkeypatch.setattr(steps_module, "run_command", run)
    return commands


ALL = ["make_corpus.py", "extract_speech_tokens.py", "train.py", "evaluate.py"]


@pytest.fixture
def demo(tmp_path):
    backbone = tmp_path / "backbone"
    write_json(backbone / "llm.safetensors", "weights")

    def run(*arguments):
        options = run_demo.parse(
            [
                f"--output_folder={tmp_path / 'demo'}",
                f"--backbone_folder={backbone}",
                *arguments,
            ]
        )
        steps = run_demo.make_steps(options)
        log_file = tmp_path / "demo" / "steps.json"
        return run_steps(steps, log_file, run_demo.REPOSITORY)

    return run


def test_a_second_demo_does_nothing(demo, ran):
    first = demo()
    assert ran == ALL
    assert demo() == first
    assert ran == ALL


def test_other_options_do_again_what_depends_on_them(demo, ran, tmp_path):
    demo()
    stale = tmp_path / "demo" / "model" / "save"
    stale.mkdir()
    demo("--train_flags=--lr=0.1")
    assert ran[4:] == ["train.py", "evaluate.py"]
    assert not stale.exists()


def test_another_backbone_needs_no_other_corpus(demo, ran, tmp_path):
    demo()
    write_json(tmp_path / "backbone" / "llm.safetensors", "other weights")
    demo()
    assert ran[4:] == ALL[1:]


def test_a_lost_output_is_made_again(demo, ran, tmp_path):
    demo()
    (tmp_path / "demo" / "evaluation" / "report.html").unlink()
    demo()
    assert ran[4:] == ["evaluate.py"]


def test_an_interrupted_step_goes_on(demo, ran, tmp_path, monkeypatch):
    run = steps_module.run_command

    def stop_at_training(command, *options):
        if command[0].endswith("train.py"):
            write_json(tmp_path / "demo" / "model" / "save.json", {})
            raise SystemExit("stopped")
        run(command, *options)

    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "run_command", stop_at_training)
        with pytest.raises(SystemExit):
            demo()
    demo()
    assert ran == ALL
    assert (tmp_path / "demo" / "model" / "save.json").exists()


def test_a_missing_backbone_is_named(demo, tmp_path):
    (tmp_path / "backbone" / "llm.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="backbone.*--backbone_folder"):
        demo()


def test_a_failing_step_ends_the_work(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("print('why'); raise SystemExit(3)")
    with pytest.raises(StepFailed, match="fails.py ended with code 3"):
        run_command([str(script)], 1, tmp_path)
    output = tmp_path / "logs" / "log.txt"
    with pytest.raises(StepFailed, match="log.txt says why"):
        run_command([str(script)], 1, tmp_path, output)
    assert output.read_text() == "why\n"


def test_a_failing_step_ends_the_demo_with_advice(demo, monkeypatch, tmp_path):
    def fail(command, *_):
        raise StepFailed(f"python {command[0]} ended with code 1")

    monkeypatch.setattr(steps_module, "run_command", fail)
    monkeypatch.chdir(tmp_path)  # main() changes the working folder
    with pytest.raises(SystemExit, match="make_corpus.py(.|\n)*`make demo`"):
        run_demo.main(
            [
                f"--output_folder={tmp_path / 'demo'}",
                f"--backbone_folder={tmp_path / 'backbone'}",
            ]
        )


def figures(wer):
    interval = {"low": 0.0, "high": 1.0}
    return {
        "wer": {"wer": wer, **interval},
        "word_emotion_accuracy": {"accuracy": 0.5, **interval},
        "transitions_as_asked": {"share": 0.75, **interval},
        "within_utterance_correlation": {
            key: {"correlation": 0.25, **interval}
            for key in run_demo.DIMENSIONS
        },
    }


def test_the_summary_is_short():
    log = {
        "a": {"seconds": 60.5, "peak_memory_mb": 700},
        "b": {"seconds": 2.0, "peak_memory_mb": 900},
    }
    by_system = {s: figures(0.1 * i) for i, s in enumerate(run_demo.SYSTEMS)}
    summary = run_demo.make_summary(by_system, log)
    assert summary["wer"] == {
        "original": 0.0,
        "copy_synthesis": 0.1,
        "backbone": 0.2,
        "efilm": 0.3,
    }
    assert set(summary["word_emotion_accuracy"].values()) == {0.5}
    assert set(summary["transitions_as_asked"].values()) == {0.75}
    within = summary["within_utterance_correlation"]["efilm"]
    assert within == {"f0": 0.25, "energy": 0.25, "duration": 0.25}
    assert (summary["seconds"], summary["peak_memory_mb"]) == (62.5, 900)
    table = run_demo.as_table(summary)
    assert "30.0%" in table and "MiniESD" in table
    assert len(table.splitlines()) == 9


def test_predicted_naturalness_is_told_if_there_is_one():
    log = {"a": {"seconds": 1.0, "peak_memory_mb": 1}}
    by_system = {s: figures(0.1) for s in run_demo.SYSTEMS}
    assert "mos" not in run_demo.make_summary(by_system, log)
    for entry in by_system.values():
        entry["mos"] = {"mos": 3.456, "low": 3.0, "high": 4.0}
    summary = run_demo.make_summary(by_system, log)
    assert summary["mos"] == dict.fromkeys(run_demo.SYSTEMS, 3.46)
    assert "3.46" in run_demo.as_table(summary)


def test_the_command_line_is_the_defaults_of_the_makefile(monkeypatch):
    options = run_demo.parse([])
    assert options.output_folder == Path("results/demo")
    steps = run_demo.make_steps(options)
    assert [Path(step.command[0]).name for step in steps] == ALL
    assert all((run_demo.REPOSITORY / s.command[0]).is_file() for s in steps)
    assert len({step.folder for step in steps}) == len(steps)


def test_the_log_is_a_file_of_its_own(demo, ran, tmp_path):
    demo()
    log = read_json(tmp_path / "demo" / "steps.json")
    assert all(entry["done"] for entry in log.values())
    assert all(entry["peak_memory_mb"] >= 0 for entry in log.values())
