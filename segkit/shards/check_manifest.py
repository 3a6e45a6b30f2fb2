"""Check a manifest: its digests, ledger, taxonomy, parents, and the files that it lists."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.shards.consistency import Violation
from segkit.shards.locations import parent_path
from segkit.shards.manifest import Count, Ledger, Manifest, Parent, Statistics
from segkit.shards.manifest_file import DIGEST, is_intact, read_content
from segkit.shards.reader import ShardSet, read_manifest
from segkit.shards.versions import MANIFEST

_JOINED = "joined"
"""Ledger code of kept annotations that `relabel` joins into one segment."""


def is_protected(version: Path) -> bool:
    """Whether the manifest of a version carries a digest of its content; False if unreadable."""
    try:
        return DIGEST in read_content(version / MANIFEST)
    except InputError:
        return False


def check_digest(version: Path) -> Iterator[Violation]:
    """Compare the manifest of a set or a run with the digest that it carries, if it does."""
    try:
        intact = is_intact(read_content(version / MANIFEST))
    except InputError as error:
        yield Violation("manifest", MANIFEST, str(error))
        return
    if not intact:
        detail = "the digest that it carries is not that of its content"
        yield Violation("manifest-digest", MANIFEST, detail)


def check_manifest(data: ShardSet) -> Iterator[Violation]:
    """Every violation in the manifest of a set that shows without reading a label or an image."""
    manifest = data.manifest
    yield from check_digest(data.path)
    digest = _content_digest(manifest)
    if digest != manifest.digest:
        detail = f"the digest is {manifest.digest}, that of the content {digest}"
        yield Violation("digest", MANIFEST, detail)
    for detail in _ledger_errors(manifest.ledger, manifest.statistics):
        yield Violation("ledger", MANIFEST, detail)
    ids = [row.get("id") for row in manifest.taxonomy["categories"]]
    if ids != [category.id for category in data.taxonomy.categories]:
        yield Violation("taxonomy", MANIFEST, "the classes are not in the order of their ids")
    yield from check_parents(data.path, manifest.parents)
    listed = {name for part in manifest.parts for name in (part.labels, part.images)}
    for name in sorted(storage.list_names(data.path)):
        if name.endswith((".tar", ".parquet")) and name not in listed:
            yield Violation("unlisted-file", name, "the manifest does not list this file")


def check_parents(version: Path, parents: Iterable[Parent]) -> Iterator[Violation]:
    """Compare the parents of a version that still exist with what it recorded of them.

    A missing parent is allowed, since the images in it are checked by themselves.
    """
    for parent in parents:
        try:
            path = parent_path(version, parent.path)
        except InputError as error:
            yield Violation("parent", parent.path, str(error))
            continue
        if PurePosixPath(parent.path).name != f"v{parent.version}":
            detail = f"{parent.path} is not version {parent.version}"
            yield Violation("parent", str(path), detail)
        if not _is_file(path / MANIFEST):
            continue
        try:
            content = read_content(path / MANIFEST)
        except InputError as error:
            yield Violation("parent", str(path), str(error))
            continue
        if not is_intact(content):
            yield Violation("parent", str(path), "the parent's manifest is damaged")
        digest = content.get("digest")
        if content.get("type", "shards") == "shards":
            try:
                digest = _content_digest(read_manifest(path, verify=False))
            except InputError as error:
                yield Violation("parent", str(path), str(error))
                continue
        if digest != parent.digest:
            detail = f"the digest of the parent's content is {digest}, not the recorded"
            yield Violation("parent", str(path), f"{detail} {parent.digest}")


def _content_digest(manifest: Manifest) -> str:
    """The digest of a manifest's content, whatever the manifest says that it is."""
    return Manifest.content_digest(
        manifest.kind, manifest.taxonomy, manifest.parts, manifest.image_roots
    )


def _is_file(path: Path) -> bool:
    try:
        return storage.is_file(path)
    except OSError:  # a name that is too long
        return False


def _ledger_errors(ledger: Ledger, statistics: Statistics) -> Iterator[str]:
    """The equations of a ledger that do not hold; commands that count nothing leave it empty."""
    try:
        ledger.check()
    except SegkitError as error:
        yield str(error)
    if ledger.per_class:
        total = _total(ledger.per_class.values())
        before = ledger.annotations
        if (total.input, total.kept, total.dropped) != (before.input, before.kept, before.dropped):
            yield "the classes do not add up to the annotations"
    if ledger.images != Count() and ledger.images.kept != statistics.images:
        yield f"{ledger.images.kept} images kept, {statistics.images} in the set"
    kept = ledger.annotations.kept
    segments = {kept, kept - ledger.annotations.warnings.get(_JOINED, 0)}
    if ledger.annotations != Count() and statistics.segments not in segments:
        yield f"{kept} annotations kept, {statistics.segments} segments in the set"


def _total(counts: Iterable[Count]) -> Count:
    dropped: Counter[str] = Counter()
    input_, kept = 0, 0
    for count in counts:
        input_, kept = input_ + count.input, kept + count.kept
        dropped.update(count.dropped)
    return Count(input=input_, kept=kept, dropped=dict(dropped))
