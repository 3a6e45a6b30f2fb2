"""Crops with rectangles as targets, and proposals that fit them exactly."""

import torch
from torch.nn import functional as F

from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch, PackedMasks, Targets
from segkit.model.dataseg import Outputs, Proposals
from segkit.recipes.schema import LossConfig, ModelConfig
from segkit.shards.manifest import Task

SIZE = 64
CELLS = SIZE // 4
IS_THING = torch.tensor([True, True, False])
CONFIG = LossConfig(pairwise=0.0)
MODEL = ModelConfig(
    backbone="test_efficientnet",
    text_dim=16,
    hidden_dim=16,
    mask_dim=8,
    queries=5,
    rounds=1,
    heads=2,
    feedforward_dim=16,
    foreground=4,
)


def rectangles(
    *boxes: tuple[int, int, int, int], labels: tuple[int, ...] | None = None, masked: bool = True
) -> Targets:
    """Rectangles x0, y0, x1, y1 as instances, all of class 0 by default."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
    label = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return Targets(
        label,
        IS_THING[label],
        torch.full((len(boxes),), masked),
        PackedMasks.from_dense(masks),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.bool),
        torch.zeros(SIZE, SIZE, dtype=torch.bool),
    )


def make_batch(*images: Targets, task: Task = "panoptic") -> Batch:
    pixels = torch.rand(len(images), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, images, "set", task, tuple(f"image {i}" for i in range(len(images))))


def perfect_proposals(images: tuple[Targets, ...], extra: int = 2) -> Proposals:
    """Every target as a confident mask of its class, then some confident background.

    Returns:
        One layer: (B, 1, N, ...), N being the most targets of an image and `extra`.
    """
    count = max(len(t) for t in images) + extra
    classes = torch.full((len(images), count, len(IS_THING) + 1), -30.0)
    classes[..., -1] = 30.0
    masks = torch.full((len(images), count, CELLS, CELLS), -30.0)
    for i, target in enumerate(images):
        for row, (label, mask) in enumerate(zip(target.labels, target.masks.dense(), strict=True)):
            classes[i, row, -1], classes[i, row, label] = -30.0, 30.0
            masks[i, row] = F.max_pool2d(mask[None].float(), 4)[0] * 60 - 30
    return Proposals(classes[:, None], masks[:, None])


def query_losses(
    proposals: Proposals,
    batch: Batch,
    config: LossConfig = CONFIG,
    is_thing: torch.Tensor = IS_THING,
) -> dict[str, torch.Tensor]:
    """Losses of learned queries with these proposals."""
    criterion = SetCriterion(config, {batch.dataset: is_thing})
    losses: dict[str, torch.Tensor] = criterion(Outputs(proposals, None), batch, None, step=0)
    return losses
