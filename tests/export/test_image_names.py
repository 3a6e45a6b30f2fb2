"""Exports with images of any file names: each image and annotation comes back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import picture

from .test_round_trips import run

TAXONOMY = Taxonomy("toy", (Category(0, "cat", "thing"), Category(1, "dog", "thing")))
CASES = {
    "a file and a folder": ["a.jpg", "a.jpg/a.jpg", "a.jpg/b.jpg"],
    "a folder and a file": ["x/a.jpg/a.jpg", "x/a.jpg"],
    "labels as a folder": ["a.jpg", "a.txt/b.jpg", "a.xml/b.jpg", "a.json/b.jpg"],
    "one name": ["a.jpg", "a.jpg", "a-2.jpg", "./a.jpg"],
    "one stem": ["a.jpg", "a.png", "A.JPG"],
    "files of labelme": ["a.jpg", "labels.txt", "b.json", "labels.json"],
    "no extension": ["noext", "noext.png", "photo.v1", "folder.jpg/noext"],
    "hidden": [".a.png", ".folder/a.png", "_a.png"],
    "long": ["x" * 300 + ".png", "x" * 300 + "y.png", "y" * 300 + "/a.png", "z/" * 1200 + "a.png"],
}
FORMATS = ("coco-instances", "yolo", "voc", "labelstudio", "cvat", "labelme")


def named_set(root: Path, names: list[str], *, one_file: bool = False) -> ShardSet:
    """A set of pictures, each with a box that no other has."""
    records = []
    for number, name in enumerate(names):
        box = (1.0 + number, 2.0, 4.0, 5.0)
        segments = (Segment(number % 2, "thing", box, None, 20.0, source_id=str(number)),)
        data = picture(0 if one_file else number)
        records.append((Sample(f"{number}", name, 32, 24, segments), data))
    header = Header(taxonomy=TAXONOMY, kind="boxes", name="toy", split="val", command="t")
    return write_set(root, records, header)


def back(form: str, exported: Path, out: Path) -> ShardSet:
    """Convert an export again; nothing of it is dropped."""
    arguments: dict[str, tuple[Any, ...]] = {
        "coco-instances": (
            *("coco", "--instances", exported / "instances_val.json"),
            *("--images", exported / "images"),
        ),
        "yolo": ("yolo", "--data", exported / "data.yaml"),
        "voc": (
            *("voc-boxes", "--annotations", exported / "Annotations"),
            *("--images", exported / "JPEGImages"),
        ),
        "labelstudio": (
            *("labelstudio", "--annotations", exported / "tasks.json", "--predictions"),
            *("--images", exported / "images", "--labels", exported / "labels.txt"),
        ),
        "cvat": (
            *("cvat", "--annotations", exported / "annotations.xml"),
            *("--images", exported / "images"),
        ),
        "labelme": ("labelme", "--annotations", exported, "--labels", exported / "labels.txt"),
    }
    ledger = run("convert", *arguments[form], "--workers", 1, "--out", out)["ledger"]
    assert ledger["input"] == ledger["kept"]
    return ShardSet.open(out)


def content(data: ShardSet) -> list[tuple[bytes, str, tuple[float, ...]]]:
    """The bytes, class and box of all objects, in any order."""
    return sorted(
        (
            data.image_bytes(sample),
            data.taxonomy.by_id[segment.class_id].name,
            tuple(round(side, 3) for side in segment.box),
        )
        for sample in data.samples()
        for segment in sample.segments
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_images_of_clashing_names_come_back(tmp_path: Path, case: str, form: str) -> None:
    data = named_set(tmp_path / "set", CASES[case])
    report = run("export", form, "--data", data.path, "--out", tmp_path / "out", "--images")
    assert report["annotations"] == len(data) and not report["dropped"]
    after = back(form, tmp_path / "out", tmp_path / "back")
    assert content(after) == content(data) and len(after) == len(data)
    names = {sample.file_name for sample in data.samples()}
    assert len(names & {sample.file_name for sample in after.samples()}) >= (
        len(data) - report["images_altered"].get("renamed", 0) - 1  # ./a.jpg comes back as a.jpg
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("options", [(), ("--images",)])
def test_segments_are_read_once(
    tmp_path: Path, form: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, ids and images need no masks, which are most of the labels."""
    data = named_set(tmp_path / "set", ["a.jpg", "b.jpg", "a.jpg"] if options else ["a.jpg"])
    passes, samples = [], ShardSet.samples

    def counted(shards: ShardSet, **arguments: Any) -> Any:
        passes.append(shards.path)
        return samples(shards, **arguments)

    monkeypatch.setattr(ShardSet, "samples", counted)
    run("export", form, "--data", data.path, "--out", tmp_path / "out", *options)
    assert passes == [data.path]


@pytest.mark.parametrize("form", FORMATS)
def test_two_images_of_one_file(tmp_path: Path, form: str) -> None:
    """COCO and Label Studio refer to one copy, formats with a label file each need two."""
    data = named_set(tmp_path / "set", ["a.jpg", "a.jpg"], one_file=True)
    report = run("export", form, "--data", data.path, "--out", tmp_path / "out", "--images")
    assert content(back(form, tmp_path / "out", tmp_path / "back")) == content(data)
    shared = form in ("coco-instances", "labelstudio")
    assert len([*(tmp_path / "out").rglob("*.jpg")]) == (1 if shared else 2)
    assert report["images_altered"] == ({} if shared else {"renamed": 1})


def test_pngs_of_clashing_names(tmp_path: Path) -> None:
    """The names of a panoptic PNG and of a mask do not clash with those of others."""
    masks = [np.eye(24, 32, number) for number in range(3)]
    names = ["a.jpg", "a.png", "a.png/b.jpg"]
    records = []
    for number, (name, mask) in enumerate(zip(names, masks, strict=True)):
        counts = rle.encode(mask > 0)
        box = rle.box(counts, 24, 32)
        segment = Segment(0, "thing", box, counts, float(mask.sum()), mask_from="human")
        records.append((Sample(f"{number}", name, 32, 24, (segment,)), picture(number)))
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", split="val", command="t")
    data = write_set(tmp_path / "set", records, header)
    panoptic, semantic = tmp_path / "panoptic", tmp_path / "semantic"
    run("export", "coco-panoptic", "--data", data.path, "--out", panoptic)
    rows = json.loads((panoptic / "panoptic_val.json").read_text())["annotations"]
    for row, mask in zip(rows, masks, strict=True):
        pixels = cv2.imread(str(panoptic / "panoptic_val" / row["file_name"]))
        assert np.array_equal(pixels.any(-1), mask > 0)
    run("export", "semantic", "--data", data.path, "--out", semantic, "--images")
    options = ("--masks", semantic / "masks", "--labels", semantic / "labels.txt")
    convert = ("convert", "semantic", "--images", semantic / "images", *options, "--ignore", 255)
    run(*convert, "--workers", 1, "--out", tmp_path / "back")
    after = ShardSet.open(tmp_path / "back")
    pairs = {after.image_bytes(s): s.segments[0].mask for s in after.samples()}
    assert pairs == {picture(n): rle.encode(mask > 0) for n, mask in enumerate(masks)}


@pytest.mark.parametrize("form", ["yolo", "voc", "labelme"])
@pytest.mark.parametrize("names", [["a.jpg", "a.jpg"], ["a.jpg", "a.jpg/b.jpg/../c.jpg"]])
def test_without_images_names_stay_or_are_refused(
    tmp_path: Path, form: str, names: list[str]
) -> None:
    """The images of the user have the names of the set; nothing is written that leads to others."""
    data = named_set(tmp_path / "set", names)
    with pytest.raises(AssertionError) as caught:
        run("export", form, "--data", data.path, "--out", tmp_path / "out")
    assert "image 1" in str(caught.value) and ".partial" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_error_of_clashing_names_says_what_helps(tmp_path: Path) -> None:
    from segkit.export.voc_xml import export_voc

    data = named_set(tmp_path / "set", ["a.jpg", "a.png"])
    clash = (
        "image 1: images 0 and 1 would both be written to Annotations/a.xml; export with --images"
    )
    with pytest.raises(InputError, match=clash):
        export_voc(data, tmp_path / "out")
    bare = replace(Header.from_set(data, "t", {}), images_by="none")
    labels = write_set(tmp_path / "bare", ((s, None) for s in data.samples()), bare)
    with pytest.raises(InputError, match="convert it without --images-by none, and export with"):
        export_voc(labels, tmp_path / "out")


def test_images_of_one_name_are_counted_where_no_image_is_written(tmp_path: Path) -> None:
    data = named_set(tmp_path / "set", ["a.jpg", "a.jpg", "b.jpg"])
    for form in ("coco-instances", "labelstudio", "cvat"):
        report = run("export", form, "--data", data.path, "--out", tmp_path / form)
        assert report["images_altered"] == {"same-name": 1}
