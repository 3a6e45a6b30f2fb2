"""Delete old versions of a set or a run; the newest and those that others need stay."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.arguments import check_number
from segkit.errors import InputError, SegkitError
from segkit.shards.locations import locate, resolved
from segkit.shards.publish import exclusive, remove_partial
from segkit.shards.unfinished import is_partial, read_texts, texts
from segkit.shards.versions import MANIFEST, versions

SELF_TRAINING = "selftrain.json"
"""The record of a self-training in its folder: inputs and rounds, from which it resumes."""
SIDECARS = (".png", ".html")
"""Preview and report of the version `v1` are `v1.png` and `v1.html` beside it."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a pruning deletes and keeps."""

    delete: tuple[Path, ...]
    """Versions to delete, oldest first."""
    needed: dict[Path, Path]
    """Old version that stays -> the version that refers to it."""
    newest: tuple[Path, ...]
    """Versions that stay because they are new enough."""
    size: int
    """Bytes of the files to delete."""


def plan_pruning(directory: Path, keep: int, within: Path) -> Pruning:
    """Choose the versions to delete.

    A version stays if it is one of the newest, or if a manifest in `directory` or under `within`
    names it as a parent or names a tar in it, or if the fingerprint of an unfinished version or
    the record of a self-training there names it.

    Args:
        directory: of the versions, on this machine.
        keep: how many of the newest versions stay, at least 1.
        within: folder that is searched for sets and runs which refer to the versions.

    Raises:
        InputError: there is no version, or `within` is not a folder.
        SegkitError: a folder, a manifest or the record of a self-training under `within` cannot be
            read, so that it may refer to any version.
    """
    check_number(keep, "keep", 1)
    if not within.is_dir():
        message = "is a file, not a folder" if within.is_file() else "no such folder"
        hint = "give --within the folder that contains all sets and runs"
        raise InputError(message, file=within, hint=hint)
    published = versions(directory)
    if not published:
        hint = "give the directory of a set or a run"
        raise InputError("holds no published version", file=directory, hint=hint)
    order = list(published.values())
    old, newest = order[:-keep], order[-keep:]
    old_paths = {path.resolve() for path in old}
    kept = {path.resolve() for path in newest}
    digests = {path: _digest(path) for path in old}
    folders = [within, *_folders_below(within)]
    places = {path.resolve(): path for path in (*order, *filter(_is_version, folders))}
    references = {child: set(_references(path)) for child, path in places.items()}
    for reader, words in _unfinished(folders):
        named = (path.resolve() for path, digest in digests.items() if digest in words)
        references.setdefault(reader, set()).update(named, _paths(words, reader))
    needed: dict[Path, Path] = {}
    for path in reversed(old):  # a version that stays keeps its own parents
        place = path.resolve()
        stays = [
            child
            for child, parents in references.items()
            if place in parents and (child in kept or child not in old_paths)
        ]
        if stays:
            needed[path] = stays[0]
            kept.add(place)
    delete = tuple(path for path in old if path not in needed)
    size = sum(file.stat().st_size for path in delete for file in path.rglob("*") if file.is_file())
    return Pruning(delete, dict(reversed(needed.items())), tuple(newest), size)


def prune(directory: Path, pruning: Pruning) -> None:
    """Delete the versions of a plan, with their previews and reports; each disappears at once.

    Raises:
        SegkitError: another process is writing there.
    """
    with exclusive(directory):
        for path in pruning.delete:
            hidden = path.with_name(f".{path.name}.partial")
            path.rename(hidden)
            for suffix in SIDECARS:
                path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
            remove_partial(hidden)


def _is_version(folder: Path) -> bool:
    """Whether a folder is a version of a set or a run."""
    return folder.name.startswith("v") and (folder / MANIFEST).exists()


def _unfinished(folders: Sequence[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Folders of unfinished versions and of self-trainings, and the texts in their records, among
    which are digests or paths of what they read."""
    for folder in folders:
        if is_partial(folder):
            yield folder.parent, set(read_texts(folder))
        if (folder / SELF_TRAINING).is_file():
            yield folder, set(texts(parse.read_json(folder / SELF_TRAINING)))


def _paths(texts: Iterable[str], folder: Path) -> Iterator[Path]:
    """Texts as paths, absolute or relative to a folder."""
    for text in texts:
        with suppress(OSError, RuntimeError, ValueError):  # a name that no file can have
            yield (folder / text).resolve()


def _folders_below(folder: Path) -> Iterator[Path]:
    """All subfolders, also those that links lead to; each once.

    Raises:
        SegkitError: a folder cannot be listed.
    """
    visited: set[Path] = set()
    for place, folders, _ in os.walk(folder, onerror=_stop, followlinks=True):
        paths = {name: Path(place, name).resolve() for name in sorted(folders)}
        folders[:] = [name for name, path in paths.items() if path not in visited]
        visited.update(paths.values())
        yield from (Path(place, name) for name in folders)


def _digest(version: Path) -> str | None:
    """The digest in a version's manifest."""
    content = parse.read_json(version / MANIFEST)
    digest = content.get("digest") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None


def _stop(error: OSError) -> None:
    message = f"{error.filename}: cannot be read ({error.strerror})"
    raise SegkitError(message, hint="it may hold sets or runs that refer to these versions")


def _references(path: Path) -> Iterator[Path]:
    """The versions that a version's manifest names, as parents or for their images."""
    content: Any = parse.read_json(path / MANIFEST)
    if not isinstance(content, dict):
        raise SegkitError(f"{path / MANIFEST}: not a manifest", hint="move it away first")
    names = [
        parent["path"]
        for parent in content.get("parents") or []
        if isinstance(parent, dict) and isinstance(parent.get("path"), str)
    ]
    tars = [str(Path(name).parent) for name in content.get("image_roots") or {}]
    for name in (*names, *tars):
        if "://" not in name:
            with suppress(InputError):  # a name that no file can have
                yield resolved(locate(path, name))
