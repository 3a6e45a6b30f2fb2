"""Evaluation of a whole set: pairs of samples stream by, batch after batch, and leave only counts
behind."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from segkit.errors import InputError
from segkit.metrics import boundary, instance, panoptic, semantic
from segkit.metrics import tide as errors
from segkit.metrics.columns import image_ids, object_batches, read_columns, region_batches
from segkit.metrics.detections import DetectionRows, match
from segkit.metrics.memory import raise_malloc_threshold
from segkit.metrics.objects import Batch, By, Objects, image_numbers, objects_of, records, searched
from segkit.metrics.overlap import overlap
from segkit.metrics.panoptic import PanopticRows
from segkit.metrics.predictions import Predictions, Samples, SetPredictions, check_images
from segkit.metrics.regions import Regions, regions_of
from segkit.metrics.semantic import SemanticRows
from segkit.sample import Sample
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import class_labels
from segkit.taxonomy import Category, Taxonomy

BATCH = 4
"""Images compared at once: enough to hide Python's cost per call, few enough for the processor's
caches."""
OBJECTS_BATCH = 16
"""Images whose instances are matched at once: their masks, too, stay in the caches until they are
compared."""


@dataclass(frozen=True)
class EvalOptions:
    """How instances are scored."""

    evaluator: str = "hotcoco"
    by: By = "mask"
    max_dets: tuple[int, ...] = instance.MAX_DETS
    details: bool = False
    """Also match instances one by one, for bootstrap intervals and the report (the evaluators keep
    no masks)."""
    boundary: bool = False
    """Also score by the smaller of mask IoU and boundary IoU (slow: masks are decoded)."""
    errors: bool = False
    """Also tell what instances are lost by (keeps all records in memory)."""


@dataclass(frozen=True)
class Measured:
    """Figures of a task, and what they were made from."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    image_ids: tuple[str, ...]
    """(I,) ids in the order of the rows' image indices."""
    panoptic: PanopticRows | None = None
    semantic: SemanticRows | None = None
    """Also of a panoptic evaluation: which classes are taken for which."""
    detections: DetectionRows | None = None
    """Only where `EvalOptions.details` asks for them."""
    outlined: PanopticRows | None = None
    outlined_detections: DetectionRows | None = None
    """The same by the smaller of mask IoU and boundary IoU, where `EvalOptions.boundary` asks for
    it."""


def evaluate(
    truth: ShardSet, predictions: Iterable[Sample] | ShardSet | Predictions, task: Task
) -> dict[str, Any]:
    """The figures of a task as metrics.json has them, with default options."""
    return measure(truth, predictions, task).metrics


def measure(
    truth: ShardSet,
    predictions: Iterable[Sample] | ShardSet | Predictions,
    task: Task,
    options: EvalOptions = EvalOptions(),
) -> Measured:
    """Compare predictions with the ground truth.

    An image without a prediction counts as one in which nothing was found;
    `images.without_prediction` tells how many.

    Raises:
        InputError: what `segkit eval` refuses: unknown images or classes, overlapping maps, missing
            masks, NaN scores.
    """
    raise_malloc_threshold()
    check_kind(truth, task, options)
    source = as_predictions(predictions, truth)
    missing = check_images(source, truth)
    measured = _TASKS[task](truth, source, options)
    info = {"images": {"evaluated": len(truth), "without_prediction": missing}} | _transfer(source)
    return replace(measured, metrics={"task": task} | info | measured.metrics)


def check_kind(truth: ShardSet, task: Task, options: EvalOptions) -> None:
    """Refuse ground truth of a kind that the task cannot be scored on."""
    boxes = task == "instance" and options.by == "box"
    if truth.manifest.kind == "boxes" and not boxes:
        hint = "make masks by `segkit pseudolabel`, or score boxes by --task instance --by box"
        raise InputError("the set has boxes but no masks", file=truth.path, hint=hint)
    if task == "panoptic" and truth.manifest.kind != "panoptic":
        kind = truth.manifest.kind
        message = f"{'an' if kind == 'instance' else 'a'} {kind} set is no panoptic ground truth"
        raise InputError(message, file=truth.path, hint=f"use --task {kind}")
    if task == "instance" and truth.manifest.kind == "semantic":
        raise InputError(
            "a semantic set knows no instances", file=truth.path, hint="use --task semantic"
        )
    if task == "semantic" and truth.manifest.kind == "instance":
        message = "instances may overlap and leave pixels open: no class map"
        raise InputError(message, file=truth.path, hint="use --task instance")


def as_predictions(
    predictions: Iterable[Sample] | ShardSet | Predictions, truth: ShardSet
) -> Predictions:
    """Predictions of any form in the classes of the ground truth."""
    if isinstance(predictions, ShardSet):
        return SetPredictions(predictions, truth.taxonomy)
    return Samples(predictions) if isinstance(predictions, Iterable) else predictions


def _transfer(source: Predictions) -> dict[str, Any]:
    """How classes were mapped, where the predictions have another vocabulary."""
    mapping = getattr(source, "map", None)
    if mapping is None or not (
        mapping.unmapped or mapping.unreachable or mapping.merged or mapping.ambiguous
    ):
        return {}
    stated = {"unmapped": mapping.unmapped, "unreachable": mapping.unreachable}
    return {"class_map": stated | {"ambiguous": mapping.ambiguous, "merged": mapping.merged}}


def pairs(
    truth: ShardSet, source: Predictions, batch: int
) -> Iterator[tuple[list[Sample], list[Sample]]]:
    """Batches of at most `batch` images: ground truth and predictions of the same images."""
    truths: list[Sample] = []
    found: list[Sample] = []
    for sample in truth.samples():
        truths.append(sample)
        found.append(
            source.of(sample) or Sample(sample.id, sample.file_name, sample.width, sample.height)
        )
        if len(truths) == batch:
            yield truths, found
            truths, found = [], []
    if truths:
        yield truths, found


def _regions(truth: ShardSet, source: Predictions) -> Iterator[tuple[Regions, Regions]]:
    """Batches of both sides as columns, ignored ground truth left out (it becomes void).

    Where the predictions are a set of the same images in the same order and vocabulary, nothing but
    the columns needed is read; the result is the same.
    """
    if isinstance(source, SetPredictions) and source.follows(truth):
        sides = (
            region_batches(truth, BATCH, "ground truth"),
            region_batches(source.shards, BATCH, "predictions"),
        )
        for labeled, predicted in zip(*sides, strict=True):
            yield labeled.without_ignored(), predicted
        return
    index = truth.taxonomy.index
    for truths, found in pairs(truth, source, BATCH):
        labeled = regions_of(truths, index, what="ground truth").without_ignored()
        yield labeled, regions_of(found, index, what="predictions")


def _objects(truth: ShardSet, source: Predictions, by: By) -> Iterator[tuple[Objects, Objects]]:
    """Batches of both sides as the instance metrics take them, read as by `_regions`."""
    if isinstance(source, SetPredictions) and source.follows(truth):
        sides = (object_batches(shards, OBJECTS_BATCH, by) for shards in (truth, source.shards))
        yield from zip(*sides, strict=True)
        return
    for truths, found in pairs(truth, source, OBJECTS_BATCH):
        yield objects_of(truths), objects_of(found)


def _panoptic(truth: ShardSet, source: Predictions, options: EvalOptions) -> Measured:
    taxonomy, ids = truth.taxonomy, list[tuple[str, ...]]()
    parts, pixels, outlined = list[PanopticRows](), list[SemanticRows](), list[PanopticRows]()
    classes = len(taxonomy.categories)
    for labeled, predicted in _regions(truth, source):
        shared = overlap(labeled, predicted)
        parts.append(panoptic.match_overlap(shared, labeled, predicted))
        if options.boundary:
            limit = boundary.iou_of_pairs(shared, labeled, predicted)
            outlined.append(panoptic.match_overlap(shared, labeled, predicted, limit))
        pixels.append(semantic.compare_overlap(shared, labeled, predicted, classes))
        ids.append(labeled.ids)
    sizes = [len(batch) for batch in ids]
    rows = PanopticRows.concatenate(parts, sizes)
    is_thing = [category.kind == "thing" for category in taxonomy.categories]
    metrics = panoptic.summarize(panoptic.count(rows, classes), names(taxonomy), is_thing)
    metrics |= {"several_crowds": rows.several_crowds}
    by_outlines = PanopticRows.concatenate(outlined, sizes) if options.boundary else None
    if by_outlines is not None:
        metrics["boundary"] = panoptic.summarize(
            panoptic.count(by_outlines, classes), names(taxonomy), is_thing
        )
    made_of = SemanticRows.concatenate(pixels, sizes)
    metrics["confused_pixels"] = semantic.confused(
        semantic.confusion(made_of, classes), names(taxonomy)
    )
    return Measured(metrics, _flat(ids), panoptic=rows, semantic=made_of, outlined=by_outlines)


def _semantic(truth: ShardSet, source: Predictions, options: EvalOptions) -> Measured:
    taxonomy, ids, parts = truth.taxonomy, list[tuple[str, ...]](), list[SemanticRows]()
    classes = len(taxonomy.categories)
    for labeled, predicted in _regions(truth, source):
        parts.append(semantic.compare(labeled, predicted, classes))
        ids.append(labeled.ids)
    rows = SemanticRows.concatenate(parts, [len(batch) for batch in ids])
    metrics = semantic.summarize(semantic.confusion(rows, classes), names(taxonomy))
    return Measured(metrics, _flat(ids), semantic=rows)


def _instance(truth: ShardSet, source: Predictions, options: EvalOptions) -> Measured:
    if options.evaluator not in instance.EVALUATORS:
        raise InputError(
            f"unknown evaluator {options.evaluator!r}",
            hint=f"one of {', '.join(instance.EVALUATORS)}",
        )
    things, labels, federated = (
        thing_classes(truth.taxonomy),
        class_labels(truth.taxonomy),
        is_federated(truth),
    )
    shown = [labels[category.id] for category in things]
    kept = _Kept(options, instance.LVIS_DETECTIONS if federated else options.max_dets[-1])
    batches = kept.passing(_batches(truth, source, things, options.by, federated))
    metrics = _average_precision(truth, batches, shown, options, federated)
    if kept.without_mask and not kept.with_mask:
        raise InputError(
            "the predictions are boxes without masks", hint="score boxes by --by box, or give masks"
        )
    metrics["without_mask"] = kept.without_mask
    if options.errors:
        metrics |= errors.breakdown(kept.batches, shown, options.by, metrics["max_dets"])
    if kept.outlines:
        curves = boundary.curves(kept.batches, len(things), tuple(metrics["max_dets"]))
        metrics["boundary"] = instance.summarize(curves, shown, metrics["max_dets"])
    numbers = image_numbers(kept.ids)
    rows = DetectionRows.concatenate(kept.details, numbers) if options.details else None
    by_outlines = (
        DetectionRows.concatenate(kept.outlined, numbers)
        if options.details and kept.outlines
        else None
    )
    return Measured(metrics, tuple(kept.ids), detections=rows, outlined_detections=by_outlines)


def _batches(
    truth: ShardSet, source: Predictions, things: Sequence[Category], by: By, federated: bool
) -> Iterator[tuple[Sequence[str], Batch]]:
    """Image ids and records, batch after batch."""
    index = {c.id: None for c in truth.taxonomy.categories} | {
        c.id: k for k, c in enumerate(things)
    }
    given = iter(image_numbers(image_ids(truth)))
    for labeled, predicted in _objects(truth, source, by):
        own = list(islice(given, len(labeled.ids)))
        yield labeled.ids, records(labeled, predicted, index, by, own, federated)


class _Kept:
    """What is kept of the batches that pass by on their way to the evaluator."""

    def __init__(self, options: EvalOptions, detections: int) -> None:
        self.options, self.most = options, detections
        self.outlines = options.boundary and options.by == "mask"
        self.ids: list[str] = []
        self.details: list[DetectionRows] = []
        self.outlined: list[DetectionRows] = []
        self.batches: list[Batch] = []
        self.without_mask = self.with_mask = 0

    def passing(self, batches: Iterable[tuple[Sequence[str], Batch]]) -> Iterator[Batch]:
        """The batches as they are, each looked at first."""
        for ids, batch in batches:
            self.ids += ids
            self.without_mask += batch.without_mask
            self.with_mask += len(batch.results)
            self._look_at(searched(batch, self.most))
            yield batch

    def _look_at(self, batch: Batch) -> None:
        by = self.options.by
        if self.options.details:
            self.details.append(match(batch, by, self.most))
            if self.outlines:
                self.outlined.append(match(batch, by, self.most, boundary.overlaps))
        if self.options.errors or self.outlines:
            self.batches.append(batch)


def _average_precision(
    truth: ShardSet,
    batches: Iterator[Batch],
    shown: Sequence[str],
    options: EvalOptions,
    federated: bool,
) -> dict[str, Any]:
    """AP by the rules of LVIS where images of the ground truth were not searched for everything,
    else by COCO's."""
    how: dict[str, Any] = {"by": options.by, "evaluator": options.evaluator}
    if federated:
        if options.evaluator != "hotcoco":
            message = f"{options.evaluator} has no rules for images that were not searched for every class"
            raise InputError(message, file=truth.path, hint="use --evaluator hotcoco")
        curves = instance.federated(batches, len(shown), options.by)
        how |= {"protocol": "lvis", "max_dets": [instance.LVIS_DETECTIONS]}
    else:
        curves = instance.EVALUATORS[options.evaluator](
            batches, len(shown), options.by, options.max_dets
        )
        how |= {"protocol": "coco", "max_dets": list(options.max_dets)}
    return how | instance.summarize(curves, shown, how["max_dets"])


def is_federated(truth: ShardSet) -> bool:
    """Whether some image was searched for some classes only, or not for every instance of them."""
    for table in read_columns(truth, ["annotated", "exhaustive"]):
        if table.column("annotated").null_count < len(table) or not all(
            table.column("exhaustive").to_pylist()
        ):
            return True
    return False


def thing_classes(taxonomy: Taxonomy) -> list[Category]:
    """The classes that instances are scored on, in index order."""
    return [category for category in taxonomy.categories if category.kind == "thing"]


_TASKS = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}


def scored_names(taxonomy: Taxonomy, task: Task) -> list[str]:
    """Names of the classes that a task is scored on, in index order."""
    if task != "instance":
        return names(taxonomy)
    labels = class_labels(taxonomy)
    return [labels[category.id] for category in thing_classes(taxonomy)]


def names(taxonomy: Taxonomy) -> list[str]:
    """A distinct name of each class, in index order."""
    labels = class_labels(taxonomy)
    return [labels[category.id] for category in taxonomy.categories]


def _flat(batches: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(image for batch in batches for image in batch)
