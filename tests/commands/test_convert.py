"""`segkit convert` as a user runs it: exit codes, one clear line, JSON, and the real data."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from segkit.commands.app import main
from segkit.commands.convert import CommonOptions, app
from segkit.shards.reader import ShardSet

from ..sources.builders import coco_instances, coco_panoptic, picture
from ..sources.test_cityscapes import frame
from ..sources.test_cityscapes import maps as cityscapes_maps
from ..sources.test_coco_joined import scene
from ..sources.test_voc import maps as voc_maps
from ..sources.test_voc import voc


def segkit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which saves a second of start-up."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["segkit", *map(str, arguments)])
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def convert_json(*arguments: object, code: int = 0) -> Any:
    done = segkit("convert", *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    done = segkit("convert", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def panoptic_set(root: Path) -> tuple[object, ...]:
    """The arguments for the set of `builders.coco_panoptic`."""
    return ("coco", "--images", root / "images", "--panoptic", root / "panoptic.json")


def boxes_set(root: Path, path: Path) -> tuple[object, ...]:
    """The arguments for the boxes of a set of `builders.coco_instances`."""
    return ("coco", "--images", root / "images", "--instances", path, "--boxes-only")


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    out = tmp_path / "out"
    result = convert_json(*panoptic_set(tmp_path), "--out", out, "--split", "val")
    published = ShardSet.open(out)
    assert result["ledger"] == {"input": 9, "kept": 9, "dropped": {}, "warnings": {}}
    assert result["images"] == {"input": 3, "kept": 3, "dropped": {}, "warnings": {}}
    assert (result["path"], result["version"], result["digest"]) == (
        str(published.path),
        1,
        published.manifest.digest,
    )
    assert result["schema"] == "segkit.convert/1"
    assert result["segkit_version"] == published.manifest.segkit_version
    assert published.manifest.split == "val"
    assert published.manifest.arguments["panoptic"] == str(tmp_path / "panoptic.json")


def test_every_source_takes_its_own_and_the_common_options() -> None:
    common = {field.name for field in fields(CommonOptions)}
    source_options = {
        "ade": {"root", "instances", "classes"},
        "cityscapes": {"root", "instances"},
        "coco": {
            *("images", "panoptic", "panoptic_masks", "instances", "boxes_only"),
            *("crowds_as_objects", "drop_unused_twins"),
        },
        "objects365": {"annotations", "images"},
        "semantic": {"images", "masks", "labels", "ignore", "first_label"},
        "voc": {"root", "instances", "background"},
        "yolo": {"data", "contours", "boxes_only"},
        "voc-boxes": {"annotations", "images", "list_", "labels", "zero_based"},
        "cvat": {"annotations", "images", "labels", "boxes_only"},
        "labelstudio": {"annotations", "images", "labels", "predictions", "boxes_only"},
        "labelme": {"annotations", "images", "labels", "boxes_only"},
        "visual-genome": {"annotations", "images", "image_data", "classes"},
        "auto": {"path"},
    }
    optional = {name: {"labels"} for name in ("cvat", "voc-boxes", "labelstudio")}
    optional["labelme"] = {"images", "labels"}
    commands = typer.main.get_group(app).commands
    assert {
        name: {option.name for option in command.params} - common - {"as_json", "quiet"}
        for name, command in commands.items()
    } == source_options
    for name, command in commands.items():
        needed = {option.name for option in command.params if option.required}
        assert needed == source_options[name] & {
            *("annotations", "images", "labels", "masks", "root", "data", "path"),
        } - optional.get(name, set()) | ({"split"} if "root" in source_options[name] else set())
        assert common <= {option.name for option in command.params}
        help_text = segkit("convert", name, "--help").stdout
        assert f"Example: segkit convert {name} " in " ".join(help_text.split())
        assert "--on-error" in help_text and "--engine" in help_text


def test_the_table_shows_counts_and_the_path(tmp_path: Path) -> None:
    path = coco_instances(tmp_path, [{"bbox": [1, 1, 5, 5]}])
    done = segkit("convert", *boxes_set(tmp_path, path), "--out", tmp_path / "o")
    assert done.returncode == 0
    assert "annotations" in done.stdout
    assert str(tmp_path / "o" / "v1") in done.stdout
    assert ShardSet.open(tmp_path / "o").manifest.kind == "boxes"


def test_panoptic_and_instances_together(tmp_path: Path) -> None:
    scene(tmp_path, 2)
    files = ("--panoptic", tmp_path / "panoptic.json", "--instances", tmp_path / "instances.json")
    result = convert_json(
        "coco", "--images", tmp_path / "images", *files, "--out", tmp_path / "out", "--workers", 1
    )
    published = ShardSet.open(tmp_path / "out")
    joined = [
        s for sample in published.samples() for s in sample.segments if s.source_polygon is not None
    ]
    assert (result["kind"], result["ledger"]["warnings"]) == ("panoptic", {"joined": len(joined)})
    assert result["ledger"]["kept"] == len(joined) + 2
    assert {"panoptic", "instances"} <= published.manifest.arguments.keys()
    assert "--boxes-only" in refused(
        "coco", "--images", tmp_path / "images", *files, "--boxes-only", "--dry-run"
    )


def test_common_options(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 6)
    arguments = (*panoptic_set(tmp_path), "--workers", 2)
    result = convert_json(
        *arguments,
        "--out",
        tmp_path / "o",
        "--name",
        "mine",
        "--limit",
        4,
        "--images-by",
        "reference",
    )
    manifest = ShardSet.open(tmp_path / "o").manifest
    assert (manifest.name, manifest.images_by, manifest.statistics.images) == (
        "mine",
        "reference",
        4,
    )
    assert result["images"]["input"] == 4


def test_a_set_is_called_after_its_folder_unless_a_name_is_given(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    arguments = panoptic_set(tmp_path)
    convert_json(*arguments, "--out", tmp_path / "streets")
    assert ShardSet.open(tmp_path / "streets").manifest.name == "streets"
    convert_json(*arguments, "--out", tmp_path / "set", "--name", "roads")
    assert ShardSet.open(tmp_path / "set").manifest.name == "roads"


def test_semantic_options_and_ade(tmp_path: Path) -> None:
    root = tmp_path / "ADE"
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir(parents=True)
    picture(root / "images" / "training" / "a.jpg")
    Image.fromarray(np.tile(np.array([0, 1, 150, 3], np.uint8), (24, 8))).save(
        root / "annotations/training/a.png"
    )
    result = convert_json("ade", "--root", root, "--split", "training", "--out", tmp_path / "ade")
    assert (result["ledger"]["kept"], result["taxonomy"]) == (3, "ade20k-150")
    (tmp_path / "labels.txt").write_text("a\nb\nc")
    folders = (
        "--images",
        root / "images",
        "--masks",
        root / "annotations",
        "--labels",
        tmp_path / "labels.txt",
    )
    options = ("--first-label", 1, "--ignore", 0, "--ignore", 150, "--out", tmp_path / "semantic")
    result = convert_json("semantic", *folders, *options)
    assert result["ledger"]["kept"] == 2
    assert ShardSet.open(tmp_path / "semantic").manifest.split is None
    assert ShardSet.open(tmp_path / "ade").manifest.split == "training"


def test_cityscapes_and_voc(tmp_path: Path) -> None:
    labels, numbers = cityscapes_maps()
    result = convert_json(
        "cityscapes",
        "--root",
        frame(tmp_path / "c", labels, numbers),
        "--split",
        "train",
        "--instances",
        "--out",
        tmp_path / "1",
    )
    assert (result["kind"], result["ledger"]["kept"]) == ("panoptic", 4)
    voc_root = voc(tmp_path / "v", *voc_maps())
    result = convert_json(
        "voc", "--root", voc_root, "--split", "train", "--instances", "--out", tmp_path / "2"
    )
    assert (result["kind"], result["ledger"]["kept"]) == ("instance", 3)
    assert "--split train, val or trainval" in refused(
        "voc", "--root", voc_root, "--split", "x", "--out", tmp_path / "3"
    )
