"""Match proposals to boxes, against counts by hand and full masks at the image's size."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkit.data.augment import Crop, full_image_crop
from segkit.inference import upscale
from segkit.inference.box_masks import ImagePrompts
from segkit.inference.match_proposals import match_proposals
from segkit.inference.run_teacher import assign_proposals
from segkit.inference.upscale import to_image
from segkit.masks.boxes import tight_box
from segkit.model.dataseg import Outputs, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig
from segkit.runs.run import Run

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


class SureLearnedQueries(nn.Module):
    """Two queries for each of two things; those of the first pair fit better and are surer.

    Args:
        foreground: of the four queries; 2 or 0.
    """

    def __init__(self, foreground: int) -> None:
        super().__init__()
        self.config = ModelConfig(queries=4 - foreground, foreground=foreground)

    def forward(self, images: Tensor, text: Tensor, **_: Any) -> Outputs:
        classes = torch.zeros(1, 1, 4, 2)
        classes[..., 0] = torch.tensor([9.0, 9.0, 1.0, 1.0])
        masks = torch.full((1, 1, 4, 16, 16), -20.0)
        for query, row in ((0, 2), (2, 3)):  # the others leave out the first rows
            masks[0, 0, query, row:8, 2:8] = 20.0
            masks[0, 0, query + 1, row + 3 : 15, 9:14] = 20.0
        boxes = torch.full((1, 1, 2, 4), 0.5) if self.config.foreground else None
        return Outputs(Proposals(classes, masks, boxes), None)


@pytest.mark.parametrize(("foreground", "top"), [(2, (12, 24)), (0, (8, 20))])
def test_only_foreground_queries_are_matched_where_there_are_some(
    foreground: int, top: tuple[int, int]
) -> None:
    """The others learn stuff, and nothing teaches them not to name a thing as well."""
    recipe = SimpleNamespace(inference=InferenceConfig(image_size=64))
    run = cast(Run, SimpleNamespace(model=SureLearnedQueries(foreground), recipe=recipe))
    boxes = [(8.0, 8.0, 24.0, 24.0), (36.0, 20.0, 20.0, 40.0)]
    prompts = ImagePrompts(np.zeros((64, 64, 3), np.uint8), boxes, [0, 0])
    embeddings = ClassEmbeddings(torch.ones(1, 4), torch.tensor([True]))
    (matches,) = assign_proposals(run, embeddings, [prompts])
    for match, (x, y, width, height), first in zip(matches, boxes, top, strict=True):
        assert match is not None
        assert tight_box(match.mask) == (x, first, width, y + height - first)
