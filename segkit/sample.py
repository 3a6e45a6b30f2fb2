"""The universal representation: an image is a set of (mask, class) pairs, whatever the annotation
was."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["thing", "stuff"]
MaskSource = Literal["human", "derived", "pseudo", "prediction"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Segment:
    """One labeled region of an image: ground truth, pseudo-label and prediction alike.

    The fields are independent of each other: a crowd need not have come as RLE, and a segment that
    is only a box has ``mask is None``, which is not an empty mask.
    """

    class_id: int
    """Id of the category in the set's taxonomy (the source's own id)."""
    kind: Kind
    box: Box
    """x, y, width, height in pixels, as in the source where it had one (it may reach beyond the
    image)."""
    mask: bytes | None
    """Counts of a COCO compressed RLE over (height, width) of the image; None for a box-only
    segment."""
    area: float
    """Pixels of the mask, or width x height of the box where there is no mask (COCO instances keep
    the source's)."""
    is_crowd: bool = False
    ignore: bool = False
    mask_from: MaskSource | None = None
    """Where the mask comes from; None exactly when there is no mask."""
    score: float | None = None
    """Confidence, 0-1; None for human labels."""
    source_id: str | None = None
    """The annotation's id in its source."""
    source_polygon: str | None = None
    """The source's polygons, as JSON text verbatim."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image's bytes lie: inside a tar of the version (or of a parent), or in a file of the
    user's."""

    tar: str | None = None
    """Tar file, relative to the version's directory."""
    offset: int = 0
    length: int = 0
    """Bytes from `offset` in the tar."""
    sha256: str | None = None
    path: str | None = None
    """File path, for sets that reference images instead of embedding them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its segments."""

    id: str
    """Unique in the set: the source's image id as text (COCO `id`), or the file stem where the
    source has no ids."""
    file_name: str
    """As the source names it, with its folders."""
    width: int
    height: int
    segments: tuple[Segment, ...] = ()
    image: ImageRef = ImageRef()
    annotated: tuple[int, ...] | None = None
    """Class ids that were looked for in this image; None means all of the taxonomy."""
    exhaustive: bool = True
    """Whether every instance of the annotated classes is labeled (False: an unlabeled region is no
    negative)."""
    not_exhaustive: tuple[int, ...] = ()
    """Where not, the class ids of which some are unlabeled, as LVIS lists them; none if that is not
    known."""
    void: bytes | None = None
    """RLE counts of the pixels that carry no label at all (panoptic 0, semantic ignore); None where
    not known."""
    source: str | None = None
    """The source's own image record, as JSON text (licence, URLs, dates)."""
