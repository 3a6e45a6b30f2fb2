"""Mean IoU and pixel accuracies from run lengths; unlabeled pixels of the ground truth are left
out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints
from segkit.metrics.overlap import Overlap, overlap
from segkit.metrics.regions import Regions

Floats = NDArray[np.float64]
ABSENT_CLASSES = "mean over classes with union > 0"
"""mmsegmentation's rule: a class neither in the ground truth nor predicted does not count; its IoU
is null."""
CONFUSED = 20
"""Pairs of classes that are told."""


@dataclass(frozen=True)
class SemanticRows:
    """Pixels of every (true class, predicted class) pair of every image, as far as there are
    any."""

    image: Ints
    """(N,) index of the image."""
    true: Ints
    """(N,) class index."""
    predicted: Ints
    """(N,) class index; K where nothing was predicted."""
    pixels: Ints

    @classmethod
    def concatenate(cls, parts: Sequence["SemanticRows"], images: Sequence[int]) -> "SemanticRows":
        """Rows of consecutive batches of `images` images each."""
        base = np.concatenate(([0], np.cumsum(images)))
        none = [np.zeros(0, np.int64)]
        return cls(
            np.concatenate([part.image + base[i] for i, part in enumerate(parts)] or none),
            np.concatenate([part.true for part in parts] or none),
            np.concatenate([part.predicted for part in parts] or none),
            np.concatenate([part.pixels for part in parts] or none),
        )


def compare(truth: Regions, prediction: Regions, classes: int) -> SemanticRows:
    """Compare the class maps of a batch of images; pixels in no (or an ignored) segment of the
    truth are void."""
    truth = truth.without_ignored()
    return compare_overlap(overlap(truth, prediction), truth, prediction, classes)


def compare_overlap(
    shared: Overlap, truth: Regions, prediction: Regions, classes: int
) -> SemanticRows:
    """`compare` where the common pixels are known already (and the truth is without ignored
    segments)."""
    seen = np.bincount(shared.truth, weights=shared.pixels, minlength=len(truth)).astype(np.int64)
    unpredicted = shared.truth_area - seen
    left = np.flatnonzero(unpredicted)
    at = np.concatenate((shared.truth, left))
    predicted = np.concatenate((prediction.label[shared.prediction], np.full(len(left), classes)))
    return SemanticRows(
        truth.image[at],
        truth.label[at],
        predicted,
        np.concatenate((shared.pixels, unpredicted[left])),
    )


def confusion(rows: SemanticRows, classes: int, weights: Floats | None = None) -> Floats:
    """(K, K + 1) pixels of each true class by predicted class; the last column is "nothing
    predicted".

    Args:
        rows: as `compare` gives them.
        classes: number of classes K.
        weights: (I,) how often each image is drawn (bootstrap); None counts each once.
    """
    pixels = rows.pixels if weights is None else rows.pixels * weights[rows.image]
    cell = rows.true * (classes + 1) + rows.predicted
    cells = np.bincount(cell, weights=pixels, minlength=classes * (classes + 1))
    return np.asarray(cells, np.float64).reshape(classes, classes + 1)


def class_scores(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """IoU and accuracy (0-1, NaN where undefined) and labeled pixels of each class, from a (K, K +
    1) confusion."""
    correct = np.diagonal(matrix)
    labeled, predicted = matrix.sum(1), matrix[:, :-1].sum(0)
    with np.errstate(invalid="ignore"):
        return correct / (labeled + predicted - correct), correct / labeled, labeled


def means(matrix: Floats) -> dict[str, float | None]:
    """mIoU, fwIoU, pixel and mean accuracy in percent; None where there is nothing to average."""
    iou, accuracy, labeled = class_scores(matrix)
    pixels = labeled.sum()
    weighted = float((labeled * np.nan_to_num(iou)).sum() / pixels) if pixels else None
    correct = float(np.diagonal(matrix).sum() / pixels) if pixels else None
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


def summarize(matrix: Floats, names: Sequence[str]) -> dict[str, Any]:
    """The semantic part of metrics.json; percentages."""
    iou = class_scores(matrix)[0]
    per_class = {
        name: None if np.isnan(value) else 100 * float(value)
        for name, value in zip(names, iou, strict=True)
    }
    counted = int(np.count_nonzero(~np.isnan(iou)))
    rule = {"absent_classes": ABSENT_CLASSES, "classes_counted": counted}
    return (
        means(matrix) | rule | {"per_class": per_class, "confused_pixels": confused(matrix, names)}
    )


def confused(matrix: Floats, names: Sequence[str]) -> list[dict[str, Any]]:
    """The `CONFUSED` pairs of classes of most pixels: `true`, `predicted` (None: nothing was) and
    `pixels`."""
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    most = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    cells = [divmod(int(cell), wrong.shape[1]) for cell in most if wrong.flat[cell]]
    predicted = [*names, None]
    return [
        {"true": names[i], "predicted": predicted[k], "pixels": int(wrong[i, k])} for i, k in cells
    ]


def image_iou(rows: SemanticRows, images: int, classes: int) -> Floats:
    """(I,) mIoU of each image by itself, 0-1: the mean over the classes of its union; NaN where
    nothing is labeled."""
    same = rows.true == rows.predicted
    correct, labeled, predicted = (
        _by_image_and_class(rows, label, chosen, images, classes)
        for label, chosen in (
            (rows.true, same),
            (rows.true, same | ~same),
            (rows.predicted, rows.predicted < classes),
        )
    )
    with np.errstate(invalid="ignore"):
        iou = correct / (labeled + predicted - correct)
        present = ~np.isnan(iou)
        return np.asarray(np.nansum(iou, axis=1) / present.sum(1), np.float64)


def _by_image_and_class(
    rows: SemanticRows, label: Ints, chosen: NDArray[np.bool_], images: int, classes: int
) -> Floats:
    cells = rows.image[chosen] * classes + label[chosen]
    pixels = np.bincount(cells, weights=rows.pixels[chosen], minlength=images * classes)
    return np.asarray(pixels, np.float64).reshape(images, classes)
