"""metrics.json and other files that an evaluation writes, and the display names of its figures."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.atomic import write_text
from segkit.shards.reader import ShardSet
from segkit.storage import location

METRICS_SCHEMA = "segkit.metrics/1"
_MIXED_CASE = {"miou": "mIoU", "fwiou": "fwIoU"}
_INITIALS = re.compile(r"(ap|ar|pq|sq|rq)\d*")


def figure_name(key: str) -> str:
    """The display name of a figure, such as AP small for `ap_small` and AR100 for `ar100`."""
    words = key.replace("_", " ").split()
    return " ".join(
        word.upper() if _INITIALS.fullmatch(word) else _MIXED_CASE.get(word, word) for word in words
    )


def origin(data: str | ShardSet) -> dict[str, Any]:
    """Where data or predictions came from: a version with its digest, or a file."""
    if isinstance(data, ShardSet):
        return {"path": str(data.path), "version": data.version, "digest": data.manifest.digest}
    return {"path": str(location(data).resolve())}


def write_json(path: Path, content: Mapping[str, Any], schema: str = METRICS_SCHEMA) -> None:
    """Write an object with `schema` and `segkit_version`; the file is complete or absent."""
    document = {"schema": schema, "segkit_version": __version__, **content}
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
