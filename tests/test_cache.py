import fcntl
import shutil
from pathlib import Path
from typing import IO

import pytest

from segkit.cache import cache_root, try_lock
from segkit.errors import BusyError, InputError


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEGKIT_CACHE", "")
    assert cache_root() == tmp_path / ".cache" / "segkit"
    monkeypatch.setenv("SEGKIT_CACHE", "relative/cache")
    assert cache_root() == Path("relative/cache")


def test_a_user_without_a_home_needs_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("SEGKIT_CACHE")
    with pytest.raises(InputError, match="no home directory; set SEGKIT_CACHE to a folder"):
        cache_root()


def test_a_lock_whose_file_was_replaced_is_taken_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, flock, calls = tmp_path / "lock", fcntl.flock, []

    def replaced_once(opened: IO[bytes], flags: int) -> None:
        flock(opened, flags)
        if not calls:
            file.unlink()
        calls.append(flags)

    monkeypatch.setattr(fcntl, "flock", replaced_once)
    with try_lock(file, "set"):
        with pytest.raises(BusyError, match="set: another process is writing here; wait until"):
            try_lock(file, "set")
        assert len(calls) == 2
    try_lock(file, "set").close()


def test_a_lock_that_cannot_be_opened_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match=r"set: cannot be written to \(Is a directory\)"):
        try_lock(tmp_path / "lock", "set")


def test_a_lock_whose_folder_was_removed_is_held_by_another_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "lock"
    with pytest.raises(InputError, match="No such file or directory"):
        try_lock(file, "set")
    file.parent.mkdir()
    monkeypatch.setattr(fcntl, "flock", lambda *_: shutil.rmtree(file.parent))
    with pytest.raises(BusyError, match="another process is writing here"):
        try_lock(file, "set")
