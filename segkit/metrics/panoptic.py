"""Panoptic quality as panopticapi computes it (Kirillov et al., CVPR 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints
from segkit.metrics.class_mapping import class_names
from segkit.metrics.image_rows import RowMetric
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.regions import Regions
from segkit.taxonomy import Taxonomy

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = range(3)


@dataclass(frozen=True)
class PanopticRows:
    """The outcome of every counted segment, one row each, so that any images can be summed."""

    image: Ints
    """(N,) index of the image."""
    label: Ints
    """(N,) class index."""
    iou: Floats
    """(N,) IoU of a match; 0 for a false positive or false negative."""
    outcome: Ints
    """(N,) 0 true positive, 1 false positive, 2 false negative."""


@dataclass(frozen=True)
class PanopticCounts:
    """(K,) sums over images, one entry a class."""

    iou: Floats
    tp: Floats
    fp: Floats
    fn: Floats

    @property
    def present(self) -> Flags:
        """(K,) classes with at least one counted segment."""
        return self.tp + self.fp + self.fn > 0

    def quality(self) -> tuple[Floats, Floats, Floats]:
        """(K,) PQ, SQ and RQ of each class, 0-1; 0 where a class has no match."""
        weight = np.maximum(self.tp + 0.5 * self.fp + 0.5 * self.fn, 0.5)
        return self.iou / weight, self.iou / np.maximum(self.tp, 1), self.tp / weight

    def mean_quality(self, classes: Flags) -> dict[str, Any]:
        """PQ, SQ and RQ in percent, averaged over those of `classes` (K,) that are present.

        `n` is the number of these classes; the figures are None where there is none.
        """
        at = np.flatnonzero(classes & self.present)
        if not len(at):
            return {"pq": None, "sq": None, "rq": None, "n": 0}
        pq, sq, rq = (100 * float(values[at].sum()) / len(at) for values in self.quality())
        return {"pq": pq, "sq": sq, "rq": rq, "n": len(at)}


class PanopticQuality(RowMetric[PanopticRows]):
    """PQ, SQ and RQ over all, thing and stuff classes, and of each class.

    panopticapi's rules: a pair of the same class matches when its IoU is over 0.5, where the union
    leaves out the prediction's pixels in void; crowds neither match nor count as missed; an
    unmatched prediction is forgiven when more than half of it is in void or in the *last listed*
    crowd of its class. Ground truth marked `ignore` is void. Predictions of a class that their
    image is not annotated for do not count.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        none = np.zeros(0, np.int64)
        super().__init__(PanopticRows(none, none, np.zeros(0), none))
        self.class_names = class_names(taxonomy)
        self.is_thing = np.array([c.kind == "thing" for c in taxonomy.categories], np.bool_)
        self.several_crowds = 0
        """False positives that are more than half in void and *all* crowds of their class, but not
        in void and the last of these crowds."""

    def update(self, truth: Regions, prediction: Regions) -> None:
        """Match the segments of a batch of images.

        Raises:
            InputError: segments of one image overlap, or a prediction differs in size from its
                image.
        """
        truth, prediction = truth.without_ignored(), prediction.of_annotated_classes(truth)
        pairs = overlap(truth, prediction)
        limit = self.max_iou(pairs, truth, prediction)
        rows, several_crowds = _match(pairs, truth, prediction, limit)
        self.add(rows, len(truth.ids))
        self.several_crowds += several_crowds

    def merge(self, parts: Sequence[Self]) -> None:
        """Add what other metrics have counted; their images follow those of this one."""
        super().merge(parts)
        self.several_crowds += sum(part.several_crowds for part in parts)

    def max_iou(self, pairs: Overlap, truth: Regions, prediction: Regions) -> Floats | None:
        """(P,) upper bound of each pair's IoU; None sets none. Subclasses may set one."""
        return None

    def counts(self, weights: Floats | None = None) -> PanopticCounts:
        """Sums over images.

        Args:
            weights: (I,) how often each image is drawn (bootstrap); None counts each once.
        """
        rows = self.rows
        weight = np.ones(len(rows.label)) if weights is None else weights[rows.image]

        def total(outcome: int, values: Floats) -> Floats:
            at = rows.outcome == outcome
            sums = np.bincount(rows.label[at], weights=values[at], minlength=len(self.class_names))
            return np.asarray(sums, np.float64)

        return PanopticCounts(
            total(TRUE_POSITIVE, weight * rows.iou),
            total(TRUE_POSITIVE, weight),
            total(FALSE_POSITIVE, weight),
            total(FALSE_NEGATIVE, weight),
        )

    def compute(self) -> dict[str, Any]:
        """`all`, `things`, `stuff` and `per_class` of metrics.json; percentages."""
        counts = self.counts()
        all_classes = np.ones(len(self.class_names), np.bool_)
        groups = {"all": all_classes, "things": self.is_thing, "stuff": ~self.is_thing}
        figures = {group: counts.mean_quality(classes) for group, classes in groups.items()}
        pq, sq, rq = counts.quality()
        per_class = {}
        for k, name in enumerate(self.class_names):
            quality = {"pq": 100 * float(pq[k]), "sq": 100 * float(sq[k]), "rq": 100 * float(rq[k])}
            counted = {"tp": int(counts.tp[k]), "fp": int(counts.fp[k]), "fn": int(counts.fn[k])}
            per_class[name] = (quality if counts.present[k] else dict.fromkeys(quality)) | counted
        return figures | {"per_class": per_class}

    def headline(self, weights: Floats | None = None) -> dict[str, float | None]:
        """Headline figures in percent for `weights` of the images, as `counts` takes them."""
        counts = self.counts(weights)
        quality = counts.mean_quality(np.ones(len(self.class_names), np.bool_))
        return {
            "pq": quality["pq"],
            "pq things": counts.mean_quality(self.is_thing)["pq"],
            "pq stuff": counts.mean_quality(~self.is_thing)["pq"],
            "sq": quality["sq"],
            "rq": quality["rq"],
        }

    def per_image(self) -> Floats:
        """(I,) PQ of each image by itself, 0-1: the mean over its classes; NaN without a class."""
        rows, classes = self.rows, len(self.class_names)
        key = rows.image * classes + rows.label
        weight = np.where(rows.outcome == TRUE_POSITIVE, 1.0, 0.5)
        cells, cell = np.unique(key, return_inverse=True)
        quality = np.zeros(0)
        if len(key):
            quality = np.bincount(cell, weights=rows.iou) / np.bincount(cell, weights=weight)
        image = cells // classes
        with np.errstate(invalid="ignore"):
            sums = np.bincount(image, weights=quality, minlength=self.images)
            return np.asarray(sums / np.bincount(image, minlength=self.images), np.float64)


def _match(
    pairs: Overlap, truth: Regions, prediction: Regions, limit: Floats | None
) -> tuple[PanopticRows, int]:
    """Outcomes of a batch, and the number of false positives in several crowds.

    Args:
        pairs: common pixels.
        truth: true segments, without ignored ones.
        prediction: predicted segments.
        limit: (P,) upper bound of each pair's IoU, such as that of its boundaries.
    """
    a, b, pixels = pairs.truth, pairs.prediction, pairs.pixels
    covered = np.bincount(b, weights=pixels, minlength=len(prediction)).astype(np.int64)
    void = pairs.prediction_area - covered
    union = pairs.prediction_area[b] + pairs.truth_area[a] - pixels - void[b]
    iou = pixels / union if limit is None else np.minimum(pixels / union, limit)
    match = np.flatnonzero((truth.label[a] == prediction.label[b]) & ~truth.crowd[a] & (iou > 0.5))
    missed = np.flatnonzero(_unmatched(a[match], len(truth)) & ~truth.crowd)
    unmatched = _unmatched(b[match], len(prediction))
    in_last_crowd, in_all_crowds = _in_crowds(pairs, truth, prediction)
    area = np.maximum(pairs.prediction_area, 1)
    false = np.flatnonzero(unmatched & ~((void + in_last_crowd) / area > 0.5))
    several = int(np.count_nonzero((void + in_all_crowds)[false] / area[false] > 0.5))
    hit = a[match]
    rows = PanopticRows(
        np.concatenate((truth.image[hit], prediction.image[false], truth.image[missed])),
        np.concatenate((truth.label[hit], prediction.label[false], truth.label[missed])),
        np.concatenate((iou[match], np.zeros(len(false) + len(missed)))),
        np.repeat(np.arange(3), (len(hit), len(false), len(missed))),
    )
    return rows, several


def _unmatched(matched: Ints, count: int) -> Flags:
    rest = np.ones(count, np.bool_)
    rest[matched] = False
    return rest


def _in_crowds(pairs: Overlap, truth: Regions, prediction: Regions) -> tuple[Ints, Ints]:
    """Pixels of each prediction in the last crowd of its class and image, and in all of them."""
    crowds = np.flatnonzero(truth.crowd)
    latest = {(int(truth.image[i]), int(truth.label[i])): int(i) for i in crowds}
    is_last = np.zeros(len(truth), np.bool_)
    is_last[list(latest.values())] = True
    a, b = pairs.truth, pairs.prediction
    same_class = truth.crowd[a] & (truth.label[a] == prediction.label[b])

    def pixels(at: Flags) -> Ints:
        sums = np.bincount(b[at], weights=pairs.pixels[at], minlength=len(prediction))
        return np.asarray(sums, np.int64)

    return pixels(same_class & is_last[a]), pixels(same_class)
