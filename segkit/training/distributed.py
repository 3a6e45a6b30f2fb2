"""The few collective operations that training needs; with one process each is what it would be anyway."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first one evaluates alone."""


def launched() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started: tensors on GPUs by NCCL, those on CPUs and objects by gloo.

    A single process, or one that the caller has joined to others already, is only told which GPU is its own.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # else events, pinned memory and NCCL would use the first one
    if not launched() or dist.is_initialized():
        yield
        return
    # gloo beside NCCL: objects are exchanged in every step, by NCCL each would wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_rank() -> int:
    """Number that torchrun gave to this process, known before and after there is a process group."""
    return int(os.environ.get("RANK", "0"))


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with gradients averaged over processes; itself where there is only one."""
    if world_size() == 1:
        return module
    # A batch of boxes leaves mask heads without a gradient, and the reverse: unused parameters are normal here.
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)


def gather(values: list[T]) -> list[T]:
    """The lists of all processes, joined in rank order, on every process."""
    if world_size() == 1:
        return values
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, values)
    return [value for of_one in found for value in of_one]


def from_first(value: T) -> T:
    """The first process's value on every process."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def copy_from_first(tensor: torch.Tensor) -> None:
    """Give `tensor` the values that it has in the first process."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()
