"""Instances as columns, and as the records that the COCO evaluators read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from segkit.errors import InputError
from segkit.masks.run_lengths import first_malformed
from segkit.metrics.sides import (
    GROUND_TRUTH,
    PREDICTIONS,
    Side,
    malformed_mask,
    missing_mask,
    size_mismatch,
    unknown_class,
)
from segkit.sample import Box, Sample

IouType = Literal["mask", "box"]
Record = dict[str, Any]
MAX_DIGITS = 1000
"""Python converts no more than some thousand digits to an integer."""
ClassIndex = Mapping[int, int | None]
"""Class index of each class id; None for classes that are not evaluated (stuff)."""


@dataclass(frozen=True)
class Objects:
    """Segments of I images, image after image, as columns."""

    ids: Sequence[str]
    width: Sequence[int]
    height: Sequence[int]
    """(I,) id and size of each image."""
    annotated: Sequence[Sequence[int] | None]
    exhaustive: Sequence[bool]
    not_exhaustive: Sequence[Sequence[int]]
    """(I,) annotated classes, and whether exhaustively, as in `Sample`."""
    image: Sequence[int]
    """(S,) index of the image, non-decreasing."""
    class_id: Sequence[int]
    mask: Sequence[bytes | None]
    box: Sequence[Box | None]
    """(S,) counts and boxes; all None in the column that is not compared."""
    area: Sequence[float]
    crowd: Sequence[bool]
    """(S,) marked crowd, or `ignore`: evaluators overwrite `ignore`, so such segments become
    crowds."""
    score: Sequence[float | None]

    @classmethod
    def from_samples(cls, samples: Sequence[Sample]) -> "Objects":
        """Columns of the samples' segments."""
        rows = [(i, s) for i, sample in enumerate(samples) for s in sample.segments]
        return cls(
            [sample.id for sample in samples],
            [sample.width for sample in samples],
            [sample.height for sample in samples],
            [sample.annotated for sample in samples],
            [sample.exhaustive for sample in samples],
            [sample.not_exhaustive for sample in samples],
            [i for i, _ in rows],
            [s.class_id for _, s in rows],
            [s.mask for _, s in rows],
            [s.box for _, s in rows],
            [s.area for _, s in rows],
            [s.is_crowd or s.ignore for _, s in rows],
            [s.score for _, s in rows],
        )

    def check_masks(self, index: ClassIndex, source: Side) -> None:
        """Raise InputError if the run lengths of an evaluated mask do not fill its image.

        Args:
            index: class index of each class id.
            source: the side that the error names.
        """
        columns = zip(self.image, self.class_id, self.mask, strict=True)
        masks = [
            (i, mask) for i, c, mask in columns if mask is not None and index.get(c) is not None
        ]
        size = np.multiply(self.width, self.height, dtype=np.int64)
        pixels = size[np.array([image for image, _ in masks], np.int64)]
        damaged = first_malformed([mask for _, mask in masks], pixels)
        if damaged is not None:
            raise malformed_mask(source, f"image {self.ids[masks[damaged][0]]}")


@dataclass(frozen=True)
class TrueRecords:
    """Ground truth of a batch of images as COCO records."""

    ids: Sequence[str]
    """(I,) image ids of the shard set."""
    images: list[Record]
    """(I,) each with its number, 1 to the number of images of the set, as `id`."""
    annotations: list[Record]

    @property
    def federated(self) -> bool:
        """Whether the images list the classes that they are annotated for, as those of LVIS do."""
        return all("neg_category_ids" in image for image in self.images)

    def not_exhaustive(self) -> set[tuple[int, int]]:
        """Pairs of an image number and a category of which not every instance is annotated."""
        return {
            (image["id"], category)
            for image in self.images
            for category in image.get("not_exhaustive_category_ids", ())
        }


@dataclass(frozen=True)
class PredictedRecords:
    """Predictions for a batch of images as COCO results."""

    results: list[Record]
    without_mask: int = 0
    """Predictions that are only boxes where masks are compared: they can match nothing and are left
    out. Crowds, which are not given masks, are not counted."""

    def counted(self, truth: TrueRecords, max_dets: int) -> "PredictedRecords":
        """The results that count by the rules of LVIS; all of them where `truth` is not federated.

        Of an image the best `max_dets` results count, all classes together, and of those only the
        ones of classes that the image is annotated for.
        """
        if not truth.federated:
            return self
        present = _present(truth.annotations)
        annotated = {
            image["id"]: present.get(image["id"], set()).union(image["neg_category_ids"])
            for image in truth.images
        }
        by_image: dict[int, list[Record]] = {}
        for result in self.results:
            by_image.setdefault(result["image_id"], []).append(result)
        best = [
            result
            for results in by_image.values()
            for result in sorted(results, key=lambda result: -result["score"])[:max_dets]
        ]
        counted = [r for r in best if r["category_id"] in annotated[r["image_id"]]]
        return replace(self, results=counted)


def image_numbers(ids: Sequence[str]) -> list[int]:
    """A number from 1 for each image, rising with its id (as integers, where all are).

    Evaluators go through images in that order, and of equal scores the first one counts first.
    """
    key = int if all(image.isdecimal() and len(image) < MAX_DIGITS for image in ids) else str
    ranked = sorted(range(len(ids)), key=lambda place: key(ids[place]))
    number = [0] * len(ids)
    for rank, place in enumerate(ranked, 1):
        number[place] = rank
    return number


def true_records(
    truth: Objects,
    index: ClassIndex,
    iou_type: IouType,
    numbers: Sequence[int],
    federated: bool = False,
) -> TrueRecords:
    """COCO records of a batch's ground truth.

    Annotations are numbered from 1 (pycocotools loses id 0); categories are class index + 1.

    Args:
        truth: objects of the batch.
        index: class index of each class id.
        iou_type: whether masks or boxes are compared.
        numbers: (I,) number of each image.
        federated: list the classes that each image is annotated for, as LVIS does.

    Raises:
        InputError: a class is not in `index`, or an object has no mask where masks are compared.
    """
    annotations: list[Record] = []
    columns = (truth.image, truth.class_id, _shapes(truth, iou_type), truth.area, truth.crowd)
    for image, class_id, shape, area, crowd in zip(*columns, strict=True):
        label = _label(index, class_id, GROUND_TRUTH, truth.ids[image])
        if label is None:
            continue
        if iou_type == "mask" and shape["segmentation"]["counts"] is None:
            raise missing_mask(GROUND_TRUTH, truth.ids[image])
        keys = {
            "id": len(annotations) + 1,
            "image_id": numbers[image],
            "category_id": label + 1,
        }
        annotations.append({**keys, **shape, "area": float(area), "iscrowd": int(crowd)})
    images = [
        {"id": number, "width": width, "height": height}
        for number, width, height in zip(numbers, truth.width, truth.height, strict=True)
    ]
    if federated:
        _add_annotated_classes(images, annotations, truth, index)
    return TrueRecords(truth.ids, images, annotations)


def predicted_records(
    prediction: Objects,
    truth: Objects,
    index: ClassIndex,
    iou_type: IouType,
    numbers: Sequence[int],
) -> PredictedRecords:
    """COCO results of a batch's predictions.

    Args:
        prediction: predicted objects.
        truth: objects of the same images, for their sizes.
        index: class index of each class id.
        iou_type: whether masks or boxes are compared.
        numbers: (I,) number of each image.

    Raises:
        InputError: a class is not in `index`, a score is not a finite number, or a prediction has
            another size than its image.
    """
    _check_sizes(truth, prediction)
    results: list[Record] = []
    without_mask = 0
    columns = (
        prediction.image,
        prediction.class_id,
        _shapes(prediction, iou_type),
        prediction.score,
        prediction.crowd,
    )
    for image, class_id, shape, score, crowd in zip(*columns, strict=True):
        label = _label(index, class_id, PREDICTIONS, prediction.ids[image])
        if label is None:
            continue
        score = 1.0 if score is None else score
        if not math.isfinite(score):
            record = f"image {prediction.ids[image]}"
            hint = "scores are numbers"
            raise InputError(f"score {score}", file=PREDICTIONS, record=record, hint=hint)
        if iou_type == "mask" and shape["segmentation"]["counts"] is None:
            without_mask += not crowd
            continue
        keys = {"image_id": numbers[image], "category_id": label + 1, "score": score}
        results.append({**keys, **shape})
    return PredictedRecords(results, without_mask)


def _check_sizes(truth: Objects, prediction: Objects) -> None:
    sizes = [list(zip(side.width, side.height, strict=True)) for side in (prediction, truth)]
    for image, predicted, true in zip(truth.ids, *sizes, strict=True):
        if predicted != true:
            texts = (f"{width} x {height}" for width, height in (predicted, true))
            raise size_mismatch(image, *texts)


def _label(index: ClassIndex, class_id: int, source: Side, image: str) -> int | None:
    try:
        return index[class_id]
    except KeyError:
        raise unknown_class(class_id, source, image) from None


def _shapes(side: Objects, iou_type: IouType) -> Iterable[Record]:
    """Mask or box of each record.

    A record with a mask never carries `bbox`: evaluators would take the box's area for the size
    classes. A box is a list, because pycocotools recognizes boxes by their type.
    """
    if iou_type == "box":
        return [{"bbox": list(box or ())} for box in side.box]
    sizes = [[height, width] for height, width in zip(side.height, side.width, strict=True)]
    pairs = zip(side.image, side.mask, strict=True)
    return [{"segmentation": {"size": sizes[image], "counts": mask}} for image, mask in pairs]


def _add_annotated_classes(
    images: list[Record], annotations: list[Record], truth: Objects, index: ClassIndex
) -> None:
    present = _present(annotations)
    category = {class_id: label + 1 for class_id, label in index.items() if label is not None}
    columns = (truth.annotated, truth.exhaustive, truth.not_exhaustive)
    for image, class_ids, exhaustive, not_exhaustive in zip(images, *columns, strict=True):
        in_image = present.get(image["id"], set())
        annotated = set(category.values())
        if class_ids is not None:
            annotated = {category[c] for c in class_ids if c in category}
        incomplete = in_image
        if not_exhaustive:
            incomplete = {category[c] for c in not_exhaustive if c in category}
        image["neg_category_ids"] = sorted(annotated - in_image)
        image["not_exhaustive_category_ids"] = [] if exhaustive else sorted(incomplete)


def _present(annotations: Sequence[Record]) -> dict[int, set[int]]:
    """Categories of the annotations of each image."""
    present: dict[int, set[int]] = {}
    for annotation in annotations:
        present.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return present
