#!/usr/bin/env python3
"""Measure whether a mixture of two emotions sounds between the two.

> python evaluate_mixtures.py hparams/evaluate_mini.yaml \
    --data_folder /path/to/MiniESD \
    --model_folder results/emotional_tts/mini/1986

Every word of a held-out sentence is asked for one emotion, for another, and
for mixtures of both (`<happy=0.5 sad=0.5>`). MiniESD has no such word, so
mixtures are new to a model trained on its truth; those in the training labels
are counted. The mean change of the words' prosody against the neutral reading
is measured, in standard deviations over the readings of one emotion. The
position of a mixture is 0 at its first emotion and 1 at its second.

It writes to `<output_folder>/mixtures`: `summary.json`, `mixtures.md` with a
row for each mixture, `utterances.csv`, and the speech. An utterance whose
words cannot be found in the sound is counted and left out of the positions.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.evaluation.measuring import MeasuringPool
from speechbrain_emofilm.evaluation.systems import Utterance, synthesise
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES
from speechbrain_emofilm.utils.files import atomic_path, write_json

import numpy as np
import speechbrain as sb
from analyze_modulation import place_between
from evaluate import (
    DIMENSIONS,
    as_reading,
    load_utterances,
    neutral_readings,
    systems_from_hparams,
)
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import infer_device


@dataclass(frozen=True)
class Request:
    """A neutral reading, and the emotion or mixture asked of its sentence."""

    neutral: Utterance
    weights: Mapping[str, float]

    @property
    def name(self) -> str:
        """Name of the emotion or mixture, such as ``"happy=0.5 sad=0.5"``."""
        return " ".join(f"{k}={v:g}" for k, v in self.weights.items())

    @property
    def utterance(self) -> Utterance:
        """Utterance to speak, with its own id and labels."""
        name = self.name.replace(" ", "_").replace("=", "")
        words = [
            replace(word, probs=self.weights, intensity=None)
            for word in self.neutral.labels.words
        ]
        return replace(
            self.neutral,
            id=f"{self.neutral.id}_{name}",
            labels=UtteranceLabels(words),
        )


def count_mixed_words(labels: Mapping[str, UtteranceLabels]) -> int:
    """Count the words that have more than one emotion."""
    return sum(
        sum(share > 0 for share in (word.probs or {}).values()) > 1
        for utterance in labels.values()
        for word in utterance.words
    )


def choose_sentences(
    neutral: Mapping[tuple[str, str], Utterance], n: int
) -> list[Utterance]:
    """Choose neutral readings of n different sentences, the speakers taking
    turns.
    """
    by_text = {}
    for (speaker, text), utterance in neutral.items():
        by_text.setdefault(text, {})[speaker] = utterance
    speakers = sorted({speaker for speaker, _ in neutral})
    chosen = []
    for index, text in enumerate(sorted(by_text)[:n]):
        readings = by_text[text]
        turn = index % len(speakers)
        order = speakers[turn:] + speakers[:turn]
        chosen.append(next(readings[s] for s in order if s in readings))
    return chosen


def list_requests(
    sentences: Sequence[Utterance],
    emotions: Sequence[str],
    weights: Sequence[float],
) -> list[Request]:
    """List every sentence in every emotion, and in every mixture of two."""
    if len(emotions) < 2:
        raise ValueError(
            f"There are {len(emotions)} emotions besides the baseline: a "
            "mixture needs two."
        )
    for weight in weights:
        if not 0 < weight < 1:
            raise ValueError(
                f"The weight {weight} mixes nothing: give one between 0 and 1."
            )
    asked = [{emotion: 1.0} for emotion in emotions]
    for one, other in combinations(emotions, 2):
        asked += [
            {one: round(1 - weight, 6), other: weight} for weight in weights
        ]
    return [Request(neutral, mix) for neutral in sentences for mix in asked]


def compare(
    requests: Sequence[Request], changes: Mapping[str, np.ndarray | None]
) -> list[dict]:
    """Place every mixture between its two emotions, a row for each."""
    found = {
        (request.name, request.neutral.id): changes[request.utterance.id]
        for request in requests
        if changes[request.utterance.id] is not None
    }
    pure = [
        changes[request.utterance.id]
        for request in requests
        if len(request.weights) == 1
        and changes[request.utterance.id] is not None
    ]
    # A dimension that never changes tells nothing.
    scale = np.maximum(np.std(pure, axis=0), 1e-6) if pure else 1.0
    sentences = list(dict.fromkeys(r.neutral.id for r in requests))
    rows = []
    mixtures = {r.name: r for r in requests if len(r.weights) == 2}
    for name, request in mixtures.items():
        one, other = (f"{emotion}=1" for emotion in request.weights)
        triples = [
            [found[key, sentence] for key in (one, name, other)]
            for sentence in sentences
            if all((key, sentence) in found for key in (one, name, other))
        ]
        row = {"mixture": name, "sentences": len(triples)}
        if triples:
            row.update(_place(np.array(triples), scale))
        rows.append(row)
    return rows


def _place(triples: np.ndarray, scale: np.ndarray) -> dict:
    """Score one mixture; triples (N, 3, 6) are one emotion, mixture, other
    emotion.
    """
    means = triples.mean(0)
    line = (means[2] - means[0]) / scale
    moved = (triples[:, 1] - triples[:, 0]) / scale
    origin = np.zeros_like(line)
    positions = [place_between(origin, line, point)[0] for point in moved]
    _, distance = place_between(origin, line, moved.mean(0))
    columns = [PROSODY_CHANGES.index(name) for name in DIMENSIONS]
    ones = np.ones(len(positions))
    return {
        **estimate("position", share, np.stack([positions, ones], 1)),
        "distance": distance,
        **{
            name: means[:, column].tolist()
            for name, column in zip(DIMENSIONS, columns)
        },
    }


def table(rows: Sequence[Mapping]) -> str:
    """Format the rows of `compare` as a Markdown table."""
    headings = [
        "mixture", "sentences", "position", "off the line",
        "F0 (log)", "energy (dB)", "duration (log)",
    ]  # fmt: skip
    lines = [
        "| " + " | ".join(headings) + " |",
        "|---" * len(headings) + "|",
    ]
    for row in rows:
        cells = [row["mixture"], str(row["sentences"])]
        if row["sentences"]:
            interval = f"{row['low']:.2f} to {row['high']:.2f}"
            cells += [
                f"{row['position']:.2f} ({interval})",
                f"{row['distance']:.2f}",
                *(
                    ", ".join(f"{value:.{digits}f}" for value in row[name])
                    for name, digits in zip(DIMENSIONS, (2, 1, 2))
                ),
            ]
        cells += [""] * (len(headings) - len(cells))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Position: 0 at the first emotion, 1 at the second, with its 95 % "
        "interval over the sentences. Off the line: distance from the line "
        "through both, in units of their distance. Last: means of the first "
        "emotion, the mixture and the second.",
    ]
    return "\n".join(lines) + "\n"


def read_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict]:
    """Read the command line: options of this script, and hparams."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--n_sentences", type=int, default=12, help="of each mixture")
    add(
        "--weights",
        nargs="+",
        type=float,
        default=[0.25, 0.5, 0.75],
        help="of the second emotion of a mixture",
    )
    return parse_with_hparams(parser, arguments)


def parse_with_hparams(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, dict]:
    """Parse a script's own options, its device among them, and hparams."""
    options, others = parser.parse_known_args(arguments)
    hparams_file, run_opts, overrides = sb.parse_arguments(others)
    options.device = run_opts.get("device") or infer_device()
    with open(hparams_file, encoding="utf-8") as file:
        return options, load_hyperpyyaml(file, overrides)


def speak(
    requests: Sequence[Request],
    folder: Path,
    options: argparse.Namespace,
    hparams: Mapping,
) -> tuple[dict, dict]:
    """Speak the mixtures, and decode the neutral readings from their tokens."""
    systems, _ = systems_from_hparams(hparams, options.device)
    work = hparams["batch_size"], hparams["sample_rate"]
    # A mixture has no voice of its own.
    neutral_voices = {r.utterance.id: r.neutral for r in requests}
    mixtures = replace(
        systems["efilm"],
        folder=folder,
        voice=lambda u: systems["efilm"].voice(neutral_voices[u.id]),
    )
    wavs = synthesise(
        "mixtures", mixtures, [r.utterance for r in requests], *work
    )
    readings = list({r.neutral.id: r.neutral for r in requests}.values())
    copier = replace(
        systems["copy_synthesis"],
        folder=Path(hparams["reference_folder"]) / "neutral_copy",
    )
    copies = synthesise("neutral readings", copier, readings, *work)
    neutral = {
        (u.speaker, u.text): replace(u, wav=copies[u.id]) for u in readings
    }
    return wavs, neutral


def utterance_row(request: Request, change: np.ndarray | None) -> dict:
    """Make a row of utterances.csv; without changes if the words were not
    found.
    """
    row = {
        "utterance": request.utterance.id,
        "speaker": request.neutral.speaker,
        "asked": request.utterance.marked_text,
    }
    if change is not None:
        row.update(zip(PROSODY_CHANGES, change.round(4).tolist()))
    return row


def main(arguments: Sequence[str]) -> None:
    """Speak, measure and tabulate the mixtures."""
    options, hparams = read_options(arguments)
    folder = Path(hparams["output_folder"]) / "mixtures"
    baseline = hparams["baseline_emotion"]
    trained = load_utterances(hparams["train_manifests"], hparams)
    n_mixed = count_mixed_words({u.id: u.labels for u in trained.values()})
    utterances = load_utterances(hparams["test_manifests"], hparams)
    requests = list_requests(
        choose_sentences(
            neutral_readings(utterances, baseline), options.n_sentences
        ),
        [emotion for emotion in hparams["emotions"] if emotion != baseline],
        options.weights,
    )
    wavs, neutral = speak(requests, folder, options, hparams)
    readings = {
        u.id: as_reading(u, wavs[u.id], neutral, only=("change",))
        for u in (request.utterance for request in requests)
    }
    tools = {"aligner": hparams["aligner"]}
    with MeasuringPool(tools, hparams["workers"]) as pool:
        measured = pool.measure(
            readings, folder / "measurements", "Measuring, mixtures"
        )
    changes = {
        name: None if m.change is None else np.mean(m.change, 0)
        for name, m in measured.items()
    }
    rows = compare(requests, changes)
    missing = [name for name, change in changes.items() if change is None]
    write_json(
        folder / "summary.json",
        {
            "mixed_words_in_training": n_mixed,
            "mixtures": rows,
            "not_aligned": missing,
        },
    )
    write_csv(
        folder / "utterances.csv",
        [utterance_row(r, changes[r.utterance.id]) for r in requests],
    )
    text = table(rows)
    with atomic_path(folder / "mixtures.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(
        f"{text}\n{n_mixed} words of the training are mixtures. The words of "
        f"{len(missing)} of {len(requests)} utterances were not found.\n"
        f"Scores: {folder / 'summary.json'}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
