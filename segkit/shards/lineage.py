"""What a version is and where it came from, told by manifests alone: shard sets and training runs
alike."""

import json
from pathlib import Path
from typing import Any

from segkit import storage
from segkit.errors import InputError
from segkit.shards.publish import MANIFEST, resolve
from segkit.shards.reader import read_manifest
from segkit.taxonomy import Taxonomy


def describe(spec: str | Path) -> dict[str, Any]:
    """The JSON object of `segkit inspect` for a shard set or a run; InputError where it is
    neither."""
    path = resolve(spec).resolve()
    manifest = read_json(path)
    if manifest.get("type") == "run":
        return {
            "path": str(path),
            "version": int(path.name[1:]),
            **manifest,
            "parents": lineage(path, manifest),
        }
    return _describe_set(path)


def lineage(path: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The parents of a version, each with its own, back to the sources.

    A parent says its path, version and digest as the child recorded them, `found` whether that very
    version is still there, and if so its name, kind or type, command and arguments.
    """
    return [_ancestor(path, parent) for parent in manifest.get("parents") or ()]


def read_json(path: Path) -> dict[str, Any]:
    """The manifest of any version as a JSON object; InputError where it is none."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"not readable ({error})", file=file, hint="check the path") from error
    if not isinstance(manifest, dict):
        raise InputError("not a manifest", file=file, hint="give what segkit has written")
    return manifest


def _describe_set(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    taxonomy = Taxonomy.from_json(manifest.taxonomy)
    counts, labels = manifest.statistics.model_dump(), taxonomy.unique_names
    return {
        "path": str(path),
        "version": int(path.name[1:]),
        "type": manifest.type,
        "name": manifest.name,
        "split": manifest.split,
        "kind": manifest.kind,
        **{key: counts[key] for key in ("images", "segments", "masked", "boxes_only", "classes")},
        "class_kinds": {labels[category.id]: category.kind for category in taxonomy.categories},
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


def _ancestor(child: Path, parent: dict[str, Any]) -> dict[str, Any]:
    path = storage.join(child, str(parent.get("path"))).resolve()
    told = {**parent, "path": str(path), "found": False, "parents": []}
    try:
        manifest = read_json(path)
    except InputError:
        return told
    if manifest.get("digest") != parent.get("digest"):
        return told
    keys = ("type", "name", "split", "kind", "command", "arguments")
    own = {key: manifest[key] for key in keys if key in manifest}
    return {**told, **own, "found": True, "parents": lineage(path, manifest)}
