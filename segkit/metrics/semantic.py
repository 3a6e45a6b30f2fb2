"""Mean IoU and pixel accuracies from run lengths; void pixels of the ground truth are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints
from segkit.metrics.class_mapping import class_names
from segkit.metrics.image_rows import RowMetric
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.regions import Regions
from segkit.taxonomy import Taxonomy

Floats = NDArray[np.float64]
ABSENT_CLASSES = "mean over classes with union > 0"
"""mmsegmentation's rule: a class that is neither in the ground truth nor predicted does not count;
its IoU is null."""
MAX_CONFUSED = 20
"""Listed pairs of confused classes."""


@dataclass(frozen=True)
class SemanticRows:
    """Pixels of every (true class, predicted class) pair that an image has."""

    image: Ints
    """(N,) index of the image."""
    true: Ints
    """(N,) class index."""
    predicted: Ints
    """(N,) class index; K where nothing was predicted."""
    pixels: Ints
    """(N,)"""


class SemanticIoU(RowMetric[SemanticRows]):
    """mIoU, frequency-weighted IoU, pixel and mean accuracy, and the confusion between classes.

    Pixels in no segment of the ground truth, or in one marked `ignore`, are void; a pixel without a
    prediction is wrong. A class that an image is not annotated for counts as not predicted there.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        none = np.zeros(0, np.int64)
        super().__init__(SemanticRows(none, none, none, none))
        self.class_names = class_names(taxonomy)

    def update(self, truth: Regions, prediction: Regions) -> None:
        """Compare the class maps of a batch of images.

        Raises:
            InputError: segments of one image overlap, or a prediction differs in size from its
                image.
        """
        truth, prediction = truth.without_ignored(), prediction.of_annotated_classes(truth)
        pairs = overlap(truth, prediction)
        rows = _class_pairs(pairs, truth, prediction, len(self.class_names))
        self.add(rows, len(truth.ids))

    def confusion(self, weights: Floats | None = None) -> Floats:
        """(K, K + 1) pixels of each true class by predicted class; in the last column, of none.

        Args:
            weights: (I,) how often each image is drawn (bootstrap); None counts each once.
        """
        rows, classes = self.rows, len(self.class_names)
        pixels = rows.pixels if weights is None else rows.pixels * weights[rows.image]
        cell = rows.true * (classes + 1) + rows.predicted
        cells = np.bincount(cell, weights=pixels, minlength=classes * (classes + 1))
        return np.asarray(cells, np.float64).reshape(classes, classes + 1)

    def compute(self) -> dict[str, Any]:
        """The semantic part of metrics.json; percentages."""
        confusion = self.confusion()
        iou = class_scores(confusion)[0]
        per_class = {
            name: None if np.isnan(value) else 100 * float(value)
            for name, value in zip(self.class_names, iou, strict=True)
        }
        return mean_scores(confusion) | {
            "absent_classes": ABSENT_CLASSES,
            "classes_counted": int(np.count_nonzero(~np.isnan(iou))),
            "per_class": per_class,
            "confused_pixels": most_confused(confusion, self.class_names),
        }

    def headline(self, weights: Floats | None = None) -> dict[str, float | None]:
        """Headline figures in percent for `weights` of the images, as `confusion` takes them."""
        return mean_scores(self.confusion(weights))

    def per_image(self) -> Floats:
        """(I,) mIoU (0-1) of each image; NaN where nothing is annotated.

        The mean is over the classes that are in the image or predicted.
        """
        rows, classes = self.rows, len(self.class_names)
        correct = self._class_pixels(rows.true, rows.true == rows.predicted)
        true = self._class_pixels(rows.true, np.ones(len(rows.true), np.bool_))
        predicted = self._class_pixels(rows.predicted, rows.predicted < classes)
        with np.errstate(invalid="ignore"):
            iou = correct / (true + predicted - correct)  # (I, K)
            present = ~np.isnan(iou)
            return np.asarray(np.nansum(iou, axis=1) / present.sum(1), np.float64)

    def _class_pixels(self, label: Ints, at: NDArray[np.bool_]) -> Floats:
        """(I, K) pixels of the chosen rows by image and class."""
        classes = len(self.class_names)
        cells = self.rows.image[at] * classes + label[at]
        pixels = np.bincount(cells, weights=self.rows.pixels[at], minlength=self.images * classes)
        return np.asarray(pixels, np.float64).reshape(self.images, classes)


def _class_pairs(pairs: Overlap, truth: Regions, prediction: Regions, classes: int) -> SemanticRows:
    """Pixels of pairs of classes in a batch; the truth is without ignored segments."""
    covered = np.bincount(pairs.truth, weights=pairs.pixels, minlength=len(truth))
    unpredicted = pairs.truth_area - covered.astype(np.int64)
    left = np.flatnonzero(unpredicted)
    at = np.concatenate((pairs.truth, left))
    predicted = np.concatenate((prediction.label[pairs.prediction], np.full(len(left), classes)))
    pixels = np.concatenate((pairs.pixels, unpredicted[left]))
    return SemanticRows(truth.image[at], truth.label[at], predicted, pixels)


def class_scores(confusion: Floats) -> tuple[Floats, Floats, Floats]:
    """(K,) IoU, accuracy and annotated pixels of each class, from a (K, K + 1) confusion.

    IoU and accuracy are 0-1, NaN where undefined.
    """
    correct = np.diagonal(confusion)
    annotated, predicted = confusion.sum(1), confusion[:, :-1].sum(0)
    with np.errstate(invalid="ignore"):
        iou = correct / (annotated + predicted - correct)
        return iou, correct / annotated, annotated


def mean_scores(confusion: Floats) -> dict[str, float | None]:
    """mIoU, fwIoU, pixel and mean accuracy in percent, from a (K, K + 1) confusion.

    None where there is nothing to average.
    """
    iou, accuracy, annotated = class_scores(confusion)
    pixels = annotated.sum()
    weighted = float((annotated * np.nan_to_num(iou)).sum() / pixels) if pixels else None
    correct = float(np.diagonal(confusion).sum() / pixels) if pixels else None
    values = {
        "miou": _mean(iou),
        "fwiou": weighted,
        "pixel_accuracy": correct,
        "mean_accuracy": _mean(accuracy),
    }
    return {name: None if value is None else 100 * value for name, value in values.items()}


def _mean(values: Floats) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def most_confused(confusion: Floats, names: Sequence[str]) -> list[dict[str, Any]]:
    """The `MAX_CONFUSED` pairs of classes with the most pixels.

    Each has `true`, `predicted` (None: nothing) and `pixels`.
    """
    wrong = np.array(confusion)  # (K, K + 1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]
    cells = [divmod(int(cell), wrong.shape[1]) for cell in order if wrong.flat[cell]]
    predicted = [*names, None]
    return [
        {"true": names[i], "predicted": predicted[k], "pixels": int(wrong[i, k])} for i, k in cells
    ]
