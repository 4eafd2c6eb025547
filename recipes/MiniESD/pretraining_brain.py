"""What the recipes of the mini backbone share: one Brain, one schedule."""

import logging
import math

from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import speechbrain as sb
import torch
from safetensors.torch import save_file

logger = logging.getLogger(__name__)


def cosine_lr(step: int, n_steps: int, lr: float, warmup: int = 100) -> float:
    """Linear warm-up, then a half cosine down to 3 % of `lr`.

    Example
    -------
    >>> cosine_lr(99, 1000, 1.0), round(cosine_lr(1000, 1000, 1.0), 2)
    (1.0, 0.03)
    """
    done = max(0, step - warmup) / max(1, n_steps - warmup)
    decay = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return lr * min(1.0, (step + 1) / warmup) * decay


class PretrainingBrain(sb.Brain):
    """Trains for a fixed number of steps; an epoch is a span of steps.

    A recipe implements ``compute_forward`` and ``compute_losses``, the latter
    returning a dictionary of scalars whose ``loss`` is minimised. Batches are
    dictionaries of tensors. Started again after an interruption, training
    goes on from the last epoch and ends as if it had not been interrupted.
    """

    def fit_batch(self, batch):
        """One step, with its learning rate."""
        lr = cosine_lr(
            self.optimizer_step, self.hparams.n_steps, self.hparams.lr
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return super().fit_batch(self.on_device(batch))

    def evaluate_batch(self, batch, stage):
        """One validation batch."""
        return super().evaluate_batch(self.on_device(batch), stage)

    def on_device(self, batch):
        """The batch where the modules are."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def compute_objectives(self, predictions, batch, stage):
        """Keeps running means of every named loss."""
        losses = self.compute_losses(predictions, batch, stage)
        for name, value in losses.items():
            total, count = self.running.get(name, (0.0, 0))
            self.running[name] = (total + float(value.detach()), count + 1)
        return losses["loss"]

    def on_stage_start(self, stage, epoch=None):
        """New running means, and the random numbers of this epoch.

        They depend on nothing but the epoch, so that a resumed training
        draws the same segments and noise.
        """
        self.running = {}
        if stage == sb.Stage.TRAIN:
            place = np.random.SeedSequence([self.hparams.seed, epoch])
            torch.manual_seed(int(place.generate_state(1)[0]))

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, checkpoint."""
        means = {
            name: round(total / count, 4)
            for name, (total, count) in self.running.items()
        }
        if stage == sb.Stage.TRAIN:
            self.train_stats = means
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "step": self.optimizer_step},
            train_stats=self.train_stats,
            valid_stats=means,
        )
        if stage == sb.Stage.VALID:
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch}, num_to_keep=1
            )


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
