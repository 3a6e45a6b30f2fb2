"""Boundary IoU: overlap of outlines (Cheng et al., CVPR 2021).

Large masks reach a high IoU with sloppy outlines. The metrics here take, wherever another metric
takes the IoU of two masks, the smaller one of that IoU and the IoU of their boundaries.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.masks.iou import coco_iou
from segkit.masks.run_lengths import Ints, join
from segkit.metrics.detections import DetectionMatches
from segkit.metrics.instance import PycocotoolsAP
from segkit.metrics.objects import PredictedRecords, Record, TrueRecords
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.panoptic import PanopticQuality
from segkit.metrics.regions import Regions

Floats = NDArray[np.float64]
WIDTH = 0.02
"""Width of the boundary, as a share of the image's diagonal."""


def boundary(counts: bytes, height: int, width: int) -> bytes:
    """Counts of a mask's pixels within `WIDTH` x diagonal of its outline.

    The image's edge counts as outline.
    """
    import cv2

    mask = rle.decode(counts, height, width)
    x, y, w, h = (int(side) for side in rle.box(counts, height, width))
    crop = np.pad(mask[y : y + h, x : x + w].astype(np.uint8), 1)
    depth = max(1, round(WIDTH * float(np.hypot(height, width))))
    inner = cv2.erode(crop, np.ones((3, 3), np.uint8), iterations=depth)
    outline = np.zeros((height, width), np.bool_)
    outline[y : y + h, x : x + w] = (crop - inner)[1:-1, 1:-1]
    return rle.encode(outline)


class BoundaryPanopticQuality(PanopticQuality):
    """Panoptic quality by the smaller of mask IoU and boundary IoU."""

    def max_iou(self, pairs: Overlap, truth: Regions, prediction: Regions) -> Floats:
        """(P,) boundary IoU of the pairs; a predicted boundary's pixels in void do not count.

        Args:
            pairs: common pixels of the masks.
            truth: true segments.
            prediction: predicted segments.
        """
        predicted_boundaries = _boundaries(prediction)
        meeting = overlap(_boundaries(truth), predicted_boundaries)
        labeled = overlap(truth, predicted_boundaries)
        inside = np.bincount(labeled.prediction, weights=labeled.pixels, minlength=len(prediction))
        common = _common_pixels(meeting, pairs, len(prediction))
        union = meeting.truth_area[pairs.truth] + inside[pairs.prediction] - common
        return np.asarray(common / np.maximum(union, 1), np.float64)


def _boundaries(regions: Regions) -> Regions:
    """The boundaries of all segments."""
    heights, widths = regions.height[regions.image].tolist(), regions.width[regions.image].tolist()
    sized = zip(regions.counts(), heights, widths, strict=True)
    buffer, offsets = join([boundary(*segment) for segment in sized])
    return replace(regions, buffer=buffer, offsets=offsets)


def _common_pixels(meeting: Overlap, pairs: Overlap, predictions: int) -> Ints:
    """(P,) pixels of `meeting` for each of `pairs`; 0 where the boundaries do not meet."""
    number = meeting.truth * predictions + meeting.prediction  # ascending
    if not len(number):
        return np.zeros(len(pairs.truth), np.int64)
    pair = pairs.truth * predictions + pairs.prediction
    at = np.minimum(np.searchsorted(number, pair), len(number) - 1)
    return np.where(number[at] == pair, meeting.pixels[at], 0)


class BoundaryDetectionMatches(DetectionMatches):
    """Matches by the smaller of mask IoU and boundary IoU, kept detection by detection."""

    def iou(self, detections: Sequence[Record], targets: Sequence[Record]) -> Floats:
        """(D, G) smaller of mask IoU and boundary IoU."""
        iou = super().iou(detections, targets)
        return np.minimum(iou, boundary_iou(detections, targets)) if iou.size else iou


class BoundaryAP(PycocotoolsAP):
    """Mask AP by the smaller of mask IoU and boundary IoU; keeps all records in memory.

    The rules of LVIS apply where images are annotated for only some classes: of an image the last
    of `max_dets` counts, and where labels are not exhaustive, what matches nothing does not count.
    """

    def __init__(self, class_names: Sequence[str], max_dets: Sequence[int]) -> None:
        super().__init__(class_names, "mask", max_dets)
        self._not_exhaustive: set[tuple[int, int]] = set()

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Keep the records of a batch of images."""
        super().update(truth, prediction.counted(truth, self.max_dets[-1]))
        self._not_exhaustive |= truth.not_exhaustive()

    def merge(self, parts: Sequence[Self]) -> None:
        """Add the records of other metrics."""
        super().merge(parts)
        self._not_exhaustive |= {key for part in parts for key in part._not_exhaustive}

    def _evaluator(self) -> tuple[Any, Any]:
        coco, coco_eval = super()._evaluator()
        metric = self

        class BoundaryEval(coco_eval):  # type: ignore[misc, valid-type]
            # COCOeval calls these methods by their names.
            def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802
                iou = super().computeIoU(image, category)
                if not len(iou):
                    return iou
                detections = sorted(self._dts[image, category], key=lambda d: -d["score"])
                detections = detections[: self.params.maxDets[-1]]
                return np.minimum(iou, boundary_iou(detections, self._gts[image, category]))

            def evaluateImg(  # noqa: N802
                self, image: int, category: int, area: Any, limit: int
            ) -> Any:
                row = super().evaluateImg(image, category, area, limit)
                if row is not None and (image, category) in metric._not_exhaustive:
                    row["dtIgnore"] = np.logical_or(row["dtIgnore"], row["dtMatches"] == 0)
                return row

        return coco, BoundaryEval


def boundary_iou(detections: Sequence[Record], targets: Sequence[Record]) -> Floats:
    """(D, G) boundary IoU of records.

    With a crowd, the share of the detection's boundary that is in the crowd's.
    """
    crowd = [target["iscrowd"] for target in targets]
    return coco_iou([_outline(d) for d in detections], [_outline(t) for t in targets], crowd)


def _outline(record: Record) -> Record:
    """RLE of the boundary of a record's mask."""
    height, width = record["segmentation"]["size"]
    counts = boundary(record["segmentation"]["counts"], height, width)
    return {"size": [height, width], "counts": counts}
