"""Build the targets of a crop from the segments of its sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from segkit.data.augment import Crop
from segkit.data.batch import PackedMasks, Targets
from segkit.data.check_sets import is_target
from segkit.masks.boxes import Corners, Mask, corners, pixels_of_box, tight_box
from segkit.masks.run_lengths import decode_counts
from segkit.recipes.schema import MaskPolicy
from segkit.sample import Sample, Segment
from segkit.shards.manifest import Task
from segkit.taxonomy import Taxonomy

MIN_PIXELS = 4
"""A target with fewer pixels in the crop is void: too small to learn from, but not background."""
MIN_VISIBLE = 0.1
"""A box becomes void if less than this fraction of it is in the crop: the object may be outside."""
MIN_PART_PIXELS = 64
"""Pixels of the smallest connected part that becomes a target."""
MAX_PARTS = 16
"""Parts of an image, the largest first."""
_VOID = -1
"""In the place of a segment's index: the void region of the sample."""


def build_targets(
    sample: Sample,
    crop: Crop,
    *,
    taxonomy: Taxonomy,
    task: Task,
    policies: Mapping[int, MaskPolicy],
    trust_scores: bool = False,
) -> Targets:
    """Build the targets of one crop.

    - panoptic: one per thing, one per stuff class
    - semantic: one per class, and the connected parts of its things (of all classes where the
      taxonomy has no things), which is what a class map knows of objects
    - instance: one per thing

    Pixels without a target are void in panoptic and semantic tasks and in samples that are not
    exhaustive, else background. The boxes of masks are those of the cropped masks; boxes without a
    mask are clipped.

    Args:
        sample: an image and its segments.
        crop: the crop of its image.
        taxonomy: of the sample's data set.
        task: of the sample's data set.
        policies: mask policy by class id; classes without one use their masks.
        trust_scores: weight pseudo-masks by their scores (`Targets.trust`). One with score 0 counts
            as absent, and one below 1 keeps the box that it was made from.

    Raises:
        ValueError: an RLE does not fill the image.
        KeyError: the taxonomy has no such class id.
    """
    return _TargetBuilder(sample, crop, taxonomy, task, policies, trust_scores).build()


@dataclass(frozen=True, slots=True)
class _Target:
    segment: Segment
    """The first of the target's segments."""
    has_mask: bool
    mask: Mask
    """Pixels of `place`, outside of which there are none; the filled box where the mask is not
    known."""
    place: tuple[slice, slice]
    """Rows and columns of the mask in the crop: a thousand masks of the size of the crop would take
    a gigabyte."""
    box: Corners
    is_part: bool = False
    trust: float = 1.0


class _TargetBuilder:
    def __init__(
        self,
        sample: Sample,
        crop: Crop,
        taxonomy: Taxonomy,
        task: Task,
        policies: Mapping[int, MaskPolicy],
        trust_scores: bool,
    ) -> None:
        self.sample, self.crop = sample, crop
        self.taxonomy, self.task, self.policies = taxonomy, task, policies
        self.trust_scores = trust_scores
        counts = {
            index: segment.mask
            for index, segment in enumerate(sample.segments)
            if segment.mask is not None
            and policies.get(segment.class_id, "mask") == "mask"
            and self._trust(index) > 0
        }
        if sample.void is not None:
            counts[_VOID] = sample.void
        runs = decode_counts(list(counts.values()))
        self.runs = dict(zip(counts, runs, strict=True))
        """Run lengths of the masks that the policies allow, by index of the segment."""

    def build(self) -> Targets:
        unlabeled_is_void = self.task != "instance" or not self.sample.exhaustive
        padding = self.crop.padding()
        void = padding | unlabeled_is_void
        targets: list[_Target] = []
        for indices in self._groups():
            target = self._target(indices)
            if self._is_large_enough(target, indices):
                targets.append(target)
            elif not unlabeled_is_void:
                void[target.place] |= target.mask
        if not unlabeled_is_void:
            for region in self._void_regions():
                void |= region
        for target in targets:
            void[target.place] &= ~target.mask
        if self.task == "semantic":
            targets += self._parts(targets)
        return self._stack(targets, void, padding)

    def _groups(self) -> Iterator[list[int]]:
        """Indices of the segments that form one target."""
        by_class: dict[int, list[int]] = {}
        for index, segment in enumerate(self.sample.segments):
            if not is_target(segment, self.task, self.policies):
                continue
            if self.task == "semantic" or segment.kind == "stuff":
                by_class.setdefault(segment.class_id, []).append(index)
            else:
                yield [index]
        yield from by_class.values()

    def _target(self, indices: Sequence[int]) -> _Target:
        """One target of segments of a class; it has a mask only if all of them have one."""
        if len(indices) == 1 and indices[0] not in self.runs:
            return self._box_target(self.sample.segments[indices[0]])
        regions = [self._region(index) for index in indices]
        masks = [mask for mask, _ in regions]
        mask = masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)
        has_mask = all(box is None for _, box in regions)
        boxes = [
            self._box(index, region) if box is None else box
            for index, (region, box) in zip(indices, regions, strict=True)
            if region.any()
        ]
        trust = min(map(self._trust, indices)) if has_mask else 0.0
        place = pixels_of_box(tight_box(mask), *mask.shape)
        segment, mask = self.sample.segments[indices[0]], mask[place].copy()
        return _Target(segment, has_mask, mask, place, _hull(boxes), trust=trust)

    def _box_target(self, segment: Segment) -> _Target:
        """The target of a box; its filled box takes no memory."""
        box = self.crop.box(segment.box)
        rows, columns = place = self.crop.box_slices(box)
        filled = np.broadcast_to(np.True_, (rows.stop - rows.start, columns.stop - columns.start))
        clipped = self.crop.clip(box) if filled.size else _hull([])
        return _Target(segment, False, filled, place, clipped, trust=0.0)

    def _trust(self, index: int) -> float:
        """Weight of the mask of a segment: its score, if it is a pseudo-mask and scores count."""
        segment = self.sample.segments[index]
        if not self.trust_scores or segment.mask_from != "pseudo" or segment.score is None:
            return 1.0
        return segment.score

    def _box(self, index: int, mask: Mask) -> Corners:
        """The tight box of a mask in the crop; with trust below 1, the segment's box, clipped."""
        if self._trust(index) < 1:
            return self.crop.clip(self.crop.box(self.sample.segments[index].box))
        return corners(tight_box(mask))

    def _region(self, index: int) -> tuple[Mask, Corners | None]:
        """The mask of a segment in the crop, and None.

        Where the mask is not known: the filled box, and the corners of the box, clipped.
        """
        if index in self.runs:
            return self._crop_mask(index), None
        box = self.crop.box(self.sample.segments[index].box)
        return self.crop.filled_box(box), self.crop.clip(box)

    def _crop_mask(self, index: int) -> Mask:
        return self.crop.mask(self.runs[index], self.sample.height, self.sample.width)

    def _is_large_enough(self, target: _Target, indices: Sequence[int]) -> bool:
        if np.count_nonzero(target.mask) < MIN_PIXELS:
            return False
        if target.has_mask or len(indices) > 1:
            return True
        x0, y0, x1, y1 = self.crop.box(target.segment.box)
        left, top, right, bottom = target.box
        return (right - left) * (bottom - top) >= MIN_VISIBLE * (x1 - x0) * (y1 - y0)

    def _void_regions(self) -> Iterator[Mask]:
        """Void of an instance sample: the source's own, and the things that are not usable."""
        if self.sample.void is not None:
            yield self._crop_mask(_VOID)
        for index, segment in enumerate(self.sample.segments):
            if segment.kind == "thing" and not is_target(segment, self.task, self.policies):
                yield self._region(index)[0]

    def _parts(self, targets: Sequence[_Target]) -> list[_Target]:
        """The `MAX_PARTS` largest connected parts of class regions, largest first."""
        has_things = any(category.kind == "thing" for category in self.taxonomy.categories)
        parts: list[tuple[int, _Target]] = []  # with their areas
        for target in targets:
            if target.has_mask and not (has_things and target.segment.kind == "stuff"):
                parts += _connected_parts(target, self.crop.padded_size)
                parts = sorted(parts, key=lambda part: -part[0])[:MAX_PARTS]  # stable
        return [target for _, target in parts]

    def _stack(self, targets: Sequence[_Target], void: Mask, padding: Mask) -> Targets:
        labels = [self.taxonomy.index[target.segment.class_id] for target in targets]
        is_thing = [target.segment.kind == "thing" for target in targets]
        boxes = torch.tensor([target.box for target in targets], dtype=torch.float32)
        return Targets(
            labels=torch.tensor(labels, dtype=torch.int64),
            is_thing=torch.tensor(is_thing, dtype=torch.bool),
            has_mask=torch.tensor([target.has_mask for target in targets], dtype=torch.bool),
            masks=_pack(targets, void.shape),
            boxes=boxes.reshape(-1, 4),
            is_part=torch.tensor([target.is_part for target in targets], dtype=torch.bool),
            void=torch.from_numpy(void),
            annotated=self._annotated(),
            padding=torch.from_numpy(padding),
            trust=torch.tensor([target.trust for target in targets]) if self.trust_scores else None,
        )

    def _annotated(self) -> torch.Tensor | None:
        if self.sample.annotated is None:
            return None
        annotated = torch.zeros(len(self.taxonomy.categories), dtype=torch.bool)
        annotated[[self.taxonomy.index[class_id] for class_id in self.sample.annotated]] = True
        return annotated


def _hull(boxes: Sequence[Corners]) -> Corners:
    """The smallest box that holds all boxes; zeros without any."""
    if not boxes:
        return 0.0, 0.0, 0.0, 0.0
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _pack(targets: Sequence[_Target], size: tuple[int, ...]) -> PackedMasks:
    """The masks of targets, without a pixel where they are not known; in a crop of (height, width)
    pixels."""
    if not any(target.has_mask for target in targets):
        return PackedMasks.zeros(len(targets), size)
    height, width = size
    bits = np.zeros((len(targets), height, -(-width // 8)), np.uint8)
    for packed, target in zip(bits, targets, strict=True):
        if target.has_mask:
            rows, columns = target.place
            lines = np.zeros((rows.stop - rows.start, width), bool)
            lines[:, columns] = target.mask
            packed[rows] = np.packbits(lines, axis=-1, bitorder="little")
    return PackedMasks(torch.from_numpy(bits), width)


def _connected_parts(target: _Target, size: tuple[int, int]) -> list[tuple[int, _Target]]:
    """The `MAX_PARTS` largest connected parts of a target in its box, with their areas.

    Parts of fewer than MIN_PART_PIXELS do not count; of equal ones the first come first.
    """
    left, top, right, bottom = (int(side) for side in target.box)
    canvas = np.zeros(size, np.uint8)
    canvas[target.place] = target.mask
    region = canvas[top:bottom, left:right]
    if not region.size:
        return []
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # of the background
    # a map of classes may have thousands of parts: masks are cut of those that remain
    largest = np.argsort(-areas, kind="stable")[:MAX_PARTS]
    parts = []
    for label in largest[areas[largest] >= MIN_PART_PIXELS].tolist():
        x, y, width, height, area = statistics[label].tolist()
        mask = labels[y : y + height, x : x + width] == label
        x0, y0 = left + x, top + y
        x1, y1 = x0 + width, y0 + height
        place, box = (slice(y0, y1), slice(x0, x1)), (float(x0), float(y0), float(x1), float(y1))
        part = _Target(target.segment, True, mask, place, box, is_part=True, trust=target.trust)
        parts.append((area, part))
    return parts
