"""Write versions of shard sets: in one call, or step by step for resumable, parallel conversion.

The steps are `publish.staging(destination, fingerprint, resume=True)`, then `shard.write_shard` for
every index that `sidecar.read_shard` does not return (in any order, in any process), then `finish`.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from segkit import storage
from segkit.errors import InputError, SegkitError, UnchangedWarning, first_line
from segkit.sample import ImageRef, Sample
from segkit.shards import label_files
from segkit.shards.header import Header, build_manifest
from segkit.shards.locations import image_names, remember_folders
from segkit.shards.manifest import Ledger, Manifest
from segkit.shards.manifest_file import manifest_text
from segkit.shards.publish import Staging, staging
from segkit.shards.reader import ShardSet, read_manifest
from segkit.shards.relative_names import relocate
from segkit.shards.shard import write_shard
from segkit.shards.sidecar import read_shard
from segkit.shards.versions import MANIFEST, versions
from segkit.storage import file_sha256

SHARD_BYTES = 96 * 2**20
"""Image bytes at which a shard is closed: within the 64-128 MiB that suit loaders and object
stores."""
SHARD_ROWS = 4096
"""Images at which a shard is closed however small they are; bounds the memory of one writer."""


def finish(
    stage: Staging,
    count: int,
    header: Header,
    ledger: Ledger,
    *,
    extra_files: Sequence[str] = (),
    check: Callable[[ShardSet], None] = lambda data: None,
    force: bool = True,
) -> ShardSet:
    """Publish the finished shards 0..count-1 of a staging directory as a version.

    The version is read back before it becomes visible.

    Args:
        stage: where the shards were written; anything else in it is left out.
        count: number of shards.
        header: the other fields of the manifest.
        ledger: account of the source's annotations and images.
        extra_files: names of further files of the version, if they exist.
        check: raises if the version, as it was read back, must not be published.
        force: publish a version that equals the newest one too; without it, that one is returned,
            with an UnchangedWarning.

    Raises:
        SegkitError: a shard is missing or damaged, the ledger does not balance, or the version
            cannot be read back.
    """
    ledger.check()
    shards = [read_shard(stage.path, index, verify=False) for index in range(count)]
    missing = [index for index, shard in enumerate(shards) if shard is None]
    if missing:
        message = f"shard {missing[0]} was not written ({len(missing)} of {count} are missing)"
        raise SegkitError(f"{stage.path}: {message}")
    parts = [shard.part for shard in shards if shard is not None]
    counts = [shard.counts for shard in shards if shard is not None]
    present = [name for name in extra_files if (stage.path / name).is_file()]
    manifest = build_manifest(header, parts, counts, ledger)
    digests = {name: file_sha256(stage.path / name) for name in present}
    manifest = manifest.model_copy(update={"extra_files": digests})
    if not force and (newest := _equal_version(stage, manifest)) is not None:
        stage.discard()
        text = f"nothing changed since {newest.path}, so no new version was published"
        warnings.warn(text, UnchangedWarning, stacklevel=2)
        return newest
    try:
        (stage.path / MANIFEST).write_text(manifest_text(manifest), "utf-8")
    except (ValueError, RecursionError) as error:  # such as half of a character
        message = f"the manifest cannot be written ({first_line(error)})"
        raise SegkitError(f"{stage.path}: {message}", hint="nothing was published") from error
    check(_read_back(stage.path, manifest))
    files = {name for part in parts for name in (part.labels, part.images) if name}
    return ShardSet.open(stage.publish({MANIFEST, *files, *present}))


def _equal_version(stage: Staging, manifest: Manifest) -> ShardSet | None:
    """The newest version if it differs in path, tool or arguments at most."""
    published = versions(stage.destination)
    if not published:
        return None
    try:
        newest = ShardSet.open(published[max(published)])
    except SegkitError:
        return None  # damaged; a new version is the repair

    def content(manifest: Manifest) -> dict[str, Any]:
        keys = {"digest", "name", "split", "images_by", "ledger", "source_header"}
        parents = [parent.digest for parent in manifest.parents]
        # as JSON, in which the tuples of a new manifest are lists
        return manifest.model_dump(mode="json", include=keys) | {"parents": parents}

    return newest if content(newest.manifest) == content(manifest) else None


def _read_back(folder: Path, manifest: Manifest) -> ShardSet:
    """The written version through the ordinary reader; SegkitError if it differs from the plan."""
    try:
        data = ShardSet(folder, read_manifest(folder))
        differs = manifest_text(data.manifest) != manifest_text(manifest)
        rows = [sum(1 for _ in data.image_ids(index)) for index in range(len(manifest.parts))]
    except SegkitError as error:
        message = f"the new version cannot be read back ({error.message})"
        raise SegkitError(f"{folder}: {message}", hint="nothing was published") from error
    wrong = [part.labels for part, n in zip(manifest.parts, rows, strict=True) if part.rows != n]
    if differs or wrong:
        place = wrong[0] if wrong else MANIFEST
        message = "differs from what was written when it is read back"
        raise SegkitError(f"{folder / place}: {message}", hint="nothing was published")
    return data


def write_set(
    destination: str | Path,
    records: Iterable[tuple[Sample, bytes | None]],
    header: Header,
    *,
    ledger: Ledger | None = None,
    shard_size: int = SHARD_BYTES,
) -> ShardSet:
    """Publish a set from a stream of samples, in one process and without resuming.

    Args:
        destination: directory of the set's versions.
        records: samples in order, each with the image's bytes if `header.images_by` is "embed",
            else with None.
        header: the other fields of the manifest.
        ledger: account of the source's annotations and images.
        shard_size: image bytes at which a shard is closed.
    """
    fingerprint, inputs = {"command": header.command}, input_digests((), header)
    with staging(destination, fingerprint, inputs=inputs, resume=False) as stage:
        count = _write_shards(stage, records, shard_size)
        published = finish(stage, count, header, ledger or Ledger())
        if header.images_by == "reference":
            remember_images(published, None)
        return published


def remember_images(shards: ShardSet, images: Path | None) -> None:
    """Let this user read the images that a set names by path, since it was made here from them.

    Args:
        shards: a set that was not made from another set, which might name anything.
        images: folder of the images, if they lie in one.
    """
    remember_folders(image_names(shards.path, shards.manifest), images)


def write_layer(
    destination: str | Path,
    parent: ShardSet,
    samples: Iterable[Sample],
    header: Header,
    *,
    force: bool = True,
) -> ShardSet:
    """Publish new labels for the images of one set, as `write_view` does.

    Images are not verified: whoever predicts labels for an image reads it.

    Args:
        destination: directory of the new set's versions.
        parent: the set that holds the images.
        samples: samples as read from `parent` with other segments, in any number and order.
        header: usually `Header.from_set(parent, ...)`; its parents are added to `parent`.
        force: as in `finish`.
    """
    rows = ((sample, parent) for sample in samples)
    return write_view(destination, rows, (parent,), header, force=force)


def write_view(
    destination: str | Path,
    rows: Iterable[tuple[Sample, ShardSet]],
    sets: Sequence[ShardSet],
    header: Header,
    *,
    ledger: Callable[[], Ledger] = Ledger,
    force: bool = True,
) -> ShardSet:
    """Publish labels for the images of any number of sets, without copying an image.

    Images are not verified: where `rows` are made without reading them, call
    `ShardSet.verify_image`.

    Args:
        destination: directory of the new set's versions.
        rows: samples in order, each with the set that holds its image.
        sets: these sets; all have the same `images_by`.
        header: `images_by` and `image_roots` are taken from the sets, which become parents before
            `header.parents`.
        ledger: account of every label, called once all rows are written.
        force: as in `finish`.

    Raises:
        InputError: the sets differ in `images_by`, or a remote set would refer to local images.
    """
    destination = storage.location(destination)
    check_destination(destination, sets)
    fingerprint, inputs = {"command": header.command}, input_digests(sets, header)
    with staging(destination, fingerprint, inputs=inputs, resume=False) as stage:
        image_roots: dict[str, str] = {}
        count = _write_shards(stage, relocated(rows, stage.home, image_roots), SHARD_BYTES)
        header = view_header(header, sets, destination, image_roots)
        return finish(stage, count, header, ledger(), force=force)


def view_header(
    header: Header, sets: Sequence[ShardSet], destination: Path, image_roots: Mapping[str, str]
) -> Header:
    """The header of labels for the images of these sets, which become its first parents.

    Args:
        header: the other fields.
        sets: the sets that hold the images.
        destination: directory of the versions.
        image_roots: as filled by `relocated`.
    """
    return replace(
        header,
        images_by=sets[0].manifest.images_by,
        parents=(*(data.as_parent(destination) for data in sets), *header.parents),
        image_roots=dict(sorted(image_roots.items())),
    )


def input_digests(sets: Sequence[ShardSet], header: Header) -> list[str]:
    """The digests of what a version with this header is made from, for `staging`."""
    return [data.manifest.digest for data in sets] + [parent.digest for parent in header.parents]


def check_destination(destination: Path, sets: Sequence[ShardSet]) -> None:
    """Raise InputError where a version there cannot name the images of these sets."""
    images_by = {data.manifest.images_by for data in sets}
    if len(images_by) != 1:
        message = f"sets with images by {' and '.join(sorted(images_by))} cannot be combined"
        raise InputError(message, file=destination, hint="convert them with one --images-by")
    for data in sets:
        local_images = not storage.is_remote(data.path) and images_by != {"none"}
        if storage.is_remote(destination) and local_images:
            message = f"would refer to images on this machine ({data.path})"
            hint = "put that set into the store first"
            raise InputError(message, file=destination, hint=hint)


def relocated(
    rows: Iterable[tuple[Sample, ShardSet]], directory: Path, image_roots: dict[str, str]
) -> Iterator[tuple[Sample, None]]:
    """Samples whose images are named relative to `directory`.

    Adds their tars and digests to `image_roots`.
    """
    for sample, data in rows:
        image = sample.image
        try:
            tar = image.tar and relocate(image.tar, data.path, directory)
            path = image.path and relocate(image.path, data.path, directory)
        except ValueError as error:  # a name that no file can have
            message, hint = f"names a file that cannot exist ({error})", label_files.DAMAGE_HINT
            raise InputError(message, file=data.path, record=sample.id, hint=hint) from error
        if tar and image.tar:
            if image.tar not in data.tars:
                message = f"names {image.tar}, which the manifest does not list"
                hint = label_files.DAMAGE_HINT
                raise InputError(message, file=data.path, record=sample.id, hint=hint)
            image_roots[tar] = data.tars[image.tar]
        moved = ImageRef(tar, image.offset, image.length, image.sha256, path)
        yield replace(sample, image=moved), None


def _write_shards(stage: Staging, records: Iterable[tuple[Sample, bytes | None]], size: int) -> int:
    """Write a stream of records into shards of about `size` bytes; returns their number."""
    count = 0
    for chunk in _chunks(records, size):
        write_shard(stage.path, count, chunk)
        count += 1
    return count


def _chunks(
    records: Iterable[tuple[Sample, bytes | None]], size: int
) -> Iterator[Iterator[tuple[Sample, bytes | None]]]:
    """Cut a stream into shards, each closed at `size` bytes or `SHARD_ROWS` rows.

    Each chunk must be read to its end before the next.
    """
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
