"""Two sets side by side: images that only one has, and the labels of the others, by class and by
pixels."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError
from segkit.masks import rle
from segkit.sample import ImageRef, Sample
from segkit.shards.reader import ShardSet


@dataclass
class ClassDifference:
    """A class in the common images of two sets; pixels of several segments of it are counted
    once."""

    segments: list[int] = field(default_factory=lambda: [0, 0])
    pixels: list[int] = field(default_factory=lambda: [0, 0])
    common_pixels: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `segkit diff --json` prints it; `iou` is None where no set has a pixel of the
        class."""
        either = sum(self.pixels) - self.common_pixels
        iou = self.common_pixels / either if either else None
        return {
            "segments": self.segments,
            "pixels": self.pixels,
            "common_pixels": self.common_pixels,
            "iou": iou,
        }


@dataclass
class Difference:
    """What differs between sets A and B; classes are matched by name, images by id."""

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    changed_labels: list[str] = field(default_factory=list)
    """Ids of common images whose segments, void, or searched classes differ."""
    changed_images: list[str] = field(default_factory=list)
    """Ids of common images whose bytes differ (by SHA-256, where both sets have it)."""
    common: int = 0
    classes: dict[str, ClassDifference] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether both sets hold the same labels of the same images."""
        return not (self.only_a or self.only_b or self.changed_labels or self.changed_images)


def diff(a: ShardSet, b: ShardSet) -> Difference:
    """Compare two sets; memory holds the ids of one and a row group of each."""
    places = {sample.id: index for index, sample in enumerate(b.samples())}
    names = (a.taxonomy.unique_names, b.taxonomy.unique_names)
    found = Difference()
    classes: defaultdict[str, ClassDifference] = defaultdict(ClassDifference)
    seen: set[str] = set()
    for sample in a.samples():
        if sample.id not in places:
            found.only_a.append(sample.id)
            continue
        other = b.sample(places[sample.id])
        seen.add(sample.id)
        found.common += 1
        if sample.image.sha256 and other.image.sha256 and sample.image.sha256 != other.image.sha256:
            found.changed_images.append(sample.id)
        if _labels(sample, names[0]) != _labels(other, names[1]):
            found.changed_labels.append(sample.id)
        _count((sample, other), names, classes)
    found.only_b = [key for key in places if key not in seen]
    found.classes = dict(sorted(classes.items()))
    return found


def _labels(sample: Sample, names: dict[int, str]) -> tuple[Any, ...]:
    """Everything about the labels, with classes by name and without where the image lies."""
    segments = [
        (names.get(segment.class_id), replace(segment, class_id=0)) for segment in sample.segments
    ]
    looked_for = (
        None
        if sample.annotated is None
        else sorted(str(names.get(key)) for key in sample.annotated)
    )
    left_open = sorted(str(names.get(key)) for key in sample.not_exhaustive)
    rest = replace(
        sample, segments=(), image=ImageRef(), annotated=None, not_exhaustive=(), source=None
    )
    return (segments, looked_for, left_open, rest)


def _count(
    pair: tuple[Sample, Sample],
    names: Sequence[dict[int, str]],
    classes: defaultdict[str, ClassDifference],
) -> None:
    if (pair[0].height, pair[0].width) != (pair[1].height, pair[1].width):
        raise SegkitError(f"image {pair[0].id} has different sizes in the two sets")
    covers = [_covers(sample, labels) for sample, labels in zip(pair, names, strict=True)]
    for side, (sample, labels) in enumerate(zip(pair, names, strict=True)):
        for segment in sample.segments:
            classes[labels.get(segment.class_id, str(segment.class_id))].segments[side] += 1
        for name, cover in covers[side].items():
            classes[name].pixels[side] += int(cover.sum())
    for name in covers[0].keys() & covers[1].keys():
        classes[name].common_pixels += int((covers[0][name] & covers[1][name]).sum())


def _covers(sample: Sample, names: dict[int, str]) -> dict[str, NDArray[np.bool_]]:
    covers: dict[str, NDArray[np.bool_]] = {}
    for segment in sample.segments:
        if segment.mask is not None:
            mask = rle.decode(segment.mask, sample.height, sample.width)
            name = names.get(segment.class_id, str(segment.class_id))
            covers[name] = covers[name] | mask if name in covers else mask
    return covers
