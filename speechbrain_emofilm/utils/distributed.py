"""Distributed helpers that SpeechBrain lacks."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from speechbrain.utils.distributed import (
    infer_device,
    is_distributed_initialized,
)


def ddp_leave_group() -> None:
    """Leave the group of processes, if there is one.

    Call it at the end of a script: the group's threads may otherwise abort an
    ending process.

    Example
    -------
    >>> ddp_leave_group()
    >>> is_distributed_initialized()
    False
    """
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()


def process_device(run_opts: Mapping[str, Any]) -> str:
    """Choose the device of this process; with torchrun, each has its own GPU.

    Arguments
    ---------
    run_opts : dict
        Options from ``speechbrain.parse_arguments``; without `device`, the
        best available device is chosen.

    Example
    -------
    >>> process_device({"device": "cpu"})
    'cpu'
    """
    device = run_opts.get("device") or infer_device()
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and device.startswith("cuda"):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device
