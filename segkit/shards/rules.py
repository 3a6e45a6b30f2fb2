"""The rules that the labels of every set keep: conversion makes them hold, validation checks them.

`RULES` is the one list of both. A source that breaks a rule is repaired or loses the annotation,
and the ledger counts it under a code of `segkit.sources.ledger`; no conversion publishes a set that
`segkit validate` finds fault with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from segkit.masks.boxes import corners
from segkit.sample import Box

BOX_SLACK = 2.0
"""Pixels by which a mask may reach beyond a box that was not computed from it: rasterizing rounds
to whole pixels."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds in a set, and what becomes of an annotation whose source breaks it."""

    text: str
    repaired: tuple[str, ...] = ()
    """Warnings of the ledger: the annotation is kept with another value."""
    dropped: tuple[str, ...] = ()
    """Codes under which the ledger counts what is left out, or whose pixels become void."""


RULES: Mapping[str, Rule] = {
    "image-size": Rule(
        "an image has pixels, as many as its labels say",
        dropped=("bad-size", "size-mismatch", "mask-size-mismatch"),
    ),
    "duplicate-id": Rule("image ids are unique", dropped=("duplicate-id",)),
    "unknown-class": Rule(
        "classes are in the taxonomy", dropped=("unknown-category", "unlisted-segment")
    ),
    "kind": Rule("a segment is a thing or stuff as its class is"),
    "not-annotated": Rule("the class of a segment is among the annotated classes of its image"),
    "score": Rule("a score is within 0-1", repaired=("score-out-of-range",)),
    "mask-from": Rule("a mask has a provenance, and vice versa"),
    "source-json": Rule(
        "verbatim records of the source are JSON",
        dropped=("malformed-annotation", "malformed-image"),
    ),
    "box": Rule(
        "a box is finite, without a negative side, and reaches its mask up to 2 pixels, unless a"
        " model predicted it",
        repaired=("box-mismatch",),
        dropped=("degenerate-box", "malformed-annotation"),
    ),
    "area": Rule(
        "an area is finite and not negative; that of the pixels where it was computed from them",
        repaired=("negative-area", "area-mismatch"),
        dropped=("malformed-annotation",),
    ),
    "mask-invalid": Rule(
        "run lengths fill the image",
        repaired=("non-canonical-rle",),
        dropped=("malformed-annotation", "mask-size-mismatch"),
    ),
    "mask-empty": Rule("a mask has pixels", dropped=("empty-mask", "covered-by-instance")),
    "polygon": Rule(
        "a human mask is its source polygon as pycocotools draws it",
        repaired=("degenerate-part",),
        dropped=("degenerate-polygon", "malformed-annotation"),
    ),
    "overlap": Rule("in panoptic and semantic sets, a pixel belongs to one segment at most"),
    "void-overlap": Rule("in panoptic and semantic sets, void pixels belong to no segment"),
    "void-invalid": Rule("the run lengths of void fill the image"),
}
"""Code of a violation -> its rule."""


def is_box(box: Box) -> bool:
    """Whether a box is finite and has no negative side."""
    return all(map(math.isfinite, box)) and min(box[2:]) >= 0


def is_area(area: float) -> bool:
    """Whether an area is finite and not negative."""
    return math.isfinite(area) and area >= 0


def is_score(score: float) -> bool:
    """Whether a score is within 0-1."""
    return 0 <= score <= 1


def reaches(box: Box, tight_box: Box) -> bool:
    """Whether a box contains the tight box of its mask, up to `BOX_SLACK`."""
    (left, top, right, bottom), (x0, y0, x1, y1) = corners(box), corners(tight_box)
    return (
        x0 >= left - BOX_SLACK
        and y0 >= top - BOX_SLACK
        and x1 <= right + BOX_SLACK
        and y1 <= bottom + BOX_SLACK
    )


def agrees(area: float, pixels: float, tight_box: Box) -> bool:
    """Whether an area is plausible for a mask of so many pixels, or for a box without one.

    Areas of polygons differ from pixels along the outline, those of COCO's crowds by up to 40 %.
    An area that does not agree is wrong by more than a factor of 2 and more than the perimeter of
    the box, or 0.
    """
    perimeter = 2 * (tight_box[2] + tight_box[3])
    near = abs(area - pixels) <= perimeter or pixels / 2 <= area <= 2 * pixels
    return area > 0 and near
