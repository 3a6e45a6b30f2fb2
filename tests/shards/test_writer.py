"""Functions that publish a version, as Python calls them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import UnchangedWarning
from segkit.inference.pseudolabel import pseudolabel
from segkit.shards.merge_sets import merge_sets
from segkit.shards.reader import ShardSet
from segkit.shards.relabel import relabel
from segkit.shards.split import split
from segkit.shards.zero_shot_split import ClassSplit, split_zero_shot
from segkit.taxonomy import Category, Taxonomy

NEW = Taxonomy("new", (Category(1, "animal", "thing"), Category(2, "backdrop", "stuff")))
UNSEEN = ClassSplit("cats", ("cat",))


def _merge(data: ShardSet, out: Path, **force: bool) -> ShardSet:
    return merge_sets([data, data], out, name="b", rename=True, arguments={}, **force)


def _split(data: ShardSet, out: Path, **force: bool) -> ShardSet:
    parts = dict(zip(data.image_ids(), ("a", "b"), strict=True))
    return split(data, out, parts, {}, **force)["a"]


PUBLISH: dict[str, Callable[..., ShardSet]] = {
    "merge": _merge,
    "relabel": lambda data, out, **force: relabel(data, out, NEW, {3: 1, 7: 2}, {}, **force),
    "split": _split,
    "split of classes": lambda data, out, **force: split_zero_shot(
        data, out, UNSEEN, "ignore-pixels", {}, **force
    )["seen"],
    "pseudolabel": lambda data, out, **force: pseudolabel("ellipse", data, out, **force)[0],
}


@pytest.mark.parametrize("name", PUBLISH)
def test_equal_content_is_published_once_unless_forced(
    make_set: Any, tmp_path: Path, name: str
) -> None:
    data, publish, out = make_set(count=2), PUBLISH[name], tmp_path / "out"
    first = publish(data, out)
    with pytest.warns(UnchangedWarning, match="nothing changed"):
        assert publish(data, out).path == first.path
    assert publish(data, out, force=True).version == 2
