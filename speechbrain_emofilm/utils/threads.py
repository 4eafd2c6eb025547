"""Number of CPU threads for a model's size.

Decoding computes one token after another: of a small model, each step is so
short that threads wait for each other longer than they work, and as soon as
another program needs a core, every step waits for the thread that lost it.
"""

import contextlib
import os
from collections.abc import Iterator

import torch

#: Parameters of a language model that are worth one more thread.
PARAMETERS_PER_THREAD = 25_000_000
#: Variables by which a user sets the number of threads.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def threads_for(n_parameters: int) -> int | None:
    """Choose the number of CPU threads for decoding with a language model.

    One thread for each 25 million parameters, at least one and at most the
    present number of ``torch.get_num_threads()``, by default that of the
    cores: the mini model decodes with one thread, CosyVoice2-0.5B with up to
    20.

    Arguments
    ---------
    n_parameters : int
        Number of parameters of the language model.

    Returns
    -------
    int or None
        Number of threads; None, for no change, if the user has set
        ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS``.

    Example
    -------
    >>> getfixture("monkeypatch").delenv("OMP_NUM_THREADS", raising=False)
    >>> threads_for(3_000_000)
    1
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return None
    wanted = max(1, n_parameters // PARAMETERS_PER_THREAD)
    return min(wanted, torch.get_num_threads())


@contextlib.contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Compute with a number of CPU threads, and restore the earlier number.

    Arguments
    ---------
    number : int, optional
        Number of threads of torch; None changes nothing.

    Example
    -------
    >>> before = torch.get_num_threads()
    >>> with cpu_threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
