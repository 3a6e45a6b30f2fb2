"""One training forward pass: batch -> model -> weighted losses."""

import torch
from torch import Tensor

from segkit.criterion.box_prompts import (
    conditioned_losses,
    count_given,
    sample_box_prompts,
)
from segkit.criterion.set_criterion import PooledTargets, matching_losses, prepare_matching
from segkit.data.batch import Batch
from segkit.distributed import mean_over_processes, world_size
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg, Outputs
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig


def training_forward(
    model: DataSeg,
    batch: Batch,
    table: ClassEmbeddings,
    config: LossConfig,
    *,
    step: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of one batch.

    Args:
        model: in training mode.
        batch: images of one data set, moved to the model's device by `Batch.to`. Nothing waits for
            the device between its first layer and the matching.
        table: that data set's vocabulary, on the same device.
        config: weights.
        step: number of the training step, for warm-ups.
        generator: source of box noise, label dropout and sampled points (on the CPU); the same
            state gives the same losses.

    Returns:
        Weighted scalars by name; their sum is what to minimise.
    """
    cells = [PooledTargets.of(targets) for targets in batch.targets]
    whole = [
        cell.only(torch.nonzero(~t.is_part)[:, 0])
        for cell, t in zip(cells, batch.targets, strict=True)
    ]
    given = sample_box_prompts(batch, config, generator)
    counts = mean_over_processes(count_given(given, batch.images.device))
    asked = given or _ask_nothing(batch, counts, config)
    if asked is not None:
        asked = asked.to(batch.images.device, non_blocking=True)
    output = model(batch.images, table.text, asked, learned_queries=config.matching)
    made = None
    if output.queries is not None:
        made = prepare_matching(output.queries, batch, whole, table.is_thing, config, generator)
    losses: dict[str, Tensor] = {}
    if given and output.box_prompts is not None:
        losses = conditioned_losses(output.box_prompts, given, batch, cells, config, counts)
    if made is not None:
        losses = matching_losses(made, batch, whole, config, step) | losses
    if world_size() > 1 or not losses:
        name = "class" if config.matching else "conditioned_class"
        losses[name] = losses.get(name, 0.0) + _zero(output)
    return losses


def _ask_nothing(batch: Batch, counts: Tensor, config: LossConfig) -> BoxPrompts | None:
    """One box without a target, where this process has none and another has some; None where none
    has any.

    The same layers must run in all processes: with FSDP they hand each other the weights, layer by
    layer.
    """
    if config.matching and (world_size() == 1 or float(counts[0]) < 0.5 / world_size()):
        return None
    height, width = batch.images.shape[-2:]
    rows = [1] + [0] * (len(batch.images) - 1)
    boxes = [torch.tensor([[0.0, 0.0, width, height]])[:row] for row in rows]
    nothing = [torch.full((row,), -1) for row in rows]
    return BoxPrompts(boxes, nothing, nothing)


def _zero(output: Outputs) -> Tensor:
    """0, by way of the answers: every weight behind them gets a gradient, if only of zeros.

    Processes exchange gradients weight by weight: one that lacks a term (no masks, nothing matched)
    must not be missed.
    """
    answers = [made for made in (output.queries, output.box_prompts) if made is not None]
    return torch.stack(
        [logits[:0].sum() for a in answers for logits in (a.class_logits, a.mask_logits)]
    ).sum()
