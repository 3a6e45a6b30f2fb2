"""The annotated classes of an image: kept by COCO instances, counted by all other formats."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import picture, toy_sample
from tests.sources.builders import HEIGHT, WIDTH, write_json
from tests.sources.builders import picture as write_picture

from .test_round_trips import run

TAXONOMY = Taxonomy(
    "toy",
    (Category(1, "cat", "thing"), Category(2, "dog", "thing"), Category(5, "cow", "thing")),
)
CAT = Segment(1, "thing", (2.0, 3.0, 5.0, 4.0), None, 20.0)
LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def written(root: Path, fields: list[dict[str, Any]]) -> ShardSet:
    """A set with a cat in each image."""
    samples = [Sample(f"{n}", f"{n}.png", 32, 24, (CAT,), **f) for n, f in enumerate(fields)]
    header = Header(taxonomy=TAXONOMY, kind="boxes", name="toy", split="val", command="t")
    return write_set(root, [(s, picture(n)) for n, s in enumerate(samples)], header)


def back(root: Path) -> ShardSet:
    (file,) = (root / "out").glob("*.json")
    source = ("coco", "--images", root / "out" / "images", "--instances", file)
    run("convert", *source, "--workers", 1, "--out", root / "back")
    return ShardSet.open(root / "back")


def named(data: ShardSet) -> list[tuple[Any, bool, set[str]]]:
    """Names of the annotated classes, whether exhaustively, and of the not exhaustive ones."""
    names = {category.id: category.name for category in data.taxonomy.categories}
    return [
        (
            None if sample.annotated is None else {names[i] for i in sample.annotated},
            sample.exhaustive,
            {names[i] for i in sample.not_exhaustive},
        )
        for sample in data.samples()
    ]


def test_annotated_classes_come_back_from_coco(tmp_path: Path) -> None:
    fields: list[dict[str, Any]] = [
        {},
        {"annotated": (1,)},
        {"annotated": (5, 1)},
        {"annotated": (1, 2), "exhaustive": False, "not_exhaustive": (2,)},
        {"annotated": None, "exhaustive": False, "not_exhaustive": (1, 5)},
        {"annotated": (1, 2), "exhaustive": False},
    ]
    data = written(tmp_path / "set", fields)
    report = run(
        *("export", "coco-instances", "--data", data.path, "--out", tmp_path / "out", "--images")
    )
    assert report["images_altered"] == {}
    expected = named(data)
    expected[5] = (*expected[5][:2], {"cat", "dog"})  # any of them, as it is not known which
    assert named(back(tmp_path)) == expected
    rows = json.loads((tmp_path / "out" / "instances_val.json").read_text())["images"]
    assert [row.get(LISTS[0]) for row in rows] == [None, [], [5], [2], None, [2]]


def test_lists_of_lvis_follow_a_relabeling(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    lists = {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 5, 4], "area": 20}
    names = ("cat", "dog", "cow")
    categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    file = write_json(
        tmp_path / "lvis.json",
        {"images": [image | lists], "annotations": [annotation], "categories": categories},
    )
    source = ("coco", "--images", tmp_path / "images", "--instances", file)
    run("convert", *source, "--workers", 1, "--out", tmp_path / "set")
    taxonomy = {
        "name": "other",
        "categories": [
            {"id": n, "name": name, "kind": "thing"}
            for n, name in ((2, "cat"), (3, "dog"), (1, "cow"))
        ],
    }
    write_json(tmp_path / "taxonomy.json", taxonomy)
    (tmp_path / "map.csv").write_text("from,to\ncat,cat\ndog,dog\ncow,cow\n")
    options = ("--taxonomy", tmp_path / "taxonomy.json", "--map", tmp_path / "map.csv")
    run("relabel", tmp_path / "set", *options, "--out", tmp_path / "relabeled")
    options = ("--data", tmp_path / "relabeled", "--out", tmp_path / "out", "--images")
    run("export", "coco-instances", *options)
    assert named(back(tmp_path)) == [({"cat", "dog"}, False, {"cat"})]


@pytest.mark.parametrize(
    "form",
    ["yolo", "yolo-seg", "voc", "labelstudio", "cvat", "labelme", "coco-panoptic", "semantic"],
)
def test_other_formats_count_the_images(tmp_path: Path, form: str) -> None:
    fields = [
        {"annotated": None, "exhaustive": True},
        {"annotated": (3, 7), "exhaustive": True},
        {"annotated": None, "exhaustive": False},
    ]
    taxonomy = Taxonomy("toy", (Category(7, "sky", "stuff"), Category(3, "cat", "thing")))
    header = Header(taxonomy=taxonomy, kind="panoptic", name="toy", split="val", command="t")
    samples = [replace(toy_sample(n), **f) for n, f in enumerate(fields)]
    data = write_set(tmp_path / "set", [(s, picture(n)) for n, s in enumerate(samples)], header)
    report = run("export", form, "--data", data.path, "--out", tmp_path / "out", "--images")
    assert report["images_altered"].pop("annotated-classes") == 2
    # all three have void pixels, which only maps of all pixels mark
    assert report["images_altered"] == (
        {} if form in ("coco-panoptic", "semantic") else {"void": 3}
    )
    for file in (tmp_path / "out").glob("panoptic*.json"):
        assert LISTS[0] not in file.read_text()


def test_coco_instances_count_images_with_void_pixels(tmp_path: Path) -> None:
    taxonomy = Taxonomy("toy", (Category(7, "sky", "stuff"), Category(3, "cat", "thing")))
    header = Header(taxonomy=taxonomy, kind="panoptic", name="toy", split="val", command="t")
    empty = rle.encode(np.zeros((24, 32), bool))
    samples = [
        replace(toy_sample(n), **f) for n, f in enumerate(({}, {"void": None}, {"void": empty}))
    ]
    data = write_set(tmp_path / "set", [(s, picture(n)) for n, s in enumerate(samples)], header)
    report = run("export", "coco-instances", "--data", data.path, "--out", tmp_path / "out")
    assert report["images_altered"] == {"void": 1}
