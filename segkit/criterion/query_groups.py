"""Query groups: which batches train which queries, and which targets they may match.

With `model.foreground`, queries are decoupled (OpenSeeD, section 3.2). The flags of the data set
decide, never ranges of labels:

- foreground queries match things, learned queries match stuff, in every task;
- in semantic sets a thing is the union of its instances, and so is the MERGE of the foreground
  queries that are confident of its class. Its box bounds no object: boxes have no loss there;
- sets of instances annotate no stuff: learned queries do not run on them at all.

MERGE stays within a group: a learned query that is confident of a thing must not take the masks
of the foreground queries with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from segkit import distributed
from segkit.data.batch import Batch
from segkit.model.box_coding import from_pixels, to_corners
from segkit.recipes.schema import LossConfig
from segkit.shards.manifest import Task

_EPSILON = 1e-7
"""torchvision's, added to areas."""
_UNIT = 1000.0
"""Sides are multiplied by it: the epsilon is too much for areas of small boxes in 0-1."""


def runs_learned_queries(task: Task) -> bool:
    """Whether learned queries run beside foreground queries: only where stuff is annotated."""
    return task != "instance"


def supervises_boxes(task: Task) -> bool:
    """Whether the boxes of foreground queries have a loss: only where they bound an object."""
    return task != "semantic"


@dataclass(frozen=True)
class Foreground:
    """The boxes of the foreground queries, and the things that they may match."""

    boxes: Tensor
    """(B, L, F, 4) cx, cy, w, h in 0-1, predicted; of the last F of N queries."""
    is_thing: list[Tensor]
    """(T,) bool for each image, on the device of the boxes."""
    targets: list[Tensor] | None
    """(T, 4) for each image, the targets' boxes in the form of `boxes`; None where they are not
    those of objects: in semantic sets."""
    things: int
    """Things in all images."""

    @classmethod
    def from_batch(
        cls, boxes: Tensor, batch: Batch, objects: Sequence[Tensor], is_thing: Tensor
    ) -> "Foreground":
        """The foreground queries of a batch.

        Args:
            boxes: (B, L, F, 4), predicted.
            batch: the images.
            objects: rows of the targets of each image that may match, on the CPU.
            is_thing: (K,) bool of the classes, on the device.
        """
        pairs = list(zip(batch.targets, objects, strict=True))
        labels = [target.labels[rows] for target, rows in pairs]
        flags = [is_thing[label.to(boxes.device, non_blocking=True)] for label in labels]
        things = sum(int(target.is_thing[rows].sum()) for target, rows in pairs)
        truth = None
        if supervises_boxes(batch.task):
            size = batch.images.shape[-2:]
            truth = [
                from_pixels(target.boxes[rows], size).to(boxes.device, non_blocking=True)
                for target, rows in pairs
            ]
        return cls(boxes, flags, truth, things)

    def add_costs(
        self, costs: Sequence[Tensor], config: LossConfig, invalid: float
    ) -> list[Tensor]:
        """Add the costs of boxes to the matching costs, and forbid pairs of unequal kinds.

        Args:
            costs: (L, N, T) for each image.
            config: weights.
            invalid: cost of a forbidden pair.
        """
        count = self.boxes.shape[2]
        result = []
        for image, (cost, is_thing) in enumerate(zip(costs, self.is_thing, strict=True)):
            if self.targets is not None:
                extra = box_cost(self.boxes[image], self.targets[image], config)  # (L, F, T)
                cost = cost + F.pad(extra, (0, 0, cost.shape[1] - count, 0))
            forbidden = ~allowed_pairs(cost.shape[1], count, is_thing)
            result.append(cost.masked_fill(forbidden, invalid))
        return result

    def losses(self, pairs: Tensor, queries: int, config: LossConfig) -> dict[str, Tensor]:
        """Losses of the boxes of matched pairs, their mean over layers and things.

        Every process must call it.

        Args:
            pairs: (4, M) int64 on the CPU: image, layer, query, and row of the target among those
                of all images together.
            queries: N, learned and foreground queries.
            config: weights.

        Returns:
            Scalars `box_l1` and `box_giou`; nothing where boxes of objects are not known.
        """
        if self.targets is None:
            return {}
        first, device = queries - self.boxes.shape[2], self.boxes.device
        things = torch.full((), self.things, dtype=torch.float32, device=device)
        count = distributed.mean_over_processes(things) * self.boxes.shape[1]
        pairs = pairs[:, pairs[2] >= first]  # (4, M)
        image, layer, query, row = pairs.to(device, non_blocking=True).unbind()
        boxes = self.boxes[image, layer, query - first]
        return box_losses(boxes, torch.cat(self.targets)[row], config, count)


def allowed_pairs(queries: int, foreground: int, is_thing: Tensor) -> Tensor:
    """Which of N queries may match which target: foreground queries things, the others stuff.

    Args:
        queries: N.
        foreground: F; the last F queries are foreground queries.
        is_thing: (T,) bool.

    Returns:
        (N, T) bool.
    """
    is_foreground = torch.arange(queries, device=is_thing.device) >= queries - foreground
    return is_foreground[:, None] == is_thing[None, :]


def box_cost(boxes: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """Weighted L1 distance and 1 - GIoU of each predicted box and each target's box.

    Args:
        boxes: (L, F, 4) cx, cy, w, h in 0-1.
        targets: (T, 4).
        config: weights.

    Returns:
        (L, F, T).
    """
    flat = boxes.flatten(0, 1)  # (L * F, 4)
    distance = torch.cdist(flat, targets, p=1)
    giou = generalized_box_iou(to_corners(flat), to_corners(targets))
    cost: Tensor = config.box_l1 * distance + config.box_giou * (1 - giou)
    return cost.reshape(*boxes.shape[:2], len(targets))


def box_losses(
    boxes: Tensor, targets: Tensor, config: LossConfig, count: Tensor
) -> dict[str, Tensor]:
    """Weighted L1 and GIoU losses of pairs of boxes.

    Args:
        boxes, targets: (M, 4) cx, cy, w, h in 0-1.
        config: weights.
        count: () by which the sums are divided.

    Returns:
        `box_l1` and `box_giou`.
    """
    distance = F.l1_loss(boxes, targets, reduction="sum")
    corners = (to_corners(x) * _UNIT for x in (boxes, targets))
    giou = generalized_iou_loss(*corners).sum()
    return {
        "box_l1": config.box_l1 * distance / count,
        "box_giou": config.box_giou * giou / count,
    }


def generalized_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes (Rezatofighi et al., CVPR 2019, algorithm 1).

    torchvision's `generalized_box_iou_loss` gives the same, bit by bit; it selects boxes by a
    boolean index, for which the host waits for the device.

    Args:
        boxes, targets: (M, 4) x0, y0, x1, y1.

    Returns:
        (M,) in 0-2.
    """
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes.unbind(-1), targets.unbind(-1)
    left, top = torch.max(x0, u0), torch.max(y0, v0)
    right, bottom = torch.min(x1, u1), torch.min(y1, v1)
    common = torch.where((bottom > top) & (right > left), (right - left) * (bottom - top), 0.0)
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common
    width = torch.max(x1, u1) - torch.min(x0, u0)
    height = torch.max(y1, v1) - torch.min(y0, v0)
    hull = width * height
    iou = common / (union + _EPSILON)
    return 1 - (iou - (hull - union) / (hull + _EPSILON))
