"""Change the manifest of a set or a run in a test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkit.shards.manifest_file import DIGEST, manifest_digest
from segkit.shards.versions import MANIFEST

Place = tuple[str | int, ...]


def change_manifest(version: Path, *, reseal: bool = True, **changes: Any) -> None:
    """Change fields of a manifest and, if it carries one, its digest with them."""
    content = json.loads((version / MANIFEST).read_text()) | changes
    if reseal and DIGEST in content:
        content[DIGEST] = manifest_digest(content)
    (version / MANIFEST).write_text(json.dumps(content))


def unprotect(version: Path) -> None:
    """Remove the digest of a manifest, which earlier versions of segkit did not write."""
    content = json.loads((version / MANIFEST).read_text())
    del content[DIGEST]
    (version / MANIFEST).write_text(json.dumps(content))


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value that is not an object or a list with members, and the keys that lead to it."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*place, key))
    else:
        yield place, value


def with_leaf(content: Any, place: Place, value: Any) -> Any:
    """A copy of JSON values with another value at a place."""
    copy = json.loads(json.dumps(content))
    target = copy
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return copy


def other_values(value: Any) -> list[Any]:
    """Values of the same type and of others, none equal to a JSON value."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, -1 - value, None]
    if isinstance(value, float):
        return [value + 0.5, None]
    if isinstance(value, str):
        return [value + "x", value[1:] if value else "x", value.swapcase() + " ", None]
    return [[1], {"x": 1}] if not value else [None]
