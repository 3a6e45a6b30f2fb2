"""From the segments of a sample to the targets of a crop: what is one target, what is void, what
the policy hides."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from segkit.data.augment import Crop, Rectangle
from segkit.data.batch import Targets
from segkit.data.crop_masks import Mask, crop_mask, fill_box
from segkit.masks.boxes import corners, tight_box
from segkit.masks.run_lengths import Ints, decode_counts
from segkit.recipes.schema import MaskPolicy
from segkit.sample import Sample, Segment
from segkit.shards.manifest import Task
from segkit.taxonomy import Taxonomy

MIN_PIXELS = 4
"""A target with fewer pixels in the crop is void: too little to learn from, but no background
either."""
MIN_VISIBLE = 0.1
"""A box of which less than this share is in the crop is void: the object itself may lie wholly
outside."""


MIN_PART_PIXELS = 64
MAX_PARTS = 16
"""Of an image; the largest count."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """A sample under its window: what of each segment may be known."""

    sample: Sample
    crop: Crop
    policies: Mapping[int, MaskPolicy]
    runs: Mapping[int, Ints]
    """Run lengths of the masks that may be looked at, by the segment's place in the sample; -1 is
    the sample's void."""

    def usable(self, segment: Segment) -> bool:
        """Whether it can be a target."""
        return not (
            segment.is_crowd or segment.ignore or self.policies.get(segment.class_id) == "none"
        )

    def mask(self, place: int) -> Mask:
        """The crop of a mask."""
        return crop_mask(self.runs[place], self.sample.height, self.sample.width, self.crop)

    def region(self, place: int) -> tuple[Mask, Rectangle | None]:
        """The segment's pixels in the crop; with its clipped box where that is all that may be
        known of it."""
        if place in self.runs:
            return self.mask(place), None
        rectangle = self.crop.box(self.sample.segments[place].box)
        return fill_box(rectangle, self.crop), self.crop.clip(rectangle)


@dataclass(frozen=True, slots=True)
class _Target:
    segment: Segment
    has_mask: bool
    mask: Mask
    box: Rectangle
    is_part: bool = False


def build_targets(
    sample: Sample,
    crop: Crop,
    *,
    taxonomy: Taxonomy,
    task: Task,
    policies: Mapping[int, MaskPolicy],
) -> Targets:
    """The targets of one crop.

    Panoptic: one per thing, one per stuff class. Semantic: one per class, and the connected parts
    of its things (of all classes where the taxonomy has no things): what a class map knows of
    objects. Instance: one per thing. Where the task wants every pixel labeled, or the sample is not
    exhaustive, what no target covers is void; in an exhaustive instance set it is background. Boxes
    of masks are taken from the cropped mask, boxes without a mask are clipped.

    Args:
        policies: mask policy by class id; classes that are not named use their masks.

    Raises:
        ValueError: an RLE that does not fit the image.
        KeyError: a class id that the taxonomy lacks.
    """
    scene = _scene(sample, crop, policies)
    complete = task != "instance" or not sample.exhaustive
    padding = np.ones(crop.padded_size, bool)
    padding[crop.inside()] = False
    void = padding | complete
    kept: list[_Target] = []
    for places in _groups(scene, task):
        target = _target(places, scene)
        if _large_enough(target, places, scene):
            kept.append(target)
        elif not complete:
            void |= target.mask
    if not complete:
        for region in _hidden(scene):
            void |= region
    for target in kept:
        void &= ~target.mask
    parts = list(_parts(kept, taxonomy)) if task == "semantic" else []
    made = _stack([*kept, *parts], void, taxonomy)
    return replace(made, annotated=_annotated(sample, taxonomy), padding=torch.from_numpy(padding))


def _scene(sample: Sample, crop: Crop, policies: Mapping[int, MaskPolicy]) -> _Scene:
    counts = {
        place: segment.mask
        for place, segment in enumerate(sample.segments)
        if segment.mask is not None and policies.get(segment.class_id, "mask") == "mask"
    }
    if sample.void is not None:
        counts[-1] = sample.void
    runs = decode_counts(list(counts.values()))
    return _Scene(sample, crop, policies, dict(zip(counts, runs, strict=True)))


def _groups(scene: _Scene, task: Task) -> Iterator[list[int]]:
    """Places of the segments that make one target together."""
    merged: dict[int, list[int]] = {}
    for place, segment in enumerate(scene.sample.segments):
        if not scene.usable(segment) or (task == "instance" and segment.kind == "stuff"):
            continue
        if task == "semantic" or segment.kind == "stuff":
            merged.setdefault(segment.class_id, []).append(place)
        else:
            yield [place]
    yield from merged.values()


def _hidden(scene: _Scene) -> Iterator[Mask]:
    """Void regions of an instance sample: the source's own, crowds, ignored things, things of the
    policy none."""
    if scene.sample.void is not None:
        yield scene.mask(-1)
    for place, segment in enumerate(scene.sample.segments):
        if segment.kind == "thing" and not scene.usable(segment):
            yield scene.region(place)[0]


def _target(places: Sequence[int], scene: _Scene) -> _Target:
    """One target of one or several segments of a class; it has a mask only if all of them have."""
    regions = [scene.region(place) for place in places]
    mask = (
        regions[0][0] if len(regions) == 1 else np.logical_or.reduce([part for part, _ in regions])
    )
    boxes = [
        box if box is not None else corners(tight_box(part)) for part, box in regions if part.any()
    ]
    return _Target(
        scene.sample.segments[places[0]], all(box is None for _, box in regions), mask, _hull(boxes)
    )


def _parts(targets: Sequence[_Target], taxonomy: Taxonomy) -> Iterator[_Target]:
    """Connected parts of class regions, largest first."""
    has_things = any(category.kind == "thing" for category in taxonomy.categories)
    found: list[tuple[int, _Target]] = []
    for target in targets:
        if not target.has_mask or (has_things and target.segment.kind == "stuff"):
            continue
        left, top, right, bottom = (int(side) for side in target.box)
        region = target.mask[top:bottom, left:right].astype(np.uint8)
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        for number in range(1, count):
            x, y, width, height, area = (int(value) for value in statistics[number])
            if area >= MIN_PART_PIXELS:
                mask = np.zeros_like(target.mask)
                mask[top:bottom, left:right] = labels == number
                box = (
                    float(left + x),
                    float(top + y),
                    float(left + x + width),
                    float(top + y + height),
                )
                found.append((area, _Target(target.segment, True, mask, box, is_part=True)))
    found.sort(key=lambda item: -item[0])
    yield from (target for _, target in found[:MAX_PARTS])


def _large_enough(target: _Target, places: Sequence[int], scene: _Scene) -> bool:
    if np.count_nonzero(target.mask) < MIN_PIXELS:
        return False
    if target.has_mask or len(places) > 1:
        return True
    x0, y0, x1, y1 = scene.crop.box(target.segment.box)
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


def _stack(kept: list[_Target], void: Mask, taxonomy: Taxonomy) -> Targets:
    masks = np.stack([target.mask for target in kept]) if kept else np.zeros((0, *void.shape), bool)
    labels = [taxonomy.index[target.segment.class_id] for target in kept]
    return Targets(
        labels=torch.tensor(labels, dtype=torch.int64),
        is_thing=torch.tensor(
            [target.segment.kind == "thing" for target in kept], dtype=torch.bool
        ),
        has_mask=torch.tensor([target.has_mask for target in kept], dtype=torch.bool),
        masks=torch.from_numpy(masks),
        boxes=torch.tensor([target.box for target in kept], dtype=torch.float32).reshape(-1, 4),
        is_part=torch.tensor([target.is_part for target in kept], dtype=torch.bool),
        void=torch.from_numpy(void),
    )
