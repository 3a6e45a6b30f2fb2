"""Evaluation of a whole set: pairs of samples stream by, batch after batch, and leave only counts behind."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segkit.errors import InputError
from segkit.manifest import Task
from segkit.metrics import instance, panoptic, semantic
from segkit.metrics.panoptic import PanopticRows
from segkit.metrics.predictions import Predictions, Samples, SetPredictions, check_images
from segkit.metrics.regions import Regions, regions_of
from segkit.metrics.semantic import SemanticRows
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.shards.writer import class_labels
from segkit.taxonomy import Taxonomy

BATCH = 64
"""Images compared at once: enough to hide Python's cost per call, few enough for the processor's caches."""


@dataclass(frozen=True)
class Options:
    """How instances are scored."""

    evaluator: str = "hotcoco"
    by: instance.By = "mask"
    max_dets: tuple[int, ...] = instance.MAX_DETS


@dataclass(frozen=True)
class Measured:
    """Figures of a task, and what they were made from."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    image_ids: tuple[str, ...]
    """(I,) ids in the order of the rows' image indices."""
    panoptic: PanopticRows | None = None
    semantic: SemanticRows | None = None


def evaluate(truth: ShardSet, predictions: Iterable[Sample] | ShardSet | Predictions, task: Task) -> dict[str, Any]:
    """The figures of a task as metrics.json has them, with default options."""
    return measure(truth, predictions, task).metrics


def measure(
    truth: ShardSet,
    predictions: Iterable[Sample] | ShardSet | Predictions,
    task: Task,
    options: Options = Options(),
) -> Measured:
    """Compare predictions with the ground truth.

    An image without a prediction counts as one in which nothing was found; `images.without_prediction` tells how many.

    Raises:
        InputError: what `segkit eval` refuses: unknown images or classes, overlapping maps, missing masks, NaN scores.
    """
    _check_kind(truth, task, options)
    source = _source(predictions, truth)
    missing = check_images(source, truth)
    measured = _TASKS[task](truth, source, options)
    info = {"images": {"evaluated": len(truth), "without_prediction": missing}} | _transfer(source)
    return replace(measured, metrics={"task": task} | info | measured.metrics)


def _check_kind(truth: ShardSet, task: Task, options: Options) -> None:
    boxes = task == "instance" and options.by == "box"
    if truth.manifest.kind == "boxes" and not boxes:
        mend = "make masks by `segkit pseudolabel`, or score boxes by --task instance --by box"
        raise InputError("the set has boxes but no masks", file=truth.path, mend=mend)
    if task == "panoptic" and truth.manifest.kind != "panoptic":
        raise InputError(f"a {truth.manifest.kind} set is no panoptic ground truth", file=truth.path)
    if task == "instance" and truth.manifest.kind == "semantic":
        raise InputError("a semantic set knows no instances", file=truth.path, mend="use --task semantic")
    if task == "semantic" and truth.manifest.kind == "instance":
        raise InputError("instances may overlap and leave pixels open: no class map", file=truth.path)


def _source(predictions: Iterable[Sample] | ShardSet | Predictions, truth: ShardSet) -> Predictions:
    if isinstance(predictions, ShardSet):
        return SetPredictions(predictions, truth.taxonomy)
    return Samples(predictions) if isinstance(predictions, Iterable) else predictions


def _transfer(source: Predictions) -> dict[str, Any]:
    """How classes were mapped, where the predictions have another vocabulary."""
    mapping = getattr(source, "map", None)
    if mapping is None or not (mapping.unmapped or mapping.unreachable or mapping.merged or mapping.ambiguous):
        return {}
    stated = {"unmapped": mapping.unmapped, "unreachable": mapping.unreachable}
    return {"class_map": stated | {"ambiguous": mapping.ambiguous, "merged": mapping.merged}}


def pairs(truth: ShardSet, source: Predictions) -> Iterator[tuple[list[Sample], list[Sample]]]:
    """Batches of ground truth and predictions of the same images."""
    truths: list[Sample] = []
    found: list[Sample] = []
    for sample in truth.samples():
        truths.append(sample)
        found.append(source.of(sample) or Sample(sample.id, sample.file_name, sample.width, sample.height))
        if len(truths) == BATCH:
            yield truths, found
            truths, found = [], []
    if truths:
        yield truths, found


def _panoptic(truth: ShardSet, source: Predictions, options: Options) -> Measured:
    taxonomy, parts, ids = truth.taxonomy, [], []
    for truths, found in pairs(truth, source):
        sides = (
            regions_of(truths, taxonomy.index, what="ground truth"),
            regions_of(found, taxonomy.index, what="predictions"),
        )
        parts.append(panoptic.match(*sides))
        ids.append([sample.id for sample in truths])
    rows = panoptic.PanopticRows.concatenate(parts, [len(batch) for batch in ids])
    counts = panoptic.count(rows, len(taxonomy.categories))
    is_thing = [category.kind == "thing" for category in taxonomy.categories]
    metrics = panoptic.summarize(counts, names(taxonomy), is_thing) | {"several_crowds": rows.several_crowds}
    return Measured(metrics, _flat(ids), panoptic=rows)


def _sides(truths: list[Sample], found: list[Sample], taxonomy: Taxonomy) -> tuple[Regions, Regions]:
    return (
        regions_of(truths, taxonomy.index, what="ground truth"),
        regions_of(found, taxonomy.index, what="predictions"),
    )


def _semantic(truth: ShardSet, source: Predictions, options: Options) -> Measured:
    taxonomy, parts, ids = truth.taxonomy, [], []
    classes = len(taxonomy.categories)
    for truths, found in pairs(truth, source):
        sides = (
            regions_of(truths, taxonomy.index, what="ground truth"),
            regions_of(found, taxonomy.index, what="predictions"),
        )
        parts.append(semantic.compare(*sides, classes))
        ids.append([sample.id for sample in truths])
    rows = semantic.SemanticRows.concatenate(parts, [len(batch) for batch in ids])
    return Measured(semantic.summarize(semantic.confusion(rows, classes), names(taxonomy)), _flat(ids), semantic=rows)


def _instance(truth: ShardSet, source: Predictions, options: Options) -> Measured:
    if options.evaluator not in instance.EVALUATORS:
        raise InputError(f"unknown evaluator {options.evaluator!r}", mend=f"one of {', '.join(instance.EVALUATORS)}")
    things = [category for category in truth.taxonomy.categories if category.kind == "thing"]
    index = {category.id: k for k, category in enumerate(things)}
    ids: list[list[str]] = []

    def batches() -> Iterator[instance.Batch]:
        first = 1
        for truths, found in pairs(truth, source):
            yield instance.records(truths, found, index, options.by, first)
            ids.append([sample.id for sample in truths])
            first += len(truths)

    curves = instance.EVALUATORS[options.evaluator](batches(), len(things), options.by, options.max_dets)
    labels = class_labels(truth.taxonomy)
    metrics = instance.summarize(curves, [labels[category.id] for category in things], options.max_dets)
    how = {"by": options.by, "evaluator": options.evaluator, "max_dets": list(options.max_dets)}
    return Measured(how | metrics, _flat(ids))


_TASKS = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}


def names(taxonomy: Taxonomy) -> list[str]:
    """A distinct name of each class, in index order."""
    labels = class_labels(taxonomy)
    return [labels[category.id] for category in taxonomy.categories]


def _flat(batches: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(image for batch in batches for image in batch)
