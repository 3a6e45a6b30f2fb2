"""Run the snippets of docs/shards.md for other tools (Ray: `tests/workers/test_ray_cluster.py`)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.shards.conftest import TAXONOMY, picture, toy_sample
from tests.snippets import snippet
from tests.sources.builders import coco_panoptic
from tests.sources.test_engine import run


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """A set of several shards at the path that the documentation uses."""
    coco_panoptic(tmp_path, 7)
    monkeypatch.chdir(tmp_path)
    published: ShardSet = run(tmp_path, "work/coco-train").published
    assert len(published.manifest.parts) > 1
    return published


def test_the_tars_are_webdataset_shards(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(snippet("shards.md", "python", "webdataset"), names)
    assert capsys.readouterr().out.splitlines() == [f"{number} (24, 32, 3)" for number in range(7)]
    for number, item in enumerate(names["images"]):
        with Image.open(tmp_path / "images" / f"p{number}.jpg") as truth:
            assert np.array_equal(item["jpg"], np.asarray(truth))


def test_ids_with_dots_remain_distinct_in_webdataset(tmp_path: Path) -> None:
    import webdataset as wds

    records = [(replace(toy_sample(seed), id=f"a.b/{seed}.c"), picture(seed)) for seed in range(3)]
    options = {
        "taxonomy": TAXONOMY,
        "kind": "panoptic",
        "name": "x",
        "command": "t",
    }
    shards = write_set(tmp_path / "set", records, Header(**options))
    rows = list(wds.WebDataset([str(shards.path / "images-00000.tar")], shardshuffle=False))
    assert len({row["__key__"] for row in rows}) == 3
    assert [row["png"] for row in rows] == [data for _, data in records]


def test_the_labels_open_in_duckdb(shards: ShardSet) -> None:
    rows = duckdb.sql(snippet("shards.md", "sql", "unnest")).fetchall()
    segments = [segment for sample in shards.samples() for segment in sample.segments]
    expected = [
        (number, len(of_class), sum(s.area for s in of_class))
        for number in sorted(shards.taxonomy.by_id)
        if (of_class := [s for s in segments if s.class_id == number])
    ]
    assert rows == expected
    assert len(rows) == 3
