"""Exports with --datumaro, read by Datumaro itself.

An environment variable names the interpreter of an environment that has Datumaro.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from segkit.export.coco import export_instances, export_panoptic
from segkit.shards.reader import ShardSet
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert

from .test_coco import instances

VARIABLE = "SEGKIT_DATUMARO_PYTHON"


@pytest.fixture
def python() -> str:
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"{VARIABLE} does not name the Python of an environment that has Datumaro")
    return path


def imported(python: str, folder: Path, form: str) -> dict[tuple[str, str], tuple[str, bool, str]]:
    """(image, id) -> class, crowd and mask of every object as Datumaro reads the folder."""
    script = Path(__file__).with_name("datumaro_masks.py")
    done = subprocess.run(
        [python, str(script), str(folder), form], stdout=subprocess.PIPE, check=True
    )
    rows = json.loads(done.stdout)
    objects = {
        (str(row["image"]), str(row["id"])): (row["class"], row["crowd"], row["counts"])
        for row in rows
    }
    assert len(objects) == len(rows)
    return objects


def set_masks(data: ShardSet) -> dict[tuple[str, str], tuple[str, bool, str]]:
    names = {category.id: category.name for category in data.taxonomy.categories}
    return {
        (sample.id, str(segment.source_id)): (
            names[segment.class_id],
            segment.is_crowd,
            segment.mask.decode(),
        )
        for sample in data.samples()
        for segment in sample.segments
        if segment.mask is not None
    }


@pytest.mark.parametrize(
    ("form", "source", "export"),
    [
        ("panoptic", open_coco_panoptic, export_panoptic),
        ("instances", open_coco_instances, export_instances),
    ],
)
def test_datumaro_reads_every_mask_of_real_data(
    real_data: Path, tmp_path: Path, python: str, form: str, source: Any, export: Any
) -> None:
    root = real_data / "coco"
    opened = source(root / "annotations" / f"{form}_val2017.json", root / "val2017")
    data = convert(
        opened, tmp_path / "set", ConvertOptions(workers=1, limit=30), arguments={}
    ).published
    assert data is not None
    export(data, tmp_path / "out", images=True, datumaro=True)
    assert imported(python, tmp_path / "out", f"coco_{form}") == set_masks(data)


def test_datumaro_reads_holes_and_crowds(tmp_path: Path, python: str) -> None:
    data, _ = instances(tmp_path / "set")
    export_instances(data, tmp_path / "out", images=True, datumaro=True)
    objects = imported(python, tmp_path / "out", "coco_instances")
    things = [
        s
        for sample in data.samples()
        for s in sample.segments
        if s.kind == "thing" and s.mask is not None
    ]
    assert sorted(mask for _, _, mask in objects.values()) == sorted(
        s.mask.decode() for s in things if s.mask
    )
    assert sorted(crowd for _, crowd, _ in objects.values()) == sorted(s.is_crowd for s in things)
