"""AdamW with a rate and a decay for each kind of parameter, its schedule, and the averaged
weights."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segkit.errors import InputError
from segkit.recipes.schema import OptimizerConfig

_NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.batchnorm._NormBase,
    nn.modules.normalization.RMSNorm,
)
POLY_POWER = 0.9
Tensors = tuple[Tensor, ...] | list[Tensor]


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    """Every trainable parameter of `model` in exactly one AdamW group.

    A group holds what is in the backbone or not, lies as deep there (`layer_depths()` of a backbone
    that has layers in a row), and is decayed or not. Not decayed are norms, biases and other
    vectors, embeddings, and what a module names in `no_weight_decay()` (timm's habit).

    Returns:
        Groups with `params`, `weight_decay` and `lr_factor`; the rate of a group is the schedule's
        times `lr_factor`.

    Raises:
        InputError: `backbone_layer_decay` for a backbone that does not tell its depths.
    """
    spared, depths = set(_undecayed_names(model)), dict(_depths(model))
    if config.backbone_layer_decay < 1 and not depths:
        message = "optimizer.backbone_layer_decay is for backbones whose layers stand in a row"
        raise InputError(message, hint="choose a vitdet: backbone, or leave it at 1")
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = name.startswith("backbone."), depths.get(name, 0), name not in spared
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_factor": config.backbone_lr_factor * config.backbone_layer_decay**depth
            if in_backbone
            else 1.0,
        }
        for (in_backbone, depth, decayed), parameters in sorted(
            groups.items(), key=lambda item: item[0]
        )
    ]


def _depths(model: nn.Module) -> Iterator[tuple[str, int]]:
    for prefix, module in model.named_modules():
        told = module.layer_depths() if callable(getattr(module, "layer_depths", None)) else {}
        yield from ((f"{prefix}.{name}" if prefix else name, depth) for name, depth in told.items())


def _undecayed_names(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        declared = (
            module.no_weight_decay() if callable(getattr(module, "no_weight_decay", None)) else ()
        )
        yield from (f"{prefix}.{name}" if prefix else name for name in declared)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim <= 1 or isinstance(module, (*_NORMS, nn.Embedding)):
                yield f"{prefix}.{name}" if prefix else name


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; fused where the parameters lie on a GPU."""
    on_gpu = all(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, fused=on_gpu or None)


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step `step` (0-based) over the peak rate, 0-1.

    Rises linearly over the warm-up (its first step is not at 0), then falls towards 0 at `steps`.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return float((1.0 - progress) ** POLY_POWER)


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own factor; the rate is a function of the step alone, so
    nothing is resumed."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; buffers (batch statistics) are copied.

    The decay rises as (1 + n) / (10 + n) to `decay`, so that a short run is not held back by its
    random start.
    """

    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, updates)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=update)
