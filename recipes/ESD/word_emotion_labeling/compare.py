#!/usr/bin/env python3
"""Compare word labelers that are trained with different supervision.

> python compare.py /path/to/MiniESD --output_folder results/labels

On a corpus with true word labels (MiniESD): aligns it, extracts the emotion
features, trains one labeler for each supervision and seed without the
validation and test speakers, labels the test speaker with each labeler, and
compares the labels with the truth and with the majority class. Existing
results are reused, and the same command resumes an interrupted step.
"""

import argparse
import json
import shlex
from pathlib import Path

from speechbrain_emofilm.utils.files import write_json
from speechbrain_emofilm.utils.steps import Step, run_steps

HERE = Path(__file__).resolve().parent
SUPERVISIONS = ("broadcast", "multiple_instance", "words")
#: Use the true word times of the corpus instead of an aligner.
TRUE_TIMES = "truth"


def make_steps(options):
    """List the steps of the comparison, in order."""
    root, corpus = options.output_folder.resolve(), options.corpus.resolve()
    prepared = root / "prepared"
    common = [f"--data_folder={corpus}"]
    folders = {TRUE_TIMES: corpus / "textgrids"}
    steps = []
    for aligner in options.aligners:
        if aligner == TRUE_TIMES:
            continue
        folders[aligner] = root / "alignments" / aligner
        steps.append(
            Step(
                f"Align with {aligner}",
                [
                    "align.py",
                    "hparams/align.yaml",
                    *common,
                    f"--prepared_folder={prepared}",
                    f"--alignment_folder={folders[aligner]}",
                    "--aligner=!include:../../../../hparams/aligner/"
                    f"{aligner}.yaml",
                    *shlex.split(options.align_flags),
                ],
                folders[aligner],
                ["alignment.json"],
            )
        )
    cache = root / "features" / "emotion_features.hdf5"
    steps.append(
        Step(
            "Extract emotion features",
            [
                "extract_features.py",
                "hparams/extract_features.yaml",
                *common,
                f"--prepared_folder={prepared}",
                f"--feature_cache={cache}",
            ],
            cache.parent,
            [cache.name],
        )
    )
    files = {}
    for aligner in options.aligners:
        for supervision in options.supervisions:
            name = supervision
            if len(options.aligners) > 1:
                name = f"{supervision}, {aligner}"
            for seed in options.seeds:
                made, labels = train_and_label(
                    options, aligner, supervision, seed, folders, cache
                )
                steps += made
                files.setdefault(name, []).append(str(labels))
    evaluation = root / "evaluation"
    steps.append(
        Step(
            "Compare the labels with the truth",
            [
                "evaluate.py",
                "hparams/evaluate.yaml",
                *common,
                f"--prepared_folder={root / 'split'}",
                f"--parts={json.dumps(parts(root))}",
                f'--speakers=["{options.test_speaker}"]',
                f"--label_files={json.dumps(files)}",
                f"--output_folder={evaluation}",
            ],
            evaluation,
            ["summary.json", "utterances.json", "confusion.png"],
        )
    )
    return steps


def train_and_label(options, aligner, supervision, seed, folders, cache):
    """List the steps of one labeler.

    Arguments
    ---------
    options : argparse.Namespace
        Options of the command line.
    aligner, supervision : str
        Names of the aligner and of the way sentence labels are used.
    seed : int
        Seed of the training.
    folders : dict
        Aligner to the folder of its TextGrids.
    cache : Path
        The emotion features.

    Returns
    -------
    steps : list of Step
        Training and labelling.
    labels : Path
        The label file that they write.
    """
    root, corpus = options.output_folder.resolve(), options.corpus.resolve()
    name = f"{supervision}, {aligner} times, seed {seed}"
    folder = root / "labelers" / f"{supervision}_{aligner}_{seed}"
    labels = root / "labels" / folder.name
    common = [
        f"--data_folder={corpus}",
        f"--feature_cache={cache}",
        f"--alignment_folder={folders[aligner]}",
        "--device=cpu",
    ]
    train = Step(
        f"Train: {name}",
        [
            "train.py",
            "hparams/train_mini.yaml",
            *common,
            f"--prepared_folder={root / 'split'}",
            f'--valid_speakers=["{options.valid_speaker}"]',
            f'--test_speakers=["{options.test_speaker}"]',
            f"--supervision={supervision}",
            f"--seed={seed}",
            f"--output_folder={folder}",
            *shlex.split(options.train_flags),
        ],
        folder,
        ["labeler.yaml", "word_emotion.ckpt", "frame_normalization.ckpt"],
    )
    label = Step(
        f"Label: {name}",
        [
            "label.py",
            "hparams/label.yaml",
            *common,
            f"--prepared_folder={root / 'prepared'}",
            f"--labeler_folder={folder}",
            f'--speakers=["{options.test_speaker}"]',
            f"--output_folder={labels}",
        ],
        labels,
        ["word_labels.json"],
    )
    return [train, label], labels / "word_labels.json"


def parts(root):
    """List the manifests of the evaluated utterances by part."""
    return {
        "ordinary": [str(root / "split" / "test.json")],
        "transitions": [
            str(root / "prepared" / f"transitions_{split}.json")
            for split in ("train", "valid", "test")
        ],
    }


def main(arguments=None):
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path, help="MiniESD")
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument(
        "--supervisions", nargs="+", default=SUPERVISIONS, choices=SUPERVISIONS
    )
    parser.add_argument(
        "--aligners",
        nargs="+",
        default=["pocketsphinx"],
        help=f"files of hparams/aligner, or {TRUE_TIMES!r}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1986])
    parser.add_argument("--valid_speaker", default="0013")
    parser.add_argument("--test_speaker", default="0014")
    for name in ("align_flags", "train_flags"):
        parser.add_argument(f"--{name}", default="", help="further options")
    options = parser.parse_args(arguments)
    root = options.output_folder
    root.mkdir(parents=True, exist_ok=True)
    steps = make_steps(options)
    log = run_steps(steps, root / "steps.json", HERE)
    write_json(root / "seconds.json", {n: e["seconds"] for n, e in log.items()})


if __name__ == "__main__":
    main()
