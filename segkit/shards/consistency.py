"""What must hold inside one sample, whatever wrote it: masks, boxes, areas, classes and void agree
with each other."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.sample import Box, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.taxonomy import Taxonomy

BOX_SLACK = 2.0
"""Pixels by which a mask may reach beyond a box that did not come from it: rasterising rounds to
whole pixels."""
_PIXELS = 2**31
_EXACT = ("derived", "pseudo", "prediction")


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that does not hold."""

    code: str
    """Stable; `docs/shards.md` lists them."""
    where: str
    detail: str


def check_sample(sample: Sample, taxonomy: Taxonomy, kind: SetKind) -> Iterator[Violation]:
    """Every violation inside a sample; `kind` decides whether masks must be disjoint."""
    here = f"image {sample.id}"
    if sample.width < 1 or sample.height < 1 or sample.width * sample.height > _PIXELS:
        yield Violation("image-size", here, f"{sample.width} x {sample.height} pixels")
        return
    for class_id in (*(sample.annotated or ()), *sample.not_exhaustive):
        if class_id not in taxonomy.by_id:
            yield Violation(
                "unknown-class", here, f"annotated class {class_id} is not in the taxonomy"
            )
    if sample.source is not None and not _is_json(sample.source):
        yield Violation("source-json", here, "the source record is not JSON")
    for number, segment in enumerate(sample.segments):
        name = "" if segment.source_id is None else f" (annotation {segment.source_id})"
        for code, detail in _segment(segment, sample, taxonomy, kind):
            yield Violation(code, f"{here}: segment {number}{name}", detail)
    if kind in ("panoptic", "semantic"):
        yield from _disjoint(sample, here)
    elif sample.void is not None and isinstance(void := _decoded(sample.void, sample), str):
        yield Violation("void-invalid", here, void)


def _segment(
    segment: Segment, sample: Sample, taxonomy: Taxonomy, kind: SetKind
) -> Iterator[tuple[str, str]]:
    category = taxonomy.by_id.get(segment.class_id)
    if category is None:
        yield "unknown-class", f"class {segment.class_id} is not in the taxonomy"
    elif category.kind != segment.kind:
        yield "kind", f"a {segment.kind} segment of the {category.kind} class {category.name}"
    if sample.annotated is not None and segment.class_id not in sample.annotated:
        yield (
            "not-annotated",
            f"class {segment.class_id} is not among those looked for in this image",
        )
    if segment.score is not None and not 0 <= segment.score <= 1:
        yield "score", f"score {segment.score} is not within 0-1"
    if (segment.mask is None) != (segment.mask_from is None):
        yield (
            "mask-from",
            "a mask and its provenance go together"
            if segment.mask
            else "provenance without a mask",
        )
    if segment.source_polygon is not None and not _is_json(segment.source_polygon):
        yield "source-json", "the source polygon is not JSON"
    if not all(map(math.isfinite, segment.box)) or segment.box[2] < 0 or segment.box[3] < 0:
        yield "box", f"box {segment.box} is not finite or has a negative side"
    elif not math.isfinite(segment.area) or segment.area < 0:
        yield "area", f"area {segment.area}"
    elif segment.mask is not None:
        yield from _mask(segment, sample, kind)


def _mask(segment: Segment, sample: Sample, kind: SetKind) -> Iterator[tuple[str, str]]:
    counts = segment.mask or b""
    try:
        pixels = rle.area(counts, sample.height, sample.width)
        tight = rle.box(counts, sample.height, sample.width)
    except ValueError as error:
        yield "mask-invalid", str(error)
        return
    if not pixels:
        yield "mask-empty", "the mask has no pixel"
        return
    exact = kind in ("panoptic", "semantic") or segment.mask_from in _EXACT
    if exact and pixels != segment.area:
        yield "area", f"area {segment.area:g}, the mask has {pixels} pixels"
    if not _within(tight, segment.box):
        yield "box", f"the mask's extent {tight} reaches beyond the box {segment.box}"
    if segment.source_polygon is not None and segment.mask_from == "human":
        yield from _polygon(segment.source_polygon, counts, sample, kind)


def _polygon(text: str, counts: bytes, sample: Sample, kind: SetKind) -> Iterator[tuple[str, str]]:
    try:
        if kind == "panoptic" and isinstance(json.loads(text), dict):
            return  # run lengths of a joined crowd
        drawn = rle.from_polygons(json.loads(text), sample.height, sample.width)
    except (ValueError, TypeError) as error:
        yield "polygon", f"the source polygon cannot be drawn ({error})"
        return
    # in a panoptic set the mask is what other segments leave visible of the polygon
    if drawn != counts and kind != "panoptic":
        yield "polygon", "the mask is not what the source polygon draws"


def _disjoint(sample: Sample, here: str) -> Iterator[Violation]:
    """Masks (crowds too) and void share no pixel; a mask that does not decode was reported with its
    segment."""
    cover = np.zeros((sample.height, sample.width), np.uint16)
    for segment in sample.segments:
        if segment.mask is not None and not isinstance(mask := _decoded(segment.mask, sample), str):
            cover += mask
    if (twice := int((cover > 1).sum())) > 0:
        yield Violation("overlap", here, f"{twice} pixels belong to more than one segment")
    if sample.void is None:
        return
    void = _decoded(sample.void, sample)
    if isinstance(void, str):
        yield Violation("void-invalid", here, void)
    elif shared := int((void & (cover > 0)).sum()):
        yield Violation("void-overlap", here, f"{shared} pixels are void and belong to a segment")


def _decoded(counts: bytes, sample: Sample) -> NDArray[np.bool_] | str:
    try:
        return rle.decode(counts, sample.height, sample.width)
    except ValueError as error:
        return str(error)


def _within(inner: Box, outer: Box) -> bool:
    return (
        inner[0] >= outer[0] - BOX_SLACK
        and inner[1] >= outer[1] - BOX_SLACK
        and inner[0] + inner[2] <= outer[0] + outer[2] + BOX_SLACK
        and inner[1] + inner[3] <= outer[1] + outer[3] + BOX_SLACK
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
