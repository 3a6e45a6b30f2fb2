"""metrics.json: what an evaluation leaves on disk for other programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.shards.reader import ShardSet
from segkit.storage import location

SCHEMA = "segkit.metrics/1"


def described(spec: str | ShardSet) -> dict[str, Any]:
    """Where data or predictions came from: a version with its digest, or a file."""
    if isinstance(spec, ShardSet):
        return {"path": str(spec.path), "version": spec.version, "digest": spec.manifest.digest}
    return {"path": str(location(spec).resolve())}


def write_json(path: Path, result: Mapping[str, Any], schema: str = SCHEMA) -> None:
    """Write an object with `schema` and `segkit_version`; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"schema": schema, "segkit_version": __version__, **result}, indent=1, allow_nan=False
    )
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file by one rename."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
