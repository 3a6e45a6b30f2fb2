"""AdamW with its parameter groups and schedule, its state by parameter name, and the EMA."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segkit.errors import InputError
from segkit.model.text_classifier import TextClassifier
from segkit.recipes.schema import OptimizerConfig

_NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.batchnorm._NormBase,
    nn.modules.normalization.RMSNorm,
)
POLY_POWER = 0.9


def freeze_backbone(model: nn.Module, config: OptimizerConfig) -> None:
    """Compute no gradients of a backbone whose learning rate is 0; batch statistics still follow.

    The names of a module's `added_parameters()` are trained: layers beside the pretrained ones,
    which start at zero or at random. The norm to which gradients are clipped is then that of the
    trained parameters.
    """
    if config.backbone_lr_factor == 0:
        added = set(_declared(model, "added_parameters"))
        for name, parameter in model.named_parameters():
            if name.startswith("backbone.") and name not in added:
                parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    """Put every trainable parameter of `model` into exactly one AdamW group.

    Groups differ in three respects: inside the backbone or outside, the depth there (by
    `layer_depths()` of a backbone whose layers form a sequence), and with or without weight decay.
    Weight decay is for matrices and kernels, which torch and timm name `weight`. Norms, biases and
    other vectors, embeddings, tables of positions and whatever else has another name have none, nor
    have the names of a module's `no_weight_decay()` (timm's convention).

    What `freeze_backbone` leaves trainable in a backbone learns as the parameters outside.

    Returns:
        Groups with `params`, `weight_decay` and `lr_factor`; the learning rate of a group is the
        schedule's times `lr_factor`.

    Raises:
        InputError: `backbone_layer_decay` for a backbone without `layer_depths()`.
    """
    undecayed, depths = set(_undecayed_names(model)), dict(_depths(model))
    if config.backbone_layer_decay < 1 and not depths:
        message = "optimizer.backbone_layer_decay needs a backbone whose layers form a sequence"
        raise InputError(message, hint="choose a vitdet: backbone, or leave it at 1")
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_backbone = name.startswith("backbone.") and config.backbone_lr_factor > 0
            key = in_backbone, depths.get(name, 0), name not in undecayed
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
    """Name and depth of each parameter of modules with `layer_depths()`."""
    for prefix, module in model.named_modules():
        if callable(getattr(module, "layer_depths", None)):
            for name, depth in module.layer_depths().items():
                yield f"{prefix}.{name}" if prefix else name, depth


def _declared(model: nn.Module, method: str) -> Iterator[str]:
    """The parameters that modules name in a method, by their names in the model."""
    for prefix, module in model.named_modules():
        if callable(getattr(module, method, None)):
            names: Iterable[str] = getattr(module, method)()
            yield from (f"{prefix}.{name}" if prefix else name for name in names)


def _undecayed_names(model: nn.Module) -> Iterator[str]:
    yield from _declared(model, "no_weight_decay")
    for prefix, module in model.named_modules():
        is_undecayed = isinstance(module, (*_NORMS, nn.Embedding))
        for name, parameter in module.named_parameters(recurse=False):
            if is_undecayed or parameter.ndim <= 1 or "weight" not in name:
                yield f"{prefix}.{name}" if prefix else name


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, which clips the class scales after each step.

    Fused, it takes a fifth of the time of a loop over tensors on a CPU.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, fused=True)
    modules = (module for module in model.modules() if isinstance(module, TextClassifier))
    log_scales = [module.log_scale for module in modules]

    @torch.no_grad()
    def clip_class_scales(*_: object) -> None:
        for log_scale in log_scales:
            log_scale.clamp_(max=TextClassifier.MAX_LOG_SCALE)

    optimizer.register_step_post_hook(clip_class_scales)
    return optimizer


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step `step` (0-based) over the peak learning rate, 0-1.

    It rises linearly over the warm-up (from above 0), then falls towards 0 at `steps`.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return float((1.0 - progress) ** POLY_POWER)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class ModelEma(AveragedModel):
    """Exponential moving average of the weights; buffers (batch statistics) are copied.

    The number of updates stays on the CPU: `AveragedModel` would copy it to the device and read it
    from there, for which the host waits in every step.

    Args:
        model: to be averaged.
        decay: reached as (1 + n) / (10 + n), so that a short run soon forgets its random initial
            weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the weights of the model; the first ones become the average."""
        n = int(self.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        averages: list[Tensor] = [*self.module.parameters()]
        weights: list[Tensor] = [*model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


# torch numbers the parameters of an optimizer's state by their place in its groups: such a state
# would not survive a change of the groups. Checkpoints hold it by parameter name instead.


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer state by parameter name and entry, such as `head.weight/exp_avg`.

    Parameters that never had a gradient have none.
    """
    return {
        f"{name}/{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def empty_state(model: nn.Module, sizes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors into which a state of these sizes can be read, sharded as their parameters are.

    Names that are not trainable parameters of `model` are left out.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    state = {}
    for key, size in sizes.items():
        name = key.rpartition("/")[0]
        if name in parameters:
            parameter = parameters[name].detach()
            state[key] = torch.zeros_like(parameter) if size else torch.zeros(())
    return state


def load_named_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Make `state`, as `named_state` returns it, the state of `optimizer`."""
    groups = optimizer.state_dict()["param_groups"]
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {id(parameter): number for number, parameter in enumerate(ordered)}
    parameters = dict(model.named_parameters())
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, entry = key.rpartition("/")
        numbered.setdefault(numbers[id(parameters[name])], {})[entry] = value
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})
