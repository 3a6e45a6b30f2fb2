"""Every export comes back with the class ids of the set, so that the two can be merged."""

import json
import shlex
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.shards.merge_sets import merge_taxonomies
from segkit.shards.reader import ShardSet
from segkit.sources.cvat_xml import open_cvat
from segkit.sources.recognize import recognize
from tests.sources.builders import coco_instances

from .test_round_trips import run

CLASSES = [{"id": 7, "name": "wheel"}, {"id": 3, "name": "widget"}, {"id": 12, "name": "bolt"}]
"""Neither in alphabetical order nor consecutive; the last one does not occur."""
FORMATS = ("coco-instances", "yolo", "yolo-seg", "voc", "cvat", "labelme", "labelstudio")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    annotations = [
        {
            "category_id": class_id,
            "image_id": image,
            "bbox": [2, 2, 10, 10],
            "area": 100,
            "segmentation": [square],
            "iscrowd": 0,
        }
        for image, class_id in ((0, 7), (1, 3))
    ]
    file = coco_instances(folder, annotations, 2, CLASSES)
    images = folder / "images"
    out = folder / "set"
    run("convert", "coco", "--images", images, "--instances", file, "--workers", 1, "--out", out)
    return out


@pytest.mark.parametrize(
    ("name", "images"),
    [
        *((name, True) for name in FORMATS),
        *((name, False) for name in FORMATS if not name.startswith(("coco", "yolo"))),
    ],
)
def test_an_export_comes_back_with_its_class_ids(
    things: Path, tmp_path: Path, name: str, images: bool
) -> None:
    out = tmp_path / "exported"
    run("export", name, "--data", things, "--out", out, *(["--images"] if images else []))
    if name == "labelstudio":  # as if a person had accepted them
        tasks = out / "tasks.json"
        tasks.write_text(tasks.read_text().replace('"predictions"', '"annotations"'))
    if not images:
        folder = "JPEGImages" if name == "voc" else "" if name == "labelme" else "images"
        (out / folder).mkdir(exist_ok=True)
        for file in (things.parent / "images").iterdir():
            (out / folder / file.name).write_bytes(file.read_bytes())
    recognition = recognize(out)
    original, back = ShardSet.open(things).taxonomy, recognition.source.taxonomy
    ids = {category.name: category.id for category in original.categories}
    if name.startswith("yolo"):  # its ids count from 0
        assert set(back.names) == set(ids)
        return
    assert {category.name: category.id for category in back.categories} == ids
    assert merge_taxonomies([original, back], "both").categories == original.categories
    if name == "voc":  # boxes, which are not merged with instances
        return
    words = shlex.split(recognition.command)[2:]
    run("convert", *words, "--workers", 1, "--out", tmp_path / "back")
    both = run("merge", things, tmp_path / "back", "--rename", "--out", tmp_path / "both")
    assert ShardSet.open(both["path"]).taxonomy.categories == original.categories
    counts = ShardSet.open(both["path"]).manifest.statistics.classes
    assert {key: value.segments for key, value in counts.items() if value.segments} == {
        "wheel": 2,
        "widget": 2,
    }


def test_a_dump_with_a_class_that_the_list_lacks(things: Path, tmp_path: Path) -> None:
    run("export", "cvat", "--data", things, "--out", tmp_path / "out")
    labels = tmp_path / "labels.txt"
    labels.write_text("5 wheel\n")
    dump = tmp_path / "out" / "annotations.xml"
    assert [c.id for c in open_cvat(dump, tmp_path, labels=labels).taxonomy.categories] == [5]
    images = things.parent / "images"
    report = run(
        "convert", "cvat", "--annotations", dump, "--images", images, "--labels", labels,
        "--on-error", "skip", "--workers", 1, "--out", tmp_path / "back",
    )  # fmt: skip
    assert report["ledger"]["dropped"] == {"unknown-category": 1}
    labels.write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"labels\.txt: is JSON, not a list of labels"):
        open_cvat(dump, tmp_path, labels=labels)


@pytest.mark.parametrize(
    "text", ["__ignore__\n_background_\nwheel\n", "notes\n3 apples: 4\n", "\0"]
)
def test_a_list_that_numbers_nothing_is_passed_over(
    things: Path, tmp_path: Path, text: str
) -> None:
    for name in ("labelme", "cvat"):
        run("export", name, "--data", things, "--out", tmp_path / name, "--images")
        (tmp_path / name / "labels.txt").write_text(text)
        recognition = recognize(tmp_path / name)
        assert "--labels" not in recognition.command
        assert {"wheel", "widget"} <= set(recognition.source.taxonomy.names)
        assert "__ignore__" not in recognition.source.taxonomy.names


def test_a_list_that_lacks_a_class_of_the_labels_is_passed_over(
    things: Path, tmp_path: Path
) -> None:
    """A person has added a class to what was exported."""
    for name in ("labelme", "cvat"):
        run("export", name, "--data", things, "--out", tmp_path / name, "--images")
        assert "--labels" in recognize(tmp_path / name).command
        for file in (*(tmp_path / name).glob("*.xml"), *(tmp_path / name).glob("*.json")):
            file.write_text(file.read_text().replace("widget", "emu"))
        recognition = recognize(tmp_path / name)
        assert "--labels" not in recognition.command
        assert {"wheel", "emu"} <= set(recognition.source.taxonomy.names)


def test_a_coco_file_takes_no_list(things: Path, tmp_path: Path) -> None:
    """It lists its own classes, and its command has no --labels."""
    run("export", "coco-instances", "--data", things, "--out", tmp_path / "out", "--images")
    (file,) = (tmp_path / "out").glob("*.json")
    run("export", "cvat", "--data", things, "--out", tmp_path / "cvat")
    (file.parent / "labels.txt").write_text((tmp_path / "cvat" / "labels.txt").read_text())
    assert "--labels" not in recognize(file).command
