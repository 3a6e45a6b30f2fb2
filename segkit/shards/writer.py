"""Versions of shard sets: one call for small sets and layers, three steps for resumable, parallel
conversion.

The three steps are `publish.staging(destination, fingerprint, resume=True)`, then
`shard.write_shard` for every index that `shard.read_shard` does not find done (in any order, in any
process), then `finish`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from segkit import __version__, storage
from segkit.errors import InputError, SegkitError
from segkit.sample import ImageRef, Sample
from segkit.shards import shard as shards
from segkit.shards.manifest import (
    ClassStatistics,
    Ledger,
    Manifest,
    Parent,
    Part,
    SetKind,
    Statistics,
)
from segkit.shards.publish import MANIFEST, Staging, staging
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

SHARD_BYTES = 96 * 2**20
"""Image bytes at which a shard is closed: within the 64-128 MiB that loaders and object stores
like."""
SHARD_ROWS = 4096
"""Images at which a shard is closed however small they are; bounds the memory of one writer."""
ImagesBy = Literal["embed", "reference", "none"]


@dataclass(frozen=True)
class Header:
    """What a manifest says beside the counts."""

    taxonomy: Taxonomy
    kind: SetKind
    name: str
    command: str
    split: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    """The command's arguments (JSON values)."""
    images_by: ImagesBy = "embed"
    source_header: dict[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    image_roots: dict[str, str] = field(default_factory=dict)
    """Tars of other versions that rows name (paths relative to the version's directory) and their
    SHA-256."""


def finish(stage: Staging, count: int, header: Header, ledger: Ledger) -> ShardSet:
    """Turn the finished shards 0..count-1 of a staging directory into a published version.

    Raises:
        SegkitError: a shard is missing, or the ledger does not balance.
    """
    ledger.check()
    done = [shards.read_shard(stage.path, index) for index in range(count)]
    missing = [index for index, item in enumerate(done) if item is None]
    if missing:
        raise SegkitError(
            f"{stage.path}: shard {missing[0]} was not written ({len(missing)} of {count} are missing)"
        )
    whole = [item for item in done if item is not None]
    manifest = build_manifest(
        header, [item.part for item in whole], [item.counts for item in whole], ledger
    )
    (stage.path / MANIFEST).write_text(
        manifest.model_dump_json(indent=1, by_alias=True) + "\n", "utf-8"
    )
    return ShardSet.open(stage.publish(scratch=shards.SCRATCH))


def build_manifest(
    header: Header, parts: Sequence[Part], counts: Iterable[shards.ShardCounts], ledger: Ledger
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
        statistics=statistics(header.taxonomy, counts),
        digest=Manifest.content_digest(header.kind, taxonomy, tuple(parts), header.image_roots),
    )


def statistics(taxonomy: Taxonomy, counts: Iterable[shards.ShardCounts]) -> Statistics:
    """The manifest's statistics of all shards; a class id that the taxonomy lacks counts under its
    number."""
    labels, total = taxonomy.unique_names, sum(counts, shards.ShardCounts())
    classes = {
        labels.get(class_id, str(class_id)): ClassStatistics(
            segments=total.class_segments.get(class_id, 0),
            images=total.class_images.get(class_id, 0),
            pixels=total.class_pixels.get(class_id, 0),
        )
        for class_id in (*labels, *sorted(total.class_segments.keys() - labels.keys()))
    }
    return Statistics(
        images=total.images,
        segments=total.segments,
        masked=total.masked,
        boxes_only=total.segments - total.masked,
        classes=classes,
    )


def write_set(
    destination: Path,
    records: Iterable[tuple[Sample, bytes | None]],
    *,
    taxonomy: Taxonomy,
    kind: SetKind,
    name: str,
    split: str | None,
    command: str,
    arguments: dict[str, Any],
    images_by: ImagesBy = "embed",
    ledger: Ledger | None = None,
    source_header: dict[str, Any] | None = None,
    parents: tuple[Parent, ...] = (),
    shard_size: int = SHARD_BYTES,
) -> ShardSet:
    """Publish a set from a stream of samples and image bytes, in one process and without resuming.

    Args:
        destination: directory of the set's versions.
        records: samples in order; with the image's bytes where `images_by` is "embed", else with
            None.
        taxonomy: classes that the segments name.
        kind: what the labels are.
        name: the set's name in tables.
        split: train, val, ...
        command: the command that writes.
        arguments: its arguments.
        images_by: how samples lead to their images.
        ledger: what became of the source's annotations and images.
        source_header: what the source says of itself.
        parents: versions that this one was made from.
        shard_size: image bytes at which a shard is closed.
    """
    header = Header(
        taxonomy, kind, name, command, split, arguments, images_by, source_header or {}, parents
    )
    with staging(destination, {"command": command}, resume=False) as stage:
        count = 0
        for count, chunk in enumerate(_chunks(records, shard_size), start=1):
            shards.write_shard(stage.path, count - 1, chunk)
        return finish(stage, count, header, ledger or Ledger())


def write_layer(
    destination: Path,
    parent: ShardSet,
    samples: Iterable[Sample],
    *,
    command: str,
    arguments: dict[str, Any],
    kind: SetKind | None = None,
    taxonomy: Taxonomy | None = None,
    name: str | None = None,
    extra_parents: tuple[Parent, ...] = (),
    ledger: Ledger | None = None,
) -> ShardSet:
    """Publish new labels for the images of `parent`; no image is copied.

    Args:
        destination: directory of the new set's versions.
        parent: the set whose images the samples show.
        samples: samples as read from `parent` with other segments, in any number and order.
        command: the command that writes.
        arguments: its arguments.
        kind: what the labels are; by default as in the parent.
        taxonomy: their classes; by default the parent's.
        name: the new set's name; by default the parent's.
        extra_parents: further versions that this one was made from, such as the run of a model.
        ledger: what became of every label.
    """
    return write_view(
        destination,
        ((sample, parent) for sample in samples),
        (parent,),
        command=command,
        arguments=arguments,
        kind=kind or parent.manifest.kind,
        taxonomy=taxonomy or parent.taxonomy,
        name=name or parent.manifest.name,
        split=parent.manifest.split,
        source_header=parent.manifest.source_header,
        extra_parents=extra_parents,
        ledger=ledger,
    )


def write_view(
    destination: Path,
    rows: Iterable[tuple[Sample, ShardSet]],
    parents: Sequence[ShardSet],
    *,
    command: str,
    arguments: dict[str, Any],
    kind: SetKind,
    taxonomy: Taxonomy,
    name: str,
    split: str | None,
    source_header: dict[str, Any] | None = None,
    extra_parents: tuple[Parent, ...] = (),
    ledger: Ledger | Callable[[], Ledger] | None = None,
) -> ShardSet:
    """Publish labels over the images of any number of sets; no image is copied.

    Args:
        destination: directory of the new set's versions.
        rows: samples in order, each with the set among `parents` whose image it shows.
        parents: the sets, all with images by the same way.
        command: the command that writes.
        arguments: its arguments.
        kind: what the labels are.
        taxonomy: their classes.
        name: the new set's name.
        split: the new set's split.
        source_header: what an export writes of the source.
        extra_parents: further versions that this one was made from.
        ledger: what became of every label; or a function that tells it once all rows are used up.
    """
    ways = {parent.manifest.images_by for parent in parents}
    if len(ways) != 1:
        message = f"sets with images by {' and '.join(sorted(ways))} do not go together"
        raise InputError(message, file=destination, hint="convert them with one --images-by")
    for parent in parents:
        if (
            storage.is_remote(destination)
            and not storage.is_remote(parent.path)
            and ways != {"none"}
        ):
            message, hint = (
                f"would use images of this machine ({parent.path})",
                "put that set into the store first",
            )
            raise InputError(message, file=destination, hint=hint)
    with staging(destination, {"command": command}, resume=False) as stage:
        roots: dict[str, str] = {}
        count = 0
        for count, chunk in enumerate(
            _chunks(_moved(rows, stage.home, roots), SHARD_BYTES), start=1
        ):
            shards.write_shard(stage.path, count - 1, chunk)
        header = Header(
            taxonomy=taxonomy,
            kind=kind,
            name=name,
            split=split,
            command=command,
            arguments=arguments,
            images_by=ways.pop(),
            source_header=source_header or {},
            parents=(*(parent_of(parent, stage.home) for parent in parents), *extra_parents),
            image_roots=dict(sorted(roots.items())),
        )
        return finish(stage, count, header, (ledger() if callable(ledger) else ledger) or Ledger())


def parent_of(parent: ShardSet, directory: Path) -> Parent:
    """How a version in `directory` names a parent."""
    return Parent(
        path=relocate(".", parent.path, directory),
        version=parent.version,
        digest=parent.manifest.digest,
    )


@lru_cache(maxsize=1024)
def relocate(path: str, old: Path, new: Path) -> str:
    """A path relative to directory `old`, made relative to directory `new`; absolute paths and URLs
    stay."""
    return path if storage.is_absolute(path) else storage.relative(storage.join(old, path), new)


def _moved(
    rows: Iterable[tuple[Sample, ShardSet]], directory: Path, roots: dict[str, str]
) -> Iterator[tuple[Sample, None]]:
    """Samples whose images are named from `directory`; their tars and digests are added to
    `roots`."""
    for sample, parent in rows:
        image = sample.image
        tar = image.tar and relocate(image.tar, parent.path, directory)
        if tar and image.tar:
            roots[tar] = parent.tars.get(image.tar, "")
        path = image.path and relocate(image.path, parent.path, directory)
        yield (
            replace(sample, image=ImageRef(tar, image.offset, image.length, image.sha256, path)),
            None,
        )


def _chunks(
    records: Iterable[tuple[Sample, bytes | None]], size: int
) -> Iterator[Iterator[tuple[Sample, bytes | None]]]:
    """Cut a stream into shards, each closed once it holds `size` bytes or `SHARD_ROWS` rows; each
    must be used up."""
    stream = iter(records)

    def chunk(first: tuple[Sample, bytes | None]) -> Iterator[tuple[Sample, bytes | None]]:
        used = 0
        for row, record in enumerate(chain((first,), stream), start=1):
            yield record
            used += len(record[1] or b"")
            if used >= size or row >= SHARD_ROWS:
                return

    for first in stream:
        yield chunk(first)
