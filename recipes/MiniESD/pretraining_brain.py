"""Brain and command line shared by the mini backbone's recipes."""

import functools
import logging
import shutil
import sys

from speechbrain_emofilm.core import ResumableBrain
from speechbrain_emofilm.utils.files import atomic_path
from speechbrain_emofilm.utils.schedulers import WarmupCosineSchedule

import numpy as np
import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from pretraining_data import PretrainingCorpus
from safetensors.torch import save_file
from speechbrain.utils.distributed import if_main_process

logger = logging.getLogger(__name__)


class PretrainingBrain(ResumableBrain):
    """Train for a fixed number of steps, divided into epochs.

    A recipe implements ``compute_forward`` and ``compute_losses``, which
    returns a dictionary of scalars, of which ``loss`` is minimised. Batches
    are dictionaries of tensors.
    """

    @functools.cached_property
    def lr_schedules(self):
        """Schedule of the first optimizer, with 100 steps of warm-up."""
        n_steps = self.hparams.n_steps
        schedule = WarmupCosineSchedule(
            self.hparams.lr,
            warmup_steps=min(100, n_steps - 1),
            total_steps=n_steps,
            final_lr_scale=0.03,
        )
        return {next(iter(self.optimizers_dict)): schedule}

    def random_seed(self, epoch, step):
        """Choose one seed per epoch, which sets its segments and noise."""
        if step:
            return None
        place = np.random.SeedSequence([self.hparams.seed, epoch])
        return int(place.generate_state(1)[0])

    def fit_batch(self, batch):
        """Train on one batch."""
        return super().fit_batch(self.on_device(batch))

    def evaluate_batch(self, batch, stage):
        """Validate on one batch."""
        return super().evaluate_batch(self.on_device(batch), stage)

    def on_device(self, batch):
        """Move a batch to the device of the modules."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def compute_objectives(self, predictions, batch, stage):
        """Return the loss; update the running mean of each named loss."""
        losses = self.compute_losses(predictions, batch, stage)
        self.accumulate_stats(
            {name: (value.detach(), 1) for name, value in losses.items()}
        )
        return losses["loss"]


def start():
    """Open a training's output folder, as the command line says.

    Returns its hyperparameters, run options and pretraining corpus.
    """
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    folder = hparams["output_folder"]
    sb.create_experiment_directory(folder, hparams_file, overrides)
    if if_main_process():  # SpeechBrain copies this file, not the recipe's
        shutil.copy(sys.argv[0], folder)
    return hparams, run_opts, PretrainingCorpus(hparams["data_folder"])


def draw_segments(kind, corpus, hparams, n_frames, n_valid=None):
    """Return the training and validation segments of a corpus.

    ``kind`` is a subclass of ``RandomSegments``. Validation takes ``n_valid``
    segments, four batches by default.
    """
    batch_size = hparams["batch_size"]
    n_train = hparams["steps_per_epoch"] * batch_size
    n_valid = n_valid or 4 * batch_size
    return (
        kind(corpus, corpus.train, n_train, n_frames),
        kind(corpus, corpus.valid, n_valid, n_frames, fixed=True),
    )


def fit(brain_class, hparams, run_opts, train, valid, **loader_kwargs):
    """Train on one data set and validate on another, or resume a training.

    ``train_loader_kwargs`` and ``valid_loader_kwargs`` default to batches of
    ``batch_size``.
    """
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={**run_opts, "max_grad_norm": hparams["max_grad_norm"]},
        checkpointer=hparams["checkpointer"],
    )
    batches = {"batch_size": hparams["batch_size"]}
    brain.fit(
        hparams["epoch_counter"],
        train,
        valid,
        **{
            "train_loader_kwargs": batches,
            "valid_loader_kwargs": batches,
            **loader_kwargs,
        },
    )


def save_weights(state, path):
    """Write tensors as float16 safetensors, whole or not at all."""
    weights = {
        name: (value.detach().half() if value.is_floating_point() else value)
        for name, value in state.items()
    }
    with atomic_path(path) as temporary:
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            str(temporary),
        )
    logger.info("Saved %s", path)
