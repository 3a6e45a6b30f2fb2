"""The universal representation: an image is a set of (mask, class) pairs, whatever its source."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["thing", "stuff"]
MaskSource = Literal["human", "derived", "pseudo", "prediction"]
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""
MIN_DRAWN_SCORE = 0.3
"""Instances with a lower score are not drawn: average precision needs them, a viewer does not."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One labeled region of an image: ground truth, pseudo-label or prediction.

    The fields are independent of each other. A crowd need not have been an RLE in its source, and a
    segment with only a box has ``mask is None``, which differs from an empty mask.
    """

    class_id: int
    """Id of the class in the set's taxonomy (the source's own id)."""
    kind: Kind
    box: Box
    """As in the source if it gives one (it may reach beyond the image), else the tight box."""
    mask: bytes | None
    """Counts of a COCO compressed RLE over (height, width) of the image; None for a box-only
    segment."""
    area: float
    """Pixels of the mask, or width x height of the box if there is no mask; COCO instances keep the
    source's value."""
    is_crowd: bool = False
    ignore: bool = False
    mask_from: MaskSource | None = None
    """Provenance of the mask; None exactly if there is no mask."""
    score: float | None = None
    """Confidence, 0-1; None for human labels."""
    source_id: str | None = None
    """The annotation's id in its source."""
    source_polygon: str | None = None
    """The source's polygons, as verbatim JSON text."""

    @property
    def has_true_mask(self) -> bool:
        """Whether there is a mask that no model predicted."""
        return self.mask is not None and self.mask_from not in ("pseudo", "prediction")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The location of an image's bytes: in a tar of the version or of a parent, or in a file."""

    tar: str | None = None
    """Tar file, relative to the version's directory."""
    offset: int = 0
    """First byte in the tar."""
    length: int = 0
    """Number of bytes."""
    sha256: str | None = None
    path: str | None = None
    """File path, for sets that reference images instead of embedding them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its segments."""

    id: str
    """Unique in the set: the source's image id as text (COCO `id`), or the file stem if the source
    has no ids."""
    file_name: str
    """The source's name for the image, with its folders."""
    width: int
    height: int
    segments: tuple[Segment, ...] = ()
    image: ImageRef = ImageRef()
    annotated: tuple[int, ...] | None = None
    """Ids of the annotated classes: those that this image was searched for; None means all of the
    taxonomy."""
    exhaustive: bool = True
    """Whether every instance of the annotated classes is labeled; if not, an unlabeled region is
    not a negative."""
    not_exhaustive: tuple[int, ...] = ()
    """If not exhaustive, ids of the classes with unlabeled instances, as LVIS lists them; empty if
    they are not known."""
    void: bytes | None = None
    """RLE counts of the pixels without any label (panoptic 0, semantic ignore); None if not
    known."""
    source: str | None = None
    """The source's own image record, as JSON text (license, URLs, dates)."""


def is_object(segment: Segment) -> bool:
    """Whether a segment shows one thing that counts: no crowd, not ignored."""
    return segment.kind == "thing" and not (segment.is_crowd or segment.ignore)


def needs_mask(segment: Segment) -> bool:
    """Whether a segment is a box that a teacher is asked to segment: no crowd, not ignored."""
    return segment.mask is None and not (segment.is_crowd or segment.ignore)
