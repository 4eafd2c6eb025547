#!/usr/bin/env python3
"""Compare word labels with the true emotion of each word.

> python evaluate.py hparams/evaluate.yaml --data_folder /path/to/MiniESD \
    --label_files "{broadcast: b/word_labels.json, words: w/word_labels.json}"

Any number of labelings can be compared. Each is one file, or a list of files
(one per seed) whose scores are averaged. Utterances that keep one emotion and
utterances whose emotion changes are evaluated separately. The main scores have
95 % intervals from resampling the utterances. The output is ``summary.json``
with all scores, ``utterances.json`` with a row for each utterance,
``confusion.png``, and a table on the terminal. Utterances without labels are
left out of every labeling and listed in ``skipped.json``; if there are more
than `max_bad_share`, the script fails.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.labels import read_word_labels
from speechbrain_emofilm.metrics.labels import (
    WordLabelMetrics,
    majority_emotion,
    majority_labels,
)
from speechbrain_emofilm.utils.files import atomic_path, write_json
from speechbrain_emofilm.utils.skipped import report_skipped

import numpy as np
import speechbrain as sb
from esd_corpus import read_manifests
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

MAJORITY = "majority"
EVERYTHING = "all"
#: Scores in the table on the terminal.
COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "intensity_correlation": "intensity r",
    "ece": "ECE",
    "eder": "EDER",
}
N_RESAMPLINGS = 200


def select_utterances(hparams):
    """List the utterance ids of each part; ``all`` holds those of all parts."""
    parts = {}
    for part, manifests in hparams["parts"].items():
        items = read_manifests(manifests, hparams["data_folder"])
        parts[part] = [
            utterance
            for utterance, item in sorted(items.items())
            if hparams["speakers"] is None
            or item["speaker"] in hparams["speakers"]
        ]
        if not parts[part]:
            raise ValueError(
                f"The part {part!r} has no utterance of the speakers "
                f"{hparams['speakers']}: check {', '.join(manifests)}."
            )
    parts[EVERYTHING] = [u for names in parts.values() for u in names]
    return parts


def find_unlabelled(utterances, truth, runs, hparams):
    """Tell why utterances have no truth or no labels, by utterance id."""
    reasons = {}
    for utterance in utterances:
        if utterance not in truth:
            reasons[utterance] = (
                f"{hparams['truth_file']} has no truth of it: only a corpus "
                "with word truth, such as MiniESD, can be evaluated on."
            )
        for name, labelings in runs.items():
            for path, labels in labelings:
                if utterance not in labels:
                    reasons[utterance] = (
                        f"{path} ({name}) has no labels of it: label the whole "
                        "corpus."
                    )
    return reasons


def compare(labels, truth, parts, emotions):
    """Measure the labels of each part against the truth."""
    found = {}
    for part, utterances in parts.items():
        found[part] = WordLabelMetrics(emotions)
        for utterance in utterances:
            found[part].append(utterance, truth[utterance], labels[utterance])
    return found


def mean_of(summaries):
    """Average summaries with the same keys; undefined means are None.

    Several summaries also get ``accuracy_std``, the standard deviation of their
    accuracies.
    """
    means = {}
    for key, value in summaries[0].items():
        values = [summary[key] for summary in summaries]
        if isinstance(value, dict):
            means[key] = mean_of(values)
        elif None in values:
            means[key] = None
        elif len(set(values)) == 1:
            means[key] = value
        else:
            means[key] = float(np.mean(values))
    if len(summaries) > 1 and "accuracy" in means:
        accuracies = [summary["accuracy"] for summary in summaries]
        means["accuracy_std"] = float(np.std(accuracies, ddof=1))
    return means


def intervals(runs):
    """Estimate 95 % intervals of the main scores by resampling utterances.

    The intervals describe the choice of utterances, not of the speaker. Scores
    that are not defined are left out.
    """
    rng = np.random.default_rng(0)
    n_utterances = len(runs[0].rows)
    found = {key: [] for key in COLUMNS}
    for _ in range(N_RESAMPLINGS):
        chosen = rng.integers(n_utterances, size=n_utterances)
        means = mean_of([resampled(m, chosen).summarize() for m in runs])
        for key in COLUMNS:
            if means[key] is not None:
                found[key].append(means[key])
    return {
        key: np.quantile(values, [0.025, 0.975]).tolist()
        for key, values in found.items()
        if len(values) == N_RESAMPLINGS
    }


def resampled(metrics, chosen):
    """Return the same metrics of chosen utterances, some of them repeated."""
    sample = WordLabelMetrics(metrics.emotions, metrics.n_bins)
    sample.ids = [metrics.ids[index] for index in chosen]
    sample.rows = [metrics.rows[index] for index in chosen]
    return sample


def draw_confusions(metrics, emotions, path):
    """Draw the confusion matrix of each labeling, with one row per part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = [p for p in next(iter(metrics.values())) if p != EVERYTHING]
    shape = (len(parts), len(metrics))
    figure = Figure(figsize=(3.2 * shape[1], 3.2 * shape[0]))
    FigureCanvasAgg(figure)
    axes = figure.subplots(*shape, squeeze=False)
    for column, (name, of_parts) in enumerate(metrics.items()):
        for row, part in enumerate(parts):
            counts = of_parts[part].confusion()
            shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            axis = axes[row, column]
            axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (i, j), share in np.ndenumerate(shares):
                color = "white" if share > 0.5 else "black"
                axis.text(
                    *(j, i, f"{share:.2f}"[1:] if share < 1 else "1"),
                    color=color,
                    ha="center",
                    va="center",
                    fontsize=7,
                )
            axis.set_title(f"{name}, {part}", fontsize=9)
            axis.set_xticks(
                range(len(emotions) + 1),
                [*emotions, "none"],
                rotation=60,
                fontsize=7,
            )
            axis.set_yticks(range(len(emotions)), emotions, fontsize=7)
    axes[0, 0].set_ylabel("true emotion", fontsize=8)
    axes[-1, 0].set_xlabel("label", fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def print_table(systems):
    """Print the main scores of each labeling and part."""
    header = ["labels", "part", *COLUMNS.values(), "boundary ms"]
    rows = [header]
    for name, of_parts in systems.items():
        for part, summary in of_parts.items():
            boundary = summary["boundary_error_ms"]["median"]
            rows.append(
                [
                    name,
                    part,
                    *(_number(summary[key], 3) for key in COLUMNS),
                    _number(boundary, 0),
                ]
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)))


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def evaluate(hparams):
    """Compare all labelings, write the results, and return the summaries."""
    emotions = hparams["emotions"]
    if not hparams["label_files"]:
        raise ValueError(
            "label_files is empty: name the labelings to compare, such as "
            "{multiple_instance: results/word_labels.json}."
        )
    folder = Path(hparams["output_folder"])
    parts = select_utterances(hparams)
    truth = read_word_labels(hparams["truth_file"], emotions)
    runs = {}
    for name, files in hparams["label_files"].items():
        files = [files] if isinstance(files, str) else files
        runs[name] = [(f, read_word_labels(f, emotions)) for f in files]
    # All labelings are compared on the same utterances.
    skipped = find_unlabelled(parts[EVERYTHING], truth, runs, hparams)
    report_skipped(
        skipped,
        len(parts[EVERYTHING]),
        hparams["max_bad_share"],
        folder / "skipped.json",
    )
    for part, utterances in parts.items():
        parts[part] = [u for u in utterances if u not in skipped]
        if not parts[part]:
            raise ValueError(
                f"The part {part!r} has no utterance with labels and truth: "
                f"see {folder / 'skipped.json'}."
            )
    truth = {utterance: truth[utterance] for utterance in parts[EVERYTHING]}
    guess = majority_labels(truth, majority_emotion(truth))
    runs = {MAJORITY: [("the truth", guess)], **runs}
    systems, rows, first = {}, {}, {}
    for name, labelings in runs.items():
        found = [
            compare(labels, truth, parts, emotions) for _, labels in labelings
        ]
        systems[name] = {}
        for part in parts:
            of_part = [metrics[part] for metrics in found]
            systems[name][part] = {
                **mean_of([metrics.summarize() for metrics in of_part]),
                "intervals": intervals(of_part),
            }
        first[name] = found[0]
        rows[name] = [
            dict(zip(metrics[EVERYTHING].ids, metrics[EVERYTHING].rows))
            for metrics in found
        ]
    write_json(
        folder / "summary.json",
        {
            "label_accuracy": {
                name: summary[EVERYTHING]["accuracy"]
                for name, summary in systems.items()
            },
            "n_runs": {
                name: len(labelings) for name, labelings in runs.items()
            },
            "speakers": hparams["speakers"],
            "systems": systems,
        },
    )
    write_json(folder / "utterances.json", rows)
    draw_confusions(first, emotions, folder / "confusion.png")
    return systems


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    print_table(evaluate(hparams))
    print(f"{hparams['output_folder']}/summary.json has all scores.")
