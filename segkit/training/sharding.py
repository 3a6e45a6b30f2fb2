"""FSDP2: each process holds a shard of each weight, gradient, optimizer state and EMA."""

import warnings
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from segkit import distributed
from segkit.errors import InputError


def shard(module: nn.Module, device: torch.device) -> None:
    """Shard the weights of `module` in place over all processes, which must hold equal weights.

    Blocks (`blocks_of`) are gathered one at a time, forward and backward; weights outside of blocks
    are gathered once a step. Gradients are means over processes. Parameters become DTensors, so
    build the optimizer afterwards.

    Every process must run the same blocks in the same order, and give the same parameters a
    gradient. Weights on another device move to `device` a block at a time, so that it never holds a
    whole module.

    Raises:
        InputError: this torch cannot average gradients over CPUs.
    """
    if device.type == "cpu":
        _require_mean_gradients()
    # some outputs are views; no code changes an output in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for block in blocks_of(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has sharded a module."""
    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Free the gathered weights that a forward pass without a backward pass leaves in a module."""
    assert isinstance(module, FSDPModule)
    module.reshard()


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a network, in order: composite members of its outermost module lists.

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
    """The state of a sharded module in full tensors on the CPU of rank 0; empty on other ranks.

    One tensor at a time is gathered. Every process must call it.
    """
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        tensor = distributed.full_tensor(value)
        if distributed.rank() == 0:
            state[name] = tensor.detach().to("cpu", copy=True)
    return state


def _require_mean_gradients() -> None:
    """Refuse a torch whose FSDP fails on CPUs (2.6 has no streams there) or sums gradients.

    Gloo has no mean, and releases differ in who divides (pytorch issue 162338), so one gradient is
    checked.
    """
    probe = nn.Linear(1, 1, bias=False)
    fully_shard(probe, mesh=init_device_mesh("cpu", (distributed.world_size(),)))
    try:
        probe(torch.ones(1, 1)).sum().backward()
        gradient = float(distributed.full_tensor(cast(Tensor, probe.weight.grad)))
    except AttributeError:
        gradient = float("nan")
    if gradient != 1.0:
        message = f"torch {torch.__version__} cannot average the gradients of FSDP over CPUs"
        raise InputError(
            message, record="training.parallel", hint="set it to ddp, or install a newer torch"
        )
