"""The few collective operations that training needs; with one process each is what it would be
anyway."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkit.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first one evaluates alone."""


def launched() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started: tensors on GPUs by NCCL, those on CPUs and objects
    by gloo.

    A single process, or one that the caller has joined to others already, is only told which GPU is
    its own.
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
    """Number that torchrun gave to this process, known before and after there is a process
    group."""
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
    # A batch of boxes leaves mask heads without a gradient, and the reverse: unused parameters are
    # normal here.
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)


def gather(values: list[T]) -> list[T]:
    """The lists of all processes, joined in rank order, on every process."""
    if world_size() == 1:
        return values
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, values)
    return [value for of_one in found for value in of_one]


def broadcast_object(value: T) -> T:
    """The first process's value on every process."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def broadcast_tensor(tensor: torch.Tensor) -> None:
    """Give `tensor` the values that it has in the first process."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def is_shared() -> bool:
    """Whether several processes share a batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def joint(count: Tensor) -> Tensor:
    """Mean of a count, or of several in one tensor, over the processes of a training; itself where
    there is one.

    Gradients are averaged over processes: a sum divided by this mean becomes the joint batch's sum
    over the joint count, whereas means of means would weigh a target by how few others its process
    has. Never 0.

    Every process must call it, in the same order.
    """
    if is_shared():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1e-6)


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` and `cuda` take this process's GPU, `auto` the CPU where there
    is none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        device = (
            torch.device("cuda", local_rank()) if name in ("auto", "cuda") else torch.device(name)
        )
    except RuntimeError:
        raise InputError(
            f"unknown device {name!r}", record="--device", hint="give auto, cpu, cuda or cuda:N"
        ) from None
    if (
        device.type != "cuda"
        or not torch.cuda.is_available()
        or (device.index or 0) >= torch.cuda.device_count()
    ):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise InputError(
            f"no device {name!r} here ({found} GPUs)", record="--device", hint="give auto or cpu"
        )
    return device


_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a forward pass computes in fp32, bf16 or fp16; weights stay as they
    are."""
    dtype = _TYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
