"""What every source is: an ordered stream of records, each turned into one sample by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from segkit.sample import Sample
from segkit.shards.manifest import SetKind
from segkit.sources.image_files import Picture
from segkit.sources.ledger import Tally
from segkit.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a source as planned: small and picklable; nothing about it was checked yet."""

    id: str
    file_name: str
    """As the source names it."""
    candidates: tuple[str, ...]
    """Where the image may lie under the source's image folder; the first that exists is taken."""
    data: Any = None
    """What the source needs to make the sample (raw JSON of the annotations, the path of the
    mask)."""
    known_missing: bool = False
    """No archive of the data set has the image."""
    listed: bool = False
    """The name was found by listing the folder, not taken from an annotation file: links in it are
    the user's own."""


class Source(Protocol):
    """A native dataset. Sources are picklable: a worker process gets a copy and converts records by
    itself."""

    @property
    def name(self) -> str:
        """Name of the set where the user gives none."""
        ...

    @property
    def kind(self) -> SetKind:
        """What the labels are."""
        ...

    @property
    def taxonomy(self) -> Taxonomy:
        """The source's classes, with its own ids and names."""
        ...

    @property
    def header(self) -> dict[str, Any]:
        """What the source says of itself, for the manifest."""
        ...

    @property
    def images(self) -> Path:
        """Folder of the images."""
        ...

    @property
    def annotations(self) -> Path:
        """The file, or folder, that errors name."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that change whenever this source's input or settings do."""
        ...

    def records(self, tally: Tally) -> Iterator[Record]:
        """Every image once, in the source's order.

        `tally` takes what never becomes a record: annotations of unknown images, images listed
        twice.
        """
        ...

    def load(self, record: Record) -> tuple[Any, Sequence[str]]:
        """The annotations of a record, undecided, and the class name of each: the ledger's input.

        Raises:
            ImageError: they cannot be read at all.
        """
        ...

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """The sample of a record; an annotation that cannot be kept goes to `tally`.

        Args:
            record: one of `records`.
            content: what `load` gave.
            picture: the image as read, or None where no image is opened.
            tally: takes dropped annotations and warnings, not what is kept.

        Raises:
            ImageError: the image as a whole cannot be used.
        """
        ...
