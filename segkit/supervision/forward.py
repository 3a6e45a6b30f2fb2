"""One training forward pass: batch -> model -> weighted losses."""

import torch
from torch import Tensor

from segkit.data.batch import Batch
from segkit.model.class_table import ClassTable
from segkit.model.dataseg import DataSeg
from segkit.supervision.conditioned import conditioned_losses, count_given, give_boxes
from segkit.supervision.config import LossConfig
from segkit.supervision.counts import joint
from segkit.supervision.criterion import CellTargets, matching_losses


def training_forward(
    model: DataSeg, batch: Batch, table: ClassTable, config: LossConfig, *, step: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Losses of one batch.

    Args:
        model: in training mode.
        batch: images of one data set, on the model's device.
        table: that data set's vocabulary, on the same device.
        config: weights.
        step: number of the training step, for warm-ups.
        generator: source of box noise, label dropout and sampled points (on the CPU); the same state gives the same
            losses.

    Returns:
        Weighted scalars by name; their sum is what to minimise.
    """
    cells = [CellTargets.of(targets) for targets in batch.targets]
    given = give_boxes(batch, config, generator)
    boxes, labels = (given.boxes, given.labels) if given else (None, None)
    output = model(batch.images, table.text, boxes, labels)
    whole = [cell.only(~targets.is_part) for cell, targets in zip(cells, batch.targets, strict=True)]
    losses = matching_losses(output.matching, batch, whole, table.is_thing, config, step, generator)
    counts = joint(count_given(given, batch.images.device))
    if given:
        losses |= conditioned_losses(output.conditioned, given, batch, cells, config, counts)
    return losses
