"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021).

Large masks reach a high IoU with sloppy outlines; here a pair counts as good only as its outlines
agree: wherever a metric takes the IoU of two masks, it takes the smaller one of that IoU and the
IoU of their boundaries.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.masks.iou import coco_iou
from segkit.masks.run_lengths import Ints, join
from segkit.metrics import instance
from segkit.metrics.instance import Curves
from segkit.metrics.objects import Batch, Record, not_exhaustive
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.regions import Regions

RATIO = 0.02
"""Width of the boundary, as a share of the image's diagonal."""


def boundary(counts: bytes, height: int, width: int, ratio: float = RATIO) -> bytes:
    """Pixels of a mask that lie within `ratio` x diagonal of its outline (the image's edge is
    outline as well)."""
    import cv2

    mask = rle.decode(counts, height, width)
    x, y, w, h = (int(side) for side in rle.box(counts, height, width))
    crop = np.pad(mask[y : y + h, x : x + w].astype(np.uint8), 1)
    depth = max(1, round(ratio * float(np.hypot(height, width))))
    inner = cv2.erode(crop, np.ones((3, 3), np.uint8), iterations=depth)
    outline = np.zeros((height, width), np.bool_)
    outline[y : y + h, x : x + w] = (crop - inner)[1:-1, 1:-1]
    return rle.encode(outline)


def of_regions(regions: Regions) -> Regions:
    """The boundaries of all segments."""
    counts = [
        regions.buffer[a:b].tobytes()
        for a, b in zip(regions.offsets[:-1], regions.offsets[1:], strict=True)
    ]
    sizes = zip(
        regions.height[regions.image].tolist(), regions.width[regions.image].tolist(), strict=True
    )
    outlines = [
        boundary(one, height, width) for one, (height, width) in zip(counts, sizes, strict=True)
    ]
    buffer, offsets = join(outlines)
    return replace(regions, buffer=buffer, offsets=offsets)


def iou_of_pairs(shared: Overlap, truth: Regions, prediction: Regions) -> NDArray[np.float64]:
    """(P,) boundary IoU of the pairs of `shared`; what a predicted boundary has in void does not
    count.

    Args:
        shared: common pixels of the masks.
        truth: true segments.
        prediction: predicted segments.
    """
    drawn = of_regions(prediction)
    outlines = overlap(of_regions(truth), drawn)
    labeled = overlap(truth, drawn)
    inside = np.bincount(labeled.prediction, weights=labeled.pixels, minlength=len(prediction))
    common = _looked_up(outlines, shared, len(prediction))
    union = outlines.truth_area[shared.truth] + inside[shared.prediction] - common
    return np.asarray(common / np.maximum(union, 1), np.float64)


def _looked_up(outlines: Overlap, shared: Overlap, predictions: int) -> Ints:
    """(P,) pixels of `outlines` for the pairs of `shared`, 0 where the boundaries do not meet."""
    number = (
        outlines.truth * predictions + outlines.prediction
    )  # ascending: `overlap` orders its pairs so
    if not len(number):
        return np.zeros(len(shared.truth), np.int64)
    wanted = shared.truth * predictions + shared.prediction
    at = np.minimum(np.searchsorted(number, wanted), len(number) - 1)
    return np.where(number[at] == wanted, outlines.pixels[at], 0)


def overlaps(found: Sequence[Record], there: Sequence[Record]) -> NDArray[np.float64]:
    """(D, G) boundary IoU of detections and objects; with a crowd, the share of the detection's
    boundary in it."""
    crowd = [annotation["iscrowd"] for annotation in there]
    return coco_iou(
        [_outline(record) for record in found], [_outline(record) for record in there], crowd
    )


def curves(batches: Sequence[Batch], classes: int, max_dets: tuple[int, ...]) -> Curves:
    """COCO curves with the smaller of mask IoU and boundary IoU, by pycocotools (all records in
    memory).

    Where labels are not exhaustive, what matches nothing does not count, as in LVIS.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    open_ended = {pair for batch in batches for pair in not_exhaustive(batch)}

    class BoundaryEval(COCOeval):  # type: ignore[misc]
        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802 - the name that COCOeval calls
            masks = super().computeIoU(image, category)
            if not len(masks):
                return masks
            found = sorted(self._dts[image, category], key=lambda result: -result["score"])
            return np.minimum(
                masks, overlaps(found[: self.params.maxDets[-1]], self._gts[image, category])
            )

        def evaluateImg(self, image: int, category: int, area: Any, most: int) -> Any:  # noqa: N802 - as above
            row = super().evaluateImg(image, category, area, most)
            if row is not None and (image, category) in open_ended:
                row["dtIgnore"] = np.logical_or(row["dtIgnore"], row["dtMatches"] == 0)
            return row

    return instance.in_memory(COCO, BoundaryEval, batches, classes, "mask", max_dets)


def _outline(record: Record) -> Record:
    """RLE of the boundary of a record's mask."""
    height, width = record["segmentation"]["size"]
    return {
        "size": [height, width],
        "counts": boundary(record["segmentation"]["counts"], height, width),
    }
