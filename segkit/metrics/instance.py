"""COCO average precision of masks or boxes: the evaluators, and the figures of their arrays."""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks.run_lengths import decode_runs, join
from segkit.metrics.objects import Batch, By, Record

Floats = NDArray[np.float64]
AREAS = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
"""COCO's size classes, in pixels of area (both ends belong to the class)."""
MAX_DETS = (1, 10, 100)
"""Detections that count, of each class in each image."""
LVIS_DETECTIONS = 300
"""Detections of an image that count by the rules of LVIS, all classes together."""


@dataclass(frozen=True)
class Curves:
    """Precision and recall as pycocotools lays them out; -1 where a class has no ground truth."""

    precision: Floats
    """(T, R, K, A, M): IoU thresholds 0.50:0.05:0.95, recalls 0:0.01:1, classes, `AREAS`,
    detections an image."""
    recall: Floats
    """(T, K, A, M)."""
    thresholds: Floats
    """(T,) IoU thresholds."""


def mask_areas(results: Sequence[Record]) -> list[int]:
    """Pixels of each result's mask."""
    return [
        int(a)
        for a in decode_runs(*join([result["segmentation"]["counts"] for result in results])).area
    ]


Evaluator = Callable[[Iterable[Batch], int, By, tuple[int, ...]], Curves]


def hotcoco(batches: Iterable[Batch], classes: int, by: By, max_dets: tuple[int, ...]) -> Curves:
    """Curves by hotcoco, which matches batch after batch and keeps no mask (memory stays
    bounded)."""
    from hotcoco import Params, StreamingEval

    kind = "segm" if by == "mask" else "bbox"
    params = Params(kind)
    params.max_dets = list(max_dets)
    return _streamed(StreamingEval(categories(classes), kind, params=params), batches)


def federated(batches: Iterable[Batch], classes: int, by: By) -> Curves:
    """Curves with the rules of LVIS, by hotcoco, for images in which not everything was looked for.

    A detection of a class that was not looked for in its image does not count; one that matches
    nothing does not count either where the image's labels are not exhaustive; the best 300
    detections of an image count.
    """
    from hotcoco import StreamingEval

    return _streamed(
        StreamingEval(categories(classes), "segm" if by == "mask" else "bbox", lvis_style=True),
        batches,
    )


def _streamed(stream: Any, batches: Iterable[Batch]) -> Curves:
    for batch in batches:
        stream.update(batch.images, batch.annotations, batch.results)
    evaluator = stream.finalize()
    evaluator.accumulate()
    found: Any = evaluator.eval
    return Curves(found["precision"], found["recall"], np.array(evaluator.params.iou_thrs))


def pycocotools(
    batches: Iterable[Batch], classes: int, by: By, max_dets: tuple[int, ...]
) -> Curves:
    """Curves by the reference implementation (all records in memory)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return in_memory(COCO, COCOeval, batches, classes, by, max_dets)


def faster_coco_eval(
    batches: Iterable[Batch], classes: int, by: By, max_dets: tuple[int, ...]
) -> Curves:
    """Curves by faster-coco-eval (all records in memory)."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise InputError(
            "faster-coco-eval is not installed", hint="pip install faster-coco-eval"
        ) from error
    return in_memory(COCO, COCOeval_faster, batches, classes, by, max_dets)


def in_memory(
    coco: Any,
    evaluate: Any,
    batches: Iterable[Batch],
    classes: int,
    by: By,
    max_dets: tuple[int, ...],
) -> Curves:
    """Run pycocotools' classes, or others with their interface, silently: they print progress on
    stdout."""
    images, annotations, results = joined(batches, by)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = (_dataset(coco, images, rows, classes) for rows in (annotations, results))
        evaluator = evaluate(truth, found, "segm" if by == "mask" else "bbox")
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
    return Curves(
        evaluator.eval["precision"], evaluator.eval["recall"], np.asarray(evaluator.params.iouThrs)
    )


def joined(batches: Iterable[Batch], by: By) -> tuple[list[Record], list[Record], list[Record]]:
    """All records as three lists; results get what `loadRes` would add, without its failure on an
    empty list."""
    images: list[Record] = []
    annotations: list[Record] = []
    results: list[Record] = []
    for batch in batches:
        images += batch.images
        annotations += batch.annotations
        areas = (
            mask_areas(batch.results)
            if by == "mask"
            else [r["bbox"][2] * r["bbox"][3] for r in batch.results]
        )
        results += [
            result | {"area": area, "iscrowd": 0}
            for result, area in zip(batch.results, areas, strict=True)
        ]
    for rows in (annotations, results):
        for number, row in enumerate(rows, 1):
            row["id"] = number
    return images, annotations, results


def _dataset(coco: Any, images: list[Record], annotations: list[Record], classes: int) -> Any:
    made = coco()
    made.dataset = {
        "images": images,
        "annotations": _copies(annotations),
        "categories": categories(classes),
    }
    made.createIndex()
    return made


def _copies(annotations: list[Record]) -> list[Record]:
    """The records with masks of their own: evaluators write into what they are given, and others
    read it after them."""
    return [
        {key: dict(value) if key == "segmentation" else value for key, value in r.items()}
        for r in annotations
    ]


def categories(classes: int) -> list[Record]:
    """COCO's records of the classes, numbered from 1."""
    return [{"id": k + 1, "name": str(k + 1), "frequency": "f"} for k in range(classes)]


EVALUATORS: dict[str, Evaluator] = {
    "hotcoco": hotcoco,
    "faster-coco-eval": faster_coco_eval,
    "pycocotools": pycocotools,
}


def summarize(
    curves: Curves, names: Sequence[str], max_dets: Sequence[int] = MAX_DETS
) -> dict[str, Any]:
    """The instance part of metrics.json: AP and AR in percent, None where a class or size has no
    ground truth."""
    result: dict[str, Any] = {"ap": _mean(curves.precision[:, :, :, 0, -1])}
    for name, threshold in (("ap50", 0.5), ("ap75", 0.75)):
        at = np.flatnonzero(np.isclose(curves.thresholds, threshold))
        result[name] = _mean(curves.precision[at, :, :, 0, -1])
    for a, size in enumerate(AREAS):
        if a:
            result[f"ap_{size}"] = _mean(curves.precision[:, :, :, a, -1])
    for m, detections in enumerate(max_dets):
        result[f"ar{detections}"] = _mean(curves.recall[:, :, 0, m])
    for a, size in enumerate(AREAS):
        if a:
            result[f"ar_{size}"] = _mean(curves.recall[:, :, a, -1])
    classes = np.ascontiguousarray(np.moveaxis(curves.precision[:, :, :, 0, -1], 2, 0))
    result["per_class"] = {name: _mean(own) for name, own in zip(names, classes, strict=True)}
    return result


def _mean(values: Floats) -> float | None:
    defined = values[values > -1]
    return 100 * float(np.mean(defined)) if defined.size else None
