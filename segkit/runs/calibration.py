"""Calibration of a run's mask scores: maps from raw score to expected IoU. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segkit import parse
from segkit.masks.boxes import AREAS, in_size
from segkit.shards.manifest import Strict

BINS = 10
"""Of expected IoU, of equal width, that the calibration error compares with the IoU."""
Floats = NDArray[np.float64]


class ScoreMap(Strict):
    """A map from raw score to expected IoU that never falls, linear between its knots."""

    scores: tuple[float, ...] = Field(min_length=1)
    """(P,) raw scores, ascending."""
    ious: tuple[float, ...]
    """(P,) expected IoU at these scores; constant beyond the first and the last."""
    boxes: int = Field(ge=1)
    """Number of boxes that the map was fitted to."""

    @model_validator(mode="after")
    def _check_knots(self) -> Self:
        scores, ious = np.array(self.scores), np.array(self.ious)
        values = np.concatenate((scores, ious))
        if len(scores) != len(ious) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError("needs as many scores as IoUs, all from 0 to 1")
        if (np.diff(scores) <= 0).any() or (np.diff(ious) < 0).any():
            raise ValueError("scores must ascend, and IoUs must not fall")
        return self

    def __call__(self, scores: Floats) -> Floats:
        """(Q,) raw scores -> (Q,) expected IoU, 0-1."""
        return np.interp(scores, self.scores, self.ious)


class ReliabilityBin(Strict):
    """Held-out boxes of similar expected IoU."""

    expected: float
    """Mean expected IoU."""
    iou: float
    """Mean IoU with the true masks."""
    boxes: int


class CalibrationCheck(Strict):
    """Figures of a calibration on boxes of images that it was not fitted to."""

    images: int
    boxes: int
    error: float
    """Expected calibration error (Guo et al., ICML 2017, equation 3): mean of |expected IoU - IoU|
    over `bins`, weighted by their boxes."""
    raw_error: float
    """The same for the raw score in place of the expected IoU."""
    box_error: float
    """Mean of |expected IoU - IoU| over boxes."""
    spearman: float | None
    """Rank correlation of expected IoU and IoU; None where one of them is constant."""
    raw_spearman: float | None
    """The same for the raw score."""
    bins: tuple[ReliabilityBin, ...]
    """By expected IoU, ten of equal width; those without a box are left out."""


class Calibration(Strict):
    """The content of `calibration.json`."""

    schema_name: Literal["segkit.calibration/1"] = Field("segkit.calibration/1", alias="schema")
    seed: int
    """Decides which images the maps are fitted to; the others are held out."""
    min_boxes: int
    """A size with fewer boxes has no map of its own."""
    images: int
    """Images that the maps are fitted to."""
    tta: bool = False
    """The masks were predicted with test-time augmentation, whose scores differ."""
    maps: dict[str, ScoreMap]
    """Map of all boxes (`all`) and of those of COCO's sizes by the area of the box."""
    check: CalibrationCheck

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if "all" not in self.maps or not self.maps.keys() <= AREAS.keys():
            raise ValueError(f"maps are of all and of {', '.join(list(AREAS)[1:])}")
        return self

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file; InputError if it is not a calibration."""
        data = parse.read_bytes(file)
        hint = "calibrate the run again"
        return parse.checked(cls, data, file=file, noun="the calibration of a run", hint=hint)

    def expected_iou(self, scores: Sequence[float] | Floats, areas: Floats) -> Floats:
        """`expected_iou` by the maps of this calibration."""
        return expected_iou(self.maps, np.asarray(scores, np.float64), areas)


def expected_iou(maps: Mapping[str, ScoreMap], scores: Floats, areas: Floats) -> Floats:
    """Map raw scores to the IoU to expect, each by the size of its box.

    Args:
        maps: of all boxes (`all`) and, in its place, of those of some sizes.
        scores: (Q,) raw scores, 0-1.
        areas: (Q,) areas of the boxes in pixels.

    Returns:
        (Q,) expected IoU, 0-1.
    """
    expected = maps["all"](scores)
    for size in maps.keys() - {"all"}:
        expected = np.where(in_size(areas, size), maps[size](scores), expected)
    return expected


def reliability(expected: Floats, iou: Floats) -> tuple[ReliabilityBin, ...]:
    """Group boxes by expected IoU into `BINS` of equal width; 1 belongs to the last."""
    index = np.minimum((expected * BINS).astype(np.int64), BINS - 1)
    return tuple(
        ReliabilityBin(
            expected=float(expected[index == k].mean()),
            iou=float(iou[index == k].mean()),
            boxes=int(np.count_nonzero(index == k)),
        )
        for k in np.unique(index)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean of |expected IoU - IoU| over bins, weighted by their boxes."""
    total = sum(group.boxes for group in bins)
    return sum(group.boxes * abs(group.expected - group.iou) for group in bins) / total
