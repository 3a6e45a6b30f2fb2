"""Find the published versions v1, v2, ... of a directory, here or in an object store.

A version is published once its manifest is visible; `segkit.shards.publish` writes new ones.
"""

import re
from pathlib import Path

from segkit import storage
from segkit.errors import InputError
from segkit.file_names import path_text

MANIFEST = "manifest.json"
_VERSION = re.compile(r"v([1-9]\d*)")


def parse_spec(spec: storage.StrPath) -> tuple[Path, int | None]:
    """The directory and the version number of `DIR@v2`; None, the newest, for `DIR`."""
    match = re.fullmatch(r"(.+)@v([1-9]\d*)", path_text(spec), re.DOTALL)
    return (storage.location(match[1]), int(match[2])) if match else (storage.location(spec), None)


def versions(directory: Path) -> dict[int, Path]:
    """The published versions of a directory, in order; SegkitError if its store failed."""
    names = storage.list_names(directory)
    numbers = sorted(int(match[1]) for name in names if (match := _VERSION.fullmatch(name)))
    places = {number: directory / f"v{number}" for number in numbers}
    return {n: path for n, path in places.items() if storage.is_file(path / MANIFEST)}


def version_number(path: Path) -> int:
    """The number of a version's directory: 2 for `v2`, or `.v2.partial` before it is visible."""
    return int(re.sub(r"\D", "", path.name))


def resolve(spec: storage.StrPath) -> Path:
    """The version directory that `DIR`, `DIR@v2` or the version directory's own path names.

    Raises:
        InputError: there is no published version, or not that one, or it is a link to a folder of
            another name.
        SegkitError: the store failed.
    """
    directory, number = parse_spec(spec)
    if directory == Path():  # "." has no name
        directory = directory.absolute()
    is_version = number is None and _VERSION.fullmatch(directory.name)
    if is_version and storage.is_file(directory / MANIFEST):
        return _own_name(directory)
    published = versions(directory)
    if not published:
        hint = "check the path" if directory.exists() else "no such directory"
        raise InputError("holds no published version", file=directory, hint=hint)
    if number is not None and number not in published:
        hint = f"published: {', '.join(f'v{known}' for known in published)}"
        raise InputError(f"has no version v{number}", file=directory, hint=hint)
    return _own_name(published[number or max(published)])


def _own_name(version: Path) -> Path:
    """The version; InputError where it is a link to a folder that is not called `vN`."""
    if not storage.is_remote(version) and not _VERSION.fullmatch(version.resolve().name):
        message = f"is a link to {version.resolve().name}, which is not the name of a version"
        raise InputError(message, file=version, hint="link the folder that holds v1, v2, ...")
    return version
