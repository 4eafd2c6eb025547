"""Runs train.py and writes this process's gradients and training loss.

> torchrun --nproc_per_node=2 ddp_run.py OUTPUT FLAGS...
"""

import os
import sys
from unittest import mock

import torch
from tiny_world import run_script


def train(output, flags):
    """Trains in this process, and writes what is asked for."""
    adamw_step = torch.optim.AdamW.step
    gradients = []

    def remember_and_step(optimizer, *args, **kwargs):
        """Keeps the gradients of every update."""
        for group in optimizer.param_groups:
            gradients.extend(p.grad.clone() for p in group["params"])
        return adamw_step(optimizer, *args, **kwargs)

    with mock.patch("torch.optim.AdamW.step", remember_and_step):
        variables = run_script("train.py", flags)
    loss = variables["brain"].train_stats["loss"]
    rank = os.environ.get("RANK", "0")
    result = {"gradients": gradients, "loss": torch.tensor(loss)}
    torch.save(result, f"{output}.{rank}")


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2:])
