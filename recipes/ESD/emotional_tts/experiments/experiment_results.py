"""Results of experiments: a row for each run, and a table of the variants."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.tables import read_table
from speechbrain_emofilm.utils.files import atomic_path, read_json

import numpy as np
from scipy.stats import t as student_t

SYSTEM = "efilm"
#: Systems of evaluate.py that no training changes, in order of the table.
REFERENCES = ("original", "copy_synthesis", "backbone")
KEYS = ("experiment", "variant", "seed")
#: Column of the CSV file to its heading in the table, and its format.
HEADINGS = {
    "wer": ("WER (%)", 100),
    "word_emotion_accuracy": ("word emotion accuracy (%)", 100),
    "within_utterance_correlation.f0": ("control of F0", 1),
    "within_utterance_correlation.energy": ("of energy", 1),
    "within_utterance_correlation.duration": ("of duration", 1),
    "transitions_as_asked": ("transitions as asked (%)", 100),
    "mos": ("predicted MOS", 1),
}


def estimates(scores: Mapping, prefix: str = "") -> dict[str, float]:
    """Flatten the scores of a system.

    A mapping with ``low`` and ``high`` is an estimate, whose value comes first:
    it becomes ``name``, ``name_low`` and ``name_high``.

    Example
    -------
    >>> estimates({"wer": {"wer": 0.1, "low": 0.0, "high": 0.2, "words": 9}})
    {'wer': 0.1, 'wer_low': 0.0, 'wer_high': 0.2}
    """
    found = {}
    for name, content in scores.items():
        if not isinstance(content, dict):
            continue
        if {"low", "high"} <= content.keys():
            found[prefix + name] = next(iter(content.values()))
            found[f"{prefix}{name}_low"] = content["low"]
            found[f"{prefix}{name}_high"] = content["high"]
        found.update(estimates(content, f"{prefix}{name}."))
    return found


def read_row(
    folder: Path, experiment: str, variant: str, seed: int, command: str
) -> dict:
    """Read a run's scores, test losses and training command as a row."""
    scores = read_json(folder / "evaluation" / "summary.json")[SYSTEM]
    log = (folder / "model" / "train_log.txt").read_text(encoding="utf-8")
    tested = re.findall(r"test (\w+): ([-+.e\d]+)", log.splitlines()[-1])
    return {
        "experiment": experiment,
        "variant": variant,
        "seed": str(seed),
        **_rounded(estimates(scores)),
        **{f"test_{name}": value for name, value in tested},
        "command": command,
    }


def reference_rows(folder: Path, experiment: str) -> list[dict]:
    """Read the scores of the systems that no training changes, without seed."""
    scores = read_json(folder / "evaluation" / "summary.json")
    return [
        {
            "experiment": experiment,
            "variant": name,
            "seed": "",
            **_rounded(estimates(scores[name])),
        }
        for name in REFERENCES
        if name in scores
    ]


def _rounded(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in values.items()}


def update_rows(
    path: Path, rows: Sequence[Mapping], order: Sequence[str]
) -> list[dict]:
    """Add rows to a CSV file and return all its rows.

    New rows replace those of the same variant and seed; variants that are not
    in `order` are dropped.
    """
    merged = {}
    if path.is_file():
        merged = {_key(row): row for row in _read_rows(path)}
    merged.update((_key(row), row) for row in rows)
    kept = [row for row in merged.values() if row["variant"] in order]
    kept.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    # Fields in order of their first row; the command comes last.
    fields = dict.fromkeys(KEYS)
    fields.update(dict.fromkeys(name for row in kept for name in row))
    fields.pop("command", None)
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [*fields, "command"], restval="")
        writer.writeheader()
        writer.writerows(kept)
    return kept


def _read_rows(path: Path) -> list[dict]:
    return [row for _, row in read_table(path, KEYS)]


def _key(row: Mapping) -> tuple[str, ...]:
    return tuple(row[name] for name in KEYS)


def write_overview(folder: Path) -> Path:
    """Write one table of all experiments with results in a folder."""
    paths = sorted(folder.glob("*.csv"))
    rows = [row for path in paths for row in _read_rows(path)]
    write_table(folder / "overview.md", rows)
    return folder / "overview.md"


def write_table(path: Path, rows: Sequence[Mapping]) -> str:
    """Write the variants' means with their intervals as Markdown."""
    columns = [name for name in HEADINGS if any(row.get(name) for row in rows)]
    headings = [HEADINGS[name][0] for name in columns]
    keys = ("experiment", "variant", "seeds")
    lines = [
        "| " + " | ".join([*keys, *headings, "command"]) + " |",
        "|---" * (len(columns) + 4) + "|",
    ]
    groups = {}
    for row in rows:
        groups.setdefault((row["experiment"], row["variant"]), []).append(row)
    shown = set()
    for (experiment, variant), group in groups.items():
        seeds = sum(row["seed"] != "" for row in group) or ""
        cells = [_cell(group, name, HEADINGS[name][1]) for name in columns]
        if not seeds:  # references: the same in many experiments
            if (variant, *cells) in shown:
                continue
            shown.add((variant, *cells))
        command = (group[0].get("command") or "").partition(" --seed=")[0]
        if command:
            command = "`" + command.replace("|", "\\|") + "`"
        cells = [experiment, variant, str(seeds), *cells, command]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Held-out sentences. Mean over the seeds ± half of its 95 % interval "
        "(Student's t), and in brackets the 95 % interval of the utterances "
        "(bootstrap, mean over the seeds). Control is the correlation of the "
        "asked and the measured change of a word within its utterance.",
    ]
    table = "\n".join(lines) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(table, encoding="utf-8")
    return table


def _cell(rows: Sequence[Mapping], name: str, scale: float) -> str:
    """Format a score: mean, interval over seeds and over utterances."""
    found = [row for row in rows if row.get(name)]
    if not found:
        return ""
    values, lows, highs = (
        np.array([float(row[key]) for row in found]) * scale
        for key in (name, f"{name}_low", f"{name}_high")
    )
    digits = 1 if scale == 100 else 2
    cell = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        quantile = student_t.ppf(0.975, len(values) - 1)
        half = quantile * values.std(ddof=1) / math.sqrt(len(values))
        cell += f" ± {half:.{digits}f}"
    return f"{cell} ({lows.mean():.{digits}f} to {highs.mean():.{digits}f})"
