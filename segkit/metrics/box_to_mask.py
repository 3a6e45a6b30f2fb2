"""Masks made from boxes, scored against the true masks, beside what one gets without any model."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box
from segkit.sample import Box, Sample, Segment

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BoxToMask:
    """Mean IoU (0-1) over all boxes; a box that got no mask counts 0."""

    mean_iou: float
    filled_box_iou: float
    """Of the box itself, taken as the mask."""
    ellipse_iou: float
    """Of the ellipse inscribed in the box."""
    boxes: int
    """Objects with a true mask, crowds left out."""
    masked: int
    """Those of them that got a mask."""

    def to_json(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)


def score_masks_of_boxes(truth: Iterable[Sample], answers: Iterable[Sample]) -> BoxToMask:
    """Compare the masks given to boxes with the true ones.

    Args:
        truth: samples with the true masks; segments are known by `source_id`. Crowds, ignored
            segments and segments without a mask are left out.
        answers: samples in which the segments of the same `source_id` may have a mask; further
            images and segments are passed over.

    Raises:
        InputError: there is no true mask, or an image of the truth is not among the answers.
    """
    wanted = {sample.id: sample for sample in truth}
    rows: list[tuple[float, float, float, bool]] = []
    for answer in answers:
        image = wanted.pop(answer.id, None)
        if image is not None:
            rows += _score_image(image, answer)
    if wanted:
        missing = ", ".join(sorted(wanted)[:5])
        raise InputError(
            f"no answers for {len(wanted)} images ({missing})",
            hint="give the set of the same images",
        )
    if not rows:
        raise InputError(
            "no object has a true mask", hint="give the file that holds the hidden masks"
        )
    columns = np.array(rows, np.float64)
    mean = columns.mean(axis=0).tolist()
    return BoxToMask(mean[0], mean[1], mean[2], len(rows), int(columns[:, 3].sum()))


def _score_image(truth: Sample, answer: Sample) -> Iterable[tuple[float, float, float, bool]]:
    size = truth.height, truth.width
    given = {segment.source_id: segment.mask for segment in answer.segments}
    for segment in truth.segments:
        if segment.mask is None or segment.is_crowd or segment.ignore:
            continue
        true = rle.decode(segment.mask, *size)
        counts = given.get(_id_of(segment, truth))
        found = 0.0 if counts is None else iou(true, rle.decode(counts, *size))
        plain = (
            iou(true, filled_box(segment.box, *size)),
            iou(true, inscribed_ellipse(segment.box, *size)),
        )
        yield found, *plain, counts is not None


def _id_of(segment: Segment, image: Sample) -> str:
    if segment.source_id is None:
        raise InputError(
            "an annotation has no id", record=f"image {image.id}", hint="give every annotation one"
        )
    return segment.source_id


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two (H, W) masks, 0-1; 0 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def filled_box(box: Box, height: int, width: int) -> Mask:
    """Every pixel that the box (x, y, width, height) touches."""
    mask = np.zeros((height, width), bool)
    mask[pixels_of_box(box, height, width)] = True
    return mask


def inscribed_ellipse(box: Box, height: int, width: int) -> Mask:
    """The ellipse that touches the four sides of the box, as OpenCV draws it from whole centers and
    axes."""
    import cv2

    x, y, w, h = box
    canvas = np.zeros((height, width), np.uint8)
    cv2.ellipse(
        canvas, (int(x + w / 2), int(y + h / 2)), (int(w / 2), int(h / 2)), 0, 0, 360, 1, -1
    )
    return canvas.astype(bool)
