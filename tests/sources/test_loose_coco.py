"""COCO files as real tools write them, and numbers that no tool writes."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco

from segkit.errors import InputError
from segkit.export.coco import export_instances
from segkit.shards.validate import validate
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from segkit.taxonomy import Category, Taxonomy

from .builders import (
    HEIGHT,
    WIDTH,
    coco_instances,
    coco_panoptic,
    codes,
    dry_run,
    picture,
    samples,
    write_json,
)

SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def opened(root: Path, change: Any = None, **annotation: Any) -> Any:
    path = coco_instances(root, [{"segmentation": [SQUARE], "bbox": [2, 2, 10, 10], **annotation}])
    data = json.loads(path.read_text())
    if change:
        change(data)
    path.write_text(json.dumps(data))
    return open_coco_instances(path, root / "images")


def test_a_flat_polygon_list_is_one_polygon(tmp_path: Path) -> None:
    ((flat,), (nested,)) = (
        samples(opened(tmp_path, segmentation=value))[0].segments for value in (SQUARE, [SQUARE])
    )
    assert flat.mask == nested.mask and flat.area == 100.0
    assert json.loads(flat.source_polygon) == [SQUARE]


@pytest.mark.parametrize("text", ["[ ]", "[\n  ]", "{ }", "{}", '""'])
def test_an_empty_segmentation_may_hold_blanks(tmp_path: Path, text: str) -> None:
    path = opened(tmp_path, segmentation="EMPTY").file.path
    path.write_text(path.read_text().replace('"EMPTY"', text))
    source = open_coco_instances(path, tmp_path / "images")
    (segment,) = samples(source)[0].segments
    assert source.kind == "boxes" and segment.mask is None and segment.box == (2, 2, 10, 10)


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
@pytest.mark.parametrize(
    ("key", "record"), [("bbox", "annotation 1 of image 0"), ("height", "images[0]")]
)
def test_a_number_that_json_lacks_is_named(
    tmp_path: Path, key: str, record: str, number: str
) -> None:
    path = opened(tmp_path, note="NaN").file.path
    pattern = rf'("{key}": \[?)\d+'
    path.write_text(re.sub(pattern, rf"\g<1>{number}", path.read_text(), count=1))
    report = dry_run(open_coco_instances(path, tmp_path / "images"))
    assert (report.defects[0].record, report.defects[0].message) == (
        record,
        f"{key}: {number} is not JSON",
    )


def test_an_empty_box_is_no_box(tmp_path: Path) -> None:
    ((empty,), (missing,)) = (
        samples(opened(tmp_path, bbox=value))[0].segments for value in ([], None)
    )
    assert empty == missing and empty.box == (2, 2, 10, 10)
    nothing = dry_run(opened(tmp_path, bbox=[], segmentation=[]))
    assert nothing.ledger.annotations.dropped == {"degenerate-box": 1}


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "instances.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert dry_run(open_coco_instances(path, tmp_path / "images")).ledger.annotations.kept == 1


@pytest.mark.parametrize("size", [(0, 0), (0, HEIGHT), (None, None)])
def test_a_missing_size_is_that_of_the_photo(tmp_path: Path, size: tuple[Any, Any]) -> None:
    source = opened(tmp_path, lambda d: d["images"][0].update(width=size[0], height=size[1]))
    report = dry_run(source)
    assert (report.ledger.images.kept, report.ledger.annotations.kept, report.offenders) == (
        1,
        1,
        0,
    )
    assert dry_run(source, images_by="none").ledger.images.dropped == {"bad-size": 1}


def test_whole_numbers_may_be_floats(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["images"][0].update(id=0.0, width=float(WIDTH), height=float(HEIGHT))
        data["images"][0].update(neg_category_ids=[3.0], not_exhaustive_category_ids=[3.0])
        data["annotations"][0].update(image_id=0.0, category_id=3.0, id=1.0, iscrowd=0.0)
        for category in data["categories"]:
            category.update(id=float(category["id"]), isthing=1.0)

    source = opened(tmp_path, change)
    report = dry_run(source)
    assert (report.ledger.annotations.kept, report.offenders) == (1, 0)
    assert isinstance(source.header["categories"][0]["id"], float), "verbatim"


def test_an_id_that_is_a_fraction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"categories\[0\]: invalid category"):
        opened(tmp_path, lambda d: d["categories"][0].update(id=1.5))


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("category_id", "unknown-category"),
        ("id", "malformed-annotation"),
        ("image_id", "malformed-annotation"),
    ],
)
def test_true_is_not_an_id(tmp_path: Path, key: str, code: str) -> None:
    """The class 1, the annotation 1 and the image "True" exist."""
    classes = [{"id": n, "name": f"c{n}", "supercategory": "x"} for n in (1, 3)]
    fields: dict[str, Any] = {"segmentation": [SQUARE], "bbox": [2, 2, 10, 10], "image_id": "True"}
    path = coco_instances(tmp_path, [fields, {**fields, key: True}], categories=classes)
    data = json.loads(path.read_text())
    data["images"][0]["id"] = "True"
    write_json(path, data)
    report = dry_run(open_coco_instances(path, tmp_path / "images"))
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)


def test_whole_numbers_of_panoptic_segments_may_be_floats(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path)
    expected = dry_run(open_coco_panoptic(tmp_path / "panoptic.json", tmp_path / "images"))
    for entry in (*data["categories"], *data["annotations"], *data["images"]):
        entry.update({key: float(entry[key]) for key in ("id", "image_id") if key in entry})
        for info in entry.get("segments_info", ()):
            info.update({key: float(info[key]) for key in ("id", "category_id", "iscrowd")})
    write_json(tmp_path / "panoptic.json", data)
    report = dry_run(open_coco_panoptic(tmp_path / "panoptic.json", tmp_path / "images"))
    assert report.ledger == expected.ledger and report.ledger.annotations.kept > 0


def test_a_name_with_backslashes_is_found_and_cannot_climb(tmp_path: Path) -> None:
    rename = "images\\i0.jpg", "..\\..\\images\\i0.jpg"
    good, bad = (
        dry_run(opened(tmp_path, lambda d, n=name: d["images"][0].update(file_name=n)))
        for name in rename
    )
    assert good.ledger.images.kept == 1
    assert bad.ledger.images.dropped == {"unsafe-path": 1}


def test_an_absolute_name_is_found_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "images"
    source = opened(tmp_path, lambda d: d["images"][0].update(file_name=f"{folder}/i0.jpg"))
    converted = convert(source, tmp_path / "set").published
    assert converted is not None
    (sample,) = converted.samples()
    assert sample.file_name == "images/i0.jpg"
    export_instances(converted, tmp_path / "exported", images=True)
    exported = json.loads((tmp_path / "exported" / "instances_set.json").read_text())
    assert exported["images"][0]["file_name"] == sample.file_name
    assert (tmp_path / "exported" / "images" / sample.file_name).is_file()
    picture(tmp_path / "images2" / "i0.jpg")
    for outside in (f"{tmp_path}/images2/i0.jpg", f"{folder}/../../images2/i0.jpg"):
        bad = opened(tmp_path, lambda d, n=outside: d["images"][0].update(file_name=n))
        assert dry_run(bad).ledger.images.dropped == {"unsafe-path": 1}


@pytest.mark.parametrize("field", ["id", "category_id", "image_id", "bbox", "area"])
def test_integers_of_any_length_end_in_one_line(tmp_path: Path, field: str) -> None:
    opened(tmp_path, lambda d: d["annotations"][0].update({field: "NUMBER"}))
    path = tmp_path / "instances.json"
    text = path.read_text()
    for digits in (25, 5000):
        path.write_text(text.replace('"NUMBER"', "9" * digits))
        try:
            report = dry_run(open_coco_instances(path, tmp_path / "images"))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert report.ledger.annotations.input == 1


@pytest.mark.parametrize("number", [2**31, -(2**40), 2**70])
def test_category_ids_beyond_32_bits_are_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(InputError, match=r"categories\[0\]: (invalid|holds an int)"):
        opened(tmp_path, lambda d: d["categories"][0].update(id=number))


def test_many_categories_take_linear_time() -> None:
    taxonomy = Taxonomy("many", tuple(Category(i, f"c{i // 2}", "thing") for i in range(40_000)))
    start = time.process_time()
    assert taxonomy.unique_names[5] == "c2 [5]"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("key", ["info", "licenses", "categories"])
@pytest.mark.parametrize("depth", [99, 300, 3000, 100_000])
def test_nesting_of_the_header_is_bounded(tmp_path: Path, key: str, depth: int) -> None:
    opened(tmp_path, lambda d: d.update({key: "NEST"}) if key != "categories" else None)
    path = tmp_path / "instances.json"
    nest = "[" * (depth - 5) + "]" * (depth - 5)
    text = path.read_text().replace('"NEST"', nest)
    if key == "categories":
        text = text.replace('"name": "blob"', f'"name": "blob", "x": {nest}')
    path.write_text(text)
    if depth < 100:
        assert dry_run(open_coco_instances(path, tmp_path / "images")).offenders == 0
        return
    with pytest.raises(InputError, match=r"instances\.json.*(nested|recursion)") as error:
        open_coco_instances(path, tmp_path / "images")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("short", [[1, 1, 2, 2], [5, 5], [], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_object_is_kept_without_its_polygons_of_fewer_than_three_points(
    tmp_path: Path, short: list[float], place: int
) -> None:
    rings: list[Any] = [[1.0, 1, 9, 1, 9, 9.25], [20, 2, 30, 2, 30, 12]]
    truth = coco.merge(coco.frPyObjects(rings, HEIGHT, WIDTH))
    damaged = [*rings[:place], short, *rings[place:]]
    path = coco_instances(tmp_path, [{"segmentation": damaged}, {"segmentation": rings}])
    source = open_coco_instances(path, tmp_path / "images")
    report = convert(source, tmp_path / "out", ConvertOptions(workers=1))
    assert report.published is not None and not list(validate(report.published.path))
    assert report.ledger.annotations.warnings == {"degenerate-part": 1, "exact-duplicate": 1}
    sample = report.published.sample(0)
    assert [segment.mask for segment in sample.segments] == [truth["counts"]] * 2
    for segment in sample.segments:
        assert json.loads(str(segment.source_polygon)) == rings
        assert "9.25" in str(segment.source_polygon) and "1.0, 1, 9" in str(segment.source_polygon)
    assert sample.exhaustive
