"""Batches of ground truth and predictions of the same images, in the form that metrics take."""

from collections.abc import Iterator, Sequence
from itertools import islice

from segkit.metrics.class_mapping import thing_classes
from segkit.metrics.objects import (
    ClassIndex,
    IouType,
    Objects,
    PredictedRecords,
    TrueRecords,
    image_numbers,
    predicted_records,
    true_records,
)
from segkit.metrics.predictions import Predictions, SetPredictions
from segkit.metrics.regions import Regions
from segkit.metrics.shard_columns import read_objects, read_regions
from segkit.metrics.sides import GROUND_TRUTH, PREDICTIONS
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

BATCH = 4
"""Images compared at once: enough to hide Python's cost per call, few enough for the processor's
caches."""
OBJECTS_BATCH = 16
"""Images whose instances are matched at once: their masks, too, stay in the caches until they are
compared."""


def sample_batches(
    truth: ShardSet, predictions: Predictions, batch: int, *, check_masks: bool = True
) -> Iterator[tuple[list[Sample], list[Sample]]]:
    """Ground truth and predictions of at most `batch` images.

    A missing prediction is an empty sample. `check_masks` is that of `ShardSet.samples`, of the
    ground truth.
    """
    samples = truth.samples(check_masks=check_masks)
    while images := list(islice(samples, batch)):
        yield images, [predictions.get(image) or _empty(image) for image in images]


def _empty(image: Sample) -> Sample:
    return Sample(image.id, image.file_name, image.width, image.height)


def region_batches(
    truth: ShardSet, predictions: Predictions, rows: range | None = None
) -> Iterator[tuple[Regions, Regions]]:
    """Both sides as regions, without ignored ground truth (it becomes void), and without
    predictions of classes that their image is not annotated for.

    Where the predictions are a set of the same images in the same order and vocabulary, only the
    necessary columns are read; the result is the same.

    Args:
        truth: the ground truth.
        predictions: of its images.
        rows: some consecutive images, of aligned predictions; None for all.
    """
    if isinstance(predictions, SetPredictions) and predictions.is_aligned(truth):
        true_regions = read_regions(truth, BATCH, GROUND_TRUTH, rows)
        predicted_regions = read_regions(predictions.shards, BATCH, PREDICTIONS, rows)
        for true, predicted in zip(true_regions, predicted_regions, strict=True):
            yield true.without_ignored(), predicted.of_annotated_classes(true)
        return
    index = truth.taxonomy.index
    batches = sample_batches(truth, predictions, BATCH, check_masks=False)  # decoding checks them
    for images, predicted_images in batches:
        true = Regions.from_samples(images, index, GROUND_TRUTH)
        predicted = Regions.from_samples(predicted_images, index, PREDICTIONS)
        yield true.without_ignored(), predicted.of_annotated_classes(true)


def record_batches(
    truth: ShardSet,
    predictions: Predictions,
    iou_types: Sequence[IouType],
    federated: bool,
    rows: range | None = None,
) -> Iterator[dict[IouType, tuple[TrueRecords, PredictedRecords]]]:
    """Both sides as COCO records of the thing classes, which are categories 1 to K.

    Args:
        truth: the ground truth.
        predictions: of its images.
        iou_types: what is compared: masks, boxes, or both.
        federated: list the classes that each image is annotated for, as LVIS does.
        rows: as of `region_batches`.
    """
    index: dict[int, int | None] = {category.id: None for category in truth.taxonomy.categories}
    index |= {category.id: k for k, category in enumerate(thing_classes(truth.taxonomy))}
    start = 0 if rows is None else rows.start
    numbers = islice(image_numbers(list(truth.image_ids())), start, None)
    for true, predicted in _object_batches(truth, predictions, iou_types, index, rows):
        batch = list(islice(numbers, len(true.ids)))
        yield {
            iou_type: (
                true_records(true, index, iou_type, batch, federated),
                predicted_records(predicted, true, index, iou_type, batch),
            )
            for iou_type in iou_types
        }


def _object_batches(
    truth: ShardSet,
    predictions: Predictions,
    iou_types: Sequence[IouType],
    index: ClassIndex,
    rows: range | None,
) -> Iterator[tuple[Objects, Objects]]:
    """Both sides as objects, read as `region_batches` reads regions."""
    if isinstance(predictions, SetPredictions) and predictions.is_aligned(truth):
        sides = truth, predictions.shards
        batches = (read_objects(side, OBJECTS_BATCH, iou_types, rows) for side in sides)
        yield from zip(*batches, strict=True)
        return
    for images, predicted in sample_batches(truth, predictions, OBJECTS_BATCH, check_masks=False):
        true = Objects.from_samples(images)
        if "mask" in iou_types:
            true.check_masks(index, GROUND_TRUTH)
        yield true, Objects.from_samples(predicted)
