"""Describe a version, a shard set or a run, and its ancestors."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.errors import InputError, SegkitError
from segkit.shards.locations import parent_path
from segkit.shards.manifest_file import read_content, verify_content
from segkit.shards.reader import ShardSet, read_manifest
from segkit.shards.versions import MANIFEST, resolve, version_number
from segkit.taxonomy import Taxonomy

MAX_GENERATIONS = 100


def describe(spec: str | Path) -> dict[str, Any]:
    """The JSON object of `segkit inspect`; InputError unless `spec` is a set, a run or a bank."""
    path = resolve(spec).resolve()
    manifest = read_content(path / MANIFEST)
    verify_content(manifest, path / MANIFEST)
    if manifest.get("type") in ("run", "bank"):
        return {
            "path": str(path),
            "version": version_number(path),
            **manifest,
            "parents": lineage(path, manifest),
        }
    return _describe_set(path)


def lineage(path: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The parents of a version, each with its own parents, back to the sources.

    Every parent has the path, version and digest that the child recorded; `found` is whether that
    very version still exists, and if so, its name, kind or type, command and arguments follow. The
    parents of a version that is listed several times stand where it comes first, and those beyond
    `MAX_GENERATIONS` are left out.

    Raises:
        InputError: the parents in the manifest are not those of a version.
    """
    return _parents(path, manifest, {path}, MAX_GENERATIONS)


def training_digests(run: Path) -> set[str]:
    """The digests of the versions that a run's weights come from, and of their parents.

    The sets that a run was calibrated with are not among them.

    Args:
        run: the directory of its version.
    """

    def below(version: dict[str, Any]) -> Iterator[str]:
        for parent in version["parents"]:
            if version.get("command") == "calibrate" and parent.get("type") != "run":
                continue
            yield parent["digest"]
            yield from below(parent)

    return set(below(describe(run)))


def _parents(
    path: Path, manifest: dict[str, Any], listed: set[Path], generations: int
) -> list[dict[str, Any]]:
    """The parents of a version; `listed` receives the versions whose parents are listed."""
    fields = parse.convert(manifest, _Fields, file=path / MANIFEST, noun="a manifest")
    if not generations:
        return []
    return [_ancestor(path, asdict(parent), listed, generations - 1) for parent in fields.parents]


@dataclass(frozen=True)
class _Parent:
    path: str
    version: int
    digest: str


@dataclass(frozen=True)
class _Fields:
    """The fields of a manifest that a lineage shows."""

    parents: tuple[_Parent, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    name: str | None = None


def _describe_set(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    taxonomy = Taxonomy.from_json(manifest.taxonomy)
    statistics, names = manifest.statistics.model_dump(), taxonomy.unique_names
    keys = ("images", "segments", "masked", "boxes_only", "classes")
    return {
        "path": str(path),
        "version": version_number(path),
        "type": manifest.type,
        "name": manifest.name,
        "split": manifest.split,
        "kind": manifest.kind,
        **{key: statistics[key] for key in keys},
        "crowds": _count_crowds(path),
        "class_kinds": {names[category.id]: category.kind for category in taxonomy.categories},
        "taxonomy": taxonomy.name,
        "images_by": manifest.images_by,
        "layer": bool(manifest.image_roots),
        "image_bytes": sum(part.images_bytes for part in manifest.parts),
        "shards": len(manifest.parts),
        "command": manifest.command,
        "arguments": manifest.arguments,
        "ledger": manifest.ledger.model_dump(),
        "parents": lineage(path, manifest.model_dump()),
        "digest": manifest.digest,
    }


def _count_crowds(path: Path) -> int | None:
    """The number of crowds in a set, from its Parquet files; None if one cannot be read."""
    try:
        return ShardSet.open(path).crowds
    except SegkitError:
        return None


def _ancestor(
    child: Path, parent: dict[str, Any], listed: set[Path], generations: int
) -> dict[str, Any]:
    recorded = {**parent, "found": False, "parents": []}
    try:
        path = parent_path(child, str(parent.get("path")))
        recorded["path"] = str(path)
        manifest = read_content(path / MANIFEST)
        if manifest.get("digest") != parent.get("digest"):
            return recorded
        repeated = path in listed
        listed.add(path)
        parents = [] if repeated else _parents(path, manifest, listed, generations)
    except InputError:
        return recorded
    keys = ("type", "name", "split", "kind", "command", "arguments")
    fields = {key: manifest[key] for key in keys if key in manifest}
    return {**recorded, **fields, "found": True, "parents": parents}
