"""The processes that torchrun started, by its environment variables; imports no PyTorch.

Without torchrun there is one process, of rank 0. Commands refuse wrong usage by these functions
before PyTorch is imported; `distributed` has the ranks of the process group that is joined later.
torchrun sets numbers: a variable that is not one raises ValueError.
"""

import os


def rank() -> int:
    """Rank of this process among those of all machines."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Index of this process on its machine, and of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the first of all.

    It prints and writes; the others leave that to it.
    """
    return rank() == 0


def is_distributed() -> bool:
    """Whether torchrun started this process as one of several."""
    return world_size() > 1
