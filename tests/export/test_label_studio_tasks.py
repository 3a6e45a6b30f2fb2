"""Tasks for Label Studio: what a person corrects there comes back under the same ids."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from segkit.export.label_studio_tasks import export_label_studio
from segkit.masks import brush_rle, rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.label_studio import open_label_studio
from tests.shards.conftest import TAXONOMY, picture

WIDTH, HEIGHT = 32, 24


def masked(seed: int, **fields: Any) -> Segment:
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.7
    counts = rle.encode(mask)
    box = rle.box(counts, HEIGHT, WIDTH)
    area = float(mask.sum())
    return Segment(3, "thing", box, counts, area, mask_from="pseudo", **fields)


def boxed(**fields: Any) -> Segment:
    return Segment(3, "thing", (1.25, 2.5, 7.125, 3.3), None, 7.125 * 3.3, **fields)


@pytest.fixture
def data(tmp_path: Path) -> ShardSet:
    segments = (
        masked(0, score=0.5, source_id="11"),
        masked(1, score=0.25, source_id="11"),
        masked(2, source_id="a#b", is_crowd=True),
        boxed(score=1.0, ignore=True),
    )
    samples = [
        Sample("7", "street/a b#1%.jpg", WIDTH, HEIGHT, segments),
        Sample("8", "c.jpg", WIDTH, HEIGHT),
    ]
    header = Header(taxonomy=TAXONOMY, kind="instance", name="toy", command="t", arguments={})
    rows = [(sample, picture(1)) for sample in samples]
    return write_set(tmp_path / "set", rows, header)


def annotate(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The export of a project after a person accepted all predictions.

    Label Studio gives tasks ids of its own and keeps `data`, and the regions with their ids.
    """
    return [
        {
            "id": 1000 + number,
            "data": task["data"],
            "predictions": [number],
            "annotations": [{"id": number, "result": task["predictions"][0]["result"]}],
        }
        for number, task in enumerate(tasks)
    ]


def test_tasks_come_back_after_corrections(data: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export_label_studio(data, out, images=True)
    assert (report.images, report.annotations, dict(report.dropped)) == (2, 4, {})
    tasks = annotate(json.loads((out / "tasks.json").read_text()))
    regions = tasks[0]["annotations"][0]["result"]
    moved = np.zeros((HEIGHT, WIDTH), bool)
    moved[3:9, 4:20] = True
    regions[1]["value"]["rle"] = brush_rle.encode(moved)  # a person painted it anew
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    source = open_label_studio(tmp_path / "project.json", out / "images", labels=out / "labels.txt")
    convert(source, tmp_path / "back", ConvertOptions(workers=1))
    back = ShardSet.open(tmp_path / "back")
    before, after = list(data.samples()), list(back.samples())
    assert [(s.id, s.file_name) for s in after] == [(s.id, s.file_name) for s in before]
    first, second, third, box = after[0].segments
    assert [s.mask for s in (first, third)] == [before[0].segments[n].mask for n in (0, 2)]
    assert np.array_equal(rle.decode(second.mask or b"", HEIGHT, WIDTH), moved)
    assert box.box == pytest.approx(before[0].segments[3].box, abs=1e-9)
    assert [s.mask_from for s in after[0].segments] == ["human", "human", "human", None]
    assert (third.is_crowd, box.ignore, first.source_id) == (True, True, "11")
    assert {s.class_id for s in after[0].segments} == {3}
    ids = [s.source_id for s in after[0].segments]
    assert len(set(ids)) == 4 and not any("#" in str(name) for name in ids)


def test_images_are_where_the_tasks_say(data: ShardSet, tmp_path: Path) -> None:
    """Label Studio serves `?d=PATH` below its document root, the folder of the export."""
    export_label_studio(data, tmp_path / "out", images=True)
    for task in json.loads((tmp_path / "out" / "tasks.json").read_text()):
        prefix, path = task["data"]["image"].split("?d=")
        assert prefix == "/data/local-files/"
        assert "#" not in path and " " not in path
        assert (tmp_path / "out" / unquote(path)).read_bytes() == picture(1)


def test_the_labeling_interface_has_every_class(data: ShardSet, tmp_path: Path) -> None:
    export_label_studio(data, tmp_path / "out", image_prefix="https://host/")
    root = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    names = [entry.get("value") for entry in root.iterfind("BrushLabels/Label")]
    assert names == [entry.get("value") for entry in root.iterfind("RectangleLabels/Label")]
    assert names == list(TAXONOMY.names)
    (first, _) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    controls = {control.get("name") for control in root}
    used = {
        result[key]
        for result in first["predictions"][0]["result"]
        for key in ("from_name", "to_name")
    }
    assert used <= controls
    assert first["data"]["image"].startswith("https://host/street/")
    assert first["predictions"][0]["score"] == pytest.approx((0.5 + 0.25 + 1) / 3)
