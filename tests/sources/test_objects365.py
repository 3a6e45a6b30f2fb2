import json
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import layouts, open_objects365

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples, write_json

NAME = "images/v1/patch4/objects365_v1_00000001.jpg"


def real_names(real_data: Path) -> Any:
    return json.loads((real_data / "class_lists" / "objects365_v2_categories.json").read_text())


def objects365_set(
    root: Path, categories: Any, stored: str = "patch4/objects365_v1_00000001.jpg"
) -> Path:
    picture(root / "images" / stored)
    data = {
        "images": [
            {"id": 1, "file_name": NAME, "width": WIDTH, "height": HEIGHT, "license": 5, "url": ""}
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 2, 3, 4],
                "area": 12,
                "iscrowd": 0,
                "isfake": 0,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 2,
                "bbox": [1.5, 2, 30, 40],
                "area": 1200,
                "iscrowd": 1,
            },
        ],
        "categories": categories,
    }
    return write_json(root / "annotations.json", data)


@pytest.mark.parametrize(
    "stored",
    [
        NAME,
        "v1/patch4/objects365_v1_00000001.jpg",
        "patch4/objects365_v1_00000001.jpg",
        "train/patch4/objects365_v1_00000001.jpg",
        "val/patch4/objects365_v1_00000001.jpg",
        "val/objects365_v1_00000001.jpg",
        "objects365_v1_00000001.jpg",
    ],
)
def test_images_are_found_in_every_layout(tmp_path: Path, stored: str) -> None:
    path = objects365_set(tmp_path, [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}], stored)
    report = dry_run(open_objects365(path, tmp_path / "images"))
    assert report.ledger.images.kept == 1
    assert report.ledger.annotations.warnings == {"box-beyond-image": 1}


def test_a_missing_image_names_every_place_that_was_tried(tmp_path: Path) -> None:
    path = objects365_set(
        tmp_path, [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}], "elsewhere/a.jpg"
    )
    report = dry_run(open_objects365(path, tmp_path / "images"))
    assert report.ledger.images.dropped == {"missing-image": 1}
    assert report.ledger.annotations.dropped == {"missing-image": 2}
    assert all(name in report.defects[0].message for name in layouts(NAME))


def test_samples_are_boxes_that_are_exhaustive_for_the_whole_list(tmp_path: Path) -> None:
    path = objects365_set(tmp_path, [{"id": 2, "name": "bar"}, {"id": 1, "name": "disc"}])
    source = open_objects365(path, tmp_path / "images")
    (sample,) = samples(source)
    assert source.kind == "boxes"
    assert [c.id for c in source.taxonomy.categories] == [1, 2]
    assert (sample.exhaustive, sample.annotated, sample.file_name, sample.id) == (
        True,
        None,
        NAME,
        "1",
    )
    assert [(s.box, s.mask, s.is_crowd, s.area) for s in sample.segments] == [
        ((1, 2, 3, 4), None, False, 12),
        ((1.5, 2, 30, 40), None, True, 1200),
    ]


def test_the_official_list_in_any_order_keeps_its_typos(tmp_path: Path, real_data: Path) -> None:
    names = real_names(real_data)
    source = open_objects365(objects365_set(tmp_path, names[::-1]), tmp_path / "images")
    assert source.taxonomy.name == "objects365-v2"
    for category, native in zip(source.taxonomy.categories, names, strict=True):
        assert category.id == native["id"]
        assert category.name == native["name"].strip()
        assert (category.source_name or category.name) == native["name"]


def test_the_list_of_version_1_is_refused(tmp_path: Path, real_data: Path) -> None:
    names = [c["name"] for c in real_names(real_data)]
    moved = [
        {"id": i + 1, "name": name.lower()} for i, name in enumerate([*names[40:], *names[:40]])
    ]
    with pytest.raises(InputError, match=r"annotations\.json.*the list of v1.*--boxes-only"):
        open_objects365(objects365_set(tmp_path, moved), tmp_path / "images")


def test_names_cannot_leave_the_image_folder(tmp_path: Path) -> None:
    path = objects365_set(tmp_path, [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}])
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = "images/../../secret.jpg"
    picture(tmp_path / "secret.jpg")
    report = dry_run(open_objects365(write_json(path, data), tmp_path / "images"))
    assert codes(report) == {"unsafe-path": 1} | {
        "unsafe-path": report.ledger.annotations.dropped["unsafe-path"]
    }
    assert report.ledger.images.dropped == {"unsafe-path": 1}


def test_the_standin_agrees_with_its_json(real_data: Path) -> None:
    path = real_data / "objects365_standin" / "annotations" / "zhiyuan_objv2_val.json"
    data = json.loads(path.read_text())
    segments = {
        s.source_id: (sample.id, s)
        for sample in samples(open_objects365(path, real_data / "coco"))
        for s in sample.segments
    }
    assert len(segments) == len(data["annotations"])
    for annotation in data["annotations"]:
        owner, segment = segments[str(annotation["id"])]
        assert owner == str(annotation["image_id"])
        assert list(segment.box) == annotation["bbox"]
        assert (segment.class_id, segment.is_crowd) == (
            annotation["category_id"],
            bool(annotation["iscrowd"]),
        )
        assert segment.mask is None


def test_images_that_no_archive_has_are_counted_and_do_not_fail(tmp_path: Path) -> None:
    path = objects365_set(tmp_path, [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}])
    data = json.loads(path.read_text())
    missing = {
        "id": 2,
        "file_name": "images/v2/patch16/objects365_v2_00908726.jpg",
        "width": WIDTH,
        "height": HEIGHT,
    }
    data["images"].append(missing)
    data["annotations"].append({"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]})
    source = open_objects365(write_json(path, data), tmp_path / "images")
    report = convert(source, tmp_path / "set", ConvertOptions(workers=1), arguments={})
    assert (report.offenders, report.ledger.images.dropped) == (0, {"known-missing-image": 1})
    assert report.ledger.annotations.dropped == {"known-missing-image": 1}
    (line,) = (report.published.path / "quarantine.jsonl").read_text().splitlines()
    assert "no archive" in json.loads(line)["message"]
    labels = dry_run(open_objects365(path, tmp_path / "images"), images_by="none")
    assert labels.ledger.images.kept == 2
