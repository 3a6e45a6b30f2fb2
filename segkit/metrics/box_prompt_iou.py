"""IoU of the masks that a model predicted from box prompts with the true masks of the objects."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, plural
from segkit.masks import rle
from segkit.masks.boxes import AREAS, filled_box, in_size, inscribed_ellipse
from segkit.masks.iou import mask_iou, mask_iou_of_pairs
from segkit.masks.run_lengths import decode_runs, join
from segkit.metrics.sides import PREDICTIONS, require_image_size
from segkit.sample import Sample, Segment
from segkit.taxonomy import Taxonomy

Floats = NDArray[np.float64]
MIN_FILLED = 0.95
"""Share of its box above which a mask counts as merely filling the box."""


class BoxPromptIoU:
    """Mean IoU (0-1) of predicted masks by size and class, over all objects with a box.

    A predicted mask belongs to the object of the same `source_id`. Crowds, ignored objects and
    stuff are left out; an object without a predicted mask counts 0.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.objects: list[Segment] = []
        self._ious: list[Floats] = []
        self._filled: list[bool] = []
        self._masks = 0

    def update(self, truth: Sequence[Sample], prediction: Sequence[Sample]) -> None:
        """Add a batch of images: true masks, and masks predicted from the boxes.

        Raises:
            InputError: an object has no id or no true mask, or a prediction differs in size from
                its image.
        """
        for image, predicted in zip(truth, prediction, strict=True):
            objects = [
                s for s in image.segments if s.kind == "thing" and not (s.is_crowd or s.ignore)
            ]
            masks = {s.source_id: s for s in predicted.segments if s.mask is not None}
            require_image_size(predicted, image)
            matches = [masks.get(_source_id(segment, image)) for segment in objects]
            self._ious.append(matched_iou(objects, matches))
            self._filled += [_fills_box(segment) for segment in matches if segment is not None]
            self._masks += len(masks)
            self.objects += objects

    @property
    def iou(self) -> Floats:
        """(N,) IoU of each object, in the order of updates; NaN without a predicted mask."""
        return np.concatenate([np.zeros(0), *self._ious])

    def compute(self) -> dict[str, Any]:
        """The `given_boxes` object of metrics.json.

        Returns:
            `boxes`, `masked`: number of objects, and of those with a predicted mask;
            `mean_iou` over all objects, `mean_iou_masked` over those with a predicted mask;
            `filled`, the share of masks that fill more than `MIN_FILLED` of their box;
            `per_size` (None where there is no object) and `per_class` (only classes with objects).

        Raises:
            InputError: no predicted mask has the id of an object.
        """
        if self._masks and self.objects and not self._filled:
            hint = "give the set that `segkit pseudolabel` wrote for these boxes"
            message = "no mask has the id of an object of the ground truth"
            raise InputError(message, file=PREDICTIONS, hint=hint)
        iou = self.iou
        scores = np.nan_to_num(iou)
        area = np.array([segment.area for segment in self.objects])
        label = [self.taxonomy.index[segment.class_id] for segment in self.objects]
        in_class = np.array(label, np.int64)
        sizes = {size: in_size(area, size) for size in AREAS if size != "all"}
        names = self.taxonomy.unique_names.values()
        classes = {name: in_class == k for k, name in enumerate(names)}
        return {
            "boxes": len(iou),
            "masked": int(np.count_nonzero(~np.isnan(iou))),
            "mean_iou": _mean(scores),
            "mean_iou_masked": _mean(iou[~np.isnan(iou)]),
            "filled": _mean(np.array(self._filled, np.float64)),
            "per_size": {name: _mean(scores[at]) for name, at in sizes.items()},
            "per_class": {name: _mean(scores[at]) for name, at in classes.items() if at.any()},
        }


class BoxBaselineIoU(BoxPromptIoU):
    """Mean IoU (0-1) of predicted masks beside two shapes drawn from the box, without a model."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__(taxonomy)
        self._baselines: list[tuple[float, float]] = []

    def update(self, truth: Sequence[Sample], prediction: Sequence[Sample]) -> None:
        """Add a batch of images, as `BoxPromptIoU.update` does."""
        for image, predicted in zip(truth, prediction, strict=True):
            first = len(self.objects)
            super().update([image], [predicted])
            size = image.height, image.width
            for segment in self.objects[first:]:
                true_mask = rle.decode(segment.mask or b"", *size)
                filled = mask_iou(true_mask, filled_box(segment.box, *size))
                ellipse = mask_iou(true_mask, inscribed_ellipse(segment.box, *size))
                self._baselines.append((filled, ellipse))

    def compute(self) -> dict[str, Any]:
        """`mean_iou`, `filled_box_iou`, `ellipse_iou`, and the counts `boxes` and `masked`.

        Raises:
            InputError: the ground truth holds no object with a mask.
        """
        iou = self.iou
        if not len(iou):
            hint = "give the file that holds the hidden masks"
            raise InputError("no object has a true mask", hint=hint)
        rows = zip(np.nan_to_num(iou), self._baselines, strict=True)
        table = np.array([(score, *baselines) for score, baselines in rows])  # (N, 3)
        predicted, filled, ellipse = table.mean(axis=0).tolist()
        return {
            "mean_iou": predicted,
            "filled_box_iou": filled,
            "ellipse_iou": ellipse,
            "boxes": len(iou),
            "masked": int(np.count_nonzero(~np.isnan(iou))),
        }


def evaluate_box_prompts(
    truth: Iterable[Sample], predictions: Iterable[Sample], taxonomy: Taxonomy
) -> dict[str, Any]:
    """Compare the masks predicted for boxes with the true ones and with two baselines.

    Args:
        truth: images with true masks.
        predictions: images whose segments carry masks; images that `truth` lacks are skipped.
        taxonomy: classes of the ground truth.

    Returns:
        The figures of `BoxBaselineIoU.compute`.

    Raises:
        InputError: there is no true mask, or an image of the ground truth has no prediction.
    """
    images = {sample.id: sample for sample in truth}
    metric = BoxBaselineIoU(taxonomy)
    for prediction in predictions:
        image = images.pop(prediction.id, None)
        if image is not None:
            metric.update([image], [prediction])
    if images:
        missing = ", ".join(sorted(images)[:5])
        message = f"no predictions for {plural(len(images), 'image')} ({missing})"
        raise InputError(message, hint="give the set of the same images")
    return metric.compute()


def _source_id(segment: Segment, image: Sample) -> str:
    record = f"image {image.id}"
    if segment.mask is None:
        hint = "give the set that holds the hidden masks"
        raise InputError("an object of the ground truth has no mask", record=record, hint=hint)
    if segment.source_id is None:
        raise InputError("an object has no id", record=record, hint="give every annotation one")
    return segment.source_id


def _fills_box(segment: Segment) -> bool:
    return segment.area > MIN_FILLED * segment.box[2] * segment.box[3]


def matched_iou(objects: Sequence[Segment], matches: Sequence[Segment | None]) -> Floats:
    """(N,) IoU of each object with its own predicted mask; NaN without one.

    Raises:
        InputError: masks of one object differ in size.
    """
    iou = np.full(len(objects), np.nan)
    at = [i for i, match in enumerate(matches) if match is not None]
    if not at:
        return iou
    true = decode_runs(*join([objects[i].mask or b"" for i in at]))
    predicted = decode_runs(*join([match.mask or b"" for match in matches if match is not None]))
    wrong = np.flatnonzero(true.total != predicted.total)
    if len(wrong):
        sizes = predicted.total[wrong[0]], true.total[wrong[0]]
        message = f"a mask of {sizes[0]} pixels for an image of {sizes[1]}"
        raise InputError(message, file=PREDICTIONS, hint="write masks at image size")
    iou[at] = mask_iou_of_pairs(true, predicted)
    return iou


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
