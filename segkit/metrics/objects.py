"""Segments as the COCO evaluators read them: columns of what instances are scored by, and the
records made of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from segkit.errors import InputError
from segkit.metrics.regions import boxes_only, size_differs, unknown_class
from segkit.sample import Box, Sample

By = Literal["mask", "box"]
Record = dict[str, Any]
Index = Mapping[int, int | None]
"""Class index of each class id; None for classes that are not scored (stuff)."""


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
    """(I,) what was looked for, as in `Sample`."""
    image: Sequence[int]
    """(S,) index of the image, non-decreasing."""
    class_id: Sequence[int]
    mask: Sequence[bytes | None]
    box: Sequence[Box | None]
    """(S,) counts and boxes; of what is not compared, all may be None."""
    area: Sequence[float]
    crowd: Sequence[bool]
    """(S,) marked crowd, or `ignore`: handed over as crowd, because every evaluator overwrites
    `ignore`."""
    score: Sequence[float | None]


@dataclass(frozen=True)
class Batch:
    """Ground truth and predictions of some images, as the evaluators read them."""

    images: list[Record]
    annotations: list[Record]
    results: list[Record]
    without_mask: int = 0
    """Predictions that are only boxes where masks are compared: they can match nothing and are left
    out. Crowds, for which nobody makes masks, are not counted."""


def objects_of(samples: Sequence[Sample]) -> Objects:
    """Columns of the samples' segments."""
    rows = [(i, s) for i, sample in enumerate(samples) for s in sample.segments]
    return Objects(
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


def image_numbers(ids: Sequence[str]) -> list[int]:
    """A number from 1 for each image, rising with its id (as integers, where all are).

    Evaluators go through images in that order, and of equal scores the one that comes first counts
    first.
    """
    key = int if all(image.isdecimal() for image in ids) else str
    ranked = sorted(range(len(ids)), key=lambda place: key(ids[place]))
    number = [0] * len(ids)
    for rank, place in enumerate(ranked, 1):
        number[place] = rank
    return number


def records(
    truth: Objects,
    prediction: Objects,
    index: Index,
    by: By,
    numbers: Sequence[int],
    federated: bool = False,
) -> Batch:
    """COCO records of the same images' ground truth and predictions.

    Images carry `numbers`, annotations are numbered from 1 (id 0 is lost by pycocotools),
    categories are class index + 1. `federated` images say what was looked for in them, as those of
    LVIS do.

    Raises:
        InputError: a class is not in `index`, an object of the ground truth has no mask (by masks),
            a score is not a finite number, or a prediction has another size than its image.
    """
    _check_sizes(truth, prediction)
    annotations = _annotations(truth, index, by, numbers)
    results = _results(prediction, index, by, numbers)
    kept = (
        results
        if by == "box"
        else [result for result in results if result["segmentation"]["counts"] is not None]
    )
    images = [
        {"id": number, "width": width, "height": height}
        for number, width, height in zip(numbers, truth.width, truth.height, strict=True)
    ]
    if federated:
        _add_what_was_looked_for(images, annotations, truth, index)
    return Batch(
        images, annotations, kept, _missing_masks(prediction, index) if by == "mask" else 0
    )


def _missing_masks(found: Objects, index: Index) -> int:
    columns = zip(found.class_id, found.mask, found.crowd, strict=True)
    return sum(
        mask is None and not crowd and index[class_id] is not None
        for class_id, mask, crowd in columns
    )


def _check_sizes(truth: Objects, prediction: Objects) -> None:
    sizes = [list(zip(side.width, side.height, strict=True)) for side in (truth, prediction)]
    for image, wanted, found in zip(truth.ids, *sizes, strict=True):
        if wanted != found:
            raise size_differs(image, *(f"{width} x {height}" for width, height in (found, wanted)))


def _annotations(truth: Objects, index: Index, by: By, numbers: Sequence[int]) -> list[Record]:
    rows: list[Record] = []
    columns = (truth.image, truth.class_id, _shapes(truth, by), truth.area, truth.crowd)
    for image, class_id, shape, area, crowd in zip(*columns, strict=True):
        label = _label(index, class_id, "ground truth", truth.ids[image])
        if label is not None:
            if by == "mask" and shape["segmentation"]["counts"] is None:
                raise boxes_only("ground truth", truth.ids[image])
            named = {"id": len(rows) + 1, "image_id": numbers[image], "category_id": label + 1}
            rows.append({**named, **shape, "area": float(area), "iscrowd": int(crowd)})
    return rows


def _results(found: Objects, index: Index, by: By, numbers: Sequence[int]) -> list[Record]:
    rows: list[Record] = []
    for image, class_id, shape, given in zip(
        found.image, found.class_id, _shapes(found, by), found.score, strict=True
    ):
        label = _label(index, class_id, "predictions", found.ids[image])
        if label is not None:
            score = 1.0 if given is None else given
            if not math.isfinite(score):
                where = f"image {found.ids[image]}"
                raise InputError(
                    f"score {score}", file="predictions", record=where, hint="scores are numbers"
                )
            rows.append(
                {"image_id": numbers[image], "category_id": label + 1, "score": score, **shape}
            )
    return rows


def _label(index: Index, class_id: int, what: str, image: str) -> int | None:
    try:
        return index[class_id]
    except KeyError:
        raise unknown_class(class_id, what, image) from None


def _shapes(side: Objects, by: By) -> Iterable[Record]:
    """A mask record never carries `bbox`: evaluators would take the box's area for the size
    classes."""
    if by == "box":
        return [
            {"bbox": list(box or ())} for box in side.box
        ]  # a list: pycocotools knows boxes by their type
    sizes = [[height, width] for height, width in zip(side.height, side.width, strict=True)]
    pairs = zip(side.image, side.mask, strict=True)
    return [{"segmentation": {"size": sizes[image], "counts": mask}} for image, mask in pairs]


def _add_what_was_looked_for(
    images: list[Record], annotations: list[Record], truth: Objects, index: Index
) -> None:
    present = _present(annotations)
    scored = {class_id: label + 1 for class_id, label in index.items() if label is not None}
    columns = (truth.annotated, truth.exhaustive, truth.not_exhaustive)
    for image, annotated, exhaustive, left_open in zip(images, *columns, strict=True):
        there = present.get(image["id"], set())
        looked_for = (
            scored.values() if annotated is None else {scored[c] for c in annotated if c in scored}
        )
        image["neg_category_ids"] = sorted(set(looked_for) - there)
        which = {scored[c] for c in left_open if c in scored} if left_open else there
        image["not_exhaustive_category_ids"] = [] if exhaustive else sorted(which)


def _present(annotations: Sequence[Record]) -> dict[int, set[int]]:
    """Categories that each image shows."""
    present: dict[int, set[int]] = {}
    for annotation in annotations:
        present.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return present


def searched(batch: Batch, detections: int) -> Batch:
    """A federated batch without the results that LVIS leaves out; another one as it is.

    Of an image the best `detections` count, all classes together, and of those the ones of classes
    that it shows or that were looked for in vain.
    """
    if not all("neg_category_ids" in image for image in batch.images):
        return batch
    present = _present(batch.annotations)
    wanted = {
        image["id"]: present.get(image["id"], set()).union(image["neg_category_ids"])
        for image in batch.images
    }
    of_image: dict[int, list[Record]] = {}
    for result in batch.results:
        of_image.setdefault(result["image_id"], []).append(result)
    best = [
        r
        for found in of_image.values()
        for r in sorted(found, key=lambda r: -r["score"])[:detections]
    ]
    return replace(
        batch,
        results=[result for result in best if result["category_id"] in wanted[result["image_id"]]],
    )


def not_exhaustive(batch: Batch) -> set[tuple[int, int]]:
    """Images and categories of which not every instance is labeled."""
    return {
        (image["id"], k)
        for image in batch.images
        for k in image.get("not_exhaustive_category_ids", ())
    }
