"""A shard set as a map-style dataset for other PyTorch training code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from segkit.shards.reader import ShardSet
from segkit.storage import StrPath

Transform = Callable[[Any, Any], Any]


class TorchDataset(Dataset[Any]):
    """Images and targets in the form of torchvision's detection references.

    An item is the (3, H, W) uint8 image and a dict: `masks` (N, H, W) bool, `boxes` (N, 4) float32
    x1, y1, x2, y2 in pixels, `labels` (N,) int64 class indices in the order of the taxonomy,
    `iscrowd` (N,) bool, `has_mask` (N,) bool (False: only the box is known), `scores` (N,) float32
    (NaN for human labels) and `image_id`. Images, masks and boxes are tv_tensors, so that
    torchvision's v2 transforms change them together.

    Args:
        shards: the set, or its path.
        transform: called with image and target, returns the item; None leaves them unchanged.
    """

    def __init__(self, shards: ShardSet | StrPath, transform: Transform | None = None) -> None:
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Any:
        labeled = self.shards[index]
        size = labeled.sample.height, labeled.sample.width
        image = tv_tensors.Image(torch.from_numpy(labeled.image.transpose(2, 0, 1).copy()))
        corners = labeled.boxes.copy()
        corners[:, 2:] += corners[:, :2]
        segments = labeled.segments
        indices = [self.shards.taxonomy.index[segment.class_id] for segment in segments]
        scores = [np.nan if segment.score is None else segment.score for segment in segments]
        target = {
            "masks": tv_tensors.Mask(torch.from_numpy(labeled.masks)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(corners).float(), format="XYXY", canvas_size=size
            ),
            "labels": torch.tensor(indices, dtype=torch.int64),
            "iscrowd": torch.tensor([segment.is_crowd for segment in segments], dtype=torch.bool),
            "has_mask": torch.tensor([s.mask is not None for s in segments], dtype=torch.bool),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "image_id": labeled.id,
        }
        return (image, target) if self.transform is None else self.transform(image, target)
