"""What several processes of one script need beside SpeechBrain's.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import torch
from speechbrain.utils.distributed import is_distributed_initialized


def ddp_leave_group() -> None:
    """Leaves the group of processes, if there is one.

    The last line of a script: the group's threads may otherwise abort a
    process that is ending.

    Example
    -------
    >>> ddp_leave_group()
    >>> is_distributed_initialized()
    False
    """
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()
