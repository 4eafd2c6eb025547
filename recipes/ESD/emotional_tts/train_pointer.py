#!/usr/bin/env python3
"""Recipe for training the word pointer of a trained model, and nothing else.

The pointer reads the states of the frozen model and tells which word is being
spoken; it gives word times, and finds lost words (`train.py` trains one beside
E-FiLM; this script adds one to a model that has none, or replaces it).

To run this recipe, make the speech tokens once, then train:
> python extract_speech_tokens.py hparams/mini.yaml --data_folder /path/to/ESD
> python train_pointer.py hparams/train_pointer.yaml \
    --data_folder /path/to/ESD --model_folder results/emotional_tts/mini/1986

It takes a few minutes on one CPU core. The same command resumes an interrupted
training. The output folder is a model like the one given, with the pointer.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.word_pointer import monotonic_path
from speechbrain_emofilm.metrics.word_boundaries import (
    boundary_errors,
    summarize_errors,
)
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.files import atomic_path, copy_file
from speechbrain_emofilm.utils.hparams import check_overrides

import speechbrain as sb
import yaml
from esd_corpus import prepare_corpus
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main
from train import EmoFiLMBrain, dataio_prepare, loader_options, model_inputs

DESCRIPTION = EmoFiLMSynthesizer.HPARAMS_FILE
POINTER = "speechbrain_emofilm.lobes.word_pointer.WordPointer"
LOADER = "speechbrain_emofilm.utils.checkpoints.load_strictly"


class PointerBrain(EmoFiLMBrain):
    """Trains the word pointer of a frozen model."""

    best_key = "pointer_loss"

    def compute_objectives(self, predictions, batch, stage):
        """Return the pointer's loss; measure word times if not training."""
        count = predictions.n_pointer
        if stage != sb.Stage.TRAIN:
            self.accumulate_stats(
                {
                    "pointer_loss": (predictions.pointer_loss, count),
                    "pointer_accuracy": (predictions.pointer_accuracy, count),
                }
            )
            self.measure_boundaries(batch)
        scale = self.share_of_all_processes(count[None], stage)
        return scale[0] * predictions.pointer_loss

    def measure_boundaries(self, batch):
        """Compare the words' times with the true ones."""
        inputs = model_inputs(batch)
        model = self.modules.emofilm
        model = getattr(model, "module", model)  # inside DDP
        frame = 1 / (
            self.hparams.speech_token_rate * model.word_pointer.resolution
        )
        for name, sees_next in (("boundary", True), ("causal_boundary", False)):
            log_probs = model.point(inputs, sees_next).cpu().numpy()
            for own, item, n_frames, n_words in zip(
                log_probs,
                batch.word_times.data.cpu(),
                _sizes(inputs.speech_lens, log_probs),
                _sizes(batch.word_times.lengths, batch.word_times.data),
            ):
                path = monotonic_path(own[:n_frames, : 1 + n_words])
                true = item[:n_words]
                self.errors[name] += boundary_errors(path * frame, true)

    def on_stage_start(self, stage, epoch=None):
        """Forget the errors of the last stage."""
        self.errors = {"boundary": [], "causal_boundary": []}
        super().on_stage_start(stage, epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Add the boundary errors in milliseconds to the statistics."""
        if stage != sb.Stage.TRAIN:
            for name, errors in self.errors.items():
                for key, value in summarize_errors(errors).items():
                    self.sums[f"{name}_{key}_ms"] = 1000 * value
                    self.counts[f"{name}_{key}_ms"] = 1
        super().on_stage_end(stage, stage_loss, epoch)

    def init_optimizers(self):
        """Make the pointer's optimizer."""
        model = self.modules.emofilm
        pointer = getattr(model, "module", model).word_pointer
        optimizer = self.hparams.opt_class(pointer.parameters())
        self.optimizers_dict = {"word_pointer": optimizer}
        self.checkpointer.add_recoverable("word_pointer", pointer)
        self.checkpointer.add_recoverable("optimizer_word_pointer", optimizer)

    def on_validated(self, epoch, stats):
        """Count epochs without improvement."""
        self.hparams.epoch_counter.update_metric(stats["pointer_loss"])


def _sizes(lens, sequence):
    """Convert relative lengths (B,) to numbers of positions."""
    return (lens * sequence.shape[1]).round().long().tolist()


def load_frozen(hparams, device):
    """Load the model to point in, with a new pointer to train.

    The model reads true speech with all labels, some of it in turns with the
    text if it was trained so.
    """
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        hparams["model_folder"], run_opts={"device": device}
    )
    emofilm = synthesizer.mods.emofilm
    emofilm.requires_grad_(False)
    emofilm.history_corruption = emofilm.condition_dropout = 0.0
    emofilm.word_pointer = hparams["word_pointer"](
        state_dim=emofilm.llm.llm.config.hidden_size
    )
    emofilm.word_pointer.to(device)
    return synthesizer


def export(source, target, pointer_file, arguments):
    """Write a model's folder with a pointer.

    Arguments
    ---------
    source : Path
        Folder of a trained model.
    target : Path
        Folder to write; its files are replaced.
    pointer_file : Path
        Weights of the pointer.
    arguments : dict
        Arguments of the pointer.
    """
    document = yaml.compose((source / DESCRIPTION).read_text())
    pointer = yaml.MappingNode(
        f"!new:{POINTER}",
        [(_scalar(k), _scalar(v)) for k, v in arguments.items()],
    )
    _set(_get(document, "modules", "emofilm"), "word_pointer", pointer)
    pretrainer = _get(document, "pretrainer")
    loadables = _get(pretrainer, "loadables")
    _set(loadables, "word_pointer", pointer)
    _set(
        _get(pretrainer, "custom_hooks"),
        "word_pointer",
        yaml.ScalarNode(f"!name:{LOADER}", ""),
    )
    conditions = _get(pretrainer, "conditions")
    _set(conditions, "word_pointer", _scalar(True))
    for key, _ in loadables.value:
        file = source / f"{key.value}.ckpt"
        if key.value != "word_pointer" and file.is_file():
            _copy(file, target / file.name)
    _copy(pointer_file, target / "word_pointer.ckpt")
    with atomic_path(target / DESCRIPTION) as temporary:
        temporary.write_text(yaml.serialize(document))


def _copy(source, target):
    if not target.exists() or not source.samefile(target):
        copy_file(source, target)


def _scalar(value):
    """Represent a number, truth value or string as a node."""
    return yaml.compose(yaml.safe_dump(value))


def _get(node, *keys):
    """Find a node of nested mappings."""
    for key in keys:
        node = {k.value: v for k, v in node.value}[key]
    return node


def _set(node, key, value):
    """Set an entry of a mapping."""
    node.value = [(k, v) for k, v in node.value if k.value != key]
    node.value.append((_scalar(key), value))


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    check_overrides(hparams, hparams_file, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Data, for the model's own text and emotions
    synthesizer = load_frozen(hparams, run_opts.get("device", "cpu"))
    hparams["emofilm"] = synthesizer.mods.emofilm
    hparams["emotions"] = synthesizer.emotions
    hparams["text_frontend"] = synthesizer.text_frontend
    run_on_main(prepare_corpus, args=[hparams])
    datasets = dataio_prepare(hparams)
    for split in ("valid", "test"):
        keys = datasets[split].pipeline.output_mapping
        datasets[split].set_output_keys([*keys, "word_times"])

    # Training
    brain = PointerBrain(
        modules={"emofilm": hparams["emofilm"]},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=loader_options(hparams, datasets["train"]),
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    brain.evaluate(
        datasets["test"],
        min_key=brain.best_key,
        test_loader_kwargs=dict(hparams["test_dataloader_opts"]),
    )
    if if_main_process():
        best = hparams["checkpointer"].find_checkpoint(min_key=brain.best_key)
        source = find_file(Path(hparams["model_folder"], DESCRIPTION)).parent
        export(
            source,
            Path(hparams["output_folder"]),
            best.paramfiles["word_pointer"],
            {
                "state_dim": hparams["emofilm"].llm.llm.config.hidden_size,
                **hparams["word_pointer"].keywords,
            },
        )
    ddp_leave_group()
