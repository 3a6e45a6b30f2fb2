"""Exports for people who correct predictions leave unlikely ones out, and count them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.export.coco import export_instances
from segkit.export.cvat_dump import export_cvat
from segkit.export.label_studio_tasks import export_label_studio
from segkit.export.labelme_files import export_labelme
from segkit.export.voc_xml import export_voc
from segkit.export.yolo import export_yolo
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from tests.sources.builders import coco_instances

from .test_round_trips import run


def _yolo(*, polygons: bool) -> Callable[..., Any]:
    return lambda data, out, **options: export_yolo([data], out, polygons=polygons, **options)


SCORES = (0.0, 0.05, 0.29, 0.3, 0.9, None)
EXPORTS: dict[str, Callable[..., Any]] = {
    "coco-instances": export_instances,
    "cvat": export_cvat,
    "labelme": export_labelme,
    "labelstudio": export_label_studio,
    "voc": export_voc,
    "yolo": _yolo(polygons=False),
    "yolo-seg": _yolo(polygons=True),
}


def written(name: str, out: Path) -> int:
    """The objects in the files, by a plain reader."""
    if name == "cvat":
        return (out / "annotations.xml").read_text().count("<mask ")
    if name == "labelme":
        return sum(len(json.loads(f.read_text())["shapes"]) for f in out.glob("*.json"))
    if name == "voc":
        return sum(f.read_text().count("<object>") for f in out.glob("Annotations/*.xml"))
    if name.startswith("yolo"):
        return sum(len(f.read_text().splitlines()) for f in out.glob("labels/*/*.txt"))
    if name == "labelstudio":
        tasks = json.loads((out / "tasks.json").read_text())
        return sum(len(task["predictions"][0]["result"]) for task in tasks)
    (file,) = out.glob("instances_*.json")
    return len(json.loads(file.read_text())["annotations"])


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("data")
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    fields = {"bbox": [2, 2, 10, 10], "area": 100, "segmentation": [square], "iscrowd": 0}
    file = coco_instances(folder, [{**fields, "image_id": n % 2} for n in range(6)], 2)
    source = ("--images", folder / "images", "--instances", file)
    run("convert", "coco", *source, "--workers", 1, "--out", folder / "set")
    data, scores = ShardSet.open(folder / "set"), iter(SCORES)
    samples = [
        replace(
            sample,
            segments=tuple(
                replace(s, score=score, mask_from="human" if score is None else "prediction")
                for s, score in zip(sample.segments, scores, strict=False)
            ),
        )
        for sample in data.samples()
    ]
    return write_layer(folder / "predictions", data, samples, Header.from_set(data, "test", {}))


@pytest.mark.parametrize("name", EXPORTS)
def test_unlikely_predictions_are_left_out(
    predictions: ShardSet, tmp_path: Path, name: str
) -> None:
    all_scores = [s.score for sample in predictions.samples() for s in sample.segments]
    for least in (0.0, 0.05, 0.3, 1.0):
        out = tmp_path / str(least)
        report = EXPORTS[name](predictions, out, min_score=least)
        expected = sum(score is None or score >= least for score in all_scores)
        assert written(name, out) == report.annotations == expected
        assert report.dropped == Counter({"low-score": 6 - expected} if expected < 6 else {})
    for wrong in (-0.1, 1.5, "0.3"):
        with pytest.raises(InputError, match="invalid min_score"):
            EXPORTS[name](predictions, tmp_path / "wrong", min_score=wrong)


@pytest.mark.parametrize("name", EXPORTS)
def test_a_note_where_most_are_unlikely(predictions: ShardSet, tmp_path: Path, name: str) -> None:
    options = ["export", name, "--data", str(predictions.path), "--out"]
    plain = CliRunner().invoke(app, [*options, str(tmp_path / "all")])
    assert plain.exit_code == 0 and "--min-score" not in plain.stderr  # 3 of 6: not most
    samples = [
        replace(s, segments=tuple(x for x in s.segments if x.score != 0.9))
        for s in predictions.samples()
    ]
    header = Header.from_set(predictions, "test", {})
    layer = write_layer(tmp_path / "layer", predictions, samples, header)
    options[3] = str(layer.path)
    noted = CliRunner().invoke(app, [*options, str(tmp_path / "noted")])
    assert "3 of 5 segments have a score below 0.3; --min-score" in noted.stderr
    chosen = CliRunner().invoke(app, [*options, str(tmp_path / "some"), "--min-score", "0.1"])
    assert chosen.exit_code == 0 and "--min-score" not in chosen.stderr
