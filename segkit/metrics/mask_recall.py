"""Recall of masks whatever their class: what a better class head could still name."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segkit.masks.iou import coco_iou
from segkit.sample import Sample, Segment
from segkit.taxonomy import Taxonomy

MIN_IOU = 0.5
"""A predicted mask covers a true one if their IoU is above this, as in panoptic quality."""


class MaskRecall:
    """Share of the true segments that some predicted mask covers, with any class.

    Crowds, ignored segments and boxes without a mask do not count. Predicted masks are compared as
    they are written, so the figure is a ceiling for all class heads on the same masks only where
    no score threshold removed masks: set `inference.score` (panoptic) or
    `inference.instance_score` to 0 to measure that.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self._hits: Counter[int] = Counter()
        self._total: Counter[int] = Counter()

    def update(self, truth: Sequence[Sample], prediction: Sequence[Sample]) -> None:
        """Add a batch of images."""
        for image, predicted in zip(truth, prediction, strict=True):
            objects = [s for s in image.segments if not (s.is_crowd or s.ignore) and s.mask]
            masks = [s for s in predicted.segments if s.mask]
            iou = coco_iou(_masks(masks, image), _masks(objects, image), [0] * len(objects))
            best = iou.max(0, initial=0.0)  # (G,)
            for segment, value in zip(objects, best, strict=True):
                self._total[segment.class_id] += 1
                self._hits[segment.class_id] += int(value > MIN_IOU)

    def compute(self, classes: Sequence[str]) -> float | None:
        """Recall in percent, the mean over those of some classes that have segments.

        Args:
            classes: names, as in `Taxonomy.unique_names`.

        Returns:
            None where no class has a segment.
        """
        names = self.taxonomy.unique_names
        counted = [key for key in self._total if names.get(key) in classes]
        if not counted:
            return None
        return float(100 * np.mean([self._hits[key] / self._total[key] for key in counted]))


def _masks(segments: Sequence[Segment], image: Sample) -> list[dict[str, object]]:
    size = [image.height, image.width]
    return [{"size": size, "counts": segment.mask} for segment in segments]
