"""The forward passes of a model during a command, recorded and run again by themselves.

The time of a command against that of its forward passes is what the rest of the command costs:
reading images, crops, post-processing and writing (bench_inference.py, cuda_speed.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from segkit.distributed import autocast
from segkit.runs.run import Run

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a forward pass."""


def record_inputs(model: nn.Module, work: Callable[[], object]) -> list[Inputs]:
    """The arguments of every forward pass during a call, on the model's device."""
    inputs: list[Inputs] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((args, kwargs))

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    work()
    hook.remove()
    return inputs


@torch.no_grad()
def replay(run: Run, inputs: list[Inputs]) -> None:
    """Run the forward passes by themselves, in the precision of the run's inference.

    Args:
        run: whose model the arguments were recorded from.
        inputs: from `record_inputs`.
    """
    with autocast(run.recipe.inference.precision, run.device):
        for args, kwargs in inputs:
            run.model(*args, **kwargs)
