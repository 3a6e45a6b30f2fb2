"""The masked segments of a batch of images as columns: the input of the pixel metrics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks.run_lengths import Bytes, Ints, Runs, decode_runs, first_malformed, join
from segkit.metrics.sides import Side, malformed_mask, missing_mask, unknown_class
from segkit.sample import Sample

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Regions:
    """Segments of I images, image after image, in the order in which each image lists them."""

    ids: tuple[str, ...]
    """(I,) image ids."""
    height: Ints
    width: Ints
    """(I,) size of each image."""
    annotated: tuple[Ints | None, ...]
    """(I,) class indices that each image is annotated for; None for all."""
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

    @classmethod
    def from_samples(
        cls, samples: Sequence[Sample], index: Mapping[int, int], source: Side
    ) -> "Regions":
        """Columns of the samples' segments.

        Args:
            samples: images; every segment must have a mask.
            index: class index of each class id.
            source: the side that errors name.

        Raises:
            InputError: a segment has no mask, or is of a class that `index` does not list.
        """
        segments = [(i, segment) for i, sample in enumerate(samples) for segment in sample.segments]
        counts: list[bytes] = []
        for i, segment in segments:
            if segment.class_id not in index:
                raise unknown_class(segment.class_id, source, samples[i].id)
            if segment.mask is None:
                raise missing_mask(source, samples[i].id)
            counts.append(segment.mask)
        buffer, offsets = join(counts)
        return cls(
            tuple(sample.id for sample in samples),
            np.array([sample.height for sample in samples], np.int64),
            np.array([sample.width for sample in samples], np.int64),
            annotated_labels([sample.annotated for sample in samples], index),
            buffer,
            offsets,
            np.array([i for i, _ in segments], np.int64),
            np.array([index[segment.class_id] for _, segment in segments], np.int64),
            np.array([segment.is_crowd for _, segment in segments], np.bool_),
            np.array([segment.ignore for _, segment in segments], np.bool_),
        )

    @property
    def pixels(self) -> Ints:
        """(I,) height x width."""
        return self.height * self.width

    def without_ignored(self) -> "Regions":
        """The same without the segments marked `ignore`: their pixels become void."""
        return self._select(~self.ignore)

    def of_annotated_classes(self, truth: "Regions") -> "Regions":
        """The predictions of classes that their image is annotated for, or that it shows.

        Others are neither right nor wrong: they count as not predicted.
        """
        keep = np.ones(len(self), np.bool_)
        for i, annotated in enumerate(truth.annotated):
            if annotated is not None:
                classes = np.union1d(annotated, truth.label[truth.image == i])
                keep &= (self.image != i) | np.isin(self.label, classes)
        return self._select(keep)

    def _select(self, at: Flags) -> "Regions":
        """The chosen segments; these regions themselves where that is all."""
        if at.all():
            return self
        keep = np.flatnonzero(at)
        counts = self.counts()
        buffer, offsets = join([counts[i] for i in keep])
        columns = (self.image[keep], self.label[keep], self.crowd[keep], self.ignore[keep])
        images = (self.ids, self.height, self.width, self.annotated)
        return Regions(*images, buffer, offsets, *columns)

    def counts(self) -> list[bytes]:
        """Compressed counts of each segment."""
        bounds = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [self.buffer[start:end].tobytes() for start, end in bounds]

    def name(self, segment: int) -> str:
        """The name of a segment in error messages: its image and its place there."""
        place = segment - int(np.searchsorted(self.image, self.image[segment]))
        return f"image {self.ids[self.image[segment]]}, segment {place}"

    def decode(self, source: Side) -> Runs:
        """Runs of all segments on one pixel axis (image after image).

        Raises:
            InputError: the counts of a mask are malformed, or do not add up to the pixels of its
                image.
        """
        base = np.concatenate(([0], np.cumsum(self.pixels)))[self.image]
        runs = decode_runs(self.buffer, self.offsets, base)
        if not runs.is_wellformed:
            damaged = first_malformed(self.counts(), self.pixels[self.image])
            record = None if damaged is None else self.name(damaged)
            raise malformed_mask(source, record)
        wrong = np.flatnonzero(runs.total != self.pixels[self.image])
        if len(wrong):
            segment = int(wrong[0])
            pixels = self.pixels[self.image[segment]]
            message = f"mask of {runs.total[segment]} pixels, the image has {pixels}"
            hint = "write masks at image size"
            raise InputError(message, file=source, record=self.name(segment), hint=hint)
        return runs


def annotated_labels(
    annotated: Iterable[Sequence[int] | None], index: Mapping[int, int]
) -> tuple[Ints | None, ...]:
    """The class indices of the annotated classes of images, as `Regions` has them."""
    return tuple(
        None if ids is None else np.array([index[c] for c in ids if c in index], np.int64)
        for ids in annotated
    )
