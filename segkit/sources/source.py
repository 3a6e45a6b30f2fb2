"""The interface of all sources: an ordered stream of records, each of which becomes one sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from segkit.sample import Sample
from segkit.shards.manifest import SetKind
from segkit.sources.image_files import Picture
from segkit.sources.ledger import Tally
from segkit.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a source before it is read: small, picklable, and not yet checked."""

    id: str
    file_name: str
    """As the source names it."""
    candidates: tuple[str, ...]
    """Possible paths under the source's image folder; the first that exists is used."""
    data: Any = None
    """What the source needs to build the sample, such as raw JSON or the path of the mask."""
    known_missing: bool = False
    """Whether no archive of the dataset contains the image."""
    listed: bool = False
    """Whether the name comes from listing the folder, so that its links are the user's own."""
    conflict: str = ""
    """Why a file with its name in another folder is not taken, although nothing else exists."""
    address: str = ""
    """Host and path of an image that the source names by a URL; paths of two hosts may be equal."""


class ImageName(NamedTuple):
    """The name of an image, without its annotations."""

    record: str
    """The id of its record."""
    name: str
    """The path that the source gives."""
    candidates: tuple[str, ...]
    """Those of its record."""


class RecordContent(NamedTuple):
    """The annotations of a record, as a source reads them."""

    content: Any
    """What the source makes a sample of."""
    class_names: Sequence[str]
    """The class name of each annotation: the ledger's input."""
    embedded: bytes | None = None
    """The image, where the annotation file embeds it."""


class Source(Protocol):
    """A native dataset.

    Sources are picklable: a worker process receives a copy and converts its records with it.
    """

    @property
    def name(self) -> str:
        """Default name of the set."""
        ...

    @property
    def kind(self) -> SetKind:
        """Kind of the labels."""
        ...

    @property
    def taxonomy(self) -> Taxonomy:
        """The source's classes, with its own ids and names."""
        ...

    @property
    def header(self) -> dict[str, Any]:
        """The source's description of itself, for the manifest."""
        ...

    @property
    def images(self) -> Path:
        """Folder of the images."""
        ...

    @property
    def annotations(self) -> Path:
        """The file or folder that errors name."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that decide what `load` and `sample` make of a record and its files.

        They are the options, and the paths that defects name; the taxonomy need not be among them.
        """
        ...

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield every image once, in the source's order.

        Args:
            tally: receives what never becomes a record: annotations of unknown images, images
                that are listed twice.
        """
        ...

    def image_names(self) -> Iterator[ImageName]:
        """Yield the names of all images, if a file of another name may be taken for one of them.

        None is needed where every record has a single candidate.
        """
        ...

    def load(self, record: Record) -> RecordContent:
        """Read the annotations of a record.

        Raises:
            ImageError: none of the annotations can be read.
        """
        ...

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """Build the sample of a record.

        Args:
            record: one of `records`.
            content: that which `load` returned.
            picture: the image, or None where images are not opened.
            tally: receives dropped annotations and warnings, but not what is kept.

        Raises:
            ImageError: the image cannot be used at all.
        """
        ...
