"""Check that the masks, boxes, areas, classes and void of one sample agree."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.masks.boxes import with_margin
from segkit.sample import Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.rules import is_area, is_box, is_score, reaches
from segkit.taxonomy import Taxonomy

_MAX_PIXELS = 2**31
_COMPUTED = ("derived", "pseudo", "prediction")
"""Provenance of masks whose area is always their number of pixels."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule."""

    code: str
    """Stable; a key of `RULES`, or a code of a file or manifest. `docs/shards.md` lists all."""
    where: str
    detail: str


def check_sample(sample: Sample, taxonomy: Taxonomy, kind: SetKind) -> Iterator[Violation]:
    """Every violation inside a sample; in panoptic and semantic sets, masks must be disjoint."""
    place = f"image {sample.id}"
    if sample.width < 1 or sample.height < 1 or sample.width * sample.height > _MAX_PIXELS:
        yield Violation("image-size", place, f"{sample.width} x {sample.height} pixels")
        return
    for class_id in (*(sample.annotated or ()), *sample.not_exhaustive):
        if class_id not in taxonomy.by_id:
            detail = f"annotated class {class_id} is not in the taxonomy"
            yield Violation("unknown-class", place, detail)
    if sample.source is not None and not _is_json(sample.source):
        yield Violation("source-json", place, "the source record is not JSON")
    for number, segment in enumerate(sample.segments):
        name = "" if segment.source_id is None else f" (annotation {segment.source_id})"
        for code, detail in _check_segment(segment, sample, taxonomy, kind):
            yield Violation(code, f"{place}: segment {number}{name}", detail)
    if kind in ("panoptic", "semantic"):
        yield from _check_disjoint(sample, place)
    elif sample.void is not None and isinstance(void := _decode(sample.void, sample), str):
        yield Violation("void-invalid", place, void)


def _check_segment(
    segment: Segment, sample: Sample, taxonomy: Taxonomy, kind: SetKind
) -> Iterator[tuple[str, str]]:
    category = taxonomy.by_id.get(segment.class_id)
    if category is None:
        yield "unknown-class", f"class {segment.class_id} is not in the taxonomy"
    elif category.kind != segment.kind:
        yield "kind", f"a {segment.kind} segment of the {category.kind} class {category.name}"
    if sample.annotated is not None and segment.class_id not in sample.annotated:
        detail = f"class {segment.class_id} is not among the annotated classes of this image"
        yield "not-annotated", detail
    if segment.score is not None and not is_score(segment.score):
        yield "score", f"score {segment.score} is not within 0-1"
    if segment.mask is not None and segment.mask_from is None:
        yield "mask-from", "a mask without provenance"
    if segment.mask is None and segment.mask_from is not None:
        yield "mask-from", "provenance without a mask"
    if segment.source_polygon is not None and not _is_json(segment.source_polygon):
        yield "source-json", "the source polygon is not JSON"
    if not is_box(segment.box):
        yield "box", f"box {segment.box} is not finite or has a negative side"
    elif not is_area(segment.area):
        yield "area", f"area {segment.area}"
    elif segment.mask is not None:
        yield from _check_mask(segment, segment.mask, sample, kind)


def _check_mask(
    segment: Segment, counts: bytes, sample: Sample, kind: SetKind
) -> Iterator[tuple[str, str]]:
    try:
        pixels = rle.area(counts, sample.height, sample.width)
        tight_box = rle.box(counts, sample.height, sample.width)
    except ValueError as error:
        yield "mask-invalid", str(error)
        return
    if not pixels:
        yield "mask-empty", "the mask has no pixels"
        return
    exact = kind in ("panoptic", "semantic") or segment.mask_from in _COMPUTED
    if exact and pixels != segment.area:
        yield "area", f"area {segment.area:g}, the mask has {pixels} pixels"
    box = segment.box
    if segment.mask_from == "pseudo":  # teachers clip their masks to the box with a margin
        box = with_margin(box)
    # a box head predicts boxes without the masks
    if segment.mask_from != "prediction" and not reaches(box, tight_box):
        yield "box", f"the mask's tight box {tight_box} reaches beyond the box {segment.box}"
    if segment.source_polygon is not None and segment.mask_from == "human":
        yield from _check_polygon(segment.source_polygon, counts, sample, kind)


def _check_polygon(
    text: str, counts: bytes, sample: Sample, kind: SetKind
) -> Iterator[tuple[str, str]]:
    try:
        polygons = json.loads(text)
        if kind == "panoptic" and isinstance(polygons, dict):
            return  # run lengths of a joined crowd
        drawn = rle.from_polygons(polygons, sample.height, sample.width)
    except (ValueError, TypeError, RecursionError) as error:
        yield "polygon", f"the source polygon cannot be drawn ({error})"
        return
    # in a panoptic set, the mask is the part of the polygon that other segments leave visible
    if drawn != counts and kind != "panoptic":
        yield "polygon", "the mask differs from the drawn source polygon"


def _check_disjoint(sample: Sample, place: str) -> Iterator[Violation]:
    """Masks (crowds too) and void share no pixels; invalid masks are reported elsewhere."""
    cover = np.zeros((sample.height, sample.width), np.uint16)
    for segment in sample.segments:
        if segment.mask is not None and not isinstance(mask := _decode(segment.mask, sample), str):
            cover += mask
    if overlap := int((cover > 1).sum()):
        yield Violation("overlap", place, f"{overlap} pixels belong to more than one segment")
    if sample.void is None:
        return
    void = _decode(sample.void, sample)
    if isinstance(void, str):
        yield Violation("void-invalid", place, void)
    elif shared := int((void & (cover > 0)).sum()):
        yield Violation("void-overlap", place, f"{shared} pixels are void and belong to a segment")


def _decode(counts: bytes, sample: Sample) -> NDArray[np.bool_] | str:
    """The mask, or the reason why it is invalid."""
    try:
        return rle.decode(counts, sample.height, sample.width)
    except ValueError as error:
        return str(error)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
