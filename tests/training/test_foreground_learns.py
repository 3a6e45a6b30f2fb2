"""Foreground queries find the things of pictures that they were not trained on, in 40 steps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from segkit.criterion.query_groups import runs_learned_queries
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.model.box_coding import to_pixels
from segkit.model.dataseg import DataSeg
from segkit.recipes.schema import LossConfig, ModelConfig
from segkit.shards.manifest import Task
from tests.criterion.scenes import IS_THING, SIZE, make_batch, rectangles

MODEL = ModelConfig(
    backbone="test_efficientnet",
    text_dim=16,
    hidden_dim=64,
    mask_dim=32,
    queries=7,
    rounds=1,
    heads=4,
    feedforward_dim=64,
    foreground=8,
)
COLORS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]])
SIDES = torch.tensor([[40, 14], [14, 40]])
"""Red is wide and green is tall: a box between the two, as a loss with the boxes of other targets
teaches it, overlaps either by less than half."""
TEXT = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
THINGS = torch.tensor([0, 1])
STEPS = 40


def pictures(generator: torch.Generator, task: Task) -> Batch:
    """Four pictures of two rectangles each, whose colors and shapes are their classes."""
    images, targets = [], []
    for _ in range(4):
        label = torch.randint(0, 2, (2,), generator=generator)
        side = SIDES[label] + torch.randint(-3, 4, (2, 2), generator=generator)
        corner = (torch.rand(2, 2, generator=generator) * (SIZE - side)).long()
        labels = label.tolist()
        boxes = torch.cat((corner, corner + side), dim=1).tolist()
        image = 0.2 + 0.02 * torch.randn(3, SIZE, SIZE, generator=generator)
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            image[:, y0:y1, x0:x1] = COLORS[label][:, None, None]
        images.append(image)
        masked = task == "panoptic"
        targets.append(rectangles(*map(tuple, boxes), labels=tuple(labels), masked=masked))
    return replace(make_batch(*targets, task=task), images=torch.stack(images))


@torch.no_grad()
def recall(model: DataSeg) -> float:
    """Share of the boxes of new pictures that a selected cell's box covers at IoU 0.5."""
    generator = torch.Generator().manual_seed(1)
    found: list[Tensor] = []
    for _ in range(5):
        batch = pictures(generator, "panoptic")
        queries = model.eval()(batch.images, TEXT, things=THINGS).queries
        boxes = to_pixels(queries.boxes[:, 0], (SIZE, SIZE))
        for target, predicted in zip(batch.targets, boxes, strict=True):
            found.append(box_iou(target.boxes, predicted).amax(1) >= 0.5)
    return float(torch.cat(found).float().mean())


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_masks_teach_finding_and_so_do_boxes(task: Task) -> None:
    torch.manual_seed(0)
    model, criterion = DataSeg(MODEL), SetCriterion(LossConfig(pairwise=0.0), {"set": IS_THING})
    before = recall(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        batch = pictures(generator, task)
        learned = runs_learned_queries(task)
        outputs = model.train()(batch.images, TEXT, things=THINGS, learned_queries=learned)
        losses = criterion(outputs, batch, None, step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert before < 0.2 and recall(model) > 0.4
