#!/usr/bin/env python3
"""Score the answers of a listening test.

> python score_listening_test.py results/listening_test/key.json \
      answers/*.csv --output_folder results/listening_test

Prints and writes, for each system, the mean opinion scores of emotion (EMOS)
and naturalness (NMOS) with 95 % intervals, and compares every two systems on
the same items (Wilcoxon's signed-rank test, Holm's correction for the number
of comparisons). Listeners who fail a check are left out, and named.

Ratings are averaged over the listeners of an item before anything else: the
items, not the single ratings, are the independent observations.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from speechbrain_emofilm.dataio.tables import read_table
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
from scipy.stats import wilcoxon

SCALES = ("emos", "nmos")
COLUMNS = ("listener", "test", "trial", *SCALES)


def read_answers(
    paths: Sequence[str | Path], key: Mapping
) -> dict[str, dict[str, dict[str, int]]]:
    """Read the answer files: listener to trial to scale to rating."""
    answers = {}
    for path in paths:
        rows = read_table(path, COLUMNS)
        if not rows:
            raise ValueError(f"{path}: no answers in it; ask for it again.")
        for number, row in rows:
            _add_answer(answers, row, f"{path} line {number}", key)
    return answers


def _add_answer(answers, row, place, key):
    """Check and add one row."""
    missing = [name for name in COLUMNS if not row.get(name)]
    if missing:
        raise ValueError(
            f"{place}: {', '.join(missing)} is missing; give the file as the "
            "page saved it."
        )
    if row["test"] != key["test"] or row["trial"] not in key["trials"]:
        raise ValueError(
            f"{place}: trial {row['trial']} of test {row['test']} is not in "
            f"the key, which is of test {key['test']}: give the key that was "
            "made with the page."
        )
    ratings = {}
    for scale in SCALES:
        if row[scale] not in {"1", "2", "3", "4", "5"}:
            raise ValueError(
                f"{place}: {scale} is {row[scale]!r}; ratings are 1 to 5."
            )
        ratings[scale] = int(row[scale])
    trials = answers.setdefault(row["listener"], {})
    if trials.setdefault(row["trial"], ratings) is not ratings:
        raise ValueError(
            f"{place}: listener {row['listener']} rated trial {row['trial']} "
            "twice; give each file once, and each listener a code."
        )


def attentive_listeners(
    answers: Mapping, key: Mapping, allowed_failures: int = 0
) -> tuple[list[str], dict[str, str]]:
    """Separate the listeners who pass the checks from those who do not."""
    checks = {
        trial: entry["check"]
        for trial, entry in key["trials"].items()
        if "check" in entry
    }
    kept, excluded = [], {}
    for listener, trials in sorted(answers.items()):
        failed = sum(trials.get(t) != check for t, check in checks.items())
        if failed > allowed_failures:
            excluded[listener] = f"failed {failed} of {len(checks)} checks"
        else:
            kept.append(listener)
    return kept, excluded


def score(
    answers: Mapping, key: Mapping, allowed_failures: int = 0
) -> tuple[dict, list[dict]]:
    """Compute means, intervals and paired tests; return them and the ratings
    used.
    """
    kept, excluded = attentive_listeners(answers, key, allowed_failures)
    if not kept:
        reason = next(iter(excluded.values()), "there are no answers")
        raise ValueError(
            f"None of {len(answers)} listeners can be counted ({reason}): "
            "collect more answers, or allow failures."
        )
    rows = [
        {"listener": listener, **key["trials"][trial], **ratings}
        for listener in kept
        for trial, ratings in answers[listener].items()
        if "check" not in key["trials"][trial]
    ]
    trials = [
        (entry["item"], entry["system"])
        for entry in key["trials"].values()
        if "check" not in entry
    ]
    rated = {(row["item"], row["system"]) for row in rows}
    systems = sorted({system for _, system in trials})
    means = {scale: _item_means(rows, scale) for scale in SCALES}
    return {
        "systems": {
            system: {
                scale: _system_mean(means[scale], system) for scale in SCALES
            }
            for system in systems
        },
        "comparisons": [
            comparison
            for scale in SCALES
            for comparison in _compare(means[scale], systems, scale)
        ],
        "listeners": kept,
        "excluded": excluded,
        "unrated": len(set(trials) - rated),
    }, rows


def _item_means(rows, scale):
    """Average over listeners: (system, item) to the mean."""
    ratings = {}
    for row in rows:
        place = (row["system"], row["item"])
        ratings.setdefault(place, []).append(row[scale])
    return {place: float(np.mean(values)) for place, values in ratings.items()}


def _system_mean(means, system):
    """Average over items, with an interval; None without a rated item."""
    values = [
        [v, 1.0] for (name, _), v in sorted(means.items()) if name == system
    ]
    if not values:
        return {"mean": None, "low": None, "high": None, "items": 0}
    return {**estimate("mean", share, np.array(values)), "items": len(values)}


def _compare(means, systems, scale):
    """Test every two systems on the same items, p-values after Holm."""
    comparisons = []
    for first, second in combinations(systems, 2):
        items = sorted({item for _, item in means})
        differences = [
            means[second, item] - means[first, item]
            for item in items
            if (first, item) in means and (second, item) in means
        ]
        different = np.any(differences)
        p = float(wilcoxon(differences).pvalue) if different else 1.0
        comparisons.append(
            {
                "scale": scale,
                "first": first,
                "second": second,
                "difference": float(np.mean(differences))
                if differences
                else None,
                "items": len(differences),
                "p": p,
            }
        )
    largest = 0.0
    ranked = sorted(comparisons, key=lambda comparison: comparison["p"])
    for rank, comparison in enumerate(ranked):
        corrected = min(1.0, comparison["p"] * (len(ranked) - rank))
        largest = max(largest, corrected)
        comparison["p_holm"] = largest
    return comparisons


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("key", help="key.json of make_listening_test.py")
    parser.add_argument("answers", nargs="+", help="CSV files of listeners")
    parser.add_argument("--output_folder", help="for scores.json, ratings.csv")
    parser.add_argument(
        "--allowed_failures",
        type=int,
        default=0,
        help="checks that a listener may fail",
    )
    args = parser.parse_args()
    key = read_json(args.key)
    summary, rows = score(
        read_answers(args.answers, key), key, args.allowed_failures
    )
    print(json.dumps(summary, indent=1))
    if args.output_folder:
        write_json(Path(args.output_folder) / "scores.json", summary)
        write_csv(Path(args.output_folder) / "ratings.csv", rows)


if __name__ == "__main__":
    main()
