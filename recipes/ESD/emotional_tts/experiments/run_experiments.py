#!/usr/bin/env python3
"""Train and evaluate the variants of an experiment, and tabulate the results.

> python run_experiments.py fusion.yaml --seeds 1986 1987 1988 \
    --data_folder /path/to/MiniESD --prepared_folder /path/to/prepared

Needs the speech tokens of ../extract_speech_tokens.py. Every variant is
trained by ../train.py and evaluated on held-out sentences by ../evaluate.py,
once for each seed. The same command resumes an interrupted experiment and
reuses existing results; further seeds or variants are added to the table. The
variant that changes nothing is shared by all experiments and runs only once.

The file of an experiment has:

* `train`, `evaluate`: hyperparameters of all variants (both optional);
* `variants`: by name, each with its own `train` and `evaluate`, and with
  changes of the data (all optional): `relabelled_words`, a share of the
  training words whose emotion is changed at random; `degrees` of each emotion
  that become emotions of their own; `training_speakers` and `test_speakers`,
  to use only some speakers; `other_corpus: True` trains on another corpus than
  it tests on (`--other_data_folder`).

It writes `results/EXPERIMENT.csv`, with a row for each run,
`results/EXPERIMENT.md`, with a row for each variant including its command, and
`results/overview.md`, the same for all experiments with results.
"""

import argparse
import json
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.steps import Step, StepFailed, run_steps

import numpy as np
import yaml
from experiment_results import (
    REFERENCES,
    read_row,
    reference_rows,
    update_rows,
    write_overview,
    write_table,
)
from select_speakers import PARTS, SPLITS

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent
TRAIN_HPARAMS = "hparams/mini.yaml"
EVALUATE_HPARAMS = "hparams/evaluate_mini.yaml"


@dataclass(frozen=True)
class Variant:
    """Changes that one variant of an experiment makes.

    Arguments
    ---------
    name : str
        Name in the table.
    train, evaluate : dict
        Hyperparameters of train.py and evaluate.py that differ from the files.
    relabelled_words : float
        Share of the words whose emotion is changed at random.
    degrees : int
        Number of degrees that split each emotion; 0 keeps the labels.
    training_speakers, test_speakers : tuple of str
        Speakers to use; empty means all.
    other_corpus : bool
        Whether the training uses another corpus than the test.
    """

    name: str
    train: Mapping
    evaluate: Mapping
    relabelled_words: float = 0.0
    degrees: int = 0
    training_speakers: tuple[str, ...] = ()
    test_speakers: tuple[str, ...] = ()
    other_corpus: bool = False

    @property
    def preparations(self) -> dict[str, list[str]]:
        """Scripts that change the data first, with their arguments.

        `relabel_words.py` and `split_emotions.py` make word labels,
        `select_speakers.py` makes manifests.
        """
        scripts = {}
        if self.relabelled_words:
            scripts["relabel_words.py"] = [f"{self.relabelled_words:g}"]
        if self.degrees:
            scripts["split_emotions.py"] = [str(self.degrees)]
        speakers = []
        for name in ("training_speakers", "test_speakers"):
            if getattr(self, name):
                speakers += [f"--{name}", *getattr(self, name)]
        if speakers:
            scripts["select_speakers.py"] = speakers
        return scripts

    @property
    def command(self) -> str:
        """Command of the training, without folders and seed."""
        commands = [
            ["python", f"experiments/{script}", *arguments]
            for script, arguments in self.preparations.items()
        ]
        train = ["python", "train.py", TRAIN_HPARAMS, *as_flags(self.train)]
        if self.other_corpus:
            train.append("--data_folder=OTHER_CORPUS")
        return " && ".join(map(shlex.join, [*commands, train]))

    @property
    def changes_nothing(self) -> bool:
        """Whether the variant is the recipe without changes."""
        return not (
            self.train
            or self.evaluate
            or self.preparations
            or self.other_corpus
        )


@dataclass(frozen=True)
class Run:
    """A variant with a seed; the last of its steps is the evaluation."""

    variant: Variant
    seed: int
    folder: Path
    steps: list[Step]


def read_experiment(path: Path) -> list[Variant]:
    """Read and check the file of an experiment."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_keys(path, content, {"train", "evaluate", "variants"})
    keys = {field.name for field in fields(Variant)} - {"name"}
    variants = []
    for name, changes in (content.get("variants") or {}).items():
        place = f"{path}, variant {name}"
        changes = changes or {}
        _check_keys(place, changes, keys)
        variant = Variant(
            str(name),
            {**content.get("train", {}), **changes.get("train", {})},
            {**content.get("evaluate", {}), **changes.get("evaluate", {})},
            changes.get("relabelled_words", 0.0),
            changes.get("degrees", 0),
            tuple(map(str, changes.get("training_speakers", ()))),
            tuple(map(str, changes.get("test_speakers", ()))),
            bool(changes.get("other_corpus", False)),
        )
        if variant.relabelled_words and variant.degrees:
            raise ValueError(
                f"{place}: relabelled_words and degrees both change the "
                "labels; keep one."
            )
        if variant.other_corpus and variant.preparations:
            raise ValueError(
                f"{place}: other_corpus trains on that corpus as it is; drop "
                f"what makes {', '.join(variant.preparations)} necessary."
            )
        _check_hparams(place, variant.train, TRAIN_HPARAMS)
        _check_hparams(place, variant.evaluate, EVALUATE_HPARAMS)
        if variant.name in REFERENCES:
            raise ValueError(f"{place}: a reference has this name; change it.")
        variants.append(variant)
    if not variants:
        raise ValueError(f"{path} has no variants: name some.")
    return variants


def _check_keys(place: object, content: object, known: set[str]) -> None:
    if not isinstance(content, dict) or set(content) - known:
        raise ValueError(
            f"{place} must be a mapping with the keys "
            f"{', '.join(sorted(known))} only."
        )


def _check_hparams(place: str, changes: Mapping, hparams_file: str) -> None:
    document = yaml.compose((RECIPE / hparams_file).read_text())
    known = {key.value for key, _ in document.value}
    for name in changes:
        if name not in known:
            raise ValueError(
                f"{place}: {hparams_file} has no {name}; correct the name."
            )


def as_flags(hparams: Mapping) -> list[str]:
    """Write hyperparameters as options of a command line.

    Example
    -------
    >>> as_flags({"lr": 1e-05, "emotion_loss": {"position": "input"}})
    ['--lr=0.00001', '--emotion_loss={"position": "input"}']
    """

    def as_text(value):
        if isinstance(value, float):  # never 1e-05, text to some YAML readers
            return np.format_float_positional(value, trim="0")
        return value if isinstance(value, str) else json.dumps(value)

    return [f"--{name}={as_text(value)}" for name, value in hparams.items()]


def keep_last(flags: Sequence[str]) -> list[str]:
    """Drop options that are given again later, which SpeechBrain refuses.

    Example
    -------
    >>> keep_last(["--workers=1", "--n_mixed=30", "--workers=4"])
    ['--workers=4', '--n_mixed=30']
    """
    return list({flag.split("=")[0]: flag for flag in flags}.values())


def make_run(
    variant: Variant, seed: int, folder: Path, options: argparse.Namespace
) -> Run:
    """List the steps of a variant with a seed."""

    def common(corpus):
        return [
            f"--data_folder={corpus.data_folder}",
            f"--prepared_folder={corpus.prepared_folder}",
            f"--backbone_folder={options.backbone_folder}",
            *shlex.split(options.flags),
        ]

    model = folder / "model"
    references = options.output_folder / "references"
    trained = other_corpus(options) if variant.other_corpus else options
    inputs = find_inputs(trained)
    steps, train, evaluate = prepare(variant, seed, folder, trained)
    train = {**train, **variant.train}
    evaluate = {
        "n_shown": 2,
        "workers": 1 if options.jobs > 1 else 2,
        **evaluate,
    }
    steps += [
        Step(
            "Train",
            [
                "train.py",
                TRAIN_HPARAMS,
                *keep_last(
                    [
                        *common(trained),
                        f"--output_folder={model}",
                        f"--seed={seed}",
                        "--skip_prep=True",
                        *shlex.split(options.train_flags),
                        *as_flags(train),
                    ]
                ),
            ],
            model,
            ["synthesizer.yaml", "efilm.ckpt", "llm_decoder.ckpt"],
            inputs,
            options.threads,
        ),
        Step(
            "Evaluate",
            [
                "evaluate.py",
                EVALUATE_HPARAMS,
                *keep_last(
                    [
                        *common(options),
                        f"--model_folder={model}",
                        f"--output_folder={folder / 'evaluation'}",
                        f"--reference_folder={references}",
                        *as_flags(evaluate),
                        *shlex.split(options.evaluate_flags),
                        *as_flags(variant.evaluate),
                    ]
                ),
            ],
            folder / "evaluation",
            ["summary.json"],
            threads=options.threads,
        ),
    ]
    return Run(variant, seed, folder, steps)


def other_corpus(options: argparse.Namespace) -> argparse.Namespace:
    """Return the same options with the other corpus as the corpus."""
    folders = {
        name: getattr(options, f"other_{name}")
        for name in ("data_folder", "prepared_folder")
    }
    if None in folders.values():
        raise ValueError(
            "A variant is trained on another corpus: give "
            "--other_data_folder and --other_prepared_folder."
        )
    return argparse.Namespace(**{**vars(options), **folders})


def prepare(
    variant: Variant, seed: int, folder: Path, options: argparse.Namespace
) -> tuple[list[Step], dict, dict]:
    """List the steps that change a variant's data.

    Returns
    -------
    steps : list of Step
        The scripts that make labels and manifests.
    train, evaluate : dict
        Hyperparameters of train.py and evaluate.py that name their output.
    """
    truth = options.data_folder / "word_labels.json"
    labels = folder / "labels" / truth.name
    manifests = folder / "manifests"
    label_flags = [f"--truth_file={truth}", f"--label_file={labels}"]
    # Input, further options and output of each script.
    known = {
        "relabel_words.py": (truth, [*label_flags, f"--seed={seed}"], labels),
        "split_emotions.py": (truth, label_flags, labels),
        "select_speakers.py": (
            options.prepared_folder / "train.json",
            [
                f"--prepared_folder={options.prepared_folder}",
                f"--output_folder={manifests}",
            ],
            manifests / "train.json",
        ),
    }
    steps, train, evaluate = [], {}, {}
    for script, arguments in variant.preparations.items():
        source, flags, made = known[script]
        steps.append(
            Step(
                script.removesuffix(".py").replace("_", " ").capitalize(),
                [f"experiments/{script}", *arguments, *flags],
                made.parent,
                [made.name],
                [source],
            )
        )
        if made == labels:
            train.update(label_source="labels", label_file=str(labels))
        else:
            changed = manifest_hparams(manifests)
            train.update(changed)
            evaluate["test_manifests"] = [
                changed[name]["test"] for name in changed
            ]
    if variant.degrees:
        evaluate["truth_file"] = str(labels)
    return steps, train, evaluate


def manifest_hparams(folder: Path) -> dict[str, dict[str, str]]:
    """Name the manifests of a folder as train.py's hyperparameters do.

    Example
    -------
    >>> manifest_hparams(Path("a"))["transitions_manifests"]["test"]
    'a/transitions_test.json'
    """
    return {
        f"{part}manifests": {
            split: str(folder / f"{part}{split}.json") for split in SPLITS
        }
        for part in PARTS
    }


def find_inputs(options: argparse.Namespace) -> list[Path]:
    """Find the files whose change makes every training stale."""
    prepared = options.prepared_folder
    tokens = prepared / "speech_tokens.safetensors"
    for path, fix in (
        (options.data_folder / "word_labels.json", "recipes/MiniESD makes one"),
        (prepared / "train.json", "run ../extract_speech_tokens.py first"),
        (tokens, "run ../extract_speech_tokens.py first"),
    ):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: {fix}.")
    weights = find_file(f"{options.backbone_folder}/llm.safetensors").parent
    return [
        options.data_folder / "word_labels.json",
        *sorted(prepared.glob("*.json")),
        tokens,
        *sorted(weights.glob("*.safetensors")),
    ]


def run_all(runs: Sequence[Run], jobs: int) -> list[str]:
    """Run `jobs` runs at a time; return one message per failed run.

    With more than one job, the output goes to `log.txt` in the runs' folders.
    """
    references = threading.Lock()
    made = set()

    def do(run):
        print(f"== {run.variant.name}, seed {run.seed}", flush=True)
        options = (run.folder / "steps.json", RECIPE)
        output = run.folder / "log.txt" if jobs > 1 else None
        run_steps(run.steps[:-1], *options, output)
        # All runs share the speech of the references: the first evaluation
        # of the same utterances synthesizes it, and the others wait.
        spoken = run.variant.test_speakers
        with nullcontext() if spoken in made else references:
            run_steps(run.steps, *options, output)
            made.add(spoken)

    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(do, run) for run in runs]
        for run, future in zip(runs, futures):
            try:
                future.result()
            except StepFailed as error:
                failures.append(f"{run.variant.name}, {run.seed}: {error}")
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failures


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("experiments", nargs="+", type=Path, help="YAML files")
    add("--seeds", nargs="+", type=int, default=[1986, 1987, 1988])
    add("--variants", nargs="+", help="run only these variants")
    add("--data_folder", type=Path, required=True, help="the corpus")
    add("--prepared_folder", type=Path, required=True)
    add("--other_data_folder", type=Path, help="for other_corpus")
    add("--other_prepared_folder", type=Path)
    add(
        "--output_folder",
        type=Path,
        default=RECIPE / "results" / "experiments",
        help="models and speech",
    )
    add("--results_folder", type=Path, default=HERE / "results")
    add("--backbone_folder", default="speechbrain_emofilm/assets/mini")
    add("--jobs", type=int, default=1, help="runs at a time")
    add("--threads", type=int, default=1, help="threads of each run")
    add("--flags", default="--device=cpu", help="more options of both scripts")
    add("--train_flags", default="", help="more options of train.py")
    add("--evaluate_flags", default="", help="more options of evaluate.py")
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, value.resolve())
    if Path(options.backbone_folder).is_dir():
        options.backbone_folder = Path(options.backbone_folder).resolve()
    return options


def choose(
    variants: Sequence[Variant], names: Sequence[str] | None, place: Path
) -> list[Variant]:
    """Choose variants by name, or all if no names are given."""
    known = {variant.name: variant for variant in variants}
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"{place} has no variant {name}: choose from "
                f"{', '.join(known)}."
            )
    return [known[name] for name in names or known]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run experiments."""
    options = parse(arguments)
    planned = {}
    for path in options.experiments:
        path = path if path.is_file() else HERE / path
        variants = read_experiment(path)
        folder = options.output_folder
        planned[path.stem] = (
            variants,
            [
                make_run(
                    variant,
                    seed,
                    folder / "unchanged" / str(seed)
                    if variant.changes_nothing
                    else folder / path.stem / variant.name / str(seed),
                    options,
                )
                for seed in options.seeds
                for variant in choose(variants, options.variants, path)
            ],
        )
    every = [run for _, runs in planned.values() for run in runs]
    all_runs = list({run.folder: run for run in every}.values())
    failures = run_all(all_runs, options.jobs)
    for experiment, (variants, runs) in planned.items():
        done = [run for run in runs if (run.folder / "evaluation").is_dir()]
        rows = [
            read_row(
                run.folder,
                experiment,
                run.variant.name,
                run.seed,
                f"{run.variant.command} --seed={run.seed}",
            )
            for run in done
            if (run.folder / "evaluation" / "summary.json").is_file()
        ]
        if not rows:
            continue
        rows += reference_rows(done[0].folder, experiment)
        order = [*REFERENCES, *(variant.name for variant in variants)]
        results = options.results_folder / f"{experiment}.csv"
        rows = update_rows(results, rows, order)
        table = write_table(results.with_suffix(".md"), rows)
        print(f"\n{table}\n{results}")
    if any(options.results_folder.glob("*.csv")):
        print(f"All experiments: {write_overview(options.results_folder)}")
    if failures:
        failed = "\n".join(failures)
        raise SystemExit(
            f"{len(failures)} of {len(all_runs)} runs failed; the same "
            f"command repeats them:\n{failed}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
