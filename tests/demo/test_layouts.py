import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segkit.demo.layouts import NativeSets, write_native_sets
from segkit.demo.scenes import CLASSES, make_scene


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> NativeSets:
    return write_native_sets(tmp_path_factory.mktemp("native"), train=4, val=3, seed=7)


def test_panoptic_pngs_and_json_agree(sets: NativeSets) -> None:
    data = json.loads(sets.coco_panoptic("train").read_text())
    assert len(data["annotations"]) == 4
    for annotation in data["annotations"]:
        png = np.asarray(
            Image.open(sets.coco_panoptic("train").with_suffix("") / annotation["file_name"]),
            np.int64,
        )
        ids = png @ (1, 256, 256**2)
        scene = make_scene((7, 0, annotation["image_id"]))
        assert np.array_equal(ids, scene.ids)
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows)
            assert segment["category_id"] == scene.classes[segment["id"]].id
            x, y, width, height = segment["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


def test_the_semantic_map_holds_class_ids(sets: NativeSets) -> None:
    path = sets.ade / "annotations" / "validation" / "ADE_val_00100002.png"
    scene = make_scene((7, 1, 100_002))
    true = np.vectorize(lambda segment: scene.classes[segment].id)(scene.ids)
    assert np.array_equal(np.asarray(Image.open(path)), true)
    assert (sets.ade / "images" / "validation" / "ADE_val_00100002.jpg").is_file()
    table = sets.ade_classes.read_text().splitlines()
    assert [line.split(",")[-1] for line in table[1:]] == [entry.semantic for entry in CLASSES]


def test_hidden_masks_load_with_pycocotools_and_fit_the_boxes(sets: NativeSets) -> None:
    boxes = {
        a["id"]: a for a in json.loads(sets.objects365_boxes("val").read_text())["annotations"]
    }
    hidden = COCO(str(sets.objects365_masks))
    assert set(hidden.anns) == set(boxes)
    assert len(boxes) > 3
    for number, annotation in hidden.anns.items():
        mask = hidden.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        rows, columns = np.nonzero(mask)
        x, y, width, height = boxes[number]["bbox"]
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert tight == (x, y, x + width, y + height)
        assert boxes[number]["category_id"] == annotation["category_id"]
        assert "segmentation" not in boxes[number]


def test_images_are_the_scenes_and_no_two_are_alike(sets: NativeSets) -> None:
    files = sorted(path for path in sets.root.rglob("*.jpg"))
    assert len(files) == 3 * (4 + 3)
    assert len({path.read_bytes() for path in files}) == len(files)
    record = json.loads(sets.objects365_boxes("train").read_text())["images"][2]
    picture = np.asarray(Image.open(sets.objects365_images / record["file_name"]), np.float64)
    scene = make_scene((7, 2, record["id"]))
    assert np.abs(picture - scene.image).mean() < 6
    assert picture.shape == (record["height"], record["width"], 3)


def test_a_second_run_writes_the_same_bytes(sets: NativeSets, tmp_path: Path) -> None:
    again = write_native_sets(tmp_path, train=4, val=3, seed=7)
    for path in sets.root.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again.root / path.relative_to(sets.root)).read_bytes()
