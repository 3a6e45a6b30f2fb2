"""The header that a command gives a new version, and the manifest made of header and counts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segkit import __version__
from segkit.shards.manifest import (
    ClassStatistics,
    ImagesBy,
    Ledger,
    Manifest,
    Parent,
    Part,
    SetKind,
    Statistics,
)
from segkit.shards.reader import ShardSet
from segkit.shards.sidecar import ShardCounts
from segkit.taxonomy import Taxonomy

NUMBERING = ("categories", "ignore", "background")
"""Keys of a `source_header` that name classes by the source's own ids."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The fields of a manifest that do not follow from the samples."""

    name: str
    """The set's name in tables."""
    kind: SetKind
    taxonomy: Taxonomy
    """Classes that the segments name."""
    command: str
    """The command that writes, such as `convert`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The command's arguments (JSON values)."""
    split: str | None = None
    """train, val, ..."""
    images_by: ImagesBy = "embed"
    source_header: dict[str, Any] = field(default_factory=dict)
    """The source's description of itself, kept for a loss-free export."""
    parents: tuple[Parent, ...] = ()
    image_roots: dict[str, str] = field(default_factory=dict)
    """Tars of other versions that rows name (paths relative to the version's directory) and their
    SHA-256."""

    @classmethod
    def from_set(
        cls, data: ShardSet, command: str, arguments: dict[str, Any] | None = None
    ) -> "Header":
        """The header of new labels for the images of `data`: its name, kind, classes and split."""
        manifest = data.manifest
        return cls(
            name=manifest.name,
            kind=manifest.kind,
            taxonomy=data.taxonomy,
            command=command,
            arguments=arguments or {},
            split=manifest.split,
            images_by=manifest.images_by,
            source_header=manifest.source_header,
        )

    def with_taxonomy(self, taxonomy: Taxonomy) -> "Header":
        """The header with another taxonomy.

        The source's description of its classes, and its indices of void and background, are dropped
        unless every class has the id that it had: they belong to the source's numbering.
        """
        before = {category.id: category.name for category in self.taxonomy.categories}
        if all(before.get(category.id) == category.name for category in taxonomy.categories):
            return replace(self, taxonomy=taxonomy)
        source = {k: v for k, v in self.source_header.items() if k not in NUMBERING}
        return replace(self, taxonomy=taxonomy, source_header=source)


def build_manifest(
    header: Header, parts: Sequence[Part], counts: Iterable[ShardCounts], ledger: Ledger
) -> Manifest:
    """The manifest of a version that consists of these parts."""
    taxonomy = header.taxonomy.to_json()
    return Manifest(
        segkit_version=__version__,
        name=header.name,
        split=header.split,
        kind=header.kind,
        command=header.command,
        arguments=header.arguments,
        parents=header.parents,
        image_roots=header.image_roots,
        images_by=header.images_by,
        parts=tuple(parts),
        taxonomy=taxonomy,
        source_header=header.source_header,
        ledger=ledger,
        statistics=build_statistics(header.taxonomy, counts),
        digest=Manifest.content_digest(header.kind, taxonomy, tuple(parts), header.image_roots),
    )


def build_statistics(taxonomy: Taxonomy, counts: Iterable[ShardCounts]) -> Statistics:
    """The statistics of all shards; a class id that the taxonomy lacks is listed by its number."""
    names, total = taxonomy.unique_names, sum(counts, ShardCounts())
    class_ids = (*names, *sorted(total.class_segments.keys() - names.keys()))
    classes = {
        names.get(class_id, str(class_id)): ClassStatistics(
            segments=total.class_segments.get(class_id, 0),
            images=total.class_images.get(class_id, 0),
            pixels=total.class_pixels.get(class_id, 0),
        )
        for class_id in class_ids
    }
    return Statistics(
        images=total.images,
        segments=total.segments,
        masked=total.masked,
        boxes_only=total.segments - total.masked,
        classes=classes,
    )
