"""Runs a script until a call is made the n-th time; then SIGKILL strikes.

> python killed_run.py {step,save,write_json} N SCRIPT HPARAMS FLAGS...
"""

import itertools
import os
import signal
import sys
from unittest import mock

from speechbrain_emofilm.utils import files

import torch
from tiny_world import run_script

CALLS = {
    "step": (torch.optim.AdamW, "step"),
    "save": (torch, "save"),
    "write_json": (files, "write_json"),
}


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
    call, n, script, hparams_file, *flags = sys.argv[1:]
    owner, name = CALLS[call]
    dying = die_at(getattr(owner, name), int(n))
    with mock.patch.object(owner, name, dying):
        run_script(script, flags, hparams_file)
