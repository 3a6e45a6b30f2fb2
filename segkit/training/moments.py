"""The optimizer's state under the names of parameters, as checkpoints hold it.

torch numbers parameters by their place in the groups, so a state would not outlive another
grouping, and the numbers say nothing of shares.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`parameter/entry` -> tensor, such as `head.weight/exp_avg`; nothing of what has never had a
    gradient."""
    named = (
        (name, optimizer.state.get(parameter, {})) for name, parameter in model.named_parameters()
    )
    return {f"{name}/{entry}": value for name, state in named for entry, value in state.items()}


def blank_moments(model: nn.Module, sizes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors for a state of these sizes to be read into: as its parameter is laid out (its share
    of it), or a scalar.

    Names of no parameter of `model` are left out.
    """
    parameters = dict(model.named_parameters())
    split = {key: (key.rpartition("/")[0], size) for key, size in sizes.items()}
    return {
        key: torch.zeros_like(parameters[name].detach()) if size else torch.zeros(())
        for key, (name, size) in split.items()
        if name in parameters
    }


def restore_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, given: Mapping[str, Tensor]
) -> None:
    """Make `given` (see `moments`) the state of `optimizer`."""
    numbers = {
        id(p): n
        for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in given.items():
        name, _, entry = key.rpartition("/")
        state.setdefault(numbers[id(parameters[name])], {})[entry] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
