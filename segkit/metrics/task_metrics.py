"""The metrics of a task, which one process updates by all images, or workers by parts of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from segkit import storage
from segkit.arguments import check_choice, check_number
from segkit.errors import InputError
from segkit.metrics.batches import OBJECTS_BATCH, record_batches, region_batches
from segkit.metrics.boundary import BoundaryAP, BoundaryDetectionMatches, BoundaryPanopticQuality
from segkit.metrics.class_mapping import task_class_names
from segkit.metrics.detections import DetectionMatches
from segkit.metrics.instance import (
    EVALUATORS,
    LVIS_MAX_DETS,
    MAX_DETS,
    InstanceAP,
    LvisAP,
    MissingMasks,
)
from segkit.metrics.objects import IouType
from segkit.metrics.panoptic import PanopticQuality
from segkit.metrics.predictions import Predictions, SetPredictions
from segkit.metrics.semantic import SemanticIoU
from segkit.metrics.shard_columns import is_federated
from segkit.metrics.tide import TideErrors
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.shard import rows_per_shard
from segkit.workers.devices import Workers

Truth = TypeVar("Truth", contravariant=True)
Prediction = TypeVar("Prediction", contravariant=True)


class Metric(Protocol[Truth, Prediction]):
    """A metric: batches of truth and predictions update it, `compute` returns its figures."""

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Add a batch of images."""
        ...

    def merge(self, parts: Sequence[Any]) -> None:
        """Add what metrics of the same kind have counted on the images after these."""
        ...

    def compute(self) -> dict[str, Any]:
        """The figures of everything added, as metrics.json holds them."""
        ...


@dataclass(frozen=True)
class EvalOptions:
    """What an evaluation computes beside the task's own figures, and how it matches instances."""

    evaluator: str = "hotcoco"
    """Of COCO AP: a key of `EVALUATORS`."""
    iou_type: IouType = "mask"
    """Whether instances match by mask or by box."""
    max_dets: tuple[int, ...] = MAX_DETS
    """Detections that count, of each class in each image; ascending."""
    detections: bool = False
    """Keep each detection with its matches, for intervals and the report (instance)."""
    boundary: bool = False
    """Compute the figures also by the smaller of mask IoU and boundary IoU (slow)."""
    tide: bool = False
    """Compute the error types of TIDE; keeps all records in memory (instance)."""
    bootstrap: int = 0
    """Draws of the images for intervals; 0 for none."""
    unseen: Sequence[str] = ()
    """Classes that were not seen in training, for zero-shot figures."""
    box_prompts: bool = False
    """The predictions are masks for the true boxes: compute their IoU by size and class."""
    headline_only: bool = False
    """Compute only what `EvalResult.headline` needs, as a comparison does."""

    def __post_init__(self) -> None:
        """Raise InputError for an unknown value, or a number that is too small."""
        check_choice(self.evaluator, tuple(EVALUATORS), "evaluator")
        check_choice(self.iou_type, IouType, "iou_type")
        check_number(self.bootstrap, "bootstrap", 0)
        for limit in self.max_dets:
            check_number(limit, "max_dets", 1)


@dataclass
class TaskMetrics:
    """The metrics of an evaluation; None for those that it does not compute."""

    panoptic: PanopticQuality | None = None
    semantic: SemanticIoU | None = None
    instance: InstanceAP | None = None
    masks: MissingMasks | None = None
    tide: TideErrors | None = None
    boundary: BoundaryPanopticQuality | BoundaryAP | None = None
    detections: DetectionMatches | None = None
    boundary_detections: DetectionMatches | None = None
    box: InstanceAP | None = None
    """AP by the boxes of instances that are matched by masks."""
    image_ids: list[str] = field(default_factory=list)

    @classmethod
    def from_options(cls, truth: ShardSet, task: Task, options: EvalOptions) -> "TaskMetrics":
        """The metrics of a task, before the first image."""
        if task == "semantic":
            return cls(semantic=SemanticIoU(truth.taxonomy))
        if task == "panoptic":
            boundary = BoundaryPanopticQuality(truth.taxonomy) if options.boundary else None
            semantic = None if options.headline_only else SemanticIoU(truth.taxonomy)
            return cls(PanopticQuality(truth.taxonomy), semantic, boundary=boundary)
        names, iou_type = task_class_names(truth.taxonomy, "instance"), options.iou_type
        federated = is_federated(truth)
        precision = _instance_ap(truth, names, options, federated)
        metrics = cls(instance=precision, masks=MissingMasks())
        max_dets, limit = precision.max_dets, precision.max_dets[-1]
        by_boundary = options.boundary and iou_type == "mask"
        if options.tide:
            metrics.tide = TideErrors(names, iou_type, max_dets)
        if by_boundary and not options.headline_only:
            metrics.boundary = BoundaryAP(names, max_dets)
        if options.detections:
            metrics.detections = DetectionMatches(len(names), iou_type, limit)
        if options.detections and by_boundary:
            metrics.boundary_detections = BoundaryDetectionMatches(len(names), iou_type, limit)
        if iou_type == "mask" and not options.headline_only:
            metrics.box = _instance_ap(truth, names, replace(options, iou_type="box"), federated)
        return metrics

    def update(
        self, truth: ShardSet, predictions: Predictions, rows: range | None = None
    ) -> "TaskMetrics":
        """Add the images of a set, or some consecutive ones of aligned predictions."""
        if self.instance is None:
            regions = region_batches(truth, predictions, rows)
            metrics = (self.panoptic, self.semantic, self.boundary)
            self.image_ids += _update(metrics, regions)
            return self
        federated = isinstance(self.instance, LvisAP)
        iou_type, matched = self.instance.iou_type, (self.detections, self.boundary_detections)
        by_type = (self.instance, self.masks, self.tide, self.boundary, *matched)
        iou_types: list[IouType] = [iou_type] if self.box is None else [iou_type, "box"]
        for records in record_batches(truth, predictions, iou_types, federated, rows):
            self.image_ids += _update(by_type, [records[iou_type]])
            _update((self.box,), [records["box"]] if self.box is not None else [])
        return self

    def merge(self, parts: Sequence["TaskMetrics"]) -> "TaskMetrics":
        """Add the counts of the images after these."""
        for item in fields(self):
            metric = getattr(self, item.name)
            if isinstance(metric, list):
                metric += [image for part in parts for image in part.image_ids]
            elif metric is not None:
                metric.merge([getattr(part, item.name) for part in parts])
        return self


def _update(metrics: Iterable[Any], batches: Iterable[tuple[Any, Any]]) -> list[str]:
    """Add batches to metrics, those that are None excepted; returns the ids of the images."""
    chosen: list[Metric[Any, Any]] = [metric for metric in metrics if metric is not None]
    image_ids: list[str] = []
    for truth, prediction in batches:
        for metric in chosen:
            metric.update(truth, prediction)
        image_ids += truth.ids
    return image_ids


def count(
    truth: ShardSet, source: Predictions, task: Task, options: EvalOptions, workers: Workers
) -> TaskMetrics:
    """Update the metrics of a task by all images, in this process or by workers.

    Workers count parts of whole batches, so that the merged rows are in one process's order.
    """
    if (
        workers.in_process
        or not len(truth)
        or not isinstance(source, SetPredictions)
        or not source.is_aligned(truth)
    ):
        return TaskMetrics.from_options(truth, task, options).update(truth, source)
    rows = -(-rows_per_shard(len(truth)) // OBJECTS_BATCH) * OBJECTS_BATCH
    parts = [range(at, min(at + rows, len(truth))) for at in range(0, len(truth), rows)]
    folders = [s.path for s in (truth, source.shards) if not storage.is_remote(s.path)]
    task_of_worker = partial(_open_worker, truth, source.shards, task, options)
    counted = dict(workers.run(task_of_worker, list(enumerate(parts)), folders))
    first, *others = (counted[index] for index in range(len(parts)))
    return first.merge(others)


def _open_worker(
    truth: ShardSet, predicted: ShardSet, task: Task, options: EvalOptions, device: str
) -> Callable[[int, range], tuple[int, TaskMetrics]]:
    """The function of a worker: the metrics of a part; metrics compute on CPUs."""
    source = SetPredictions(predicted, truth)

    def count_part(index: int, rows: range) -> tuple[int, TaskMetrics]:
        return index, TaskMetrics.from_options(truth, task, options).update(truth, source, rows)

    return count_part


def _instance_ap(
    truth: ShardSet, names: Sequence[str], options: EvalOptions, federated: bool
) -> InstanceAP:
    """AP by the rules of LVIS where images are annotated for only some classes, else by COCO's."""
    check_evaluator(truth, options.evaluator, federated)
    if not federated:
        return EVALUATORS[options.evaluator](names, options.iou_type, options.max_dets)
    return LvisAP(names, options.iou_type)


def check_evaluator(truth: ShardSet, evaluator: str, federated: bool | None = None) -> None:
    """Raise InputError for an unknown evaluator, and for one without the rules that a set needs.

    `federated` is what `is_federated` returns; None reads it where it matters.
    """
    check_choice(evaluator, tuple(EVALUATORS), "evaluator")
    if evaluator == "hotcoco":
        return
    if is_federated(truth) if federated is None else federated:
        rest = "annotated for only some classes, or not exhaustively"
        message = f"{evaluator} has no rules for images that are {rest}"
        raise InputError(message, file=truth.path, hint="use --evaluator hotcoco")


def check_max_dets(truth: ShardSet, max_dets: tuple[int, ...]) -> None:
    """Raise InputError for limits of detections where the rules of LVIS have their own."""
    if max_dets != MAX_DETS and is_federated(truth):
        message = f"--max-dets does nothing here: the rules of LVIS count {LVIS_MAX_DETS}"
        raise InputError(message, file=truth.path, hint="leave it out")
