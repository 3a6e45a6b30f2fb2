"""Evaluate predictions against ground truth: batches of both update metrics, which then compute."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.arguments import check_choice
from segkit.errors import InputError
from segkit.file_names import path_text
from segkit.malloc import raise_malloc_threshold
from segkit.metrics import bootstrap
from segkit.metrics.batches import BATCH, sample_batches
from segkit.metrics.boundary import BoundaryAP
from segkit.metrics.box_prompt_iou import BoxPromptIoU
from segkit.metrics.class_mapping import thing_classes
from segkit.metrics.detections import DetectionMatches
from segkit.metrics.mask_recall import MaskRecall
from segkit.metrics.panoptic import PanopticQuality
from segkit.metrics.predictions import (
    CommonPredictions,
    MappedPredictions,
    Predictions,
    SetPredictions,
    as_predictions,
    count_missing,
    open_predictions,
)
from segkit.metrics.semantic import SemanticIoU, most_confused
from segkit.metrics.sides import MASKS_HINT, named_files
from segkit.metrics.task_metrics import (
    EvalOptions,
    TaskMetrics,
    check_evaluator,
    check_max_dets,
    count,
)
from segkit.metrics.zero_shot import compute_zero_shot
from segkit.sample import Sample
from segkit.shards.manifest import TASKS, Task
from segkit.shards.reader import ShardSet
from segkit.storage import StrPath
from segkit.workers.devices import Workers

Floats = NDArray[np.float64]
_OF_PREDICTIONS = ("images", "without_mask", "class_map")
"""Keys of metrics.json that tell what is missing from the predictions."""
ARRAYS = 31 << 20
"""Bytes: larger arrays return to the system when they are freed."""


@dataclass(frozen=True)
class EvalResult:
    """Figures of an evaluation, and the metrics that they were computed by."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    image_ids: tuple[str, ...]
    """(I,) ids in the order in which the metrics count images."""
    panoptic: PanopticQuality | None = None
    semantic: SemanticIoU | None = None
    """Also of a panoptic evaluation, for the confusion between classes; not of headlines only."""
    detections: DetectionMatches | None = None
    """Only where `EvalOptions.detections` asks for it."""
    boundary: PanopticQuality | DetectionMatches | None = None
    """By the smaller of mask IoU and boundary IoU."""
    ap50_per_class: dict[str, float | None] | None = None
    """AP50 of each class in percent, of instances."""

    def headline(self, weights: Floats | None = None) -> dict[str, float]:
        """Headline figures in percent, NaN where undefined; those by boundaries beside the others.

        Args:
            weights: (I,) how often each image is drawn; None counts each once.

        Raises:
            InputError: instances were evaluated without `EvalOptions.detections`.
        """
        metric = self.panoptic or self.semantic or self.detections
        if metric is None:
            raise InputError("the evaluation kept no detections", hint="evaluate with detections")
        figures = metric.headline(weights)
        if self.boundary is not None:
            by_boundary = self.boundary.headline(weights)
            figures |= {f"boundary {name}": value for name, value in by_boundary.items()}
        return {
            name: float("nan") if value is None else float(value) for name, value in figures.items()
        }

    def image_scores(self) -> tuple[Floats, str]:
        """Score each image by itself.

        Returns:
            (I,) scores in percent, NaN for images without anything to score, and the figure's name.
        """
        if self.panoptic is not None:
            return 100 * self.panoptic.per_image(), "PQ"
        if self.detections is not None:
            return 100 * self.detections.per_image(), "mean IoU of objects"
        if self.semantic is not None:
            return 100 * self.semantic.per_image(), "mIoU"
        return np.full(len(self.image_ids), np.nan), ""


def evaluate_images(truth: ShardSet, predictions: ShardSet) -> EvalResult:
    """Evaluate in the task of the labels, with what `EvalResult.image_scores` needs.

    Panoptic labels are evaluated in the task of the predictions. Predictions of images that the
    ground truth lacks are left out, not refused.
    """
    labels = predictions if truth.manifest.kind == "panoptic" else truth
    task = TASKS[labels.manifest.kind]
    common = CommonPredictions(SetPredictions(predictions, truth), truth)
    return evaluate(truth, common, task, EvalOptions(detections=task == "instance"))


def evaluate(
    truth: ShardSet | StrPath,
    predictions: Iterable[Sample] | ShardSet | Predictions | StrPath,
    task: Task,
    options: EvalOptions = EvalOptions(),
    *,
    workers: Workers = Workers(),
) -> EvalResult:
    """Compare predictions with the ground truth.

    An image without a prediction counts as one in which nothing was predicted; the figure
    `images.without_prediction` is the number of such images.

    Args:
        truth: the ground truth, or its path.
        predictions: predictions for its images, or their path, see `open_predictions`.
        task: panoptic, semantic or instance.
        options: further figures.
        workers: share the images of a set that was predicted from the ground truth's. Each counts
            parts of it, and the counts are merged: the figures are those of one process.

    Raises:
        InputError: unknown images or classes, overlapping maps, missing masks, NaN scores: what
            `segkit eval` refuses.
    """
    raise_malloc_threshold(ARRAYS)
    truth = truth if isinstance(truth, ShardSet) else ShardSet.open(truth)
    check_task(truth, task, options)
    if options.bootstrap:
        options = replace(options, detections=True)
    if isinstance(predictions, str | os.PathLike):
        predictions = open_predictions(path_text(predictions), truth, task=task)
    source = as_predictions(predictions, truth)
    with named_files(truth.path, source.file):
        return _evaluate(truth, source, task, options, workers)


def _evaluate(
    truth: ShardSet, source: Predictions, task: Task, options: EvalOptions, workers: Workers
) -> EvalResult:
    """Count predictions, and compute all figures; see `evaluate`."""
    missing = count_missing(source, truth)
    metrics = count(truth, source, task, options, workers)
    result = _TASKS[task](metrics, options)
    counts = {"evaluated": len(truth), "without_prediction": missing}
    figures: dict[str, Any] = {"task": task, "images": counts}
    mapped = source if isinstance(source, SetPredictions | MappedPredictions) else None
    if mapped is not None and (class_map := mapped.class_map.to_json()):
        figures["class_map"] = class_map
    figures |= result.metrics
    if options.bootstrap and result.image_ids:
        figures["bootstrap"] = bootstrap.compute_intervals(
            result.headline, len(result.image_ids), options.bootstrap
        )
    if options.unseen:
        per_class, ap50 = figures["per_class"], result.ap50_per_class
        figures["zero_shot"] = compute_zero_shot(per_class, options.unseen, task, ap50)
        recall = MaskRecall(truth.taxonomy)
        masks = source if mapped is None else mapped.as_written()
        for images, predicted in sample_batches(truth, masks, BATCH):
            recall.update(images, predicted)
        seen = [name for name in per_class if name not in options.unseen]
        figures["zero_shot"]["mask_recall"] = {
            "seen": recall.compute(seen),
            "unseen": recall.compute(options.unseen),
        }
    if options.box_prompts:
        metric = BoxPromptIoU(truth.taxonomy)
        for images, predicted in sample_batches(truth, source, BATCH):
            metric.update(images, predicted)
        figures["given_boxes"] = metric.compute()
    return replace(result, metrics=figures)


def compare(
    truth: ShardSet,
    first: Predictions,
    second: Predictions,
    task: Task,
    options: EvalOptions,
) -> dict[str, Any]:
    """Headline figures of two predictions for the same images, and intervals of their difference.

    `predictions` says of each side how many images and masks were missing, and what became of its
    classes, as metrics.json does.

    Args:
        truth: the ground truth.
        first: predictions a.
        second: predictions b.
        task: panoptic, semantic or instance.
        options: of both evaluations; `bootstrap` is the number of draws.

    Raises:
        InputError: the ground truth holds no image, or what `evaluate` refuses.
    """
    if not len(truth):
        hint = "compare on a set with images"
        raise InputError("the set has no images", file=truth.path, hint=hint)
    samples = options.bootstrap
    options = replace(
        options, detections=True, tide=False, bootstrap=0, unseen=(), headline_only=True
    )
    a, b = (evaluate(truth, predictions, task, options) for predictions in (first, second))
    differences = bootstrap.compute_differences(a.headline, b.headline, len(truth), samples)
    sides = {
        name: {key: side.metrics[key] for key in _OF_PREDICTIONS if key in side.metrics}
        for name, side in (("a", a), ("b", b))
    }
    result = {"task": task, "images": len(truth), "predictions": sides, **differences}
    return result | ({"by": options.iou_type} if task == "instance" else {})


def check_task(truth: ShardSet, task: Task, options: EvalOptions) -> None:
    """Refuse an unknown task, and ground truth of a wrong kind or beyond the evaluator's rules.

    Reads labels only where the set has boxes without masks, up to the first that counts.
    """
    check_choice(task, Task, "task")
    kind = truth.manifest.kind
    by_box = task == "instance" and options.iou_type == "box"
    if kind == "boxes" and not by_box:
        raise InputError("the set has boxes but no masks", file=truth.path, hint=MASKS_HINT)
    if task == "panoptic" and kind != "panoptic":
        message = f"{'an' if kind == 'instance' else 'a'} {kind} set is not panoptic ground truth"
        raise InputError(message, file=truth.path, hint=f"use `segkit eval --task {kind}`")
    if task == "instance" and kind == "semantic":
        message = "a semantic set does not separate instances"
        raise InputError(message, file=truth.path, hint="use `segkit eval --task semantic`")
    if task == "semantic" and kind == "instance":
        message = "instances may overlap and leave pixels unlabeled: they are not a class map"
        raise InputError(message, file=truth.path, hint="use `segkit eval --task instance`")
    if task == "instance":
        check_evaluator(truth, options.evaluator)
        check_max_dets(truth, options.max_dets)
    if truth.manifest.statistics.boxes_only and not by_box:
        _require_masks(truth, task)


def _require_masks(truth: ShardSet, task: Task) -> None:
    """Raise InputError where a segment of a class that the task counts has no mask."""
    classes = thing_classes(truth.taxonomy) if task == "instance" else truth.taxonomy.categories
    counted = {category.id for category in classes}
    for sample in truth.samples():
        if any(s.mask is None and s.class_id in counted for s in sample.segments):
            statistics = truth.manifest.statistics
            share = f"{statistics.boxes_only} of its {statistics.segments} segments"
            message, record = f"{share} are boxes without a mask", f"image {sample.id}"
            raise InputError(message, file=truth.path, record=record, hint=MASKS_HINT)


def _panoptic(metrics: TaskMetrics, options: EvalOptions) -> EvalResult:
    quality, semantic, boundary = metrics.panoptic, metrics.semantic, metrics.boundary
    assert quality is not None
    assert not isinstance(boundary, BoundaryAP)
    figures = quality.compute() | {"several_crowds": quality.several_crowds}
    if boundary is not None:
        figures["boundary"] = boundary.compute()
    if semantic is not None:
        figures["confused_pixels"] = most_confused(semantic.confusion(), semantic.class_names)
    image_ids = tuple(metrics.image_ids)
    return EvalResult(figures, image_ids, panoptic=quality, semantic=semantic, boundary=boundary)


def _semantic(metrics: TaskMetrics, options: EvalOptions) -> EvalResult:
    assert metrics.semantic is not None
    figures = metrics.semantic.compute()
    return EvalResult(figures, tuple(metrics.image_ids), semantic=metrics.semantic)


def _instance(metrics: TaskMetrics, options: EvalOptions) -> EvalResult:
    precision, masks = metrics.instance, metrics.masks
    assert precision is not None and masks is not None
    figures = {
        "by": options.iou_type,
        "evaluator": options.evaluator,
        "protocol": precision.protocol,
        "max_dets": list(precision.max_dets),
        **({} if options.headline_only else precision.compute()),
        **masks.compute(),
    }
    if metrics.tide is not None:
        figures |= metrics.tide.compute()
    if metrics.boundary is not None:
        figures["boundary"] = metrics.boundary.compute()
    if metrics.box is not None:
        figures["box"] = metrics.box.compute()
    return EvalResult(
        figures,
        tuple(metrics.image_ids),
        detections=metrics.detections,
        boundary=metrics.boundary_detections,
        ap50_per_class=precision.ap50_per_class,
    )


_TASKS = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}
