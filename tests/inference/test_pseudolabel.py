"""Match proposals to boxes, against counts by hand and full masks at the image's size."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.data.augment import Crop, full_image_crop
from segkit.inference import upscale
from segkit.inference.match_proposals import match_proposals
from segkit.inference.upscale import to_image
from segkit.masks.boxes import tight_box
from segkit.recipes.schema import InferenceConfig

CONFIG = InferenceConfig()


def on_the_image(probability: np.ndarray) -> tuple[Tensor, Crop]:
    """Mask logits without padding or resizing."""
    height, width = probability.shape[1:]
    logits = torch.from_numpy(probability).clamp(1e-6, 1 - 1e-6).logit()
    return logits, full_image_crop(height, width, size=max(height, width), multiple=1)


def test_proposals_are_matched_to_the_boxes_that_they_fill() -> None:
    masks = np.zeros((3, 40, 40), np.float32)
    masks[0, 5:15, 5:15] = 0.9
    masks[1, 20:36, 20:30] = 0.8
    masks[2, 0:40, 0:40] = 0.99
    boxes = [(20.0, 20.0, 10.0, 12.0), (5.0, 5.0, 10.0, 10.0), (30.0, 2.0, 5.0, 5.0)]
    matches = match_proposals(
        *on_the_image(masks), np.full((3, 3), 0.3, np.float32), boxes, [5, 6, 7], CONFIG
    )
    assert matches[0] is not None and matches[1] is not None
    assert matches[0].mask.sum() == 120, "clipped to the box"
    assert matches[0].score == pytest.approx(120 / 160 * 0.8) and matches[0].class_index == 5
    assert matches[1].mask.sum() == 100
    assert matches[2] is None, "no proposal fits the box"
    assert CONFIG.pseudo_overlap > 25 / 1600


def test_a_proposal_of_another_class_is_not_matched() -> None:
    masks = np.zeros((1, 20, 20), np.float32)
    masks[:, 5:15, 5:15] = 0.9
    box = [(5.0, 5.0, 10.0, 10.0)]
    assert match_proposals(
        *on_the_image(masks), np.array([[0.02]], np.float32), box, [0], CONFIG
    ) == [None]
    assert (
        match_proposals(*on_the_image(masks), np.array([[0.5]], np.float32), box, [0], CONFIG)[0]
        is not None
    )


def test_the_class_decides_between_equal_proposals() -> None:
    masks = np.zeros((2, 20, 20), np.float32)
    masks[:, 5:15, 5:15] = 0.9
    masks[1, 5, 5] = 0.0
    probability = np.array([[0.1], [0.9]], np.float32)
    matches = match_proposals(
        *on_the_image(masks), probability, [(5.0, 5.0, 10.0, 10.0)], [0], CONFIG
    )
    assert matches[0] is not None and matches[0].mask.sum() == 99


def test_no_proposal_matches_a_box_outside_the_image() -> None:
    masks = np.full((6, 20, 30), 0.9, np.float32)
    boxes = [(30.0, 5.0, 9.0, 9.0), (5.0, 20.0, 9.0, 9.0), (-9.0, -9.0, 9.0, 9.0)]
    boxes += [(31.5, 40.0, 3.0, 3.0), (0.0, 0.0, 30.0, 20.0)]
    config = InferenceConfig(pseudo_overlap=0, pseudo_class=0)
    probability = np.full((6, 5), 0.5, np.float32)
    matches = match_proposals(*on_the_image(masks), probability, boxes, [0] * 5, config)
    assert matches[:4] == [None] * 4
    assert matches[4] is not None and matches[4].mask.all()
    assert match_proposals(*on_the_image(masks), probability[:, :0], [], [], config) == []


def test_matches_equal_those_of_full_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are read in bands of few rows, with the same result."""
    monkeypatch.setattr(upscale, "BAND", 6 * 83 * 2)
    crop = full_image_crop(50, 83, size=96)
    logits = torch.full((6, 16, 24), -4.0)
    for row in range(5):  # the sixth is empty
        logits[row, 2 + row : 7 + row, 3 * row : 3 * row + 8] = 3.0 + row
    soft = to_image(logits, crop).sigmoid().numpy()
    boxes = [tight_box(mask) for mask in soft[:4] >= 0.5]
    boxes = [(x + 1, y, w - 0.5, h + 1.5) for x, y, w, h in boxes]
    probability = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    matches = match_proposals(logits, crop, probability, boxes, [0, 1, 2, 3], CONFIG)
    assert sum(match is not None for match in matches) >= 3
    for index, item in enumerate(matches):
        if item is None:
            continue
        inside = np.zeros((50, 83), bool)
        inside[item.place] = True
        agreement = [(item.mask == (mask >= 0.5) & inside).mean() for mask in soft]
        assert max(agreement) > 0.999
        mask = soft[int(np.argmax(agreement))]
        tight = tight_box(mask >= 0.5)
        within = mask[item.mask].mean()
        across = min(tight[0] + tight[2], boxes[index][0] + boxes[index][2]) - max(
            tight[0], boxes[index][0]
        )
        down = min(tight[1] + tight[3], boxes[index][1] + boxes[index][3]) - max(
            tight[1], boxes[index][1]
        )
        union = tight[2] * tight[3] + boxes[index][2] * boxes[index][3] - across * down
        assert item.score == pytest.approx(across * down / union * within, rel=1e-4)
