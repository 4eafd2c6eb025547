"""The demo does what is not done, and tells what came out."""

import io
import json
import sys
from pathlib import Path

from speechbrain_emofilm.utils import steps as steps_module
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.steps import (
    Step,
    StepFailed,
    run_command,
    run_steps,
)

import pytest
from tqdm import tqdm

FOLDER = Path(__file__).parents[2] / "recipes" / "MiniESD"
sys.path.insert(0, str(FOLDER))
import run_demo  # noqa: E402

sys.path.remove(str(FOLDER))


@pytest.fixture
def ran(monkeypatch):
    """What was run; instead of running, the outputs are made."""
    commands = []

    def run(command, *_):
        commands.append(script_of(command))
        flags = flags_of(command)
        for folder, names in {
            command[1]: ["corpus.json"],
            flags.get("prepared_folder"): ["speech_tokens.safetensors"],
            flags.get("alignment_folder"): ["alignment.json"],
            flags.get("output_folder"): [
                "emotion_features.hdf5",
                "labeler.yaml",
                "word_emotion.ckpt",
                "frame_normalization.ckpt",
                "word_labels.json",
                "synthesizer.yaml",
                "efilm.ckpt",
                "llm_decoder.ckpt",
                "modulation.json",
                "modulation.png",
                "summary.json",
                "report.html",
            ],
        }.items():
            if folder and not folder.endswith((".yaml", ".run")):
                for name in names:
                    write_json(Path(folder) / name, {})

    monkeypatch.setattr(steps_module, "run_command", run)
    return commands


def script_of(command):
    """Recipe and name of the script that a command runs."""
    path = next(Path(part) for part in command if part.endswith(".py"))
    return f"{path.parent.name}/{path.name}"


def flags_of(command):
    return dict(c[2:].split("=", 1) for c in command if "=" in c)


EVALUATE = "emotional_tts/evaluate.py"
ALL = [
    "MiniESD/make_corpus.py",
    "emotional_tts/extract_speech_tokens.py",
    "word_emotion_labeling/align.py",
    "word_emotion_labeling/extract_features.py",
    *["word_emotion_labeling/train.py"] * 3,
    *["word_emotion_labeling/label.py"] * 3,
    "word_emotion_labeling/evaluate.py",
    *["emotional_tts/train.py"] * 3,
    "emotional_tts/analyze_modulation.py",
    EVALUATE,
]


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
        steps = run_demo.DemoSteps(options).make()
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
    stale = tmp_path / "demo" / "models" / "efilm" / "save"
    stale.mkdir()
    demo("--train_flags=--lr=0.1")
    assert ran[len(ALL) :] == ALL[-5:]
    assert not stale.exists()


def test_another_backbone_needs_no_other_corpus(demo, ran, tmp_path):
    demo()
    write_json(tmp_path / "backbone" / "llm.safetensors", "other weights")
    demo()
    assert ran[len(ALL) :] == ALL[1:]


def test_a_lost_output_is_made_again(demo, ran, tmp_path):
    demo()
    (tmp_path / "demo" / "evaluation" / "report.html").unlink()
    demo()
    assert ran[len(ALL) :] == [EVALUATE]


def test_an_interrupted_step_goes_on(demo, ran, tmp_path, monkeypatch):
    run = steps_module.run_command
    model = tmp_path / "demo" / "models" / "efilm_sentence"  # the first

    def stop_at_training(command, *options):
        if script_of(command) == "emotional_tts/train.py":
            write_json(model / "save.json", {})
            raise SystemExit("stopped")
        run(command, *options)

    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "run_command", stop_at_training)
        with pytest.raises(SystemExit):
            demo()
    demo()
    assert ran == ALL
    assert (model / "save.json").exists()


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


MEET = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.mkdir()
for _ in range(600):
    if other.exists():
        break
    time.sleep(0.05)
else:
    sys.exit("alone")
(mine / "out").touch()
print("met", flush=True)
"""


def test_steps_that_need_only_others_run_at_a_time(tmp_path):
    (tmp_path / "meet.py").write_text(MEET)
    steps = [
        Step(name, ["meet.py", name, other], tmp_path / name, ["out"], needs=[])
        for name, other in (("a", "b"), ("b", "a"))
    ]
    run_steps(steps, tmp_path / "steps.json", tmp_path, jobs=2)
    for name in "ab":
        assert (tmp_path / "logs" / f"{name}.txt").read_text() == "met\n"


def test_what_needs_a_failed_step_is_not_begun(tmp_path):
    (tmp_path / "make.py").write_text(
        "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir()\n"
        "sys.exit(sys.argv[1] == 'bad')"
    )
    steps = [
        Step("bad", ["make.py", "bad"], tmp_path / "bad", [], needs=[]),
        Step("good", ["make.py", "good"], tmp_path / "good", [], needs=[]),
        Step("next", ["make.py", "next"], tmp_path / "next", [], needs=["bad"]),
    ]
    with pytest.raises(StepFailed, match="make.py bad ended with code 1"):
        run_steps(steps, tmp_path / "steps.json", tmp_path, jobs=2)
    done = read_json(tmp_path / "steps.json")
    assert {name: entry["done"] for name, entry in done.items()} == {
        "bad": False,
        "good": True,
    }


def test_the_screen_shows_how_far_each_step_is(tmp_path):
    (tmp_path / "count.py").write_text("print('7 of 9\\r8 of 9', end='')")
    with tqdm(bar_format="{desc}", file=io.StringIO()) as bar:
        output = tmp_path / "Count.txt"
        run_command(["count.py"], 1, tmp_path, output, bar)
        assert bar.desc == "Count | 8 of 9"
    assert output.read_bytes() == b"7 of 9\r8 of 9"


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


def figures(wer, accuracy=0.5):
    interval = {"low": 0.0, "high": 1.0}
    return {
        "wer": {"wer": wer, **interval},
        "word_emotion_accuracy": {"accuracy": accuracy, **interval},
        "transitions_as_asked": {"share": 0.75, **interval},
        "within_utterance_correlation": {
            key: {"correlation": 0.25, **interval}
            for key in run_demo.DIMENSIONS
        },
    }


LABEL_ACCURACY = {
    "majority": 0.4,
    "broadcast": 0.61234567,
    "multiple_instance": 0.75,
    "words": 0.8,
}


def summary_of(by_system):
    log = {
        "a": {"spans": [[100.0, 160.5]], "peak_memory_mb": 700},
        "b": {"spans": [[160.0, 162.5]], "peak_memory_mb": 900},
    }
    return run_demo.make_summary(by_system, LABEL_ACCURACY, log)


def test_the_summary_is_short():
    by_system = {s: figures(0.1 * i) for i, s in enumerate(run_demo.SYSTEMS)}
    summary = summary_of(by_system)
    assert summary["wer"] == {
        "original": 0.0,
        "copy_synthesis": 0.1,
        "backbone": 0.2,
        "efilm": 0.3,
        "efilm_labels": 0.4,
        "efilm_sentence": 0.5,
    }
    assert set(summary["word_emotion_accuracy"].values()) == {0.5}
    assert set(summary["transitions_as_asked"].values()) == {0.75}
    within = summary["within_utterance_correlation"]["efilm"]
    assert within == {"f0": 0.25, "energy": 0.25, "duration": 0.25}
    assert summary["label_accuracy"] == {**LABEL_ACCURACY, "broadcast": 0.6123}
    assert (summary["seconds"], summary["peak_memory_mb"]) == (62.5, 900)


def test_the_table_has_a_line_for_each_system():
    by_system = {s: figures(0.1 * i) for i, s in enumerate(run_demo.SYSTEMS)}
    lines = run_demo.as_table(summary_of(by_system)).splitlines()
    assert len(lines) == 2 + len(run_demo.SYSTEMS)
    assert len(set(map(len, lines))) == 1
    assert lines[5].split() == [
        *"E-FiLM, true word labels".split(),
        *"30.0% 50.0% 75.0% 0.25 0.25 0.25".split(),
    ]


def test_what_the_labels_cost_is_told():
    by_system = {s: figures(0.1) for s in run_demo.SYSTEMS}
    by_system["efilm_labels"] = figures(0.1, 0.42)
    by_system["efilm_sentence"] = figures(0.1, 0.3)
    text = run_demo.as_text(summary_of(by_system), "0014")
    text = " ".join(text.split())
    assert "75.0% of the words of speaker 0014" in text
    assert "cost E-FiLM 8.0 points" in text
    assert "sentences' own labels cost 20.0" in text
    assert "MiniESD" in text


def test_predicted_naturalness_is_told_if_there_is_one():
    by_system = {s: figures(0.1) for s in run_demo.SYSTEMS}
    assert "mos" not in summary_of(by_system)
    for entry in by_system.values():
        entry["mos"] = {"mos": 3.456, "low": 3.0, "high": 4.0}
    summary = summary_of(by_system)
    assert summary["mos"] == dict.fromkeys(run_demo.SYSTEMS, 3.46)
    assert "3.46" in run_demo.as_table(summary)


def default_steps():
    return run_demo.DemoSteps(run_demo.parse([])).make()


def test_the_command_line_is_the_defaults_of_the_makefile():
    assert run_demo.parse([]).output_folder == Path("results/demo")
    steps = default_steps()
    assert [script_of(step.command) for step in steps] == ALL
    for step in steps:
        for part in step.command:
            if part.endswith((".py", "_mini.yaml", "mini.yaml")):
                assert (run_demo.REPOSITORY / part).is_file(), part
    assert len({step.folder for step in steps}) == len(steps)
    assert len({step.name for step in steps}) == len(steps)


def test_labels_are_judged_on_a_speaker_whom_no_labeler_has_heard():
    for step in default_steps():
        flags = flags_of(step.command)
        script = script_of(step.command)
        if script == "word_emotion_labeling/train.py":
            heard = flags["preparations"].split("speakers", 1)[1]
            assert "0011" in heard and "0014" not in heard
            (corpus,) = json.loads(flags["corpora"])
            assert set(corpus["manifests"].values()) == {
                f"{step.folder}/split/{name}.json"
                for name in ("train", "valid")
            }
        if script == "word_emotion_labeling/evaluate.py":
            assert json.loads(flags["speakers"]) == ["0014"]


def test_all_is_labelled_once_and_else_only_what_is_judged():
    labelled = {
        step.folder.name: flags_of(step.command)["speakers"]
        for step in default_steps()
        if script_of(step.command) == "word_emotion_labeling/label.py"
    }
    assert labelled == {
        "broadcast": '["0014"]',
        "multiple_instance": "null",
        "words": '["0014"]',
    }


def test_efilm_learns_from_the_labels_of_the_default_labeler():
    steps = {step.folder.name: step for step in default_steps()}
    for name, source in {
        "efilm": "truth",
        "efilm_labels": "labels",
        "efilm_sentence": "sentence",
    }.items():
        flags = flags_of(steps[name].command)
        assert flags["label_source"] == source
        assert "labels/multiple_instance/" in flags["label_file"]
    flags = flags_of(steps["evaluation"].command)
    assert flags["model_folder"] == "results/demo/models/efilm"
    assert json.loads(flags["compared_models"]) == {
        name: f"results/demo/models/{name}"
        for name in ("efilm_labels", "efilm_sentence")
    }


def test_one_speaker_is_too_few(capsys):
    with pytest.raises(SystemExit):
        run_demo.parse(["--speakers", "0011"])
    assert "--speakers: give two or more" in capsys.readouterr().err


def test_the_log_is_a_file_of_its_own(demo, ran, tmp_path):
    demo()
    log = read_json(tmp_path / "demo" / "steps.json")
    assert all(entry["done"] for entry in log.values())
    assert all(entry["peak_memory_mb"] >= 0 for entry in log.values())


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").is_file(),
    reason="only Linux tells what processes use together",
)
def test_memory_is_that_of_all_steps_that_run_at_a_time(tmp_path, monkeypatch):
    samples = []

    def sample():
        """Tells the steps when what both hold has been noted."""
        if len(list(tmp_path.glob("*/holds"))) == 2:
            if samples:
                (tmp_path / "noted").touch()
            samples.append(used_memory_mb())
            return samples[-1]
        return used_memory_mb()

    used_memory_mb = steps_module.used_memory_mb
    monkeypatch.setattr(steps_module, "used_memory_mb", sample)
    (tmp_path / "hold.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "held = b'x' * 300_000_000\n"
        "folder = Path(sys.argv[1])\n"
        "folder.mkdir()\n"
        "(folder / 'holds').touch()\n"
        "while not (folder.parent / 'noted').exists():\n"
        "    time.sleep(0.1)\n"
    )
    steps = [
        Step(name, ["hold.py", name], tmp_path / name, ["holds"], needs=())
        for name in ("one", "two")
    ]
    log = run_steps(steps, tmp_path / "log.json", tmp_path, jobs=2)
    assert min(entry["peak_memory_mb"] for entry in log.values()) > 570
