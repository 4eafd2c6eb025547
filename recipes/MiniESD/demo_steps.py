"""Commands of the demo, as steps of a resumable pipeline."""

import argparse
import dataclasses
import json
import os
import shlex
from pathlib import Path

import speechbrain_emofilm
from speechbrain_emofilm.utils.steps import Step

REPOSITORY = Path(__file__).resolve().parents[2]
TTS = "recipes/ESD/emotional_tts"
LABELING = "recipes/ESD/word_emotion_labeling"
#: Supervisions of the labelers; E-FiLM is trained on the labels of `LABELER`.
SUPERVISIONS = ("broadcast", "multiple_instance", "words")
LABELER = "multiple_instance"
#: Source of the word emotions that each system is trained on.
LABEL_SOURCES = {
    "efilm": "truth",
    "efilm_labels": "labels",
    "efilm_sentence": "sentence",
}
CAPTIONS = {
    "efilm": "E-FiLM, true word labels",
    "efilm_labels": "E-FiLM, our labels",
    "efilm_sentence": "E-FiLM, sentence labels",
}


class DemoSteps:
    """Build the demo's steps from the options of ``run_demo.py``."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.root = root = options.output_folder
        self.corpus, self.prepared = root / "MiniESD", root / "prepared"
        self.alignments = root / "alignments"
        self.features = root / "features" / "emotion_features.hdf5"
        self.held_out = options.speakers[-1:]  # never used by the labelers
        self.evaluation = root / "evaluation"
        self.label_evaluation = root / "label_evaluation"
        self.modulation = root / "modulation"
        self.data = [
            f"--data_folder={self.corpus}",
            f"--prepared_folder={self.prepared}",
            "--device=cpu",
        ]
        # Only the evaluation needs the test sentences.
        self.without_test = [
            f"--{part}manifests="
            + json.dumps({"test": f"{self.prepared}/{name}.json"})
            for part, name in (
                ("", "valid"),
                ("transitions_", "transitions_valid"),
            )
        ]
        self.speech = [
            *self.data,
            f"--backbone_folder={options.backbone_folder}",
            *shlex.split(options.flags),
        ]
        self.labeling = [
            *self.data,
            f"--alignment_folder={self.alignments}",
            f"--feature_cache={self.features}",
        ]

    def make(self) -> list[Step]:
        """List the steps, each after those that it needs."""
        data = [self.make_corpus(), self.extract_speech_tokens(), self.align()]
        features = after(self.extract_features(), *data)
        labelers = [
            after(self.train_labeler(supervision), *data, features)
            for supervision in SUPERVISIONS
        ]
        labels = [
            after(self.label(supervision), *data, features, labeler)
            for supervision, labeler in zip(SUPERVISIONS, labelers)
        ]
        models = [
            after(self.train("efilm_sentence"), *data),
            after(self.train("efilm_labels"), *data, *labels),
            # It needs no labels, but comes last: `emofilm say` uses the
            # newest model.
            after(self.train("efilm"), *data, *labels),
        ]
        judged = after(self.evaluate_labels(), *labels)
        drawn = after(self.analyze_modulation(), models[-1])
        steps = [*data, features, *labelers, *labels, judged, *models, drawn]
        return [*steps, self.evaluate()]

    def make_corpus(self) -> Step:
        """Create speech with true word labels."""
        sizes = ("n_train", "n_evaluation", "n_test", "n_transitions")
        return Step(
            "Create the corpus",
            [
                "recipes/MiniESD/make_corpus.py",
                str(self.corpus),
                *(f"--{name}={getattr(self.options, name)}" for name in sizes),
                "--speakers",
                *self.options.speakers,
            ],
            self.corpus,
            ["corpus.json"],
        )

    def extract_speech_tokens(self) -> Step:
        """Prepare manifests and speech tokens."""
        return Step(
            "Extract speech tokens",
            [
                f"{TTS}/extract_speech_tokens.py",
                f"{TTS}/hparams/mini.yaml",
                *self.speech,
            ],
            self.prepared,
            ["speech_tokens.safetensors"],
            find_weights(self.options.backbone_folder),
            threads=os.cpu_count(),
        )

    def align(self) -> Step:
        """Align the words with the speech."""
        return Step(
            "Align the words",
            [
                f"{LABELING}/align.py",
                f"{LABELING}/hparams/align.yaml",
                *self.data,
                *self.without_test,
                "--skip_prep=True",
                f"--alignment_folder={self.alignments}",
                f"--n_workers={os.cpu_count()}",
            ],
            self.alignments,
            ["alignment.json"],
        )

    def extract_features(self) -> Step:
        """Extract the labelers' inputs, with one process per CPU."""
        return Step(
            "Extract emotion features",
            [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc_per_node={os.cpu_count()}",
                f"{LABELING}/extract_features.py",
                f"{LABELING}/hparams/extract_features.yaml",
                "--distributed_backend=gloo",
                *self.data,
                *self.without_test,
                "--skip_prep=True",
                f"--output_folder={self.features.parent}",
            ],
            self.features.parent,
            [self.features.name],
        )

    def train_labeler(self, supervision: str) -> Step:
        """Train a word labeler without the held-out speaker."""
        folder = self.root / "labelers" / supervision
        split = folder / "split"
        preparation = {
            "data_folder": str(self.corpus),
            "save_folder": str(split),
            "speakers": self.options.speakers[:-1],
        }
        corpus = {
            "data_folder": str(self.corpus),
            "manifests": {
                "train": f"{split}/train.json",
                "valid": f"{split}/valid.json",
                "test": f"{split}/valid.json",
            },
            "feature_cache": str(self.features),
            "alignment_folder": str(self.alignments),
            "truth_file": f"{self.corpus}/word_labels.json",
        }
        return Step(
            f"Train a word labeler, {supervision}",
            [
                f"{LABELING}/train.py",
                f"{LABELING}/hparams/train_mini.yaml",
                *self.labeling,
                "--preparations=[!name:esd_prepare.prepare_esd "
                f"{json.dumps(preparation)}]",
                f"--corpora={json.dumps([corpus])}",
                f"--supervision={supervision}",
                f"--output_folder={folder}",
                *shlex.split(self.options.labeler_flags),
            ],
            folder,
            ["labeler.yaml", "word_emotion.ckpt", "frame_normalization.ckpt"],
        )

    def label(self, supervision: str) -> Step:
        """Label all speakers, or only the held-out one for evaluation."""
        speakers = "null"
        if supervision != LABELER:
            speakers = json.dumps(self.held_out)
        return Step(
            f"Label the words, {supervision}",
            [
                f"{LABELING}/label.py",
                f"{LABELING}/hparams/label.yaml",
                *self.labeling,
                *self.without_test,
                f"--speakers={speakers}",
                f"--labeler_folder={self.root / 'labelers' / supervision}",
                f"--output_folder={self.root / 'labels' / supervision}",
            ],
            self.root / "labels" / supervision,
            ["word_labels.json"],
        )

    def evaluate_labels(self) -> Step:
        """Score the labels of the held-out speaker."""
        files = {
            supervision: f"{self.root}/labels/{supervision}/word_labels.json"
            for supervision in SUPERVISIONS
        }
        parts = {
            name: [
                f"{self.prepared}/{part}{s}.json" for s in ("train", "valid")
            ]
            for name, part in (
                ("ordinary", ""),
                ("transitions", "transitions_"),
            )
        }
        return Step(
            "Score the labels",
            [
                f"{LABELING}/evaluate.py",
                f"{LABELING}/hparams/evaluate.yaml",
                *self.data,
                f"--label_files={json.dumps(files)}",
                f"--parts={json.dumps(parts)}",
                f"--speakers={json.dumps(self.held_out)}",
                f"--output_folder={self.label_evaluation}",
            ],
            self.label_evaluation,
            ["summary.json"],
        )

    def train(self, system: str) -> Step:
        """Train E-FiLM on word emotions of one source."""
        source = LABEL_SOURCES[system]
        folder = self.root / "models" / system
        labels = self.root / "labels" / LABELER / "word_labels.json"
        return Step(
            f"Train {CAPTIONS[system]}",
            [
                f"{TTS}/train.py",
                f"{TTS}/hparams/mini.yaml",
                *self.speech,
                *self.without_test,
                "--skip_prep=True",
                f"--label_source={source}",
                f"--label_file={labels}",
                # Sentence labels have no word times.
                f"--alignment_folder={self.alignments}",
                f"--output_folder={folder}",
                *shlex.split(self.options.train_flags),
            ],
            folder,
            ["synthesizer.yaml", "efilm.ckpt", "llm_decoder.ckpt"],
            threads=os.cpu_count(),
        )

    def analyze_modulation(self) -> Step:
        """Plot gamma and beta of every emotion."""
        return Step(
            "Plot gamma and beta",
            [
                f"{TTS}/analyze_modulation.py",
                f"{self.root}/models/efilm",
                f"--output_folder={self.modulation}",
            ],
            self.modulation,
            ["modulation.json", "modulation.png"],
        )

    def evaluate(self) -> Step:
        """Synthesise with all systems and write the report."""
        models = {name: f"{self.root}/models/{name}" for name in LABEL_SOURCES}
        model = models.pop("efilm")
        return Step(
            "Evaluate the systems",
            [
                f"{TTS}/evaluate.py",
                f"{TTS}/hparams/evaluate_mini.yaml",
                *self.speech,
                f"--model_folder={model}",
                f"--compared_models={json.dumps(models)}",
                f"--captions={json.dumps(CAPTIONS)}",
                f"--modulation_picture={self.modulation}/modulation.png",
                f"--output_folder={self.evaluation}",
                f"--reference_folder={self.evaluation}",
                *shlex.split(self.options.evaluate_flags),
            ],
            self.evaluation,
            ["summary.json", "report.html"],
        )


def after(step: Step, *needed: Step) -> Step:
    """Return a step that starts when the needed ones have finished."""
    return dataclasses.replace(step, needs=[other.name for other in needed])


def find_weights(folder: Path) -> list[Path]:
    """Find a backbone's weights, possibly in the package's folder."""
    if folder.parts[:1] == (speechbrain_emofilm.__name__,):
        folder = REPOSITORY / folder
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(
            f"{folder} has no weights of a backbone (*.safetensors): train "
            "one as recipes/MiniESD/README.md describes, or give its folder "
            "with --backbone_folder."
        )
    return weights
