import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segkit.atomic import (
    disk_errors,
    folder_lock,
    new_cache_file,
    new_directory,
    new_file,
    replace_bytes,
    write_text,
)
from segkit.errors import InputError, SegkitError


@contextmanager
def small_disk() -> Iterator[None]:
    """Files end at 4 KiB, as on a full disk: the file that pytest prints to, too, so no fixture."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_once_and_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "metrics.json"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), new_file(file) as draft:
        draft.write_text("half")
        assert file.read_text() == "old"
        raise ZeroDivisionError
    assert (file.read_text(), names(file.parent)) == ("old", ["metrics.json"])
    with new_file(file) as draft:
        assert draft.suffix == file.suffix
        draft.write_text("new")
    assert (file.read_text(), names(file.parent)) == ("new", ["metrics.json"])


@pytest.mark.parametrize("open_draft", [new_file, new_cache_file])
def test_two_writers_of_one_file_have_two_drafts(
    tmp_path: Path, open_draft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers that share a folder, both processes may have the id 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file = tmp_path / "new" / "a.json"
    with open_draft(file) as first:
        first.write_text("first")
        with open_draft(file) as second:
            second.write_text("second")
        assert file.read_text() == "second"
        with pytest.raises(ZeroDivisionError), open_draft(file) as third:
            third.write_text("third")
            raise ZeroDivisionError
    assert (file.read_text(), names(file.parent)) == ("first", ["a.json"])


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, ".hidden", "a b\n.json"])
def test_any_file_name_has_a_draft(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_writers_of_one_file_never_show_a_part(tmp_path: Path) -> None:
    """Processes and readers at once: every read is one of the texts."""
    texts = [letter * 200_000 for letter in "ab"]
    program = (
        "import sys; from pathlib import Path; from segkit.atomic import write_text\n"
        "for _ in range(40): write_text(Path(sys.argv[1]), sys.argv[2] * 200_000)"
    )
    file = tmp_path / "metrics.json"
    write_text(file, texts[0])
    writers = [subprocess.Popen([sys.executable, "-c", program, file, t[0]]) for t in texts]
    while any(writer.poll() is None for writer in writers):
        assert file.read_text() in texts
    assert [writer.returncode for writer in writers] == [0, 0]
    assert names(tmp_path) == ["metrics.json"]


def test_a_directory_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "exported"
    with pytest.raises(ZeroDivisionError), new_directory(out) as draft:
        (draft / "a").touch()
        assert not out.exists()
        raise ZeroDivisionError
    assert names(out.parent) == []
    with new_directory(out) as draft:
        (draft / "b").touch()
    assert (names(out), names(out.parent)) == (["b"], ["exported"])
    with pytest.raises(InputError, match="exists and is not empty"), new_directory(out):
        pass
    with new_directory(out, replace=True) as draft:
        (draft / "c").touch()
    assert (names(out), names(out.parent)) == (["c"], ["exported"])


def test_a_folder_that_is_replaced_is_complete_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes when the old files are deleted; the next call removes what is left."""
    out = tmp_path / "overlays"

    def replace(name: str) -> None:
        with new_directory(out, replace=True) as draft:
            (draft / name).touch()

    replace("old")

    def kill(path: Path, **_: object) -> None:
        if "old" in {file.name for file in path.glob("*")}:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("segkit.atomic.shutil.rmtree", kill)
        replace("new")
    assert (names(out), names(tmp_path)) == (["new"], [".overlays.old", "overlays"])
    replace("newer")
    assert (names(out), names(tmp_path)) == (["newer"], ["overlays"])


def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "overlays"
    out.mkdir()
    (out / "old").touch()

    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"), new_directory(out, replace=True):
        pass
    assert (names(out), names(tmp_path)) == (["old"], ["overlays"])


def test_a_directory_that_another_process_has_written_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "exported"
    with pytest.raises(InputError, match="exists and is not empty"), new_directory(out) as draft:
        (draft / "mine").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert (names(out), names(tmp_path)) == (["theirs"], ["exported"])


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_kept(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    if exists:
        target.mkdir(parents=True)
    link.symlink_to(target)
    for replace in (False, True):
        with new_directory(link, replace=replace) as draft:
            (draft / "a").touch()
        assert link.is_symlink()
        assert (names(link), names(target.parent)) == (["a"], ["target"])
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(InputError, match="loop of links"), new_directory(link):
        pass


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_a_rename_cannot_replace_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    if replace:
        (tmp_path / "a" / "b" / "kept").touch()
    monkeypatch.chdir(tmp_path / "a" / "b")
    for place in (".", tmp_path / "a" / "b", "../b"):
        with (
            pytest.raises(InputError, match=r"b: is the current folder.*; give a new folder in it"),
            new_directory(place, replace=replace),
        ):
            pytest.fail("the block has begun")
    with new_directory("c") as draft:
        (draft / "file").touch()
    assert (names(Path()), names(Path("c"))) == (["c", "kept"] if replace else ["c"], ["file"])
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "mounted")
    (tmp_path / "mounted").mkdir()
    with (
        pytest.raises(InputError, match="mounted: is a mount point, which"),
        new_directory(tmp_path / "mounted", replace=replace),
    ):
        pytest.fail("the block has begun")


def test_the_current_folder_may_have_been_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for name in ("new", "empty"):
        with new_directory(tmp_path / name) as draft:
            (draft / "file").touch()
        assert names(tmp_path / name) == ["file"]


def test_a_destination_has_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    busy = "another process is writing here"
    with folder_lock(out), pytest.raises(SegkitError, match=busy), folder_lock(out):
        pass
    assert not out.exists()  # nothing was written there
    with new_directory(out), pytest.raises(SegkitError, match=busy), new_directory(out):
        pass
    with folder_lock(out):
        (out / ".draft-1-metrics.json").touch()
    with folder_lock(out):
        assert names(out) == [".segkit.lock"]  # the draft of a killed process is gone
    assert names(out) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / ".segkit.lock").symlink_to(target)
    with pytest.raises(InputError, match="cannot be written to"), folder_lock(tmp_path):
        pass
    assert not target.exists()


def test_a_lock_that_is_removed_and_made_anew_has_one_holder(tmp_path: Path) -> None:
    """Threads that wait for the removal never hold it together."""
    holders, overlaps = [0], []

    def work() -> None:
        for _ in range(200):
            try:
                with folder_lock(tmp_path):
                    holders[0] += 1
                    overlaps.append(holders[0])
                    holders[0] -= 1
            except SegkitError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(overlaps) == {1}


def test_a_killed_writer_leaves_no_lock_and_its_draft_goes(tmp_path: Path) -> None:
    out = tmp_path / "exported"
    program = (
        "import sys, time; from pathlib import Path; from segkit.atomic import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').touch(); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, out], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    with new_directory(out) as draft:
        (draft / "whole").touch()
    assert (names(out), names(tmp_path)) == (["whole"], ["exported"])


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    expected = r"metrics\.json: cannot be written \(File too large\)"
    with small_disk(), pytest.raises(SegkitError, match=expected):
        write_text(tmp_path / "metrics.json", "x" * 10_000)
    with (
        small_disk(),
        pytest.raises(SegkitError, match=r"exported: cannot be written \(File too large\); make"),
        new_directory(tmp_path / "exported") as draft,
    ):
        (draft / "large").write_bytes(bytes(10_000))
    assert names(tmp_path) == []


def test_the_text_of_a_librarys_error_tells_a_full_disk() -> None:
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(SegkitError, match="run: cannot be written"), disk_errors("run"):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="unrelated"), disk_errors("run"):
        raise RuntimeError("unrelated")
    with pytest.raises(FileNotFoundError), disk_errors("run"):
        raise FileNotFoundError


def test_folders_that_cannot_be_written_to_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match="file"), folder_lock(place):
            pass
    with pytest.raises(InputError, match="file"), new_directory(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match="file: cannot be"), new_file(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        write_text(tmp_path, "text")
    long = tmp_path / ("x" * 256)
    with pytest.raises(InputError, match="give a shorter name"), new_directory(long):
        pass
    with pytest.raises(InputError, match="give a shorter name"):
        write_text(long, "text")


def test_a_file_in_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)  # root may do anything
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\)"):
        write_text(tmp_path / "a.txt", "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_kill_while_a_file_is_replaced_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "claim.json"
    replace_bytes(file, b"old")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, step, kill)
        replace_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    replace_bytes(file, b"new")
    assert (file.read_bytes(), names(tmp_path)) == (b"new", ["claim.json"])
