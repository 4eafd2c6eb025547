"""Learning rate schedules."""

import math

import torch


class WarmupCosineSchedule:
    """Linear warm-up, then half a cosine down to a share of the peak.

    The learning rate is a function of the number of updates alone, so a
    resumed training needs no state of the schedule.

    Arguments
    ---------
    lr : float
        Peak learning rate, reached after the warm-up.
    warmup_steps : int
        Updates over which the rate rises linearly from 0.
    total_steps : int
        Updates after which the cosine has ended; the rate stays there.
    final_lr_scale : float
        Last learning rate, as a share of the peak.

    Raises
    ------
    ValueError
        If the warm-up is not shorter than the training.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.AdamW([weight], lr=1.0)
    >>> schedule = WarmupCosineSchedule(1.0, warmup_steps=2, total_steps=6)
    >>> [round(schedule(optimizer, n), 3) for n in (0, 1, 2, 4, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        lr: float,
        warmup_steps: int,
        total_steps: int,
        final_lr_scale: float = 0.0,
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"A warm-up of {warmup_steps} steps does not fit in "
                f"{total_steps} steps of training: set warmup_steps below "
                "total_steps."
            )
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final_lr_scale = final_lr_scale

    def __call__(self, optimizer: torch.optim.Optimizer, n_updates: int):
        """Set, and return, the learning rate of the next update.

        Arguments
        ---------
        optimizer : torch.optim.Optimizer
            Optimizer; all its parameter groups get the same rate.
        n_updates : int
            Number of updates so far.
        """
        if n_updates < self.warmup_steps:
            scale = (n_updates + 1) / self.warmup_steps
        else:
            decay_steps = self.total_steps - self.warmup_steps
            progress = (n_updates - self.warmup_steps) / decay_steps
            cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
            scale = self.final_lr_scale + (1 - self.final_lr_scale) * cosine
        # Not `update_learning_rate`, which logs every change.
        for group in optimizer.param_groups:
            group["lr"] = self.lr * scale
        return self.lr * scale
