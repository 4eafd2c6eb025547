#!/usr/bin/env python3
"""Run the whole demo: from no data to evaluated word-level emotion control.

> python run_demo.py

Creates a small MiniESD; aligns its words and labels their emotions from
sentence labels alone; trains E-FiLM on the mini backbone that the package ships
(with true word labels, with these labels, and with sentence labels); evaluates
all systems on held-out sentences. Each step is the printed command of a recipe;
as many steps run in parallel as there are processors. Existing results are
reused; an interrupted step is resumed.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.steps import (
    StepFailed,
    busy_seconds,
    run_steps,
)

from demo_steps import (
    CAPTIONS,
    LABELER,
    REPOSITORY,
    SUPERVISIONS,
    DemoSteps,
)

#: Name of each system in the table.
SYSTEMS = {
    "original": "Original",
    "copy_synthesis": "Copy synthesis (ceiling)",
    "backbone": "Frozen backbone (floor)",
    **CAPTIONS,
}
DIMENSIONS = ("f0", "energy", "duration")
#: Two-line heading and format of each column of the table.
COLUMNS = {
    "wer": ("word", "errors", "{:.1%}"),
    "word_emotion_accuracy": ("emotions", "as asked", "{:.1%}"),
    "transitions_as_asked": ("switches", "as asked", "{:.1%}"),
    "f0": ("control:", "F0", "{:.2f}"),
    "energy": ("", "energy", "{:.2f}"),
    "duration": ("", "duration", "{:.2f}"),
    "mos": ("naturalness", "1 to 5", "{:.2f}"),
}
LABELS = ("majority", *SUPERVISIONS)


def make_summary(scores: dict, label_accuracy: dict, log: dict) -> dict:
    """Summarise the scores of all systems and labelers, time and memory.

    Arguments
    ---------
    scores : dict
        Scores of each system, as evaluate.py writes them.
    label_accuracy : dict
        Accuracy of the word labels of each supervision.
    log : dict
        From `run_steps`.
    """
    systems = [name for name in SYSTEMS if name in scores]
    names = {
        "wer": "wer",
        "word_emotion_accuracy": "accuracy",
        "transitions_as_asked": "share",
    }
    summary = {
        name: {s: round(scores[s][name][value], 4) for s in systems}
        for name, value in names.items()
    }
    summary["within_utterance_correlation"] = {
        s: {
            key: round(
                scores[s]["within_utterance_correlation"][key]["correlation"],
                4,
            )
            for key in DIMENSIONS
        }
        for s in systems
    }
    if all("mos" in scores[s] for s in systems):  # optional in evaluate.py
        summary["mos"] = {s: round(scores[s]["mos"]["mos"], 2) for s in systems}
    summary["label_accuracy"] = {
        name: round(label_accuracy[name], 4) for name in LABELS
    }
    summary["seconds"] = round(busy_seconds(log), 1)
    summary["peak_memory_mb"] = max(e["peak_memory_mb"] for e in log.values())
    return summary


def as_table(summary: dict) -> str:
    """Format the scores as a table with one line per system."""
    within = summary["within_utterance_correlation"]
    values = {
        **summary,
        **{key: {s: within[s][key] for s in within} for key in DIMENSIONS},
    }
    columns = {name: c for name, c in COLUMNS.items() if name in values}
    widths = {
        name: max(map(len, column[:2])) + 2 for name, column in columns.items()
    }
    lines = [
        " " * 26 + "".join(f"{c[i]:>{widths[n]}}" for n, c in columns.items())
        for i in range(2)
    ]
    for system in summary["wer"]:
        cells = (
            f"{column[2].format(values[name][system]):>{widths[name]}}"
            for name, column in columns.items()
        )
        lines.append(f"{SYSTEMS[system]:26}{''.join(cells)}")
    return "\n".join(lines)


def as_text(summary: dict, held_out: str) -> str:
    """Explain the scores; the labels were scored on the held-out speaker."""
    accuracy = summary["word_emotion_accuracy"]
    costs = {
        name: 100 * (accuracy["efilm"] - accuracy[name])
        for name in ("efilm_labels", "efilm_sentence")
    }
    labels = summary["label_accuracy"]
    return (
        "The closer E-FiLM is to copy synthesis, and the further from the "
        "frozen backbone,\nthe more each word is spoken with the emotion it "
        "was given. This is MiniESD:\nrule-made prosody of a synthetic voice.\n"
        "\nLabels of words learned from labels of sentences: "
        f"{labels[LABELER]:.1%} of the words of\nspeaker {held_out}, whom the "
        "labeler never heard, are right (broadcast "
        f"{labels['broadcast']:.1%},\nlearned from the truth "
        f"{labels['words']:.1%}, always the most frequent emotion "
        f"{labels['majority']:.1%}).\nIn place of the truth they cost E-FiLM "
        f"{costs['efilm_labels']:.1f} points of emotions as asked;\nthe "
        f"sentences' own labels cost {costs['efilm_sentence']:.1f}."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line, ``sys.argv`` if None."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output_folder", type=Path, default=Path("results/demo"))
    add(
        "--backbone_folder",
        type=Path,
        default=Path("speechbrain_emofilm/assets/mini"),
        help="folder of the backbone's weights (default: the package's)",
    )
    add("--n_train", type=int, default=25, help="sentences per speaker")
    add("--n_evaluation", type=int, default=5)
    add("--n_test", type=int, default=30)
    add("--n_transitions", type=int, default=80)
    add("--speakers", nargs="+", default=["0011", "0012", "0013", "0014"])
    add("--flags", default="", help="more options of the ESD recipe's scripts")
    add(
        "--train_flags",
        default="--number_of_steps=150",
        help="more options of train.py",
    )
    add(
        "--evaluate_flags",
        default="--n_mixed=30 --n_single=12 --n_classifier=160",
        help="more options of evaluate.py",
    )
    add(
        "--labeler_flags",
        default="",
        help="more options of the labeling recipe's train.py",
    )
    options = parser.parse_args(arguments)
    if len(options.speakers) < 2:
        parser.error("--speakers: give two or more; labels are scored on one.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo with a command line, ``sys.argv`` if None."""
    options = parse(arguments)
    os.chdir(REPOSITORY)
    root = options.output_folder
    steps = DemoSteps(options)
    try:
        log = run_steps(
            steps.make(), root / "steps.json", REPOSITORY, jobs=os.cpu_count()
        )
    except StepFailed as error:
        raise SystemExit(
            f"The demo stopped: {error}\n"
            "The message above tells the reason; `make demo` resumes here."
        ) from error
    summary = make_summary(
        read_json(steps.evaluation / "summary.json"),
        read_json(steps.label_evaluation / "summary.json")["label_accuracy"],
        log,
    )
    write_json(root / "summary.json", summary)
    print(f"\n{as_table(summary)}\n")
    print(f"{as_text(summary, *steps.held_out)}\n")
    print(
        f"{summary['seconds']:.0f} s in total, peak memory "
        f"{summary['peak_memory_mb']} MB; {root / 'summary.json'}"
    )
    print(f"Listen and look: {steps.evaluation / 'report.html'}")


if __name__ == "__main__":
    main()
