"""Runs train.py until a call is made the n-th time; then SIGKILL strikes.

> python killed_run.py {step,save} N FLAGS...

Authors
 * speechbrain-emofilm contributors, 2026
"""

import itertools
import os
import signal
import sys
from unittest import mock

import torch
from tiny_world import run_script

CALLS = {"step": "torch.optim.AdamW.step", "save": "torch.save"}


def die_at(function, n):
    """Makes the n-th call of a function the last thing that is done."""
    calls = itertools.count(1)

    def counted(*args, **kwargs):
        if next(calls) == n:
            if function is torch.save:  # half a file on the disk
                with open(args[1], "wb") as file:
                    file.write(b"PK")
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


if __name__ == "__main__":
    call, n, *flags = sys.argv[1:]
    functions = {"step": torch.optim.AdamW.step, "save": torch.save}
    with mock.patch(CALLS[call], die_at(functions[call], int(n))):
        run_script("train.py", flags)
