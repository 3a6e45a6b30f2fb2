"""Boxes of the box head, against pixels computed by hand."""

from typing import Any, cast

import numpy as np
import torch
from torch import nn

from segkit.data.augment import Crop
from segkit.inference.head_boxes import with_head_boxes
from segkit.inference.pipeline import predict_images
from segkit.inference.postprocess import LabeledMask
from segkit.masks import rle
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig

STRETCHED = Crop((0, 0, 160, 80), (0, 0, 80, 20), (64, 96))
"""An image of 80 x 160 pixels, its sides over 2 and 4, padded to 64 x 96."""
CORNERS = torch.tensor(
    [
        [12.0, 4.0, 48.0, 16.0],
        [60.0, 10.0, 90.0, 40.0],  # beyond the image, to the right and below
        [82.0, 2.0, 94.0, 10.0],  # in the padding
        [-6.0, -2.0, 10.0, 5.0],  # beyond the crop, to the left and above
    ]
)
IN_IMAGE = [(24.0, 16.0, 72.0, 48.0), (120.0, 40.0, 40.0, 40.0), None, (0.0, 0.0, 20.0, 20.0)]
"""x, y, width, height in the image; the box in the padding has no pixel in it."""


def relative(corners: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Corners in pixels as cx, cy, w, h in 0-1."""
    x0, y0, x1, y1 = corners.unbind(1)
    columns = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return torch.stack(columns, dim=1)


def test_each_mask_gets_the_box_of_its_query_in_pixels_of_the_image() -> None:
    tight = (7.0, 8.0, 30.0, 20.0)
    region = rle.Region(rle.encode(np.ones((80, 160), bool)), 12800, tight)
    learned, queries = 2, [5, 1, 2, None, 4, 3, 2]  # in the order of scores
    masks = [
        LabeledMask(i, region, (80, 160), 1 - i / 10, query) for i, query in enumerate(queries)
    ]
    boxes = relative(CORNERS, 96, 64)
    result = with_head_boxes(masks, boxes, learned + len(boxes), STRETCHED)
    assert len(result) == len(masks)
    for before, after in zip(masks, result, strict=True):
        query = before.proposal
        expected = None if query is None or query < learned else IN_IMAGE[query - learned]
        np.testing.assert_allclose(after.region.box, expected or tight, atol=1e-4)
        assert (after.region.counts, after.region.area) == (region.counts, region.area)
        assert (after.class_index, after.score) == (before.class_index, before.score)


class FixedProposals(nn.Module):
    """Two learned and three foreground queries, each confident of a column of its own."""

    config = ModelConfig(queries=2, foreground=3)

    def forward(self, images: torch.Tensor, text: torch.Tensor, **_: Any) -> Outputs:
        classes = torch.zeros(1, 1, 5, 2)
        classes[..., 0] = torch.tensor([9.0, 8.0, 5.0, 7.0, 6.0])
        masks = torch.full((1, 1, 5, 16, 16), -20.0)
        for query in range(5):
            masks[0, 0, query, :, 3 * query : 3 * query + 2] = 20.0
        corners = [[4.0 * query, 8.0, 4.0 * query + 20, 48.0] for query in range(3)]
        boxes = relative(torch.tensor(corners), 64, 64)
        return Outputs(Proposals(classes, masks, boxes[None, None]), None)


def test_predicted_instances_have_the_boxes_of_their_own_queries() -> None:
    embeddings = ClassEmbeddings(torch.ones(1, 4), torch.tensor([True]))
    config = InferenceConfig(image_size=64, boxes="head", overlap=0.0)
    image = np.zeros((128, 128, 3), np.uint8)
    model = cast(DataSeg, FixedProposals())
    read = lambda item: (item, image)  # noqa: E731
    ((_, masks),) = predict_images(model, embeddings, [0], read, "instance", config)
    boxes = {int(np.flatnonzero(mask.mask.any(0))[0]): mask.region.box for mask in masks}
    assert len(boxes) == 3
    for query in range(3):  # its column starts at 12 (2 + query) of 64 pixels
        first = min(boxes, key=lambda column: abs(column - 24 * (2 + query)))
        assert abs(first - 24 * (2 + query)) < 8
        np.testing.assert_allclose(boxes[first], (8 * query, 16, 40, 80), atol=1e-3)
