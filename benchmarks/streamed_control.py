#!/usr/bin/env python3
"""Control of single words in speech that is streamed, beside whole synthesis.

> python benchmarks/streamed_control.py --data_folder results/demo/MiniESD \
    --prepared_folder results/demo/prepared --output_folder results/streamed

Needs the corpus and the speech tokens that `make demo` leaves behind. Held-out
sentences of MiniESD are spoken in three ways:

* `whole`: synthesised in one go;
* `streamed`: streamed, the text known as a whole;
* `pieces`: streamed, the text arriving word by word.

The first two by each of the shipped models, the last by those that can speak a
text while it is written (`bistream` in their synthesizer.yaml). Writes
`summary.json`, with all scores of recipes/ESD/emotional_tts/evaluate.py, and
prints a table of them with 95 % intervals.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))

import speechbrain_emofilm  # noqa: E402, F401  first: makes torchaudio importable
from speechbrain_emofilm.evaluation.measuring import MeasuringPool  # noqa: E402
from speechbrain_emofilm.evaluation.report import markdown_table  # noqa: E402
from speechbrain_emofilm.evaluation.systems import (  # noqa: E402
    System,
    fingerprint,
    spoken_system,
    synthesise,
)
from speechbrain_emofilm.inference.synthesizer import (  # noqa: E402
    EmoFiLMSynthesizer,
)
from speechbrain_emofilm.utils.files import write_json  # noqa: E402

import evaluate  # noqa: E402
import torch  # noqa: E402
from hyperpyyaml import load_hyperpyyaml  # noqa: E402

MODELS = {
    "mini": "speechbrain_emofilm/assets/mini",
    "mini_bistream": "speechbrain_emofilm/assets/mini_bistream",
}
#: A word of a marked text with the marks and the space next to it.
_PIECE = re.compile(r"\s*(?:<[^>]*>|[^<\s])+\s*(?:</[^>]*>)?")
#: Columns of the table: heading, keys of the value in a system's scores, and
#: whether it is a share.
COLUMNS = (
    ("WER", ("wer", "wer"), True),
    ("emotions as asked", ("word_emotion_accuracy", "accuracy"), True),
    ("switches as asked", ("transitions_as_asked", "share"), True),
    ("F0", ("within_utterance_correlation", "f0", "correlation"), False),
    ("level", ("within_utterance_correlation", "energy", "correlation"), False),
    (
        "duration",
        ("within_utterance_correlation", "duration", "correlation"),
        False,
    ),
)


# --- Speaking -------------------------------------------------------------


def in_pieces(text: str) -> list[str]:
    """Split a marked text into words; joined, they are the text."""
    pieces = _PIECE.findall(text)
    if "".join(pieces) != text:
        raise ValueError(f"{text!r} has a mark that is not closed.")
    return pieces


def streamed_system(
    folder: Path,
    synthesizer: EmoFiLMSynthesizer,
    split: Callable[[str], str | Sequence[str]],
    seed: int,
    guidance: float,
) -> System:
    """Make the system that streams texts, split into pieces."""

    def speak(_, texts, voices):
        return [
            torch.cat(
                [
                    chunk.wav
                    for chunk in synthesizer.stream(
                        split(text), voice, seed, guidance
                    )
                ]
            )
            for text, voice in zip(texts, voices)
        ]

    version = fingerprint(synthesizer.mods, folder.name, seed, guidance)
    return System(folder, version, speak)


def make_systems(args: argparse.Namespace) -> dict[str, System]:
    """Make each way to speak of each model."""
    systems = {}
    for name, folder in args.models.items():
        model = EmoFiLMSynthesizer.from_hparams(folder)
        options = args.seed, args.guidance
        ways = {"streamed": str}
        if model.reads_pieces:
            ways["pieces"] = in_pieces
        key = f"{name}_whole"
        systems[key] = spoken_system(args.output_folder / key, model, *options)
        for way, split in ways.items():
            key = f"{name}_{way}"
            systems[key] = streamed_system(
                args.output_folder / key, model, split, *options
            )
    return systems


# --- Scores ---------------------------------------------------------------


def measure(hparams, systems, args):
    """Speak and measure held-out sentences; system to its scores."""
    emotion = hparams["baseline_emotion"]
    utterances = evaluate.load_utterances(hparams["test_manifests"], hparams)
    neutral = evaluate.neutral_readings(utterances, emotion)
    chosen = evaluate.choose_utterances(utterances, neutral, hparams)
    work = hparams["batch_size"], hparams["sample_rate"]
    wavs = {n: synthesise(n, s, chosen, *work) for n, s in systems.items()}
    # Every way to speak is compared with the same decoded neutral readings.
    copiers, _ = evaluate.systems_from_hparams(hparams, "cpu")
    decoded = evaluate.decode_neutral(copiers, chosen, neutral, hparams)
    scores, measured = {}, {}
    tools = evaluate.measuring_tools(hparams)
    with MeasuringPool(tools, hparams["workers"]) as pool:
        classifier = evaluate.train_classifier(pool, hparams)
        for name, files in wavs.items():
            measured[name] = pool.measure(
                {
                    u.id: evaluate.as_reading(u, files[u.id], decoded)
                    for u in chosen
                },
                systems[name].folder / "measurements",
                f"Measuring, {name}",
            )
            scores[name] = evaluate.summarise(
                chosen, measured[name], classifier, hparams["emotions"]
            )
            whole = name.rpartition("_")[0] + "_whole"
            scores[name]["wer_above_whole"] = evaluate.word_errors(
                chosen, measured[name]
            ).above(evaluate.word_errors(chosen, measured[whole]))
    return scores


def as_table(scores: dict[str, dict]) -> str:
    """Format the scores as a Markdown table with one line per system."""
    lines = [["", *(heading for heading, _, _ in COLUMNS)]]
    for system, entry in scores.items():
        cells = []
        for _, keys, is_share in COLUMNS:
            value = entry
            for key in keys[:-1]:
                value = value[key]
            form = "{:.1%}" if is_share else "{:.2f}"
            value, low, high = (
                form.format(value[key]) for key in (keys[-1], "low", "high")
            )
            cells.append(f"{value} [{low}, {high}]")
        lines.append([system, *cells])
    return markdown_table(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, ``sys.argv`` if None."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data_folder", type=Path, required=True)
    add("--prepared_folder", type=Path, required=True)
    add("--output_folder", type=Path, default=Path("results/streamed"))
    add("--models", type=json.loads, default=MODELS, help="name to folder")
    add("--n_mixed", type=int, default=30)
    add("--n_single", type=int, default=12)
    add("--n_classifier", type=int, default=160)
    add("--workers", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--guidance", type=float, default=1.3)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the comparison that the command line asks for."""
    args = parse()
    sizes = ("n_mixed", "n_single", "n_classifier", "workers")
    overrides = {
        "data_folder": str(args.data_folder),
        "prepared_folder": str(args.prepared_folder),
        "model_folder": next(iter(args.models.values())),
        "output_folder": str(args.output_folder),
        "reference_folder": str(args.output_folder / "references"),
        **{name: getattr(args, name) for name in sizes},
    }
    with open(RECIPE / "hparams" / "evaluate_mini.yaml") as file:
        hparams = load_hyperpyyaml(file, overrides)
    scores = measure(hparams, make_systems(args), args)
    write_json(args.output_folder / "summary.json", scores)
    print(as_table(scores))


if __name__ == "__main__":
    main()
