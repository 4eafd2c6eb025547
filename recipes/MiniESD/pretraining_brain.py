"""The Brain that the recipes of the mini backbone share."""

import functools
import logging

from speechbrain_emofilm.core import ResumableBrain
from speechbrain_emofilm.utils.files import atomic_path
from speechbrain_emofilm.utils.schedulers import WarmupCosineSchedule

import numpy as np
from safetensors.torch import save_file

logger = logging.getLogger(__name__)


class PretrainingBrain(ResumableBrain):
    """Trains for a fixed number of steps; an epoch is a span of steps.

    A recipe implements ``compute_forward`` and ``compute_losses``, the latter
    returning a dictionary of scalars whose ``loss`` is minimised. Batches are
    dictionaries of tensors.
    """

    @functools.cached_property
    def lr_schedules(self):
        """The schedule of the first optimizer: 100 steps of warm-up."""
        n_steps = self.hparams.n_steps
        schedule = WarmupCosineSchedule(
            self.hparams.lr,
            warmup_steps=min(100, n_steps - 1),
            total_steps=n_steps,
            final_lr_scale=0.03,
        )
        return {next(iter(self.optimizers_dict)): schedule}

    def random_seed(self, epoch, step):
        """Choose one seed for each epoch: its segments and noise follow.

        Arguments
        ---------
        epoch : int
            The epoch, from 1.
        step : int
            The batch, from 1; 0 at the start of the epoch.
        """
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
        """Move a batch to where the modules are."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def compute_objectives(self, predictions, batch, stage):
        """Keep running means of every named loss."""
        losses = self.compute_losses(predictions, batch, stage)
        self.accumulate_stats(
            {name: (value.detach(), 1) for name, value in losses.items()}
        )
        return losses["loss"]


def fit(brain_class, hparams, run_opts, train, valid):
    """Train, or go on with a training, as the hyperparameters say.

    Arguments
    ---------
    brain_class : type
        The recipe's ``PretrainingBrain``.
    hparams : dict
        Of the recipe.
    run_opts : dict
        From the command line.
    train, valid : torch.utils.data.Dataset
        Items to train on and to validate on, in batches of ``batch_size``.
    """
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={**run_opts, "max_grad_norm": hparams["max_grad_norm"]},
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        train,
        valid,
        train_loader_kwargs={"batch_size": hparams["batch_size"]},
        valid_loader_kwargs={"batch_size": hparams["batch_size"]},
    )


def save_weights(state, path):
    """Write tensors as float16 safetensors, whole or not at all.

    Arguments
    ---------
    state : dict
        Name to tensor.
    path : str or Path
    """
    with atomic_path(path) as temporary:
        save_file(
            {
                name: (
                    value.detach().half()
                    if value.is_floating_point()
                    else value
                ).contiguous()
                for name, value in state.items()
            },
            str(temporary),
        )
    logger.info("Saved %s", path)
