"""What docs/shards.md shows of other tools, run as it stands there (Ray:
`tests/sources/test_ray_engine.py`)."""

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
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """A set of several shards where the documents have theirs."""
    coco_panoptic(tmp_path, 7)
    monkeypatch.chdir(tmp_path)
    published: ShardSet = run(tmp_path, "work/coco-train").published
    assert len(published.manifest.parts) > 1
    return published


def test_the_tars_are_webdataset_shards(
    made: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(snippet("shards.md", "python", "webdataset"), names)
    assert capsys.readouterr().out.splitlines() == [f"{number} (24, 32, 3)" for number in range(7)]
    for number, found in enumerate(names["images"]):
        with Image.open(tmp_path / "images" / f"p{number}.jpg") as truth:
            assert np.array_equal(found["jpg"], np.asarray(truth))


def test_ids_that_webdataset_would_cut_at_a_dot_stay_apart(tmp_path: Path) -> None:
    import webdataset as wds

    records = [(replace(toy_sample(seed), id=f"a.b/{seed}.c"), picture(seed)) for seed in range(3)]
    options = {
        "taxonomy": TAXONOMY,
        "kind": "panoptic",
        "name": "x",
        "split": None,
        "command": "t",
        "arguments": {},
    }
    made = write_set(tmp_path / "set", records, Header(**options))
    rows = list(wds.WebDataset([str(made.path / "images-00000.tar")], shardshuffle=False))
    assert len({row["__key__"] for row in rows}) == 3
    assert [row["png"] for row in rows] == [data for _, data in records]


def test_the_labels_open_in_duckdb(made: ShardSet) -> None:
    found = duckdb.sql(snippet("shards.md", "sql", "unnest")).fetchall()
    segments = [segment for sample in made.samples() for segment in sample.segments]
    expected = [
        (number, len(own), sum(s.area for s in own))
        for number in sorted(made.taxonomy.by_id)
        if (own := [s for s in segments if s.class_id == number])
    ]
    assert found == expected
    assert len(found) == 3
