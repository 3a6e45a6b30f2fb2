"""Files whose names have another Unicode form than in the annotations, as macOS writes them."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.voc import open_voc

from . import test_cvat_xml as cvat
from . import test_labelme_json as labelme
from . import test_semantic_masks as semantic
from . import test_voc as voc
from . import test_voc_boxes as voc_boxes
from .builders import coco_instances, coco_panoptic, dry_run

NAME = "caf\u00e9"
Opener = Callable[[], Any]


def replace_text(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")


def build_coco(root: Path, name: str) -> Opener:
    file = coco_instances(root, [{"bbox": [2, 2, 9, 9]}])
    replace_text(file, "i0.jpg", f"{name}/{name}.jpg")
    (root / "images" / NAME).mkdir()
    (root / "images" / "i0.jpg").rename(root / "images" / NAME / f"{NAME}.jpg")
    return lambda: open_coco_instances(file, root / "images")


def build_panoptic(root: Path, name: str) -> Opener:
    coco_panoptic(root, count=1)
    for folder, suffix in (("images", "jpg"), ("panoptic", "png")):
        replace_text(root / "panoptic.json", f"p0.{suffix}", f"{name}.{suffix}")
        (root / folder / f"p0.{suffix}").rename(root / folder / f"{NAME}.{suffix}")
    return lambda: open_coco_panoptic(root / "panoptic.json", root / "images")


def build_cvat(root: Path, name: str) -> Opener:
    file = cvat.dump(root, cvat.box(1, 1, 9, 9), name=f"{NAME}.jpg")
    replace_text(file, NAME, name)
    return lambda: cvat.opened(file)


def build_labelme(root: Path, name: str) -> Opener:
    labelme.opened(root, labelme.shape("polygon", labelme.TRIANGLE))
    replace_text(root / "a.json", "a.jpg", f"{name}.jpg")
    (root / "a.jpg").rename(root / f"{NAME}.jpg")
    return lambda: labelme.open_labelme(root)


def build_voc(root: Path, name: str) -> Opener:
    voc.voc(root, *voc.maps(), listed=f"{name}\n")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / folder / f"2007_000001.{suffix}").rename(root / folder / f"{NAME}.{suffix}")
    return lambda: open_voc(root, "train")


def build_voc_boxes(root: Path, name: str) -> Opener:
    voc_boxes.write(root, NAME, voc_boxes.entry("cat", 1, 1, 9, 9))
    annotations = root / "Annotations"
    (annotations / f"{NAME}.xml").rename(annotations / f"{name}.xml")
    (root / "list.txt").write_text(f"{name}\n", "utf-8")
    return lambda: voc_boxes.opened(root, listed=root / "list.txt")


def build_semantic(root: Path, name: str) -> Opener:
    semantic.semantic_set(root, (0, 1), "sky\nroad", count=1)
    (root / "images" / "s0.jpg").rename(root / "images" / f"{NAME}.jpg")
    (root / "masks" / "s0.png").rename(root / "masks" / f"{name}.png")
    return lambda: semantic.opened(root)


BUILDERS = [build_coco, build_panoptic, build_cvat, build_labelme, build_voc, build_voc_boxes]


@pytest.mark.parametrize("build", [*BUILDERS, build_semantic])
def test_names_in_another_form_are_found(
    tmp_path: Path, build: Callable[[Path, str], Opener]
) -> None:
    name = unicodedata.normalize("NFD", NAME)
    assert name != NAME
    open_source = build(tmp_path, name)
    report = dry_run(open_source())
    assert (report.offenders, report.ledger.images.kept) == (0, 1)
    assert report.ledger.images.input == 1


def test_the_form_that_is_written_comes_first(tmp_path: Path) -> None:
    open_source = build_coco(tmp_path, unicodedata.normalize("NFD", NAME))
    decomposed = unicodedata.normalize("NFD", f"{NAME}/{NAME}.jpg")
    file = tmp_path / "images" / decomposed
    file.parent.mkdir()
    Image.new("RGB", (5, 5)).save(file)
    assert "has 5 x 5 pixels" in dry_run(open_source()).defects[0].message
