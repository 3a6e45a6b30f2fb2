"""COCO matching kept detection by detection, so that any weighting of images can be scored
(bootstrap, one image)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from segkit.masks.iou import coco_iou
from segkit.masks.run_lengths import Ints
from segkit.metrics.objects import Batch, By, Record, not_exhaustive

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCO AP."""
RECALLS = np.linspace(0, 1, 101)
Overlaps = Callable[[Sequence[Record], Sequence[Record]], Floats]
"""Detections and objects of a class in an image -> (D, G) overlaps, 0-1."""


@dataclass(frozen=True)
class DetectionRows:
    """Every detection that counts, and every object that is not a crowd."""

    image: Ints
    """(D,) index of the image."""
    label: Ints
    """(D,) class index."""
    score: Floats
    matched: Flags
    """(D, T) whether the detection is matched at each threshold."""
    ignored: Flags
    """(D, T) whether it does not count: it matched a crowd, or nothing where labels are not
    exhaustive."""
    object_image: Ints
    """(G,)."""
    object_label: Ints
    """(G,)."""
    object_iou: Floats
    """(G,) IoU with the best detection of the same class; 0 where there is none."""

    @classmethod
    def concatenate(
        cls, parts: Sequence["DetectionRows"], numbers: Sequence[int]
    ) -> "DetectionRows":
        """Rows of several batches as one, image after image by number: so evaluators go through
        equal scores.

        Args:
            parts: whose images are the records' numbers - 1.
            numbers: (I,) number of each image, 1 to I; the result has the images' indices in this
                list.
        """
        parts = parts or [match(Batch([], [], []), "mask", 100)]
        rows = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        place = np.argsort(np.array(numbers, np.int64))
        order = np.argsort(rows["image"], kind="stable")
        rows |= {
            name: rows[name][order] for name in ("image", "label", "score", "matched", "ignored")
        }
        return cls(**rows | {name: place[rows[name]] for name in ("image", "object_image")})


def match(batch: Batch, by: By, detections: int, limit: Overlaps | None = None) -> DetectionRows:
    """Match the detections of some images as pycocotools does, without limits of area.

    Args:
        batch: records; image ids are numbers from 1. Where an image's labels are not exhaustive,
            what matches nothing does not count.
        by: what overlaps are measured by.
        detections: how many of each class in each image count, the best first.
        limit: largest overlaps that pairs may have, such as those of their boundaries.
    """
    open_ended = not_exhaustive(batch)
    objects = _grouped(batch.annotations)
    rows: list[tuple[int, int, float, Flags, Flags]] = []
    best: dict[tuple[int, int], Floats] = {}
    for key, found in _grouped(batch.results).items():
        found = sorted(found, key=lambda result: -result["score"])[:detections]
        there = sorted(objects.get(key, []), key=lambda annotation: int(annotation["iscrowd"]))
        iou = overlaps(found, there, by)
        if limit is not None and iou.size:
            iou = np.minimum(iou, limit(found, there))
        matched, ignored = _assign(iou, np.array([a["iscrowd"] for a in there], np.bool_))
        if key in open_ended:
            ignored |= ~matched
        rows += [(*key, r["score"], m, i) for r, m, i in zip(found, matched, ignored, strict=True)]
        best[key] = iou.max(axis=0, initial=0)
    counted = [
        (key, k, a) for key, group in objects.items() for k, a in enumerate(_crowds_last(group))
    ]
    counted = [(key, k, a) for key, k, a in counted if not a["iscrowd"]]
    return DetectionRows(
        np.array([row[0] - 1 for row in rows], np.int64),
        np.array([row[1] - 1 for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.bool_).reshape(len(rows), len(THRESHOLDS)),
        np.array([row[4] for row in rows], np.bool_).reshape(len(rows), len(THRESHOLDS)),
        np.array([key[0] - 1 for key, _, _ in counted], np.int64),
        np.array([key[1] - 1 for key, _, _ in counted], np.int64),
        np.array([best[key][k] if key in best else 0.0 for key, k, _ in counted], np.float64),
    )


def _crowds_last(annotations: Iterable[Record]) -> list[Record]:
    return sorted(annotations, key=lambda annotation: int(annotation["iscrowd"]))


def _grouped(records: Iterable[Record]) -> dict[tuple[int, int], list[Record]]:
    groups: dict[tuple[int, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["image_id"], record["category_id"]), []).append(record)
    return groups


def overlaps(found: Sequence[Record], there: Sequence[Record], by: By) -> Floats:
    """(D, G) IoU; with a crowd, the share of the detection that lies in it."""
    key = "segmentation" if by == "mask" else "bbox"
    crowd = [annotation["iscrowd"] for annotation in there]
    return coco_iou([record[key] for record in found], [record[key] for record in there], crowd)


def _assign(iou: Floats, crowd: Flags) -> tuple[Flags, Flags]:
    """Greedy assignment, (D, T) matched and ignored: the best detection first, each to its best
    free object.

    An object is better than a crowd; a crowd takes any number; of equal overlaps the later one is
    taken.
    """
    shape = (len(iou), len(THRESHOLDS))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    limit = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(THRESHOLDS), len(crowd)), np.bool_)
    for d in range(len(iou) if len(crowd) else 0):
        possible = iou[d] >= limit
        for group in (~crowd, crowd):
            value = np.where(possible & group & (free | crowd), iou[d], -1.0)
            at = len(crowd) - 1 - value[:, ::-1].argmax(axis=1)
            new = (value[np.arange(len(at)), at] >= 0) & ~matched[d]
            matched[d] |= new
            ignored[d] |= new & crowd[at]
            free[new, at[new]] = False
    return matched, ignored


def average_precision(rows: DetectionRows, classes: int, weights: Floats | None = None) -> Floats:
    """(T, K) average precision, 0-1; NaN where a class has no object.

    Args:
        rows: matched detections.
        classes: number of classes K.
        weights: (I,) how often each image is drawn (bootstrap); None counts each once.
    """
    weight = np.ones(len(rows.label)) if weights is None else weights[rows.image]
    of_object = np.ones(len(rows.object_label)) if weights is None else weights[rows.object_image]
    objects = np.asarray(
        np.bincount(rows.object_label, weights=of_object, minlength=classes), np.float64
    )
    order = np.lexsort((-rows.score, rows.label))
    order = order[weight[order] > 0]
    label, end = (
        rows.label[order],
        np.searchsorted(rows.label[order], np.arange(classes), side="right"),
    )
    result = np.empty((len(THRESHOLDS), classes))
    for t in range(len(THRESHOLDS)):
        counts = weight[order] * ~rows.ignored[order, t]
        result[t] = _area(label, end, counts * rows.matched[order, t], counts, objects)
    result[:, objects == 0] = np.nan
    return result


def _area(label: Ints, end: Ints, hits: Floats, counts: Floats, objects: Floats) -> Floats:
    """(K,) mean interpolated precision at `RECALLS`, for detections sorted by class and score.

    Classes are kept apart by an offset that is larger than any precision, or any count of hits.
    """
    if not len(label):
        return np.zeros(len(objects))
    true, every = (_cumulative(values, label) for values in (hits, counts))
    precision = true / np.maximum(every, np.spacing(1))
    envelope = np.maximum.accumulate((precision - 2.0 * label)[::-1])[::-1] + 2.0 * label
    span = float(every.max()) + float(objects.max()) + 2
    wanted = _hits_for(RECALLS, objects) + (span * np.arange(len(objects)))[:, None]
    at = np.searchsorted(true + span * label, wanted)
    inside = at < end[:, None]
    found = np.where(inside, envelope[np.minimum(at, len(label) - 1)], 0.0)
    return np.asarray(found.mean(axis=1), np.float64)


def _hits_for(recalls: Floats, objects: Floats) -> Floats:
    """(K, R) fewest hits whose share of the objects reaches a recall, in the rounding of the
    reference.

    pycocotools compares hits / objects with `linspace`: 7 of 10 is less than its
    0.7000000000000001.
    """
    number = np.maximum(objects, 1)[:, None]
    hits = np.ceil(recalls * number)
    hits -= (hits >= 1) & ((hits - 1) / number >= recalls)
    return np.asarray(hits + (hits / number < recalls), np.float64)


def _cumulative(values: Floats, label: Ints) -> Floats:
    sums = np.cumsum(values)
    begin = np.flatnonzero(np.diff(label, prepend=-1))
    base = sums[begin] - values[begin]
    return np.asarray(sums - np.repeat(base, np.diff(np.append(begin, len(values)))), np.float64)


def image_scores(rows: DetectionRows, images: int) -> Floats:
    """(I,) mean over an image's objects of the IoU with the best detection of their class; NaN
    without objects."""
    objects = np.bincount(rows.object_image, minlength=images)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.bincount(rows.object_image, weights=rows.object_iou, minlength=images) / objects,
            np.float64,
        )
