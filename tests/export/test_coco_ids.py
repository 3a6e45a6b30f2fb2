"""Distinct ids in COCO exports of sets that were merged."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from segkit.shards.reader import ShardSet
from tests.sources.builders import HEIGHT, WIDTH, picture, write_json

from .test_round_trips import run

CATEGORIES = [{"id": 1, "name": "cat"}]


def converted(root: Path, image_ids: list[Any], annotation_ids: list[Any], seed: int) -> Path:
    """A set of images with one object each."""
    images, annotations = [], []
    for number, (image_id, annotation_id) in enumerate(
        zip(image_ids, annotation_ids, strict=True), start=seed
    ):
        name = f"{number}.png"
        picture(root / "images" / name, seed=number)
        images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        fields = {"category_id": 1, "bbox": [number, 2, 5, 4], "area": 20}
        annotations.append({"id": annotation_id, "image_id": image_id, **fields})
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    file = write_json(root / "instances.json", data)
    source = ("coco", "--images", root / "images", "--instances", file)
    run("convert", *source, "--workers", 1, "--out", root / "set")
    return root / "set"


def objects(path: Path) -> Counter[tuple[bytes, tuple[float, ...]]]:
    data = ShardSet.open(path)
    return Counter((data.image_bytes(s), x.box) for s in data.samples() for x in s.segments)


@pytest.mark.parametrize(
    ("first", "second", "renumbered"),
    [
        (([1, 2], [1, 2]), ([1, 2], [1, 2]), (2, 2)),
        (([1, 2], [1, 2]), ([11, 12], [2, 3]), (0, 1)),
        ((["a", 7], ["x", 1]), (["7", "a"], ["x", "y"]), (2, 1)),
        (([3, 1], [5, 6]), ([1, 4], [7, 8]), (1, 0)),
    ],
)
def test_merged_sets_come_back(
    tmp_path: Path,
    first: tuple[list[Any], list[Any]],
    second: tuple[list[Any], list[Any]],
    renumbered: tuple[int, int],
) -> None:
    sets = converted(tmp_path / "a", *first, 0), converted(tmp_path / "b", *second, 4)
    run("merge", *sets, "--rename", "--out", tmp_path / "ab")
    options = ("--data", tmp_path / "ab", "--out", tmp_path / "out", "--images")
    report = run("export", "coco-instances", *options)
    counts = report["images_altered"], report["altered"]
    assert counts == tuple({"renumbered": n} if n else {} for n in renumbered)
    (file,) = (tmp_path / "out").glob("*.json")
    native = json.loads(file.read_text())
    for key, parts in (("images", (first[0], second[0])), ("annotations", (first[1], second[1]))):
        ids = [str(row["id"]) for row in native[key]]
        assert len(set(ids)) == len(ids) == 4
        assert ids[:2] == [*map(str, parts[0])]  # the first of equal ids keeps it
        assert {str(i) for i in parts[1]} - {str(i) for i in parts[0]} <= set(ids)
    source = ("coco", "--images", tmp_path / "out" / "images", "--instances", file)
    run("convert", *source, "--workers", 1, "--out", tmp_path / "back")
    assert objects(tmp_path / "back") == objects(tmp_path / "ab")


def test_panoptic_images_of_merged_sets_have_distinct_ids(tmp_path: Path) -> None:
    from tests.sources.builders import coco_panoptic

    sets = []
    for name in "ab":
        coco_panoptic(tmp_path / name, 2)
        folder = tmp_path / name
        source = ("--images", folder / "images", "--panoptic", folder / "panoptic.json")
        run("convert", "coco", *source, "--workers", 1, "--out", folder / "set")
        sets.append(folder / "set")
    run("merge", *sets, "--rename", "--out", tmp_path / "ab")
    options = ("--data", tmp_path / "ab", "--out", tmp_path / "out", "--images")
    report = run("export", "coco-panoptic", *options)
    assert report["images_altered"] == {"renumbered": 2}  # images of equal bytes are one file
    (file,) = (tmp_path / "out").glob("*.json")
    source = ("coco", "--images", tmp_path / "out" / "images", "--panoptic", file)
    ledger = run("convert", *source, "--workers", 1, "--out", tmp_path / "back")["ledger"]
    assert ledger["kept"] == report["annotations"] and len(ShardSet.open(tmp_path / "back")) == 4


@pytest.mark.parametrize(
    ("names", "ids", "renumbered"),
    [
        (("ADE_val_1", "ADE_val_2"), [1, 2], 2),
        (("7", "b"), [7, 1], 1),
        (("000012", "000003"), [12, 3], 0),
        (("1", "01"), [1, 2], 1),
    ],
)
def test_names_that_become_numbers_are_counted(
    tmp_path: Path, names: tuple[str, ...], ids: list[int], renumbered: int
) -> None:
    for name in names:
        picture(tmp_path / f"{name}.jpg").with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("blob\n")
    run("convert", "yolo", "--data", tmp_path, "--workers", 1, "--out", tmp_path / "set")
    report = run("export", "coco-instances", "--data", tmp_path / "set", "--out", tmp_path / "out")
    assert report["images_altered"].get("renumbered", 0) == renumbered
    (file,) = (tmp_path / "out").glob("*.json")
    rows = json.loads(file.read_text())["images"]
    assert {row["file_name"]: row["id"] for row in rows} == {
        f"{name}.jpg": number for name, number in zip(names, ids, strict=True)
    }
