import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError
from segkit.shards.lineage import describe
from segkit.shards.locations import parent_path
from segkit.shards.manifest import Parent
from segkit.shards.reader import ShardSet
from segkit.shards.versions import version_number

from .manifests import unprotect


def with_parents(version: Path, parents: list[dict[str, Any]]) -> None:
    """Let a version name other parents; its content digest stays."""
    unprotect(version)
    file = version / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "parents": parents}))


def parent(path: str, data: ShardSet) -> dict[str, Any]:
    return {"path": path, "version": 1, "digest": data.manifest.digest}


@pytest.mark.parametrize("place", ["a/v1", "a/v12", "b/c/v2", "link/v1"])
@pytest.mark.parametrize("destination", ["a", "b/c", "b/d/e", "link", "."])
def test_a_parent_is_found_from_every_version_of_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, destination: str
) -> None:
    """The parent may be a version of the same directory."""
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / place
    recorded = Parent.from_version(folder, "0" * 64, destination)
    assert recorded.version == int(place.partition("v")[2])
    for version in ("v1", "v3"):
        child = (tmp_path / destination / version).resolve()
        assert parent_path(child, recorded.path) == folder.resolve()


def test_a_version_has_its_number_before_it_is_visible() -> None:
    assert [version_number(Path(name)) for name in ("a9/v1", ".v12.partial")] == [1, 12]


def test_a_set_that_is_its_own_parent_is_listed_once(make_set: Callable[..., ShardSet]) -> None:
    data = make_set()
    with_parents(data.path, [parent(".", data)])
    (listed,) = describe(data.path)["parents"]
    assert (listed["found"], listed["parents"]) == (True, [])


def test_generations_with_one_parent_twice_take_linear_time(
    make_set: Callable[..., ShardSet],
) -> None:
    sets = [make_set(f"g{number}", 1) for number in range(22)]
    for older, newer in itertools.pairwise(sets):
        path = f"../../{older.path.parent.name}/v1"
        with_parents(newer.path, [parent(path, older), parent(path, older)])
    started = time.monotonic()
    first, second = describe(sets[-1].path)["parents"]
    assert time.monotonic() - started < 20
    assert first["found"] and second["found"] and not second["parents"]
    depth = 0
    while first["parents"]:
        first, depth = first["parents"][0], depth + 1
    assert depth == 20


@pytest.mark.parametrize("parents", ["a", [1], [{}], [{"path": 1, "version": 1, "digest": ""}]])
def test_parents_of_other_types_are_refused(
    make_set: Callable[..., ShardSet], parents: Any
) -> None:
    data = make_set(count=1)
    with_parents(data.path, parents)
    with pytest.raises(InputError, match=r"manifest\.json.*parents"):
        describe(data.path)
