"""What `Predictor` returns: the masks of an image, with pictures and other libraries' forms."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.images.draw import Picture, enlarged_overlay, png_bytes
from segkit.inference.postprocess import LabeledMask
from segkit.masks import rle
from segkit.masks.supervision import detections
from segkit.sample import Box, Kind, Segment
from segkit.taxonomy import Category, Taxonomy


@dataclass(frozen=True)
class PredictedMask:
    """One labeled region of an image."""

    name: str
    """Name of the class."""
    class_id: int
    """Id of the class in the taxonomy."""
    kind: Kind
    score: float
    """0-1."""
    box: Box
    """Tight box: x, y, width, height in pixels."""
    counts: bytes
    """COCO compressed RLE over (height, width) of the image."""
    size: tuple[int, int]
    """Height and width of the image."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""
        return rle.decode(self.counts, *self.size)

    def to_segment(self) -> Segment:
        """The same as a row of a set."""
        return Segment(
            class_id=self.class_id,
            kind=self.kind,
            box=self.box,
            mask=self.counts,
            area=float(rle.area(self.counts, *self.size)),
            mask_from="prediction",
            score=self.score,
        )

    @classmethod
    def from_labeled(cls, mask: LabeledMask, taxonomy: Taxonomy) -> "PredictedMask":
        """A mask of post-processing, in the taxonomy of the class embeddings."""
        category, region = taxonomy.categories[mask.class_index], mask.region
        return cls(
            name=category.name,
            class_id=category.id,
            kind=category.kind,
            score=mask.score,
            box=region.box,
            counts=region.counts,
            size=mask.size,
        )


class PredictedMasks(list[PredictedMask]):
    """The masks of one image, the most confident or lowest first as the task orders them.

    Attributes:
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, image: Picture, masks: Iterable[PredictedMask] = ()) -> None:
        super().__init__(masks)
        self.image = image

    def draw(self, min_score: float = 0.0) -> Picture:
        """Paint the masks over the image, enlarged if it is small: (H, W, 3) RGB uint8."""
        categories = {mask.class_id: Category(mask.class_id, mask.name, mask.kind) for mask in self}
        taxonomy = Taxonomy("predictions", tuple(categories.values()))
        segments = [mask.to_segment() for mask in self]
        return enlarged_overlay(self.image, segments, taxonomy, min_score=min_score)

    def to_supervision(self) -> Any:
        """Return the masks as `supervision.Detections`; InputError where it is not installed."""
        shape = self.image.shape[:2]
        return detections(
            np.array([mask.mask for mask in self], bool).reshape(-1, *shape),
            np.array([mask.box for mask in self], np.float64).reshape(-1, 4),
            [mask.score for mask in self],
            [mask.class_id for mask in self],
            [mask.name for mask in self],
        )

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows for the last line of a cell."""
        return png_bytes(self.draw())
