"""One image of a set with its labels: pixels, masks, pictures in notebooks and terminals."""

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.images.draw import Picture, enlarged_overlay, png_bytes
from segkit.masks import rle
from segkit.masks.supervision import detections
from segkit.sample import Sample, Segment
from segkit.taxonomy import Taxonomy


class LabeledImage:
    """An image of a shard set and its segments, as `segkit.open(SET)[index]` returns it.

    Attributes:
        sample: the row of the set: id, file name, size, segments.
        taxonomy: the classes of the set.
    """

    def __init__(
        self, sample: Sample, taxonomy: Taxonomy, read: Callable[[Sample], NDArray[np.uint8]]
    ) -> None:
        self.sample = sample
        self.taxonomy = taxonomy
        self._read = read

    def __repr__(self) -> str:
        sample = self.sample
        count = len(sample.segments)
        noun = "segment" if count == 1 else "segments"
        return f"LabeledImage({sample.id!r}, {sample.width} x {sample.height}, {count} {noun})"

    @property
    def id(self) -> str:
        """The sample's id, unique in the set."""
        return self.sample.id

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The labels."""
        return self.sample.segments

    @property
    def class_names(self) -> list[str]:
        """The class name of each segment."""
        return [self.taxonomy.by_id[segment.class_id].name for segment in self.segments]

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; InputError if the set has no images."""
        return self._read(self.sample)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) the mask of each segment; False everywhere for a segment with only a box."""
        height, width = self.sample.height, self.sample.width
        masks = np.zeros((len(self.segments), height, width), bool)
        for mask, segment in zip(masks, self.segments, strict=True):
            if segment.mask is not None:
                mask[:] = rle.decode(segment.mask, height, width)
        return masks

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) x, y, width, height of each segment, in pixels."""
        return np.array([segment.box for segment in self.segments], np.float64).reshape(-1, 4)

    def draw(self, min_score: float = 0.0) -> Picture:
        """Paint the segments over the image, enlarged if it is small.

        Args:
            min_score: segments with a lower score are left out.

        Returns:
            (H, W, 3) RGB uint8.
        """
        return enlarged_overlay(self.image, self.segments, self.taxonomy, min_score=min_score)

    def show(self, min_score: float = 0.0) -> None:
        """Show the picture of `draw`: in the notebook, in the terminal, or in a viewer.

        Args:
            min_score: segments with a lower score are left out.
        """
        from PIL import Image

        picture = Image.fromarray(self.draw(min_score))
        ipython = sys.modules.get("IPython")
        if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
            ipython.display.display(picture)
        elif sys.stdout.isatty():
            from rich.console import Console
            from textual_image.renderable import Image as TerminalImage

            Console().print(TerminalImage(picture))
        else:
            picture.show(title=self.id)

    def to_supervision(self) -> Any:
        """Return the segments as `supervision.Detections`; those of stuff are included.

        Raises:
            InputError: supervision is not installed.
        """
        return detections(
            self.masks,
            self.boxes,
            [segment.score for segment in self.segments],
            [segment.class_id for segment in self.segments],
            self.class_names,
        )

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows for the last line of a cell."""
        return png_bytes(self.draw())
