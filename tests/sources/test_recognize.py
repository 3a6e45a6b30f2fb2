"""Formats are recognized by content; a file that is given to another source names its command."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.cvat_xml import open_cvat
from segkit.sources.file_format import FORMATS, file_format
from segkit.sources.label_studio import open_label_studio
from segkit.sources.labelme_json import open_labelme
from segkit.sources.ledger import Tally
from segkit.sources.objects365 import open_objects365
from segkit.sources.recognize import recognize
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.visual_genome import open_visual_genome
from segkit.sources.voc_boxes import open_voc_boxes
from segkit.sources.yolo_labels import open_yolo

from . import test_cityscapes as cityscapes
from . import test_cvat_xml as cvat
from . import test_label_studio as labelstudio
from . import test_labelme_json as labelme
from . import test_visual_genome as visual_genome
from . import test_voc as voc_masks
from . import test_voc_boxes as voc
from . import test_yolo_labels as yolo
from .builders import coco_instances, coco_panoptic, dry_run, picture, write_json


def files(root: Path) -> dict[str, Path]:
    """A file of each format, with its images, by the subcommand that converts it."""
    picture(root / "labelstudio" / "images" / "a.jpg")
    task = labelstudio.task(labelstudio.rectangle(1, 1, 9, 9))
    picture(root / "labelme" / "a.jpg")
    shape = labelme.shape("rectangle", [[1, 1], [5, 5]])
    voc.write(root / "voc", "a", voc.entry("x", 1, 1, 5, 5))
    return {
        "yolo": yolo.dataset(root / "yolo", {"a": "0 0.5 0.5 0.2 0.2"}),
        "cvat": cvat.dump(root / "cvat", cvat.box(1, 1, 5, 5)),
        "labelstudio": write_json(root / "labelstudio" / "tasks.json", [task]),
        "labelme": write_json(root / "labelme" / "a.json", labelme.content(shape)),
        "voc-boxes": root / "voc" / "Annotations" / "a.xml",
        "coco": coco_instances(root / "coco", [{"bbox": [1, 1, 5, 5]}]),
        "visual-genome": visual_genome.written(root / "vg"),
    }


def test_each_format_is_recognized_by_its_content(tmp_path: Path) -> None:
    for command, path in files(tmp_path).items():
        known = file_format(path)
        assert known is not None and known.command == command
    for text in ("", "plain", "<html/>", "[]", "{}", "[[1]]", '{"a": 1}', "\x00\xff"):
        (tmp_path / "x.txt").write_text(text)
        assert file_format(tmp_path / "x.txt") is None
    (tmp_path / "x.xml").write_text(
        '\ufeff<?xml version="1.0"?>\n<!-- <annotation> -->\n<annotations>'
    )
    assert file_format(tmp_path / "x.xml") is FORMATS["cvat"]
    many = [{"id": number, "file_name": f"{number}.jpg"} for number in range(9999)]
    large = {"info": {}, "images": many, "annotations": [], "categories": []}
    assert file_format(write_json(tmp_path / "coco.json", large)) is FORMATS["coco"]
    embedded = {"imageData": "A" * 99999, "shapes": []}
    assert file_format(write_json(tmp_path / "me.json", embedded)) is FORMATS["labelme"]
    assert file_format(tmp_path) is None and file_format(tmp_path / "none") is None


OPENERS: dict[str, Any] = {
    "yolo": lambda path, images: open_yolo(path),
    "cvat": open_cvat,
    "labelstudio": open_label_studio,
    "labelme": open_labelme,
    "voc-boxes": open_voc_boxes,
    "coco": open_coco_instances,
    "coco panoptic": open_coco_panoptic,
    "objects365": open_objects365,
    "visual-genome": open_visual_genome,
    "semantic": lambda path, images: open_semantic(images, images, path),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_file_of_another_format_names_the_right_command(tmp_path: Path, opener: str) -> None:
    tried = 0
    for command, path in files(tmp_path).items():
        if opener.startswith(command) or (
            (command, opener)
            in (("coco", "objects365"), ("coco", "semantic"), ("visual-genome", "semantic"))
        ):
            continue
        with pytest.raises(
            InputError, match=f"convert it with `segkit convert {command}"
        ) as caught:
            OPENERS[opener](path, tmp_path)
        assert str(path) in str(caught.value)
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("opener", [*OPENERS, "auto"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, opener: str) -> None:
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations.xml", "<annotations/>")
    openers = {**OPENERS, "auto": lambda path, images: recognize(path)}
    if opener == "semantic":
        pytest.skip("its file is a list of labels")
    with pytest.raises(InputError, match=r"task\.zip: is a ZIP archive; unpack it"):
        openers[opener](path, tmp_path)


@pytest.mark.parametrize(
    "command", ["yolo", "cvat", "labelstudio", "labelme", "coco", "visual-genome"]
)
def test_auto_opens_files(tmp_path: Path, command: str) -> None:
    path = files(tmp_path)[command]
    recognition = recognize(path)
    assert recognition.words[0] == command
    assert recognition.command.startswith(f"segkit convert {command} --")
    assert dry_run(recognition.source).ledger.annotations.kept == 1


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("yolo", "yolo"),
        ("cvat", "cvat"),
        ("labelstudio", "labelstudio"),
        ("labelme", "labelme"),
        ("voc-boxes", "voc"),
        ("coco", "coco"),
        ("visual-genome", "vg"),
    ],
)
def test_auto_opens_folders(tmp_path: Path, command: str, folder: str) -> None:
    files(tmp_path)
    recognition = recognize(tmp_path / folder)
    assert recognition.words[0] == command
    assert dry_run(recognition.source).ledger.annotations.kept == 1


def test_auto_opens_layouts(tmp_path: Path) -> None:
    coco_panoptic(tmp_path / "pan")
    assert recognize(tmp_path / "pan" / "panoptic.json").words[:2] == ("coco", "--panoptic")
    picture(tmp_path / "sem" / "images" / "a.png")
    picture(tmp_path / "sem" / "masks" / "a.png")
    (tmp_path / "sem" / "labels.txt").write_text("0 road\n")
    assert recognize(tmp_path / "sem").words[0] == "semantic"
    picture(tmp_path / "img" / "a.jpg")
    (tmp_path / "img" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "img" / "classes.txt").write_text("cat\n")
    assert recognize(tmp_path / "img").words == ("yolo", "--data", str(tmp_path / "img"))
    (tmp_path / "img" / "classes.txt").rename(tmp_path / "img" / "_darknet.labels")
    assert recognize(tmp_path / "img").words == ("yolo", "--data", str(tmp_path / "img"))
    (tmp_path / "ade" / "images" / "training").mkdir(parents=True)
    for split in ("training", "validation"):
        (tmp_path / "ade" / "annotations" / split).mkdir(parents=True)
    with pytest.raises(InputError, match="give --split, one of training, validation"):
        recognize(tmp_path / "ade")


def test_auto_takes_the_only_split_or_the_folder_of_a_split(tmp_path: Path) -> None:
    labels, numbers = cityscapes.maps()
    city = cityscapes.frame(tmp_path / "city", labels, numbers)
    for split in (None, "train"):
        assert recognize(city, split).words[-2:] == ("--split", "train")
    for folder in ("train", "valid"):
        file = coco_instances(tmp_path / "coco" / folder, [{"bbox": [1, 1, 5, 5]}])
        file.rename(file.with_name("_annotations.coco.json"))
        voc.write(tmp_path / "voc" / folder, "a", voc.entry("x", 1, 1, 5, 5))
    for split, folder in (("train", "train"), ("val", "valid"), ("valid", "valid")):
        for name, part in (("coco", "_annotations.coco.json"), ("voc", "Annotations")):
            recognition = recognize(tmp_path / name, split)
            assert recognition.words[2] == str(tmp_path / name / folder / part)
            assert dry_run(recognition.source).ledger.images.kept == 1
    for split in ("test", "..", ".", "../voc/train", str(tmp_path / "voc"), "train/images"):
        with pytest.raises(InputError, match=r"; give one of them, or --split train") as error:
            recognize(tmp_path / "coco", split)
        assert f"no annotations in a folder {split!r}, but several" in str(error.value)
    for path in (tmp_path / "coco" / "valid", tmp_path / "voc"):
        with pytest.raises(InputError, match="no splits, but --split is 'test'; omit --split"):
            recognize(path, "test")


def test_auto_takes_the_masks_of_voc_where_it_has_no_boxes(tmp_path: Path) -> None:
    root = voc_masks.voc(tmp_path / "VOC2012", *voc_masks.maps())
    for _ in range(2):
        recognition = recognize(root)
        assert recognition.words == ("voc", "--root", str(root), "--split", "train")
        assert dry_run(recognition.source).ledger.images.kept == 1
        (root / "Annotations").mkdir(exist_ok=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000001\n")
    with pytest.raises(InputError, match="give --split, one of train, val"):
        recognize(root)
    voc.write(root, "2007_000001", voc.entry("x", 1, 1, 5, 5))
    assert recognize(root).words[0] == "voc-boxes"


def test_auto_takes_a_coco_file_by_its_annotations_not_by_the_folder_beside_it(
    tmp_path: Path,
) -> None:
    instances = coco_instances(tmp_path / "flat", [{"bbox": [1, 1, 5, 5]}])
    instances.rename(tmp_path / "flat" / "train.json")
    (tmp_path / "flat" / "images").rename(tmp_path / "flat" / "train")  # the images, not masks
    recognition = recognize(tmp_path / "flat" / "train.json")
    assert recognition.words[:2] == ("coco", "--instances")
    assert recognition.source.images == tmp_path / "flat" / "train"
    assert dry_run(recognition.source).ledger.images.kept == 1
    coco_panoptic(tmp_path / "pan")
    data = json.loads((tmp_path / "pan" / "panoptic.json").read_text())
    first = {"annotations": data.pop("annotations"), **data}
    write_json(tmp_path / "pan" / "panoptic.json", first)
    assert recognize(tmp_path / "pan" / "panoptic.json").words[:2] == ("coco", "--panoptic")
    (tmp_path / "pan" / "panoptic").rename(tmp_path / "pan" / "masks")
    with pytest.raises(InputError, match=r"no such folder of masks.*--panoptic-masks"):
        recognize(tmp_path / "pan" / "panoptic.json")
    write_json(tmp_path / "flat" / "train.json", {**data, "annotations": []})
    with pytest.raises(InputError, match="--instances"):
        recognize(tmp_path / "flat" / "train.json")


def test_auto_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        recognize(tmp_path / "none")
    with pytest.raises(InputError, match="no known format"):
        recognize(tmp_path)
    paths = files(tmp_path)
    for name in ("cvat", "labelstudio"):
        for image in (tmp_path / name).rglob("*.jpg"):
            image.unlink()
        with pytest.raises(InputError, match=f"segkit convert {name} .*--images FOLDER"):
            recognize(paths[name])
    with pytest.raises(InputError, match="omit --split"):
        recognize(paths["coco"], "train")
    (tmp_path / "yolo" / "data.yaml").write_text(
        "train: images/train\nval: images/other\nnames: [cat]\n"
    )
    with pytest.raises(InputError, match="give --split, one of train, val"):
        recognize(tmp_path / "yolo")
    assert recognize(tmp_path / "yolo", "train").words[-2:] == ("--split", "train")
    write_json(tmp_path / "coco" / "other.json", json.loads(paths["coco"].read_text()))
    with pytest.raises(InputError, match="has several annotation files"):
        recognize(tmp_path / "coco")


def test_auto_says_that_an_image_is_a_link_out_of_its_folder(tmp_path: Path) -> None:
    path = coco_instances(tmp_path / "set", [{"bbox": [1, 1, 5, 5]}])
    folder = (tmp_path / "set" / "images").rename(tmp_path / "photos")
    (tmp_path / "set" / "images").mkdir()
    for image in folder.iterdir():
        (tmp_path / "set" / "images" / image.name).symlink_to(image)
        message = f"{image.name} is a link to {image}; .* --images FOLDER"
    with pytest.raises(InputError, match=message):
        recognize(path)
    source = open_coco_instances(path, tmp_path / "set" / "images")
    (defect,) = dry_run(source).defects
    assert defect.code == "unsafe-path" and "a link to" in defect.message
    assert "in place of the link" in str(defect.error())
    assert not dry_run(open_coco_instances(path, folder)).defects


@pytest.mark.parametrize("name", ["I0.JPG", "Images/I0.jpg"])
def test_names_that_differ_in_case_are_named(tmp_path: Path, name: str) -> None:
    path = coco_instances(tmp_path / "set", [{"bbox": [1, 1, 5, 5]}])
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    data["images"].append({**data["images"][0], "id": 1})
    write_json(path, data)
    root = path.parent / "images" if "/" not in name else path.parent
    file = path.parent / "images" / "i0.jpg"
    with pytest.raises(InputError, match=f"but {file}, which differs in case; rename"):
        recognize(path)
    source = open_coco_instances(path, root)
    options = ("--instances", path, "--images", root, "--out", tmp_path / "out")
    result = CliRunner().invoke(app, ["convert", "coco", *map(str, options)])
    assert str(result.exception).count("rename the file") == 1
    file.rename(root / "a.jpg")
    assert dry_run(source).defects[0].hint is None


def test_sources_and_records_reach_worker_processes(tmp_path: Path) -> None:
    for path in files(tmp_path).values():
        source = recognize(
            path if path.suffix != ".xml" or "cvat" in str(path) else path.parents[1]
        )
        for record in source.source.records(Tally()):
            copy, again = pickle.loads(pickle.dumps((source.source, record)))
            names = source.source.load(record).class_names
            assert copy.load(again).class_names == names != []
