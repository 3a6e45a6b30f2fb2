"""Versions whose process is killed while it publishes them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segkit.shards.leftovers import LEFTOVERS, delete_leftovers
from segkit.shards.publish import Staging, interrupted, staging
from segkit.shards.versions import versions

FILES = ("manifest.json", "labels")
NEEDED = (*FILES, "record", "checkpoints/step-1/weights")
"""Files of an unfinished version beside its fingerprint."""


class KilledError(BaseException):
    """Ends a process in a test: nothing catches it."""


@contextmanager
def kill_at(number: int, *, done: bool) -> Iterator[list[str]]:
    """Raise KilledError at a call to the file system, before it or once it is done."""
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            *((os, name) for name in ("fsync", "rename", "unlink", "rmdir")),
            (shutil, "rmtree"),
            (Path, "write_text"),
        ):
            real: Callable[..., Any] = getattr(module, name)

            def call(*arguments: Any, real: Any = real, name: str = name, **options: Any) -> Any:
                calls.append(name)
                if len(calls) == number and not done:
                    raise KilledError
                value = real(*arguments, **options)
                if len(calls) == number:
                    raise KilledError
                return value

            patch.setattr(module, name, call)
        yield calls


def files_of(folder: Path) -> list[str]:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(files)


def publish(stage: Staging) -> Path:
    return stage.publish(FILES)


@pytest.mark.parametrize("done", [False, True])
def test_no_kill_loses_a_complete_version(tmp_path: Path, done: bool) -> None:
    visible = []
    for number in range(1, 100):
        out = tmp_path / str(number)
        with staging(out, {"seed": 1}, inputs=(), resume=True) as stage:
            for name in NEEDED:
                (stage.path / name).parent.mkdir(parents=True, exist_ok=True)
                (stage.path / name).write_text(name)
        with kill_at(number, done=done) as calls:
            try:
                publish(stage)
            except KilledError:
                pass
            else:
                break
        assert len(calls) == number
        visible.append(bool(versions(out)))
        if visible[-1]:
            version = out / "v1"
            assert set(FILES) <= set(files_of(version)) and interrupted(out) is None
            with staging(out, {"seed": 1}, inputs=(), resume=True) as following:
                following.discard()
        else:
            assert interrupted(out) == {"seed": 1}
            assert set(NEEDED) <= set(files_of(stage.path))
            with staging(out, {"seed": 1}, inputs=(), resume=True) as resumed:
                assert resumed.resumed
                version = publish(resumed)
        assert files_of(version) == sorted(FILES) and list(versions(out)) == [1]
    assert visible == sorted(visible) and {*visible} == {False, True}
    assert {"fsync", "rename", "unlink", "rmtree"} <= {*calls}
    assert files_of(out / "v1") == sorted(FILES)


def test_a_list_deletes_nothing_outside_of_its_version(tmp_path: Path) -> None:
    version, outside = tmp_path / "v1", tmp_path / "outside"
    version.mkdir()
    for path in (outside, version / "record", version / "kept"):
        path.write_text("")
    (version / "link").symlink_to(outside)
    names = ["../outside", str(outside), "record", "link", "absent"]
    (version / LEFTOVERS).write_text(json.dumps(names))
    delete_leftovers(version)
    assert outside.exists() and files_of(version) == ["kept"]
    (version / LEFTOVERS).write_text("{")  # damaged
    delete_leftovers(version)
    assert files_of(version) == ["kept", LEFTOVERS]
