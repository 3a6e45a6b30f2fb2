"""The masked segments of a batch of images as columns: what the pixel metrics compute on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks.run_lengths import Bytes, Ints, Runs, decode_runs, join
from segkit.sample import Sample

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Regions:
    """Segments of I images, image after image, in the order in which each image lists them."""

    ids: tuple[str, ...]
    """(I,) image ids."""
    height: Ints
    width: Ints
    """(I,) size of each image."""
    buffer: Bytes
    offsets: Ints
    """(S + 1,) offsets of the compressed counts in `buffer`."""
    image: Ints
    """(S,) index of the image, non-decreasing."""
    label: Ints
    """(S,) index of the class in the taxonomy."""
    crowd: Flags
    ignore: Flags
    """(S,) flags of the segments."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def pixels(self) -> Ints:
        """(I,) height x width."""
        return self.height * self.width

    def without_ignored(self) -> "Regions":
        """The same without the segments marked `ignore`: their pixels become void."""
        if not self.ignore.any():
            return self
        keep = np.flatnonzero(~self.ignore)
        buffer, offsets = join(
            [self.buffer[self.offsets[i] : self.offsets[i + 1]].tobytes() for i in keep]
        )
        columns = (self.image[keep], self.label[keep], self.crowd[keep], self.ignore[keep])
        return Regions(self.ids, self.height, self.width, buffer, offsets, *columns)

    def name(self, segment: int) -> str:
        """How an error message names a segment."""
        place = segment - int(np.searchsorted(self.image, self.image[segment]))
        return f"image {self.ids[self.image[segment]]}, segment {place}"


def regions_of(samples: Sequence[Sample], index: dict[int, int], *, what: str) -> Regions:
    """Columns of the samples' segments.

    Args:
        samples: images; every segment must have a mask.
        index: class index of each class id.
        what: what the samples are, for messages ("ground truth", "predictions").

    Raises:
        InputError: a segment has no mask, or is of a class that `index` does not list.
    """
    segments = [(i, segment) for i, sample in enumerate(samples) for segment in sample.segments]
    counts: list[bytes] = []
    for i, segment in segments:
        if segment.class_id not in index:
            raise unknown_class(segment.class_id, what, samples[i].id)
        if segment.mask is None:
            raise boxes_only(what, samples[i].id)
        counts.append(segment.mask)
    buffer, offsets = join(counts)
    return Regions(
        tuple(sample.id for sample in samples),
        np.array([sample.height for sample in samples], np.int64),
        np.array([sample.width for sample in samples], np.int64),
        buffer,
        offsets,
        np.array([i for i, _ in segments], np.int64),
        np.array([index[segment.class_id] for _, segment in segments], np.int64),
        np.array([segment.is_crowd for _, segment in segments], np.bool_),
        np.array([segment.ignore for _, segment in segments], np.bool_),
    )


def unknown_class(class_id: int, what: str, image: str) -> InputError:
    """The error of a segment of a class that the vocabulary does not list."""
    hint = "predict in the vocabulary of the ground truth"
    return InputError(
        f"category {class_id} is not in the vocabulary",
        file=what,
        record=f"image {image}",
        hint=hint,
    )


def boxes_only(what: str, image: str) -> InputError:
    """The error of a segment that is only a box where masks are compared."""
    hint = "give masks: `segkit pseudolabel` makes them from boxes, `--by box` compares boxes"
    return InputError(
        "a segment has a box but no mask", file=what, record=f"image {image}", hint=hint
    )


def size_differs(image: str, found: str, wanted: str) -> InputError:
    """The error of a prediction of another size than its image."""
    message = f"the prediction is {found}, the image {wanted}"
    return InputError(
        message,
        file="predictions",
        record=f"image {image}",
        hint="predict at the size of the image",
    )


def checked_runs(regions: Regions, what: str) -> Runs:
    """Runs of all segments on one pixel axis (image after image).

    Raises:
        InputError: the counts of a mask do not add up to the pixels of its image.
    """
    base = np.concatenate(([0], np.cumsum(regions.pixels)))[regions.image]
    runs = decode_runs(regions.buffer, regions.offsets, base)
    wrong = np.flatnonzero(runs.total != regions.pixels[regions.image])
    if len(wrong):
        segment = int(wrong[0])
        size = (
            f"{runs.total[segment]} pixels, the image has {regions.pixels[regions.image[segment]]}"
        )
        raise InputError(
            f"mask of {size}",
            file=what,
            record=regions.name(segment),
            hint="write masks at image size",
        )
    return runs
