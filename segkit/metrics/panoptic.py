"""Panoptic quality with the rules of panopticapi (Kirillov et al., "Panoptic Segmentation", CVPR
2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.regions import Regions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PanopticRows:
    """What became of every counted segment: one row each, so that any subset of images can be
    summed."""

    image: Ints
    """(N,) index of the image."""
    label: Ints
    """(N,) class index."""
    iou: Floats
    """(N,) IoU of a match; 0 for a miss or a false alarm."""
    outcome: Ints
    """(N,) 0 match (true positive), 1 false positive, 2 false negative."""
    several_crowds: int = 0
    """False positives that more than half lie in void and *all* crowds of their class, but not in
    the last one."""

    @classmethod
    def concatenate(cls, parts: Sequence["PanopticRows"], images: Sequence[int]) -> "PanopticRows":
        """Rows of consecutive batches of `images` images each."""
        base = np.concatenate(([0], np.cumsum(images)))
        return cls(
            np.concatenate(
                [part.image + base[i] for i, part in enumerate(parts)] or [np.zeros(0, np.int64)]
            ),
            np.concatenate([part.label for part in parts] or [np.zeros(0, np.int64)]),
            np.concatenate([part.iou for part in parts] or [np.zeros(0)]),
            np.concatenate([part.outcome for part in parts] or [np.zeros(0, np.int64)]),
            sum(part.several_crowds for part in parts),
        )


@dataclass(frozen=True)
class PanopticCounts:
    """Sums over images, one entry a class."""

    iou: Floats
    tp: Floats
    fp: Floats
    fn: Floats

    @property
    def present(self) -> NDArray[np.bool_]:
        """(K,) classes that have anything to score."""
        return self.tp + self.fp + self.fn > 0

    def quality(self) -> tuple[Floats, Floats, Floats]:
        """PQ, SQ and RQ of each class, 0-1; 0 where a class has no match (and where it is not
        present)."""
        weight = np.maximum(self.tp + 0.5 * self.fp + 0.5 * self.fn, 0.5)
        return self.iou / weight, self.iou / np.maximum(self.tp, 1), self.tp / weight


def match(truth: Regions, prediction: Regions) -> PanopticRows:
    """Match the segments of a batch of images.

    panopticapi's rules: a pair of the same class matches when its IoU is over 0.5, the union
    leaving out what the prediction has in void; crowds neither match nor count as missed; an
    unmatched prediction is forgiven when more than half of it lies in void and in the *last listed*
    crowd of its class. Ground truth marked `ignore` is void.
    """
    labeled = truth.without_ignored()
    return match_overlap(overlap(labeled, prediction), labeled, prediction)


def match_overlap(
    shared: Overlap, truth: Regions, prediction: Regions, limit: Floats | None = None
) -> PanopticRows:
    """`match` where the common pixels are known already.

    Args:
        shared: common pixels; the truth is without ignored segments.
        truth: columns of the ground truth.
        prediction: columns of the predictions.
        limit: (P,) largest IoU that each pair may have, such as that of its boundaries.
    """
    a, b, pixels = shared.truth, shared.prediction, shared.pixels
    covered = np.bincount(b, weights=pixels, minlength=len(prediction)).astype(np.int64)
    void = shared.prediction_area - covered
    union = shared.prediction_area[b] + shared.truth_area[a] - pixels - void[b]
    iou = pixels / union if limit is None else np.minimum(pixels / union, limit)
    hit = np.flatnonzero((truth.label[a] == prediction.label[b]) & ~truth.crowd[a] & (iou > 0.5))
    missed = np.flatnonzero(_others(a[hit], len(truth)) & ~truth.crowd)
    unmatched = _others(b[hit], len(prediction))
    last, every = _in_crowds(shared, truth, prediction)
    area = np.maximum(shared.prediction_area, 1)
    alarm = np.flatnonzero(unmatched & ~((void + last) / area > 0.5))
    several = int(np.count_nonzero((void + every)[alarm] / area[alarm] > 0.5))
    return _rows(truth, prediction, a[hit], iou[hit], alarm, missed, several)


def _rows(
    truth: Regions,
    prediction: Regions,
    hit: Ints,
    iou: Floats,
    alarm: Ints,
    missed: Ints,
    several: int,
) -> PanopticRows:
    return PanopticRows(
        np.concatenate((truth.image[hit], prediction.image[alarm], truth.image[missed])),
        np.concatenate((truth.label[hit], prediction.label[alarm], truth.label[missed])),
        np.concatenate((iou, np.zeros(len(alarm) + len(missed)))),
        np.repeat(np.arange(3), (len(hit), len(alarm), len(missed))),
        several,
    )


def _others(matched: Ints, count: int) -> NDArray[np.bool_]:
    rest = np.ones(count, np.bool_)
    rest[matched] = False
    return rest


def _in_crowds(shared: Overlap, truth: Regions, prediction: Regions) -> tuple[Ints, Ints]:
    """Pixels of each prediction in the last crowd of its class and image, and in all of them."""
    crowds = np.flatnonzero(truth.crowd)
    latest = {(int(truth.image[i]), int(truth.label[i])): int(i) for i in crowds}
    is_last = np.zeros(len(truth), np.bool_)
    is_last[list(latest.values())] = True
    a, b = shared.truth, shared.prediction
    same = truth.crowd[a] & (truth.label[a] == prediction.label[b])

    def pixels(pairs: NDArray[np.bool_]) -> Ints:
        sums = np.bincount(b[pairs], weights=shared.pixels[pairs], minlength=len(prediction))
        return np.asarray(sums, np.int64)

    return pixels(same & is_last[a]), pixels(same)


def count(rows: PanopticRows, classes: int, weights: Floats | None = None) -> PanopticCounts:
    """Sums over images.

    Args:
        rows: outcomes.
        classes: number of classes K.
        weights: (I,) how often each image is drawn (bootstrap); None counts each once.
    """
    weight = np.ones(len(rows.label)) if weights is None else weights[rows.image]

    def total(outcome: int, values: Floats) -> Floats:
        at = rows.outcome == outcome
        return np.asarray(
            np.bincount(rows.label[at], weights=values[at], minlength=classes), np.float64
        )

    return PanopticCounts(
        total(0, weight * rows.iou), total(0, weight), total(1, weight), total(2, weight)
    )


def mean_quality(
    counts: PanopticCounts, chosen: NDArray[np.bool_]
) -> dict[str, float | int | None]:
    """PQ, SQ and RQ in percent, averaged over the chosen classes that are present; None where none
    is."""
    at = np.flatnonzero(chosen & counts.present)
    if not len(at):
        return {"pq": None, "sq": None, "rq": None, "n": 0}
    pq, sq, rq = (100 * float(values[at].sum()) / len(at) for values in counts.quality())
    return {"pq": pq, "sq": sq, "rq": rq, "n": len(at)}


def summarize(
    counts: PanopticCounts, names: Sequence[str], is_thing: Sequence[bool]
) -> dict[str, Any]:
    """The panoptic part of metrics.json: `all`, `things`, `stuff`, `per_class`; percentages."""
    things = np.array(is_thing, np.bool_)
    groups = {"all": np.ones(len(names), np.bool_), "things": things, "stuff": ~things}
    pq, sq, rq = counts.quality()
    per_class = {}
    for k, name in enumerate(names):
        scores = {"pq": 100 * float(pq[k]), "sq": 100 * float(sq[k]), "rq": 100 * float(rq[k])}
        counted = {"tp": int(counts.tp[k]), "fp": int(counts.fp[k]), "fn": int(counts.fn[k])}
        per_class[name] = (scores if counts.present[k] else dict.fromkeys(scores)) | counted
    return {group: mean_quality(counts, chosen) for group, chosen in groups.items()} | {
        "per_class": per_class
    }


def image_quality(rows: PanopticRows, images: int, classes: int) -> Floats:
    """(I,) PQ of each image by itself, 0-1: the mean over the classes that it has; NaN where it has
    none."""
    key = rows.image * classes + rows.label
    weight = np.where(rows.outcome == 0, 1.0, 0.5)
    cells, cell = np.unique(key, return_inverse=True)
    quality = (
        np.bincount(cell, weights=rows.iou) / np.bincount(cell, weights=weight)
        if len(key)
        else np.zeros(0)
    )
    return _mean_by(cells // classes, quality, images)


def _mean_by(group: Ints, values: Floats, groups: int) -> Floats:
    with np.errstate(invalid="ignore"):
        sums = np.bincount(group, weights=values, minlength=groups)
        return np.asarray(sums / np.bincount(group, minlength=groups), np.float64)
