"""Masks made from true boxes, by size and class: where a pseudo-labeller is good and where it draws
boxes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.metrics.instance import AREAS
from segkit.metrics.run_lengths import Ints, Runs, decode_runs, join
from segkit.sample import Sample, Segment
from segkit.shards.writer import class_labels
from segkit.taxonomy import Taxonomy

Floats = NDArray[np.float64]
FILLED = 0.95
"""Share of its box from which a mask is no shape but the box."""


def mask_quality(pairs: Iterable[tuple[Sample, Sample]], taxonomy: Taxonomy) -> dict[str, Any]:
    """Mean IoU (0-1) of the masks that objects were given, over all objects that are neither crowd
    nor ignored.

    Args:
        pairs: ground truth with masks, and the same image with masks for its boxes; segments belong
            together by `source_id`.
        taxonomy: classes of both.

    Returns:
        `boxes`, `masked`; `mean_iou` over all objects (one without a mask counts 0) and
        `mean_iou_masked` over those that got one; `filled`, the share of masks that fill over 95 %
        of their box; `per_size` and `per_class` (null, or left out, where there is no object).

    Raises:
        InputError: an object has no id or no true mask; or none of the masks has the id of an
            object.
    """
    ious, objects, filled = [np.zeros(0)], list[Segment](), list[bool]()
    masks = 0
    for truth, made in pairs:
        wanted = [segment for segment in truth.segments if not (segment.is_crowd or segment.ignore)]
        given = {
            segment.source_id: segment for segment in made.segments if segment.mask is not None
        }
        masks += len(given)
        found = [given.get(_id_of(segment, truth)) for segment in wanted]
        ious.append(_ious(wanted, found))
        objects += wanted
        filled += [one.area > FILLED * one.box[2] * one.box[3] for one in found if one is not None]
    if masks and objects and not filled:
        hint = "give the set that `segkit pseudolabel` made of the true boxes"
        raise InputError(
            "no mask has the id of an object of the ground truth", file="predictions", hint=hint
        )
    return _summary(np.concatenate(ious), objects, filled, taxonomy)


def _id_of(segment: Segment, image: Sample) -> str:
    if segment.mask is None:
        hint = "give the set that holds the hidden masks"
        raise InputError(
            "an object of the ground truth has no mask", record=f"image {image.id}", hint=hint
        )
    if segment.source_id is None:
        raise InputError(
            "an object has no id", record=f"image {image.id}", hint="give every annotation one"
        )
    return segment.source_id


def _ious(wanted: list[Segment], found: list[Segment | None]) -> Floats:
    """IoU of each object with its own mask; NaN where it has none."""
    result = np.full(len(wanted), np.nan)
    pairs = zip(wanted, found, strict=True)
    both = [(i, a.mask or b"", b.mask or b"") for i, (a, b) in enumerate(pairs) if b is not None]
    if not both:
        return result
    true, made = (
        decode_runs(*join([a for _, a, _ in both])),
        decode_runs(*join([b for _, _, b in both])),
    )
    wrong = np.flatnonzero(true.total != made.total)
    if len(wrong):
        message = f"a mask of {made.total[wrong[0]]} pixels for an image of {true.total[wrong[0]]}"
        raise InputError(message, file="predictions", hint="write masks at image size")
    common = _common(true, made, int(true.total.max()))
    result[[i for i, _, _ in both]] = common / np.maximum(true.area + made.area - common, 1)
    return result


def _common(first: Runs, second: Runs, pixels: int) -> Ints:
    """(S,) pixels that mask k of `first` shares with mask k of `second`; each pair gets its own
    stretch of numbers."""
    start, end = first.start + first.mask * pixels, first.end + first.mask * pixels
    others = second.start + second.mask * pixels
    before = np.concatenate(([0], np.cumsum(second.end - second.start)))

    def covered(pixel: Ints) -> Ints:
        """Foreground pixels of `second` in front of each pixel."""
        place = np.searchsorted(others, pixel, side="right")
        last = np.maximum(place - 1, 0)
        inside = np.minimum(pixel, second.end[last] + second.mask[last] * pixels) - others[last]
        return np.where(place > 0, before[last] + inside, 0)

    shared = covered(end) - covered(start) if len(others) else np.zeros(len(start))
    return np.bincount(first.mask, weights=shared, minlength=len(first.total)).astype(np.int64)


def _summary(
    iou: Floats, objects: list[Segment], filled: list[bool], taxonomy: Taxonomy
) -> dict[str, Any]:
    whole = np.nan_to_num(iou)
    area = np.array([segment.area for segment in objects])
    label = np.array([taxonomy.index[segment.class_id] for segment in objects], np.int64)
    sizes = {
        size: (area >= low) & (area < high) for size, (low, high) in AREAS.items() if size != "all"
    }
    classes = {name: label == k for k, name in enumerate(class_labels(taxonomy).values())}
    return {
        "boxes": len(iou),
        "masked": int(np.count_nonzero(~np.isnan(iou))),
        "mean_iou": _mean(whole),
        "mean_iou_masked": _mean(iou[~np.isnan(iou)]),
        "filled": _mean(np.array(filled, np.float64)),
        "per_size": {size: _mean(whole[at]) for size, at in sizes.items()},
        "per_class": {name: _mean(whole[at]) for name, at in classes.items() if at.any()},
    }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
