"""Unfinished versions: which command writes one, what it reads, and whether it may be deleted.

Beside the files of the version, the folder `.vN.partial` holds the fingerprint, by which the same
command resumes, and `writer.json`: the inputs, which `segkit prune` spares, and whether the files
are precious, as hours of a training are. No other command deletes a precious version.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.atomic import replace_bytes
from segkit.errors import InputError
from segkit.shards.versions import version_number

FINGERPRINT, WRITER = "fingerprint.json", "writer.json"
_PARTIAL = re.compile(r"\.v[1-9]\d*\.partial")


def is_partial(path: Path) -> bool:
    """Whether a path has the name of an unfinished version."""
    return _PARTIAL.fullmatch(path.name) is not None


def partials(directory: Path) -> list[Path]:
    """What has the name of an unfinished version in a local directory; none where it is missing."""
    return sorted(filter(is_partial, directory.iterdir())) if directory.is_dir() else []


def is_pruned(partial: Path, newest: int) -> bool:
    """Whether a killed `segkit prune` left it: a version that is older than the newest one."""
    return not (partial / FINGERPRINT).exists() and version_number(partial) < newest


def read_fingerprint(partial: Path) -> dict[str, Any] | None:
    """The fingerprint of an unfinished version; None where it is missing or cut by a kill."""
    return _read_object(partial / FINGERPRINT)


def read_texts(partial: Path) -> Iterator[str]:
    """All texts in the records of an unfinished version; among them are digests or paths of what
    its command reads."""
    for file in (FINGERPRINT, WRITER):
        yield from texts(_read_object(partial / file))


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, except for the keys of its objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def write_writer(partial: Path, inputs: list[str], *, precious: bool) -> None:
    """Record what the command that writes a version reads, and whether its files are precious."""
    content = {"inputs": inputs, "precious": precious}
    replace_bytes(partial / WRITER, json.dumps(content).encode())


def require_replaceable(partial: Path, destination: Path) -> None:
    """Raise InputError if another command must not delete an unfinished version of a directory."""
    if _is_precious(partial):
        hint = "finish it with segkit train --resume, or give another --out"
        raise InputError("holds an interrupted training", file=destination, hint=hint)


def _is_precious(partial: Path) -> bool:
    writer = _read_object(partial / WRITER)
    if writer is not None:
        return writer.get("precious") is True
    # an earlier segkit recorded no writer, and only the checkpoints of a training were precious
    return (read_fingerprint(partial) or {}).get("command") == "train"


def _read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is missing or damaged."""
    try:
        content = parse.read_json(file)
    except InputError:
        return None
    return content if isinstance(content, dict) else None
