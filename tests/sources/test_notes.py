"""Twin classes, sets in which nothing counts, and files that are passed over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.sources.cityscapes import open_cityscapes
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.notes import encoder_text, twins
from segkit.sources.semantic_masks import open_semantic
from segkit.taxonomy import Category, known_taxonomies, load_taxonomy

from .builders import (
    HEIGHT,
    WIDTH,
    coco_instances,
    coco_panoptic,
    dry_run,
    picture,
    samples,
    write_json,
)
from .test_cityscapes import CAR, frame
from .test_semantic_masks import semantic_set

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]
BOX = [2, 2, 10, 10]


def opened(
    root: Path, annotations: Sequence[dict[str, Any]], names: dict[int, str], **options: Any
):
    categories = [{"id": number, "name": name} for number, name in names.items()]
    path = coco_instances(root, annotations, categories=categories)
    return open_coco_instances(path, root / "images", **options)


def annotation(class_id: int, **fields: Any) -> dict[str, Any]:
    return {"category_id": class_id, "segmentation": SQUARE, "bbox": BOX, **fields}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Helmet", "helmet"),
        ("fish", "fish"),
        ("traffic_light", "Traffic  Light"),
        ("caf\u00e9", "cafe"),
        ("cafe\u0301", "caf\u00e9"),
        ("stra\u00dfe", "STRASSE"),
        ("T-shirt", "t shirt"),
        ("\uff21", "a"),
    ],
)
def test_names_that_the_encoder_reads_alike_are_twins(first: str, second: str) -> None:
    categories = [
        Category(0, first, "thing"),
        Category(5, "x", "thing"),
        Category(7, second, "thing"),
    ]
    assert [[c.id for c in group] for group in twins(categories)] == [[0, 7]]
    assert encoder_text(first) == encoder_text(second)


@pytest.mark.parametrize("name", known_taxonomies())
def test_known_vocabularies_have_no_twins(name: str) -> None:
    assert twins(load_taxonomy(name).categories) == []


def test_distinct_names_and_signs_are_not_twins() -> None:
    names = ("cat", "cats", "+", "-", "_", "c", "c++", "\u5212\u75d5", "\u88c2\u7eb9")
    assert twins([Category(i, name, "thing") for i, name in enumerate(names)]) == []


def test_a_used_and_an_unused_twin_are_named_with_the_remedy(tmp_path: Path) -> None:
    source = opened(tmp_path, [annotation(1)], {0: "fish", 1: "fish", 2: "boat"})
    (note,) = dry_run(source).notes
    assert "classes 0 'fish', 1 'fish' have one name" in note
    assert "0 without annotations: remove it" in note and "--drop-unused-twins" in note


def test_two_used_twins_are_named(tmp_path: Path) -> None:
    source = opened(tmp_path, [annotation(1), annotation(4)], {1: "Helmet", 4: "helmet"})
    (note,) = dry_run(source).notes
    assert "1 'Helmet', 4 'helmet'" in note and "names that differ" in note


def test_only_unused_twins_are_dropped(tmp_path: Path) -> None:
    names = {0: "fish", 1: "Fish", 2: "boat", 3: "crab", 4: "crab", 5: "eel", 6: "eel"}
    source = opened(
        tmp_path, [annotation(1), annotation(5), annotation(6)], names, drop_unused_twins=True
    )
    assert [c.id for c in source.taxonomy.categories] == [1, 2, 3, 4, 5, 6]
    report = dry_run(source)
    assert report.ledger.annotations.kept == 3 and report.offenders == 0
    assert len(report.notes) == 2  # crab and eel
    assert [s.class_id for sample in samples(source) for s in sample.segments] == [1, 5, 6]


def test_unused_twins_of_a_panoptic_file_are_dropped(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path)
    data["categories"].append({"id": 12, "name": "Blob", "isthing": 1})
    path = write_json(tmp_path / "panoptic.json", data)
    options = {"drop_unused_twins": True}
    source = open_coco_panoptic(path, tmp_path / "images", **options)
    assert [c.id for c in source.taxonomy.categories] == [0, 3, 7]
    assert not any("have one name" in note for note in dry_run(source).notes)


def test_sets_of_crowds_only_are_said_to_count_for_nothing(tmp_path: Path) -> None:
    crowds = [annotation(3, iscrowd=1), annotation(7, iscrowd=1, bbox=[0, 0, 1, 1])]
    names = {3: "a", 7: "b"}
    (note,) = dry_run(opened(tmp_path, crowds, names)).notes
    assert note.startswith("all annotations (2) are crowds") and "--crowds-as-objects" in note
    objects = opened(tmp_path, crowds, names, crowds_as_objects=True)
    assert dry_run(objects).notes == ()
    assert [s.is_crowd for sample in samples(objects) for s in sample.segments] == [False, False]
    assert objects.fingerprint() != opened(tmp_path, crowds, names).fingerprint()


def test_a_class_of_crowds_is_named_and_a_mixed_one_is_not(tmp_path: Path) -> None:
    mixed = [annotation(3, iscrowd=1), annotation(3, bbox=[0, 0, 1, 1]), annotation(7, ignore=1)]
    (note,) = dry_run(opened(tmp_path, mixed, {3: "a", 7: "b"})).notes
    assert note.startswith("all annotations of 'b' (1) are crowds or marked")


def test_options_of_coco_are_named_for_coco_only(tmp_path: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), CAR, np.uint8)
    frame(tmp_path, labels, labels.astype(np.uint16))
    (note,) = dry_run(open_cityscapes(tmp_path, "train", instances=True)).notes
    assert note.startswith("all annotations (1) are crowds") and "--" not in note


def test_panoptic_crowds_become_objects(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    arguments = (tmp_path / "panoptic.json", tmp_path / "images")
    crowds = [s.is_crowd for x in samples(open_coco_panoptic(*arguments)) for s in x.segments]
    assert any(crowds)
    source = open_coco_panoptic(*arguments, crowds_as_objects=True)
    assert not any(s.is_crowd for x in samples(source) for s in x.segments)


@pytest.mark.parametrize("masks", [False, True])
def test_boxes_that_look_like_corners_are_named(tmp_path: Path, masks: bool) -> None:
    random = np.random.default_rng(0)
    size = np.array([WIDTH, HEIGHT])
    corners = np.sort(random.integers(0, size + 1, (50, 2, 2)), axis=1).astype(float)
    corners = corners[(corners[:, 1] - corners[:, 0] >= 2).all(axis=1)]  # (N, 2, 2)
    extents = corners[:, 1] - corners[:, 0]
    whole = np.tile([0.0, 0, WIDTH, HEIGHT], (len(corners), 1))
    boxes = {
        "corners": corners.reshape(-1, 4),
        "exact": np.hstack([corners[:, 0], extents]),
        "slightly beyond": np.hstack([corners[:, 0] + 1, extents + 1]),
        "whole images": whole + random.uniform(-0.5, 0.5, whole.shape),
    }
    for name, values in boxes.items():
        annotations = [{"category_id": 3, "bbox": box} for box in values.tolist()]
        for entry, ((x0, y0), (x1, y1)) in zip(annotations, corners.tolist(), strict=True):
            entry["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]] if masks else []
        notes = dry_run(opened(tmp_path / name, annotations, {3: "a"})).notes
        assert ["x1, y1, x2, y2" in note for note in notes] == [True] * (name == "corners")


def test_a_set_without_annotations_is_said_to_be_one(tmp_path: Path) -> None:
    (note,) = dry_run(opened(tmp_path, [], {3: "a"})).notes
    assert note.startswith("no image has an annotation")


def test_other_files_are_counted_and_named_and_hidden_ones_are_not(tmp_path: Path) -> None:
    semantic_set(tmp_path, (255, 0, 1, 2), "sky\nroad\nold car\n")
    for name in ("a.heic", "b.HEIC", "sub/c.tga", "d.psd", "README"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "masks" / "m.npy").write_bytes(b"x")
    for name in ("images/._s0.jpg", "images/.hidden.png", "masks/._s0.png", "masks/.DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    picture(tmp_path / "images" / ".thumbnails" / "s0.jpg")
    report = dry_run(
        open_semantic(
            tmp_path / "images", tmp_path / "masks", tmp_path / "labels.txt", ignore=[255]
        )
    )
    assert report.offenders == 0
    assert report.ledger.images.warnings == {"passed-over": 6}
    assert report.ledger.images.input == report.ledger.images.kept
    (note,) = report.notes
    assert "(no extension) 1, .heic 2, .npy 1, .psd 1, .tga 1" in note
