"""FSDP2: each process holds its share of every weight, and so of its gradient, moments and
average."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from segkit import distributed
from segkit.errors import InputError


def shard(module: nn.Module, device: torch.device) -> None:
    """Share the weights of `module`, in place, among all processes, which must hold the same ones.

    Blocks (`blocks_of`) are gathered one at a time, forward and backward; what lies outside of them
    is gathered once a step. Gradients are means over processes. Parameters become DTensors: an
    optimizer is to be built afterwards.

    Every process must call the same blocks in the same order, and give the same parameters a
    gradient.

    Raises:
        InputError: this torch cannot average gradients over CPUs.
    """
    if device.type == "cpu":
        _require_means()
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for block in blocks_of(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network that repeat, in order: outermost members of its lists that are made of
    layers themselves.

    Blocks of backbones and layers of decoders are; a single convolution in a stem is not, nor is a
    list in a list.
    """
    for child in module.children():
        if not isinstance(module, nn.Sequential | nn.ModuleList) or isinstance(
            child, nn.Sequential | nn.ModuleList
        ):
            yield from blocks_of(child)
        elif any(True for _ in child.children()) and any(True for _ in child.parameters()):
            yield child


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a sharded module in whole tensors on the CPU, in the first process; empty in the
    others.

    One tensor at a time is gathered. Every process must call it.
    """
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if distributed.rank() == 0:
            state[name] = whole.detach().to("cpu", copy=True)
    return state


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, or one of pending sums (a norm), in one piece; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _require_means() -> None:
    """Refuse a torch whose FSDP fails on CPUs (2.6 has no streams there) or sums gradients in
    silence.

    Gloo has no mean; releases differ in who divides (pytorch issue 162338), so one gradient is
    looked at.
    """
    probe = nn.Linear(1, 1, bias=False)
    fully_shard(probe, mesh=init_device_mesh("cpu", (distributed.world_size(),)))
    try:
        probe(torch.ones(1, 1)).sum().backward()
        gradient = float(whole(cast(Tensor, probe.weight.grad)))
    except AttributeError:
        gradient = float("nan")
    if gradient != 1.0:
        message = f"torch {torch.__version__} cannot average the gradients of FSDP over CPUs"
        raise InputError(
            message, record="training.parallel", hint="set it to ddp, or install a newer torch"
        )
