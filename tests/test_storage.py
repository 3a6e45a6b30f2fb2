import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.extras import install_command
from segkit.file_names import path_text
from segkit.storage import is_remote, local_path, location, writable, writable_local


@pytest.mark.parametrize("text", ["a/b", "/a/b", "set@v2", "c:/x", "a//b", "s3:/b/x"])
def test_a_plain_path_is_a_plain_path(text):
    assert location(text) == Path(text)
    assert not is_remote(location(text))


def test_a_file_url_is_a_plain_path_too(tmp_path):
    assert location(f"file://{tmp_path}") == tmp_path == local_path(f"file://{tmp_path}")
    assert type(location(f"file://{tmp_path}")) is type(tmp_path)


def test_a_path_object_of_any_class_is_a_path():
    class Named:
        def __fspath__(self):
            return "sets/toy@v2"

    assert location(Named()) == local_path(Named()) == Path("sets/toy@v2")
    assert path_text(Named()) == path_text(Path("sets/toy@v2")) == "sets/toy@v2"
    assert path_text("./box") == "./box", "a run, not the teacher of that name"


def test_a_url_keeps_its_form(s3):
    assert str(location(f"{s3}a//b/c")) == f"{s3}a/b/c"
    assert is_remote(location(f"{s3}a"))
    assert str(location("memory://a/b")) == "memory://a/b"
    with pytest.raises(InputError, match="is a URL"):
        local_path("s3://bucket/x")


def test_an_unusable_url_is_one_clear_line(s3):
    with pytest.raises(InputError, match="unknown kind of URL"):
        location("nothing://a/b")
    with pytest.raises(
        InputError, match=r"^s3://absent: no such bucket; check the URL and the credentials$"
    ):
        location("s3://absent/set")


def test_an_unwritable_path_names_the_folder_in_the_way(tmp_path, monkeypatch):
    assert writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists(), "the check creates no folder"
    assert str(writable_local(f"file://{tmp_path}")) == str(tmp_path)
    assert writable("relative/a") == Path("relative/a")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError,
        match=r"file: cannot be written to \(Not a directory\); choose another directory$",
    ):
        writable(tmp_path / "file" / "a")
    with pytest.raises(InputError, match="is a URL"):
        writable_local("s3://bucket/x")
    allowed = storage.os.access  # root ignores permissions
    monkeypatch.setattr(
        storage.os,
        "access",
        lambda path, mode: allowed(path, mode) and (path, mode) != (tmp_path, 3),
    )
    with pytest.raises(
        InputError, match=rf"^{tmp_path}: cannot be written to \(Permission denied\)"
    ):
        writable(tmp_path / "a" / "b")


def test_a_name_that_is_too_long_is_refused_even_in_a_missing_folder(tmp_path):
    assert writable(tmp_path / "new" / ("x" * 255))
    long = tmp_path / ("é" * 128)
    message = r"name of 256 bytes, where 255 are allowed; give a shorter name"
    for path in (long, tmp_path / "new" / ("x" * 256) / "y"):
        with pytest.raises(InputError, match=message):
            writable(path)
        with pytest.raises(InputError, match=message):
            storage.list_names(path)


def test_a_store_is_not_checked_before_writing(s3):
    assert str(writable(f"{s3}a")) == f"{s3}a"


def error_of(url: str, before: str = "") -> str:
    """The last line of the error of `location` in a new process."""
    script = f"{before}\nfrom segkit.storage import location\nlocation({url!r})"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return process.stderr.splitlines()[-1]


def test_missing_credentials_are_named(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    message = error_of("s3://bucket/set")
    assert "s3://bucket: cannot be reached (" in message
    assert message.endswith("check the URL and the credentials")


@pytest.mark.parametrize(
    ("url", "package", "extra"), [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gcs")]
)
def test_a_missing_package_is_named_with_its_extra(url, package, extra):
    message = error_of(url, before=f"import sys; sys.modules[{package!r}] = None")
    assert f"{url} needs the package {package}, which is not installed" in message
    assert message.endswith(install_command(extra))


def test_ranges_of_bytes_are_read(store):
    storage.create(store / "x", bytes(range(100)))
    assert storage.read_bytes(store / "x") == bytes(range(100))
    assert storage.read_range(store / "x", 10, 5) == bytes(range(10, 15))
    assert storage.read_range(store / "x", 95, 50) == bytes(range(95, 100))
    assert storage.read_range(store / "x", 200, 5) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_range(store / "y", 0, 5)
    with pytest.raises(FileExistsError):
        storage.create(store / "x", b"")
    assert storage.list_files(store) == {"x": 100}
    assert storage.list_files(store / "nowhere") == {}
    storage.delete(store / "x")
    storage.delete(store / "x")
    assert storage.list_files(store) == {}


def test_a_range_is_complete_where_the_system_reads_less_than_is_asked_for(tmp_path, monkeypatch):
    """Linux reads at most 2,147,479,552 bytes at a time."""
    data = bytes(range(256)) * 500
    (tmp_path / "x").write_bytes(data)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: real(file, min(size, 100), at))
    for start, size in ((0, 128_000), (3, 70_000), (127_990, 500), (128_000, 5), (130_000, 5)):
        assert storage.read_range(tmp_path / "x", start, size) == data[start : start + size]
    with pytest.raises(OSError, match="Invalid argument"):  # of a damaged row
        storage.read_range(tmp_path / "x", -5, 3)


def test_a_store_that_refuses_a_request_is_not_an_empty_file(s3, monkeypatch):
    """s3fs has one number for a range behind the end and for many failures."""
    storage.create(s3 / "x", b"12345")

    def refuse(path, **byte_range):
        raise OSError(errno.EINVAL, "The provided token is malformed or otherwise not valid.")

    monkeypatch.setattr(storage._store(s3 / "x"), "cat_file", refuse)
    for read in (storage.read_bytes, lambda path: storage.read_range(path, 0, 3)):
        with pytest.raises(SegkitError, match=r"the store failed.*token is malformed"):
            read(s3 / "x")
