"""Formats of labeling tools from the command line: JSON, notes, exit codes, lines of errors."""

from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet

from ..sources import test_yolo_labels as yolo
from ..sources.builders import picture
from ..sources.test_recognize import files
from .slips import assert_refused_before_torch
from .test_convert import convert_json, refused, segkit


def arguments(root: Path) -> dict[str, tuple[object, ...]]:
    paths = files(root)
    images = root / "voc" / "JPEGImages"
    return {
        "yolo": ("--data", paths["yolo"], "--split", "train"),
        "cvat": ("--annotations", paths["cvat"], "--images", root / "cvat" / "images"),
        "labelstudio": (
            *("--annotations", paths["labelstudio"]),
            *("--images", root / "labelstudio" / "images"),
        ),
        "labelme": ("--annotations", root / "labelme"),
        "voc-boxes": ("--annotations", paths["voc-boxes"].parent, "--images", images),
    }


@pytest.mark.parametrize("name", ["yolo", "cvat", "labelstudio", "labelme", "voc-boxes"])
def test_each_format_becomes_a_valid_set(tmp_path: Path, name: str) -> None:
    out = tmp_path / "set"
    result = convert_json(name, *arguments(tmp_path)[name], "--out", out, "--workers", 1)
    assert (result["ledger"]["kept"], result["kind"], result["error"]) == (1, "boxes", None)
    manifest = ShardSet.open(out).manifest
    assert manifest.split == ("train" if name == "yolo" else None)
    assert segkit("validate", out).returncode == 0
    again = segkit("convert", name, *arguments(tmp_path)[name], "--dry-run")
    assert again.returncode == 0 and name in again.stdout


def test_auto_prints_the_command_that_it_runs(tmp_path: Path) -> None:
    path = files(tmp_path)["yolo"]
    done = segkit("convert", "auto", path, "--out", tmp_path / "set", "--json", "--split", "train")
    assert done.returncode == 0 and done.stdout.startswith("{")
    line = f"note: recognized as yolo: segkit convert yolo --data {path} --split train"
    assert line in done.stderr.splitlines()
    assert ShardSet.open(tmp_path / "set").manifest.split == "train"


def test_lost_rows_fail_and_can_be_skipped(tmp_path: Path) -> None:
    path = yolo.dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\n"})
    source = ("yolo", "--data", path, "--out", tmp_path / "set")
    line = refused(*source)
    assert "a.txt: line 2 of image a: class 9 has no name [unknown-category]" in line
    assert not (tmp_path / "set" / "v1").exists()
    result = convert_json(*source, "--on-error", "skip")
    assert result["ledger"]["dropped"] == {"unknown-category": 1}
    assert Path(result["quarantine"]).read_text().count("\n") == 1


def test_a_wrong_folder_of_images_is_named(tmp_path: Path) -> None:
    paths = files(tmp_path)
    line = refused(
        "cvat", "--annotations", paths["cvat"], "--images", tmp_path / "none", "--dry-run"
    )
    assert "check --images" in line
    line = refused("yolo", "--data", tmp_path / "none", "--dry-run")
    assert "no such file or folder" in line


def test_exports_of_several_sets(tmp_path: Path) -> None:
    picture(tmp_path / "yolo" / "images" / "train" / "b.jpg")
    path = files(tmp_path)["yolo"]
    for name in ("one", "two"):
        convert_json("yolo", "--data", path, "--out", tmp_path / name)
    data = ("--data", f"train={tmp_path / 'one'}", "--data", f"val={tmp_path / 'two'}")
    assert segkit("export", "yolo", *data, "--out", tmp_path / "out").returncode == 0
    assert "val: images/val" in (tmp_path / "out" / "data.yaml").read_text()
    done = segkit("export", "yolo", *data[:2], "--data", tmp_path / "two", "--out", tmp_path / "x")
    assert done.returncode == 2 and "give --data train=" in done.stderr


def test_slips_are_refused_before_torch(tmp_path: Path) -> None:
    paths = files(tmp_path)
    coco, out = str(paths["coco"]), ("--out", str(tmp_path / "out"))
    slips = [
        ("yolo", "--data", coco, *out),
        ("yolo", "--data", str(paths["yolo"]), "--split", "none", *out),
        ("cvat", "--annotations", coco, "--images", str(tmp_path), *out),
        ("labelstudio", "--annotations", coco, "--images", str(tmp_path), *out),
        ("labelme", "--annotations", coco, *out),
        ("voc-boxes", "--annotations", coco, "--images", str(tmp_path), *out),
        ("coco", "--instances", str(paths["cvat"]), "--images", str(tmp_path), *out),
        ("auto", str(tmp_path / "none"), *out),
        ("auto", str(paths["yolo"])),
    ]
    assert_refused_before_torch(["convert"], slips)
