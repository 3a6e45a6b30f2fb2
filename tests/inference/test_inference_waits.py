"""Post-processing waits for the GPU a few times an image, and for each chunk of large instances."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import full_image_crop
from segkit.inference import upscale
from segkit.inference.dense import dense_masks
from segkit.inference.mask2former import mask2former_masks
from segkit.inference.match_proposals import match_proposals
from segkit.inference.postprocess import postprocess
from segkit.recipes.schema import InferenceConfig
from segkit.shards.manifest import Task
from tests.pretend_gpu import pretend_gpu

CROP = full_image_crop(60, 80, size=64)
CONFIG = InferenceConfig(score=0.2, overlap=0.1, instance_score=0.1, dense=0.5)
QUERIES, CLASSES = 20, 30
BANDS = pytest.mark.parametrize("band", [upscale.BAND, 80 * QUERIES * 7])


def random_outputs() -> tuple[Tensor, Tensor, Tensor]:
    """Class logits (N, K + 1), mask logits (N, h, w) and class probabilities of cells."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(QUERIES, CLASSES + 1, generator=generator)
    coarse = 9 * torch.randn(1, QUERIES, 6, 6, generator=generator)
    masks = F.interpolate(coarse, size=(16, 16), mode="bilinear")[0]
    return logits, masks, torch.randn(CLASSES, 8, 8, generator=generator).softmax(0)


LOGITS, MASKS, CELLS = random_outputs()
IS_THING = torch.arange(CLASSES) < CLASSES // 2


@BANDS
@pytest.mark.parametrize(
    ("process", "task", "most"),
    [
        (postprocess, "panoptic", 7),
        (postprocess, "semantic", 4),
        (postprocess, "instance", 10),
        (mask2former_masks, "panoptic", 6),
        (mask2former_masks, "semantic", 2),
        (mask2former_masks, "instance", 7),
        (dense_masks, "panoptic", 12),
        (dense_masks, "semantic", 4),
    ],
)
def test_the_waits_of_an_image_are_few(
    process: Callable[..., list], task: Task, most: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscale, "BAND", band)
    chunks = math.ceil(QUERIES / (band // (60 * 80))) if task == "instance" else 1
    tensors = (LOGITS, MASKS, CELLS) if process is dense_masks else (LOGITS, MASKS)
    expected = process(task, *tensors, CROP, IS_THING, CONFIG)
    waits: list[str] = []
    with pretend_gpu(waits) as to_gpu:
        on_gpu = map(to_gpu, tensors)
        assert process(task, *on_gpu, CROP, to_gpu(IS_THING), CONFIG) == expected
    assert len(expected) > 3
    assert len(waits) <= most + 4 * (chunks - 1), waits


@BANDS
def test_matching_waits_once_for_each_box(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "BAND", band)
    boxes = [(10.0, 20.0, 40.0, 30.0), (0.0, 0.0, 80.0, 60.0), (30.0, 5.0, 45.0, 50.0)]
    config = InferenceConfig(pseudo_overlap=0.1, pseudo_class=0.0)
    classes = np.ones((QUERIES, len(boxes)), np.float32)
    arguments = CROP, classes, boxes, [0, 1, 2], config
    expected = match_proposals(MASKS, *arguments)
    waits: list[str] = []
    with pretend_gpu(waits) as to_gpu:
        masks = match_proposals(to_gpu(MASKS), *arguments)
    for mask, truth in zip(masks, expected, strict=True):
        assert mask is not None
        assert truth is not None
        assert mask.score == truth.score
        assert (mask.mask == truth.mask).all()
    assert len(waits) == 2 + len(boxes), waits
