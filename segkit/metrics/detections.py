"""COCO matching that keeps each detection, so that any weighting of the images can be evaluated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.masks.iou import coco_iou
from segkit.masks.run_lengths import Ints
from segkit.metrics.image_rows import concatenate
from segkit.metrics.objects import IouType, PredictedRecords, Record, TrueRecords

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds of COCO AP."""
RECALLS = np.linspace(0, 1, 101)
Key = tuple[int, int]
"""Image number and category."""


@dataclass(frozen=True)
class DetectionRows:
    """Every detection that counts, and every object that is not a crowd."""

    image: Ints
    """(D,) index of the image."""
    label: Ints
    """(D,) class index."""
    score: Floats
    """(D,)"""
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


class DetectionMatches:
    """AP of matches kept detection by detection; matching is pycocotools', without area limits.

    Where images are annotated for only some classes, the rules of LVIS apply. Where an image's
    labels are not exhaustive, a detection that matches nothing does not count.
    """

    def __init__(self, classes: int, iou_type: IouType, max_dets: int) -> None:
        """Set up the metric.

        Args:
            classes: number of evaluated classes K.
            iou_type: whether masks or boxes are compared.
            max_dets: detections that count, of each class in each image (by the rules of LVIS, of
                all classes together).
        """
        self.classes = classes
        self.iou_type = iou_type
        self.max_dets = max_dets
        self._numbers: list[int] = []
        self._batches = [_rows([], [], {})]
        self._rows: DetectionRows | None = None

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Match the detections of a batch of images."""
        results = prediction.counted(truth, self.max_dets).results
        not_exhaustive = truth.not_exhaustive()
        objects = _grouped(truth.annotations)
        rows: list[tuple[int, int, float, Flags, Flags]] = []
        best: dict[Key, Floats] = {}
        for key, detections in _grouped(results).items():
            detections.sort(key=lambda result: -result["score"])
            detections = detections[: self.max_dets]
            targets = _crowds_last(objects.get(key, []))
            iou = self.iou(detections, targets)
            matched, ignored = _assign(iou, np.array([t["iscrowd"] for t in targets], np.bool_))
            if key in not_exhaustive:
                ignored |= ~matched
            rows += [
                (*key, result["score"], m, i)
                for result, m, i in zip(detections, matched, ignored, strict=True)
            ]
            best[key] = iou.max(axis=0, initial=0)
        counted = [
            (key, k)
            for key, annotations in objects.items()
            for k, annotation in enumerate(_crowds_last(annotations))
            if not annotation["iscrowd"]
        ]
        self._batches.append(_rows(rows, counted, best))
        self._numbers += [image["id"] for image in truth.images]
        self._rows = None

    def merge(self, parts: "Sequence[DetectionMatches]") -> None:
        """Add what other metrics have matched; their images follow those of this one."""
        for part in parts:
            self._batches += part._batches
            self._numbers += part._numbers
        self._rows = None

    def iou(self, detections: Sequence[Record], targets: Sequence[Record]) -> Floats:
        """(D, G) IoU of masks or boxes; with a crowd, the share of the detection inside it."""
        key = "segmentation" if self.iou_type == "mask" else "bbox"
        crowd = [target["iscrowd"] for target in targets]
        return coco_iou([d[key] for d in detections], [t[key] for t in targets], crowd)

    @property
    def rows(self) -> DetectionRows:
        """Detections and objects of all images so far."""
        if self._rows is None:
            self._rows = _in_image_order(concatenate(self._batches), self._numbers)
        return self._rows

    def average_precision(self, weights: Floats | None = None) -> Floats:
        """(T, K) average precision, 0-1; NaN where a class has no object.

        Args:
            weights: (I,) how often each image is drawn (bootstrap); None counts each once.
        """
        rows, classes = self.rows, self.classes
        weight, object_weight = np.ones(len(rows.label)), np.ones(len(rows.object_label))
        if weights is not None:
            weight, object_weight = weights[rows.image], weights[rows.object_image]
        sums = np.bincount(rows.object_label, weights=object_weight, minlength=classes)
        objects = np.asarray(sums, np.float64)  # (K,)
        order = np.lexsort((-rows.score, rows.label))
        order = order[weight[order] > 0]
        label = rows.label[order]
        end = np.searchsorted(label, np.arange(classes), side="right")
        precision = np.empty((len(THRESHOLDS), classes))
        for t in range(len(THRESHOLDS)):
            counts = weight[order] * ~rows.ignored[order, t]
            hits = counts * rows.matched[order, t]
            precision[t] = _mean_precision(label, end, hits, counts, objects)
        precision[:, objects == 0] = np.nan
        return precision

    def compute(self) -> dict[str, float | None]:
        """`ap`, `ap50` and `ap75` in percent."""
        return self.headline()

    def headline(self, weights: Floats | None = None) -> dict[str, float | None]:
        """Headline figures in percent, weighted by image.

        Args:
            weights: of the images, as `average_precision` takes them.
        """
        precision = self.average_precision(weights)
        defined = precision[:, ~np.isnan(precision[0])]
        if not defined.size:
            return dict.fromkeys(("ap", "ap50", "ap75"))
        by_threshold = 100 * defined.mean(axis=1)
        return {
            "ap": float(by_threshold.mean()),
            "ap50": float(by_threshold[0]),
            "ap75": float(by_threshold[5]),
        }

    def per_image(self) -> Floats:
        """(I,) mean best IoU (0-1) of an image's objects; NaN without objects.

        The best IoU of an object is that with the best detection of its class.
        """
        rows, images = self.rows, len(self._numbers)
        objects = np.bincount(rows.object_image, minlength=images)
        sums = np.bincount(rows.object_image, weights=rows.object_iou, minlength=images)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / objects, np.float64)


def _rows(
    detections: Sequence[tuple[int, int, float, Flags, Flags]],
    objects: Sequence[tuple[Key, int]],
    best: dict[Key, Floats],
) -> DetectionRows:
    """Columns of a batch.

    Args:
        detections: image number, category, score, and (T,) matched and ignored.
        objects: key of each object, and its place among the annotations of that key.
        best: by key, (G,) largest IoU of each annotation with a detection.
    """
    shape = (len(detections), len(THRESHOLDS))
    return DetectionRows(
        np.array([row[0] - 1 for row in detections], np.int64),
        np.array([row[1] - 1 for row in detections], np.int64),
        np.array([row[2] for row in detections], np.float64),
        np.array([row[3] for row in detections], np.bool_).reshape(shape),
        np.array([row[4] for row in detections], np.bool_).reshape(shape),
        np.array([key[0] - 1 for key, _ in objects], np.int64),
        np.array([key[1] - 1 for key, _ in objects], np.int64),
        np.array([best[key][k] if key in best else 0.0 for key, k in objects], np.float64),
    )


def _in_image_order(rows: DetectionRows, numbers: Sequence[int]) -> DetectionRows:
    """The rows with detections in the order of image numbers, as evaluators go through them.

    Args:
        rows: their image indices are the images' numbers - 1.
        numbers: (I,) number of each image, 1 to I; in the result, an image's index is its place in
            this list.
    """
    order = np.argsort(rows.image, kind="stable")
    place = np.argsort(np.array(numbers, np.int64))
    return DetectionRows(
        place[rows.image[order]],
        rows.label[order],
        rows.score[order],
        rows.matched[order],
        rows.ignored[order],
        place[rows.object_image],
        rows.object_label,
        rows.object_iou,
    )


def _crowds_last(annotations: Iterable[Record]) -> list[Record]:
    return sorted(annotations, key=lambda annotation: int(annotation["iscrowd"]))


def _grouped(records: Iterable[Record]) -> dict[Key, list[Record]]:
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault((record["image_id"], record["category_id"]), []).append(record)
    return groups


def _assign(iou: Floats, crowd: Flags) -> tuple[Flags, Flags]:
    """Greedy assignment: the best detection first, each to its best free target.

    An object is better than a crowd; a crowd takes any number of detections; of equal IoUs the
    later one is taken.

    Args:
        iou: (D, G), detections by score, crowds last.
        crowd: (G,) whether a target is a crowd.

    Returns:
        (D, T) matched and ignored.
    """
    shape = (len(iou), len(THRESHOLDS))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    limit = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(THRESHOLDS), len(crowd)), np.bool_)  # (T, G)
    for d in range(len(iou) if len(crowd) else 0):
        possible = iou[d] >= limit  # (T, G)
        for group in (~crowd, crowd):
            value = np.where(possible & group & (free | crowd), iou[d], -1.0)
            at = len(crowd) - 1 - value[:, ::-1].argmax(axis=1)  # (T,)
            new = (value[np.arange(len(at)), at] >= 0) & ~matched[d]
            matched[d] |= new
            ignored[d] |= new & crowd[at]
            free[new, at[new]] = False
    return matched, ignored


def _mean_precision(
    label: Ints, end: Ints, hits: Floats, counts: Floats, objects: Floats
) -> Floats:
    """(K,) mean interpolated precision at `RECALLS`.

    Classes are kept apart by an offset that is larger than any precision, or any count of hits.

    Args:
        label: (D,) class of each detection, sorted by class and score.
        end: (K,) end of each class.
        hits: (D,) weight of each true positive, 0 for others.
        counts: (D,) weight of each detection that counts.
        objects: (K,) weight of the objects.
    """
    if not len(label):
        return np.zeros(len(objects))
    true, positive = (_cumulative(values, label) for values in (hits, counts))
    precision = true / np.maximum(positive, np.spacing(1))
    envelope = np.maximum.accumulate((precision - 2.0 * label)[::-1])[::-1] + 2.0 * label
    span = float(positive.max()) + float(objects.max()) + 2
    needed = _needed_hits(RECALLS, objects) + (span * np.arange(len(objects)))[:, None]  # (K, R)
    at = np.searchsorted(true + span * label, needed)
    inside = at < end[:, None]
    interpolated = np.where(inside, envelope[np.minimum(at, len(label) - 1)], 0.0)
    return np.asarray(interpolated.mean(axis=1), np.float64)


def _needed_hits(recalls: Floats, objects: Floats) -> Floats:
    """(K, R) fewest hits whose share of the objects reaches a recall.

    Rounds as the reference does.

    pycocotools compares hits / objects with `linspace`: 7 of 10 is less than its
    0.7000000000000001.
    """
    number = np.maximum(objects, 1)[:, None]
    hits = np.ceil(recalls * number)
    hits -= (hits >= 1) & ((hits - 1) / number >= recalls)
    return np.asarray(hits + (hits / number < recalls), np.float64)


def _cumulative(values: Floats, label: Ints) -> Floats:
    """(D,) running sum within each class."""
    sums = np.cumsum(values)
    begin = np.flatnonzero(np.diff(label, prepend=-1))
    base = sums[begin] - values[begin]
    return np.asarray(sums - np.repeat(base, np.diff(np.append(begin, len(values)))), np.float64)
