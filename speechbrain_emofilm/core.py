"""Brain of all recipes, whose training resumes exactly."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from speechbrain_emofilm.utils.checkpoints import export_trained_model

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


class ResumableBrain(sb.Brain):
    """SpeechBrain Brain whose interrupted training resumes exactly.

    A resumed training ends with the same parameters as an uninterrupted one:
    random numbers, order of the data and learning rates depend only on the
    epoch and step, and checkpoints are saved between updates.

    A recipe implements ``compute_forward`` and ``compute_objectives``, which
    calls :meth:`accumulate_stats` for the logged statistics. Its hparams hold
    ``seed``, ``epoch_counter``, ``train_logger`` and, optionally,
    ``lr_schedules`` (by name of the optimizer) and ``use_tensorboard`` with
    ``tensorboard_logger`` and ``tensorboard_folder``. Train on a dataset, not
    on a ready-made loader.

    Arguments
    ---------
    *args, **kwargs
        Arguments of :class:`speechbrain.Brain`.

    Example
    -------
    >>> class Regression(ResumableBrain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.linear(batch)
    ...
    ...     def compute_objectives(self, predictions, batch, stage):
    ...         return predictions.square().mean()
    >>> from speechbrain.utils.epoch_loop import EpochCounter
    >>> counter = EpochCounter(2)
    >>> brain = Regression(
    ...     {"linear": torch.nn.Linear(1, 1)},
    ...     torch.optim.SGD,
    ...     {"seed": 1, "epoch_counter": counter},
    ...     {"noprogressbar": True, "grad_accumulation_factor": 2},
    ... )
    >>> brain.fit(counter, [torch.ones(1)] * 3)
    >>> brain.optimizer_step  # in each epoch, after two batches and after one
    4
    """

    #: Validation statistic whose smallest value marks the checkpoint to keep;
    #: None keeps the newest one.
    best_key: str | None = None
    _tensorboard = None

    # --- Place in the training ---------------------------------------------

    def random_seed(self, epoch: int, step: int) -> int | None:
        """Choose the seed of the random numbers of a batch.

        Arguments
        ---------
        epoch : int
            Epoch, from 1.
        step : int
            Batch, from 1; 0 at the start of the epoch.

        Returns
        -------
        int or None
            By default a seed for each batch of each process; None does not
            seed.
        """
        if step == 0:
            return None
        rank = torch.distributed.get_rank() if self.distributed_launch else 0
        place = np.random.SeedSequence([self.hparams.seed, epoch, step, rank])
        return int(place.generate_state(1, np.uint64)[0])

    def _seed(self, epoch: int, step: int) -> None:
        seed = self.random_seed(epoch, step)
        if seed is not None:
            torch.manual_seed(seed)

    @property
    def lr_schedules(self) -> dict:
        """Learning-rate schedules by name of the optimizer.

        A schedule is called with the optimizer and the number of updates.
        """
        return getattr(self.hparams, "lr_schedules", {})

    def on_fit_start(self):
        """Resume the training; end it at once if it was complete."""
        if getattr(self.hparams, "use_tensorboard", False):
            self._open_tensorboard()
        super().on_fit_start()
        between_epochs = self.step == 0
        if self._optimizer_step_limit_exceeded and between_epochs:
            counter = self.hparams.epoch_counter
            counter.limit = counter.current

    def on_fit_batch_start(self, batch, should_step):
        """Set the random numbers and the learning rates of this batch."""
        self._seed(self.hparams.epoch_counter.current, self.step)
        for name, optimizer in self.optimizers_dict.items():
            if name in self.lr_schedules:
                self.lr_schedules[name](optimizer, self.optimizer_step)

    def make_dataloader(
        self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs
    ):
        """Make a loader whose order depends only on the epoch.

        Arguments as in :meth:`speechbrain.Brain.make_dataloader`.
        """
        loader = super().make_dataloader(
            dataset, stage, ckpt_prefix, **loader_kwargs
        )
        if stage == sb.Stage.TRAIN:
            self.n_batches = len(loader)
            # SpeechBrain tells the epoch only to its own samplers; without
            # it, a batch sampler's order depends on previous epochs.
            if self.train_sampler is None:
                self.train_sampler = loader_kwargs.get("batch_sampler")
        return loader

    # --- Updates ------------------------------------------------------------

    def fit_batch(self, batch):
        """Accumulate gradients and, at the end of a group, update.

        SpeechBrain drops the last batches of an epoch if they do not fill a
        group of `grad_accumulation_factor`; here they form a smaller group.
        Returns the loss, 0-d and detached.
        """
        factor = self.grad_accumulation_factor
        n_last = self.n_batches % factor
        in_last = self.step > self.n_batches - n_last
        self.at_update = self.step % factor == 0 or self.step == self.n_batches
        self.on_fit_batch_start(batch, self.at_update)
        with self.no_sync(not self.at_update):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.check_loss_isfinite(loss)
            group_size = n_last if in_last else factor
            self.scaler.scale(loss / group_size).backward()
        if self.at_update:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, self.at_update)
        return loss.detach().cpu()

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Save between updates only: accumulated gradients are not saved."""
        return self.at_update and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def share_of_all_processes(
        self, counts: torch.Tensor, stage: sb.Stage
    ) -> torch.Tensor:
        """Compute weights that make the mean of all processes a true mean.

        DistributedDataParallel averages gradients over processes, but their
        batches hold different numbers of items.

        Arguments
        ---------
        counts : torch.Tensor
            Numbers of items (N,) that this process's N losses average.
        stage : sb.Stage
            Stage of the experiment.

        Returns
        -------
        torch.Tensor
            Factors (N,) of the losses; 1 unless processes train together.
        """
        if stage != sb.Stage.TRAIN or not self.distributed_launch:
            return torch.ones_like(counts)
        totals = counts.float()
        torch.distributed.all_reduce(totals)
        world_size = torch.distributed.get_world_size()
        return world_size * counts / totals.clamp(min=1)

    # --- Statistics ---------------------------------------------------------

    def accumulate_stats(self, stats: dict[str, tuple[Any, Any]]) -> None:
        """Add a batch to the running means of the stage.

        Arguments
        ---------
        stats : dict
            Name to the batch's mean and the number of items it averages.
        """
        for name, (mean, count) in stats.items():
            self.sums[name] += float(mean) * float(count)
            self.counts[name] += float(count)

    def on_stage_start(self, stage, epoch=None):
        """Reset the statistics, and seed the epoch (from 1) in training."""
        self.sums, self.counts = Counter(), Counter()
        if stage == sb.Stage.TRAIN:
            self._seed(epoch, 0)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the statistics; after validation also save a checkpoint."""
        stats = {"loss": stage_loss}
        for name, total in self.sums.items():
            stats[name] = total / max(self.counts[name], 1)
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
        elif stage == sb.Stage.TEST:
            self.hparams.train_logger.log_stats(
                {"Epoch loaded": self.hparams.epoch_counter.current},
                test_stats=stats,
            )
        else:
            self.log_epoch(epoch, stats)
            self.on_validated(epoch, stats)
            keys = [self.best_key] if self.best_key else []
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, **{key: stats[key] for key in keys}},
                min_keys=keys,
            )

    def on_validated(self, epoch: int, stats: dict[str, float]) -> None:
        """Run a recipe's work between validation and checkpoint.

        Arguments
        ---------
        epoch : int
            Epoch, from 1.
        stats : dict
            Statistics of the validation; entries may be added.
        """

    def log_epoch(self, epoch: int, valid_stats: dict[str, float]) -> None:
        """Write the statistics of an epoch (from 1) to log and TensorBoard."""
        rates = {
            f"lr_{name}" if len(self.optimizers_dict) > 1 else "lr": (
                optimizer.param_groups[0]["lr"]
            )
            for name, optimizer in self.optimizers_dict.items()
        }
        stats = {
            "stats_meta": {
                "epoch": epoch,
                "step": self.optimizer_step,
                **rates,
            },
            "train_stats": self.train_stats,
            "valid_stats": valid_stats,
        }
        self.hparams.train_logger.log_stats(**stats)
        if self._tensorboard is not None:
            # A resumed run continues the curves where they ended.
            self._tensorboard.global_step = {
                "train": dict.fromkeys(self.train_stats, epoch - 1),
                "valid": dict.fromkeys(valid_stats, epoch - 1),
                "test": {},
                "meta": epoch - 1,
            }
            self._tensorboard.log_stats(**stats)

    def _open_tensorboard(self) -> None:
        if not if_main_process():
            return
        try:
            self._tensorboard = self.hparams.tensorboard_logger(
                self.hparams.tensorboard_folder
            )
        except ImportError as error:
            logger.warning(
                f"No curves are written for TensorBoard ({error}): install "
                "the package tensorboard, or set use_tensorboard to False."
            )


def train_and_export(
    brain: ResumableBrain,
    datasets: Mapping[str, Any],
    loader_options: Mapping[str, Mapping[str, Any]],
    **export: Any,
) -> None:
    """Train a Brain, test its best checkpoint, and export it for inference.

    Arguments
    ---------
    brain : ResumableBrain
        A Brain with a ``checkpointer`` and a ``best_key``.
    datasets : dict
        The datasets "train", "valid" and "test".
    loader_options : dict
        Options of the data loader of each dataset.
    **export : dict
        Further arguments of
        :func:`speechbrain_emofilm.utils.checkpoints.export_trained_model`.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> from speechbrain.utils.checkpoints import Checkpointer
    >>> class Regression(ResumableBrain):
    ...     best_key = "loss"
    ...
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.linear(batch)
    ...
    ...     def compute_objectives(self, predictions, batch, stage):
    ...         return predictions.square().mean()
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "train.yaml").write_text("model: {size: 1}")
    >>> counter = sb.utils.epoch_loop.EpochCounter(1)
    >>> linear = torch.nn.Linear(1, 1)
    >>> logger = SimpleNamespace(log_stats=lambda *args, **kwargs: None)
    >>> brain = Regression(
    ...     {"linear": linear},
    ...     torch.optim.SGD,
    ...     {"seed": 1, "epoch_counter": counter, "train_logger": logger},
    ...     {"noprogressbar": True},
    ...     Checkpointer(folder / "save", {"linear": linear}),
    ... )
    >>> data = dict.fromkeys(("train", "valid", "test"), [torch.ones(1)])
    >>> train_and_export(
    ...     brain, data, dict.fromkeys(data, {}), names=["linear"],
    ...     folder=folder, hparams_file=folder / "train.yaml", overrides="",
    ...     part="model",
    ... )
    >>> (folder / "linear.ckpt").is_file(), (folder / "model.yaml").is_file()
    (True, True)
    """
    brain.fit(
        brain.hparams.epoch_counter,
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=loader_options["train"],
        valid_loader_kwargs=loader_options["valid"],
    )
    brain.evaluate(
        datasets["test"],
        min_key=brain.best_key,
        test_loader_kwargs=dict(loader_options["test"]),
    )
    run_on_main(
        export_trained_model,
        kwargs={
            "checkpointer": brain.checkpointer,
            "min_key": brain.best_key,
            **export,
        },
    )
