"""Compare two sets: images that only one has, and the labels of the others by class and pixels."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.sample import ImageRef, Sample
from segkit.shards.reader import ShardSet
from segkit.shards.sample_spill import SampleSpill


@dataclass
class ClassDifference:
    """A class in the common images of sets A and B that have one size; a pixel of several segments
    counts once."""

    segments: list[int] = field(default_factory=lambda: [0, 0])
    """Of A and of B."""
    pixels: list[int] = field(default_factory=lambda: [0, 0])
    common_pixels: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `segkit diff --json` prints it; `iou` is None if neither set has a pixel."""
        union = sum(self.pixels) - self.common_pixels
        return {
            "segments": self.segments,
            "pixels": self.pixels,
            "common_pixels": self.common_pixels,
            "iou": self.common_pixels / union if union else None,
        }


@dataclass
class Difference:
    """The differences between sets A and B; classes are matched by name, images by id."""

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    changed_labels: list[str] = field(default_factory=list)
    """Ids of common images whose size, segments, void, or annotated classes differ."""
    changed_images: list[str] = field(default_factory=list)
    """Ids of common images whose bytes differ (by SHA-256, if both sets have it)."""
    common: int = 0
    classes: dict[str, ClassDifference] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether both sets hold the same labels of the same images."""
        return not (self.only_a or self.only_b or self.changed_labels or self.changed_images)


def diff(a: ShardSet, b: ShardSet, *, on_image: Callable[[], None] = lambda: None) -> Difference:
    """Compare two sets; memory holds their ids and a row group of each.

    If the common images of B are in another order than those of A, B is copied to a temporary file.

    Args:
        a: a set.
        b: another set.
        on_image: called for each image of `a`.
    """
    index_in_b = {image_id: index for index, image_id in enumerate(b.image_ids())}
    order = [index_in_b[image_id] for image_id in a.image_ids() if image_id in index_in_b]
    checked_b: Callable[[int], Sample] = partial(b.sample, check_masks=True)
    if order != sorted(order):
        checked_b = SampleSpill(b.samples(check_masks=True)).__getitem__
    names = (a.taxonomy.unique_names, b.taxonomy.unique_names)
    difference = Difference()
    classes: defaultdict[str, ClassDifference] = defaultdict(ClassDifference)
    for sample_a in a.samples(check_masks=True):
        on_image()
        if sample_a.id not in index_in_b:
            difference.only_a.append(sample_a.id)
            continue
        sample_b = checked_b(index_in_b[sample_a.id])
        difference.common += 1
        digests = sample_a.image.sha256, sample_b.image.sha256
        if all(digests) and digests[0] != digests[1]:
            difference.changed_images.append(sample_a.id)
        if _labels(sample_a, names[0]) != _labels(sample_b, names[1]):
            difference.changed_labels.append(sample_a.id)
        if (sample_a.width, sample_a.height) == (sample_b.width, sample_b.height):
            _count((sample_a, sample_b), names, classes)
    common = set(order)
    difference.only_b = [image_id for image_id, index in index_in_b.items() if index not in common]
    difference.classes = dict(sorted(classes.items()))
    return difference


def _labels(sample: Sample, names: dict[int, str]) -> tuple[Any, ...]:
    """All labels of a sample in any order, classes by name, without name and place of its image.

    An image without a list of annotated classes is annotated for all of its taxonomy.
    """
    segments = sorted(
        repr((names.get(segment.class_id), replace(segment, class_id=0)))
        for segment in sample.segments
    )
    classes = names if sample.annotated is None else sample.annotated
    annotated = sorted(str(names.get(key)) for key in classes)
    not_exhaustive = sorted(str(names.get(key)) for key in sample.not_exhaustive)
    unnamed = replace(sample, file_name="", image=ImageRef(), source=None)
    rest = replace(unnamed, segments=(), annotated=None, not_exhaustive=())
    return segments, annotated, not_exhaustive, rest


def _count(
    pair: tuple[Sample, Sample],
    names: Sequence[dict[int, str]],
    classes: defaultdict[str, ClassDifference],
) -> None:
    masks = [_class_masks(sample, labels) for sample, labels in zip(pair, names, strict=True)]
    for side, (sample, labels) in enumerate(zip(pair, names, strict=True)):
        for segment in sample.segments:
            classes[labels.get(segment.class_id, str(segment.class_id))].segments[side] += 1
        for name, mask in masks[side].items():
            classes[name].pixels[side] += int(mask.sum())
    for name in masks[0].keys() & masks[1].keys():
        classes[name].common_pixels += int((masks[0][name] & masks[1][name]).sum())


def _class_masks(sample: Sample, names: dict[int, str]) -> dict[str, NDArray[np.bool_]]:
    """The union of the masks of each class."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for segment in sample.segments:
        if segment.mask is not None:
            mask = rle.decode(segment.mask, sample.height, sample.width)
            name = names.get(segment.class_id, str(segment.class_id))
            masks[name] = masks[name] | mask if name in masks else mask
    return masks
