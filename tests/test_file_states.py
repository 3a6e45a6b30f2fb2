import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit import storage
from segkit.file_states import FileStates, size_lookup


def test_sizes_of_files(store: Path, tmp_path: Path) -> None:
    storage.create(store / "in" / "x", b"12345")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_bytes(b"12345")
    names = ("in/x", "in/y", "out/x", "x", "memory://z/x")
    for root in (store, tmp_path):
        size = size_lookup(root)
        assert [size(name) for name in names] == [5, None, None, None, None]


def test_the_state_of_a_file_in_a_store_differs_once_it_is_replaced(store: Path) -> None:
    storage.create(store / "x", b"12345")
    before = FileStates()
    assert before(store / "x") == before(store / "x") is not None
    assert before(store / "y") is before(store / "x" / "y") is None
    storage.delete(store / "x")
    storage.create(store / "x", b"54321")
    assert FileStates()(store / "x") != before(store / "x")  # which keeps what was listed


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"longer than it was"),
        lambda file: os.utime(file, ns=(1, 1)),
        lambda file: (
            file.with_name("new").write_bytes(b"12345"),
            file.with_name("new").replace(file),
        ),
        lambda file: file.unlink(),
    ],
    ids=["content", "time", "replaced", "removed"],
)
def test_the_state_of_a_local_file_differs_once_it_is_changed(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    file, link, states = tmp_path / "x", tmp_path / "link", FileStates()
    file.write_bytes(b"12345")
    link.symlink_to(file)
    direct, linked = states(file), states(link)
    assert direct == states(file) is not None and linked == states(link) is not None
    change(file)
    assert states(file) != direct
    assert states(link) != linked  # a link stands for its file


def test_a_link_to_another_file_of_the_same_metadata_has_another_state(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    states = FileStates()
    state = states(tmp_path / "link")
    (tmp_path / "y").hardlink_to(tmp_path / "x")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("y")
    assert states(tmp_path / "link") != state


def test_states_of_a_worker_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    states = pickle.loads(pickle.dumps(FileStates()))
    assert states(tmp_path / "nothing") is None
    assert states.place(tmp_path / "link") == os.path.realpath(tmp_path / "folder")
