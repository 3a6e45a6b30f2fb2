"""From the segments of a sample to the targets of a crop: what is one target, what is void, what the policy hides."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from segkit.data.augment import Rectangle, Window
from segkit.data.batch import Targets
from segkit.data.config import MaskPolicy
from segkit.data.decode import Mask, crop_mask, fill_box, tight_box
from segkit.manifest import Task
from segkit.sample import Sample, Segment
from segkit.taxonomy import Taxonomy

MIN_PIXELS = 4
"""A target with fewer pixels in the crop is void: too little to learn from, but no background either."""
MIN_VISIBLE = 0.1
"""A box of which less than this share is in the crop is void: the object itself may lie wholly outside."""


@dataclass(frozen=True, slots=True)
class _Target:
    label: int
    is_thing: bool
    has_mask: bool
    mask: Mask
    box: Rectangle


def build_targets(
    sample: Sample, window: Window, *, taxonomy: Taxonomy, task: Task, policies: Mapping[int, MaskPolicy]
) -> Targets:
    """The targets of one crop.

    Panoptic: one per thing, one per stuff class. Semantic: one per class. Instance: one per thing. Where the task wants
    every pixel labelled, or the sample is not exhaustive, what no target covers is void; in an exhaustive instance set
    it is background. Boxes of masks are taken from the cropped mask, boxes without a mask are clipped.

    Args:
        policies: mask policy by class id; classes that are not named use their masks.

    Raises:
        ValueError: an RLE that does not fit the image.
        KeyError: a class id that the taxonomy lacks.
    """
    complete = task != "instance" or not sample.exhaustive
    void = np.ones(window.canvas, bool)
    void[window.inside()] = complete
    kept: list[_Target] = []
    for segments in _groups(sample, task, policies):
        target = _target(segments, sample, window, taxonomy, policies)
        if _large_enough(target, segments, window):
            kept.append(target)
        elif not complete:
            void |= target.mask
    if not complete:
        for region in _unusable(sample, window, policies):
            void |= region
    for target in kept:
        void &= ~target.mask
    return _stack(kept, void, _annotated(sample, taxonomy))


def _groups(sample: Sample, task: Task, policies: Mapping[int, MaskPolicy]) -> Iterator[list[Segment]]:
    """The usable segments, those that make one target together."""
    merged: dict[int, list[Segment]] = {}
    for segment in sample.segments:
        if not _usable(segment, policies) or (task == "instance" and segment.kind == "stuff"):
            continue
        if task == "semantic" or segment.kind == "stuff":
            merged.setdefault(segment.class_id, []).append(segment)
        else:
            yield [segment]
    yield from merged.values()


def _usable(segment: Segment, policies: Mapping[int, MaskPolicy]) -> bool:
    return not (segment.is_crowd or segment.ignore or policies.get(segment.class_id) == "none")


def _unusable(sample: Sample, window: Window, policies: Mapping[int, MaskPolicy]) -> Iterator[Mask]:
    """Void regions of an instance sample: the source's own, crowds, ignored things, things without a policy."""
    if sample.void is not None:
        yield crop_mask(sample.void, sample.height, sample.width, window)
    for segment in sample.segments:
        if segment.kind == "thing" and not _usable(segment, policies):
            yield _region(segment, sample, window, policies)[0]


def _region(
    segment: Segment, sample: Sample, window: Window, policies: Mapping[int, MaskPolicy]
) -> tuple[Mask, Rectangle | None]:
    """The segment's pixels in the crop; with its clipped box where that is all that may be known of it."""
    if segment.mask is not None and policies.get(segment.class_id, "mask") == "mask":
        return crop_mask(segment.mask, sample.height, sample.width, window), None
    rectangle = window.box(segment.box)
    return fill_box(rectangle, window), window.clip(rectangle)


def _target(
    segments: list[Segment], sample: Sample, window: Window, taxonomy: Taxonomy, policies: Mapping[int, MaskPolicy]
) -> _Target:
    """One target of one or several segments of a class; it has a mask only if all of them have."""
    regions = [_region(segment, sample, window, policies) for segment in segments]
    mask = regions[0][0]
    for more, _ in regions[1:]:
        mask |= more
    boxes = [box if box is not None else tight_box(part) for part, box in regions if part.any()]
    has_mask = all(box is None for _, box in regions)
    first = segments[0]
    return _Target(taxonomy.index[first.class_id], first.kind == "thing", has_mask, mask, _hull(boxes))


def _large_enough(target: _Target, segments: list[Segment], window: Window) -> bool:
    if np.count_nonzero(target.mask) < MIN_PIXELS:
        return False
    if target.has_mask or len(segments) > 1:
        return True
    x0, y0, x1, y1 = window.box(segments[0].box)
    left, top, right, bottom = target.box
    return (right - left) * (bottom - top) >= MIN_VISIBLE * (x1 - x0) * (y1 - y0)


def _hull(boxes: Iterable[Rectangle]) -> Rectangle:
    corners = np.array(list(boxes)).reshape(-1, 4)
    if not len(corners):
        return (0.0, 0.0, 0.0, 0.0)
    x0, y0 = corners[:, :2].min(axis=0).tolist()
    x1, y1 = corners[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def _annotated(sample: Sample, taxonomy: Taxonomy) -> torch.Tensor | None:
    if sample.annotated is None:
        return None
    annotated = torch.zeros(len(taxonomy.categories), dtype=torch.bool)
    annotated[[taxonomy.index[class_id] for class_id in sample.annotated]] = True
    return annotated


def _stack(kept: list[_Target], void: Mask, annotated: torch.Tensor | None) -> Targets:
    masks = np.stack([target.mask for target in kept]) if kept else np.zeros((0, *void.shape), bool)
    return Targets(
        labels=torch.tensor([target.label for target in kept], dtype=torch.int64),
        is_thing=torch.tensor([target.is_thing for target in kept], dtype=torch.bool),
        has_mask=torch.tensor([target.has_mask for target in kept], dtype=torch.bool),
        masks=torch.from_numpy(masks),
        boxes=torch.tensor([target.box for target in kept], dtype=torch.float32).reshape(-1, 4),
        void=torch.from_numpy(void),
        annotated=annotated,
    )
