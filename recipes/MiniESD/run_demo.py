#!/usr/bin/env python3
"""From nothing to speech whose words change emotion, with figures.

> python run_demo.py

Makes a small MiniESD, prepares it, trains E-FiLM on the mini backbone that
the package ships, and evaluates it on held-out sentences. Each step is a
recipe's own command, which is printed. What stands already is not made again;
an interrupted step goes on where it stopped.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import speechbrain_emofilm
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.steps import Step, StepFailed, run_steps

REPOSITORY = Path(__file__).resolve().parents[2]
TTS = "recipes/ESD/emotional_tts"
SYSTEMS = ("original", "copy_synthesis", "backbone", "efilm")
DIMENSIONS = ("f0", "energy", "duration")


def make_steps(options: argparse.Namespace) -> list[Step]:
    """Lists the steps.

    Arguments
    ---------
    options : argparse.Namespace
        Of the command line.

    Returns
    -------
    list of Step
        In order; each needs the one before.
    """
    root = options.output_folder
    corpus, prepared = root / "MiniESD", root / "prepared"
    model, evaluation = root / "model", root / "evaluation"
    common = [
        f"--data_folder={corpus}",
        f"--prepared_folder={prepared}",
        f"--backbone_folder={options.backbone_folder}",
        "--device=cpu",
        *shlex.split(options.flags),
    ]
    sizes = ("n_train", "n_evaluation", "n_test", "n_transitions")
    return [
        Step(
            "Make the corpus",
            [
                "recipes/MiniESD/make_corpus.py",
                str(corpus),
                *(f"--{name}={getattr(options, name)}" for name in sizes),
                "--speakers",
                *options.speakers,
            ],
            corpus,
            ["corpus.json"],
        ),
        Step(
            "Make its speech tokens",
            [
                f"{TTS}/extract_speech_tokens.py",
                f"{TTS}/hparams/mini.yaml",
                *common,
            ],
            prepared,
            ["speech_tokens.safetensors"],
            find_weights(options.backbone_folder),
            threads=os.cpu_count(),
        ),
        Step(
            "Train E-FiLM",
            [
                f"{TTS}/train.py",
                f"{TTS}/hparams/mini.yaml",
                *common,
                f"--output_folder={model}",
                *shlex.split(options.train_flags),
            ],
            model,
            ["synthesizer.yaml", "efilm.ckpt", "llm_decoder.ckpt"],
            threads=os.cpu_count(),
        ),
        Step(
            "Evaluate it",
            [
                f"{TTS}/evaluate.py",
                f"{TTS}/hparams/evaluate_mini.yaml",
                *common,
                f"--model_folder={model}",
                f"--output_folder={evaluation}",
                f"--reference_folder={evaluation}",
                *shlex.split(options.evaluate_flags),
            ],
            evaluation,
            ["summary.json", "report.html"],
        ),
    ]


def find_weights(folder: Path) -> list[Path]:
    """Finds the files of a backbone.

    Arguments
    ---------
    folder : Path
        One that starts with ``speechbrain_emofilm/`` is the package's.

    Returns
    -------
    list of Path

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    if folder.parts[:1] == (speechbrain_emofilm.__name__,):
        folder = REPOSITORY / folder
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(
            f"{folder} has no weights of a backbone (*.safetensors): make "
            "them as recipes/MiniESD/README.md says, or name their folder "
            "by --backbone_folder."
        )
    return weights


def make_summary(figures: dict, log: dict) -> dict:
    """The figures in short.

    Arguments
    ---------
    figures : dict
        System to its figures, as evaluate.py writes them.
    log : dict
        From `run_steps`.

    Returns
    -------
    dict
        Figure to system to value, as fractions; predicted MOS if there is
        one; seconds of all steps and memory of the largest process.
    """
    systems = [name for name in SYSTEMS if name in figures]
    names = {
        "wer": "wer",
        "word_emotion_accuracy": "accuracy",
        "transitions_as_asked": "share",
    }
    summary = {
        name: {s: round(figures[s][name][value], 4) for s in systems}
        for name, value in names.items()
    }
    summary["within_utterance_correlation"] = {
        s: {
            key: round(
                figures[s]["within_utterance_correlation"][key]["correlation"],
                4,
            )
            for key in DIMENSIONS
        }
        for s in systems
    }
    if all("mos" in figures[s] for s in systems):  # evaluate's predict_mos
        summary["mos"] = {
            s: round(figures[s]["mos"]["mos"], 2) for s in systems
        }
    summary["seconds"] = round(sum(e["seconds"] for e in log.values()), 1)
    summary["peak_memory_mb"] = max(e["peak_memory_mb"] for e in log.values())
    return summary


def as_table(summary: dict) -> str:
    """Writes a summary for people.

    Arguments
    ---------
    summary : dict
        From `make_summary`.

    Returns
    -------
    str
        A table with one line for each figure, and what they mean.
    """
    rows = [
        ("word error rate", summary["wer"], "{:.1%}"),
        ("word emotion accuracy", summary["word_emotion_accuracy"], "{:.1%}"),
        ("transitions as asked", summary["transitions_as_asked"], "{:.1%}"),
    ]
    within = summary["within_utterance_correlation"]
    for key in DIMENSIONS:
        values = {system: within[system][key] for system in within}
        rows.append((f"control within a sentence, {key}", values, "{:.2f}"))
    if "mos" in summary:
        rows.append(("predicted MOS, 1 to 5", summary["mos"], "{:.2f}"))
    systems = list(summary["wer"])
    lines = [" " * 36 + "".join(f"{system:>16}" for system in systems)]
    for name, values, form in rows:
        cells = "".join(f"{form.format(values[s]):>16}" for s in systems)
        lines.append(f"{name:36}{cells}")
    lines.append(
        "\nThe closer efilm is to copy_synthesis (the ceiling), and the "
        "further from backbone (the floor), the more each word is spoken "
        "with the emotion it was given; this is MiniESD, rule-made prosody "
        "of a synthetic voice."
    )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Arguments
    ---------
    arguments : list of str, optional
        ``sys.argv`` if None.

    Returns
    -------
    argparse.Namespace
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output_folder", type=Path, default=Path("results/demo"))
    add(
        "--backbone_folder",
        type=Path,
        default=Path("speechbrain_emofilm/assets/mini"),
        help="weights of the backbone (default: those of the package)",
    )
    add("--n_train", type=int, default=40, help="sentences per speaker")
    add("--n_evaluation", type=int, default=8)
    add("--n_test", type=int, default=40)
    add("--n_transitions", type=int, default=120)
    add("--speakers", nargs="+", default=["0011", "0012", "0013", "0014"])
    add("--flags", default="", help="more options of the ESD recipe's scripts")
    add(
        "--train_flags",
        default="--number_of_steps=300",
        help="more options of train.py",
    )
    add("--evaluate_flags", default="", help="more options of evaluate.py")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the demo.

    Arguments
    ---------
    arguments : list of str, optional
        The command line; ``sys.argv`` if None.
    """
    options = parse(arguments)
    os.chdir(REPOSITORY)
    root = options.output_folder
    steps = make_steps(options)
    try:
        log = run_steps(steps, root / "steps.json", REPOSITORY)
    except StepFailed as error:
        raise SystemExit(
            f"The demo stopped: {error}\n"
            "The message above says why; the same `make demo` goes on here."
        ) from error
    evaluation = steps[-1].folder
    summary = make_summary(read_json(evaluation / "summary.json"), log)
    write_json(root / "summary.json", summary)
    print(f"\n{as_table(summary)}\n")
    print(
        f"{summary['seconds']:.0f} s in all, "
        f"{summary['peak_memory_mb']} MB at most; {root / 'summary.json'}"
    )
    print(f"Listen and look: {evaluation / 'report.html'}")


if __name__ == "__main__":
    main()
