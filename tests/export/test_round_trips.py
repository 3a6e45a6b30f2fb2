"""Round trips of real data sets: native -> segkit -> native, pixel for pixel."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exit_code:
        raise AssertionError(f"{result.stdout} {result.exception!r}")
    answer: dict = json.loads(result.stdout)
    return answer


def converted(out: Path, *source: object) -> Path:
    ledger = run("convert", *source, "--workers", 1, "--out", out)["ledger"]
    assert ledger["input"] == ledger["kept"] > 0
    assert run("validate", out)["violations"] == []
    return out


def same_pixels(folder: Path, exported: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    assert paths
    for path in paths:
        theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ours = cv2.imread(str(exported / path.relative_to(folder)), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(theirs, ours), path.name


def same_json(path: Path, exported: Path) -> None:
    """Equal but for the order of annotations and the `isthing` that every exported category has."""
    theirs, ours = json.loads(path.read_text()), json.loads(exported.read_text())
    assert theirs.keys() == ours.keys()
    for key in ("info", "licenses", "images"):
        assert theirs[key] == ours[key]
    assert [{"isthing": 1, **row} for row in theirs["categories"]] == ours["categories"]
    for data in (theirs, ours):
        data["annotations"].sort(key=lambda row: (row["image_id"], row.get("id", 0)))
    assert theirs["annotations"] == ours["annotations"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_panoptic(real_data, tmp_path, split):
    folder, images = real_data / "coco" / "annotations", real_data / "coco" / f"{split}2017"
    file = folder / f"panoptic_{split}2017.json"
    data = converted(
        tmp_path / "set", "coco", "--images", images, "--panoptic", file, "--split", f"{split}2017"
    )
    run("export", "coco-panoptic", "--data", data, "--out", tmp_path / "out")
    same_pixels(file.with_suffix(""), tmp_path / "out" / f"panoptic_{split}2017")
    same_json(file, tmp_path / "out" / f"panoptic_{split}2017.json")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_instances(real_data, tmp_path, split):
    folder, images = real_data / "coco" / "annotations", real_data / "coco" / f"{split}2017"
    file = folder / f"instances_{split}2017.json"
    data = converted(
        tmp_path / "set", "coco", "--images", images, "--instances", file, "--split", f"{split}2017"
    )
    run("export", "coco-instances", "--data", data, "--out", tmp_path / "out")
    same_json(file, tmp_path / "out" / f"instances_{split}2017.json")


@pytest.mark.parametrize("split", ["train", "test"])
def test_camvid(real_data, tmp_path, split):
    root = real_data / "camvid"
    folders = ("--images", root / "images" / split, "--masks", root / "annotations" / split)
    data = converted(
        tmp_path / "set", "semantic", *folders, "--labels", root / "labels.txt", "--ignore", 11
    )
    run("export", "semantic", "--data", data, "--out", tmp_path / "out")
    same_pixels(root / "annotations" / split, tmp_path / "out" / "masks")


@pytest.mark.parametrize(
    ("split", "joined"), [("training", False), ("validation", False), ("training", True)]
)
def test_ade(real_data, tmp_path, split, joined):
    root = real_data / "ade" / "ADEChallengeData2016"
    options = ["--instances"] if joined else []
    data = converted(tmp_path / "set", "ade", "--root", root, "--split", split, *options)
    run("export", "semantic", "--data", data, "--out", tmp_path / "out")
    same_pixels(root / "annotations" / split, tmp_path / "out" / "masks")
