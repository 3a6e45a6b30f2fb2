"""The boxes with true masks that a calibration needs, counted before a model is loaded.

Imports no torch.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks.boxes import touches_image
from segkit.sample import Sample, Segment, is_object
from segkit.shards.reader import ShardSet

OBJECT_KINDS = ("panoptic", "instance")
"""Kinds of sets whose masks are of one object each; a semantic mask joins all objects of a class.
"""
SEED = 0
"""Decides which half of the images the maps are fitted to."""
MIN_BOXES = 100
"""Boxes of a size, in the half that is fitted, that make a map of their own; and of all sizes, that
make a calibration. An isotonic map through fewer boxes follows single ones."""


def things_in_image(sample: Sample) -> list[Segment]:
    """The objects whose boxes reach into the image."""
    size = sample.height, sample.width
    return [s for s in sample.segments if is_object(s) and touches_image(s.box, *size)]


def scored_things(sample: Sample) -> list[Segment]:
    """The objects of an image whose true masks predicted ones are compared with."""
    return [segment for segment in things_in_image(sample) if segment.has_true_mask]


def has_objects(data: ShardSet, ids: Collection[str] | None = None) -> bool:
    """Whether a set, or some of its images, have an object with a true mask to score with."""
    return data.manifest.kind in OBJECT_KINDS and any(
        scored_things(sample) for sample in data.samples() if ids is None or sample.id in ids
    )


def require_objects(data: ShardSet) -> None:
    """Raise InputError for a set whose masks are not of one object each."""
    kind = data.manifest.kind
    if kind not in OBJECT_KINDS:
        message = f"the masks of a {kind} set are not of one object each"
        hint = "give a panoptic or instance set with true masks"
        raise InputError(message, file=data.path, hint=hint)


def in_half(image: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """(Q,) whether a box is of the half of the images that a seed draws.

    Args:
        image: (Q,) number of the image of each box.
        seed: decides the half.
    """
    images = np.unique(image)
    half = np.random.default_rng(seed).permutation(images)[: len(images) // 2]
    return np.isin(image, half)


def require_boxes(data: ShardSet, image: NDArray[np.int64], seed: int) -> None:
    """Raise InputError for fewer than `MIN_BOXES` boxes in either half of the images.

    Args:
        data: the set that the message names.
        image: (Q,) number of the image of each box with a true mask.
        seed: as of `in_half`.
    """
    fitted = int(np.count_nonzero(in_half(image, seed)))
    fewest = min(fitted, len(image) - fitted)
    if fewest < MIN_BOXES:
        message = f"{len(image)} things with a true mask, {fewest} in one half of the images"
        hint = f"each half needs {MIN_BOXES}: give a set with more human-annotated masks"
        raise InputError(message, file=data.path, hint=hint)


def check_calibration_set(data: ShardSet) -> None:
    """Raise InputError for a set without masks of objects, or with too few true ones to calibrate
    on; reads its labels."""
    require_objects(data)
    counts: Counter[int] = Counter()
    for number, sample in enumerate(data.samples()):
        counts[number] += len(scored_things(sample))
    require_boxes(data, np.repeat([*counts], [*counts.values()]).astype(np.int64), SEED)
