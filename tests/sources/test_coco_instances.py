import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_json import read_coco
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.yolo_labels import open_yolo

from .builders import HEIGHT, WIDTH, coco_instances, codes, dry_run, label_map, samples, write_json

SQUARE = [[2.0, 3.0, 9.5, 3.0, 9.5, 8.0, 2.0, 8.0]]
BOX = [2.0, 3.0, 7.5, 5.0]


def convert_one(root: Path, *annotations: dict[str, Any], **options: Any) -> Any:
    return samples(
        open_coco_instances(coco_instances(root, annotations), root / "images", **options)
    )[0].segments


def test_polygons_are_rasterized_as_pycocotools_does_and_kept_verbatim(tmp_path: Path) -> None:
    two = [[1.5, 1.5, 12.25, 3.0, 4.0, 18.75], [20, 2, 30, 2, 30, 20.5, 18, 19]]
    (segment,) = convert_one(
        tmp_path,
        {"segmentation": two, "bbox": [1.5, 1.5, 28.5, 19], "area": 12.5, "iscrowd": 0},
    )
    expected = coco.merge(coco.frPyObjects(two, HEIGHT, WIDTH))["counts"]
    assert segment.mask == expected
    assert json.loads(segment.source_polygon) == two
    assert (segment.box, segment.area, segment.mask_from, segment.source_id) == (
        (1.5, 1.5, 28.5, 19.0),
        12.5,
        "human",
        "1",
    )
    assert (segment.class_id, segment.kind, segment.is_crowd) == (3, "thing", False)


@given(
    st.lists(
        st.lists(st.floats(-40, 80), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0),
        max_size=3,
    )
)
@settings(max_examples=60)
def test_any_polygons_match_pycocotools_or_are_refused(
    tmp_path_factory: Any, polygons: list[list[float]]
) -> None:
    root = tmp_path_factory.mktemp("p")
    report = dry_run(
        open_coco_instances(
            coco_instances(root, [{"segmentation": polygons, "bbox": BOX}]), root / "images"
        )
    )
    area = (
        int(coco.area(coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH)))) if polygons else None
    )
    assert report.ledger.annotations.kept == (area != 0)
    assert codes(report) == ({"empty-mask": 1} if area == 0 else {})


@pytest.mark.parametrize("crowd", [0, 1])
def test_both_run_length_encodings_with_holes_are_unchanged(tmp_path: Path, crowd: int) -> None:
    mask = label_map(4) == 5
    mask[10:20, 10:20] = True
    mask[12:15, 12:15] = False
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    column, counts, value, run = mask.T.reshape(-1), [], False, 0
    for pixel in column:  # the definition, pixel by pixel
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    counts.append(run)
    size = [HEIGHT, WIDTH]
    segments = convert_one(
        tmp_path,
        {
            "segmentation": {"size": size, "counts": encoded["counts"].decode()},
            "bbox": BOX,
            "iscrowd": crowd,
        },
        {"segmentation": {"size": size, "counts": counts}, "bbox": BOX, "iscrowd": crowd},
    )
    for segment in segments:
        assert segment.mask == encoded["counts"]
        assert (rle.decode(segment.mask, HEIGHT, WIDTH) == mask).all()
        assert segment.is_crowd == bool(crowd)
        assert segment.source_polygon is None
        assert segment.area == mask.sum()


@pytest.mark.parametrize("nothing", [{}, *({"segmentation": s} for s in (None, [], [[], []]))])
def test_an_annotation_without_a_mask_is_a_box(tmp_path: Path, nothing: dict[str, Any]) -> None:
    root = tmp_path
    source = open_coco_instances(coco_instances(root, [{"bbox": BOX, **nothing}]), root / "images")
    (segment,) = samples(source)[0].segments
    assert segment.mask is None
    assert segment.mask_from is None
    assert segment.area == BOX[2] * BOX[3]
    assert source.kind == "boxes" and not dry_run(source).ledger.annotations.warnings
    mixed = [{"bbox": BOX, **nothing}, {"segmentation": [SQUARE[0]]}]
    source = open_coco_instances(coco_instances(root, mixed), root / "images")
    assert source.kind == "instance"
    assert dry_run(source).ledger.annotations.warnings == {"no-mask": 1}


@pytest.mark.parametrize("order", [("annotations", "images"), ("images", "annotations")])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_boxes_are_of_one_kind_from_coco_and_from_yolo(
    tmp_path: Path, order: tuple[str, str], workers: int
) -> None:
    coco_file = coco_instances(tmp_path, [{"bbox": BOX}, {"bbox": BOX, "image_id": 1}], images=2)
    content = json.loads(coco_file.read_text())
    write_json(coco_file, {key: content[key] for key in (*order, "categories")})
    (tmp_path / "labels").mkdir()
    x, y, width, height = BOX
    center = ((x + width / 2) / WIDTH, (y + height / 2) / HEIGHT)
    row = (3, *center, width / WIDTH, height / HEIGHT)
    for number in range(2):
        file = tmp_path / "labels" / f"i{number}.txt"
        file.write_text(" ".join(map(str, row)) + "\n")
    names = {index: f"class {index}" for index in range(8)}
    data = {"path": str(tmp_path), "train": "images", "names": names}
    sources = (
        open_coco_instances(coco_file, tmp_path / "images"),
        open_yolo(write_json(tmp_path / "data.yaml", data), None),
    )
    options = ConvertOptions(workers=workers, shard_bytes=1)
    for source in sources:
        report = convert(source, tmp_path / source.name, options)
        published = report.published
        assert published is not None and published.manifest.kind == "boxes"
        assert not report.ledger.annotations.warnings
        statistics = published.manifest.statistics
        assert (statistics.boxes_only, statistics.masked) == (2, 0)


def test_a_file_without_annotations_goes_with_masks_as_negative_images(tmp_path: Path) -> None:
    source = open_coco_instances(coco_instances(tmp_path, []), tmp_path / "images")
    assert source.kind == "instance"


def test_boxes_only_leaves_masks_out_and_needs_none(tmp_path: Path) -> None:
    masked = [{"segmentation": SQUARE, "bbox": BOX, "area": 3.0}, {"segmentation": SQUARE}]
    path = coco_instances(tmp_path, [*masked, {"bbox": BOX, "area": 3.0}])
    source = open_coco_instances(path, tmp_path / "images", boxes_only=True)
    assert source.kind == "boxes"
    segments = samples(source)[0].segments
    assert [(s.mask, s.area) for s in segments] == [(None, 3), (None, 40), (None, 3)]
    assert segments[0].box == tuple(BOX)
    merged = coco.merge(coco.frPyObjects(SQUARE, HEIGHT, WIDTH))
    assert segments[1].box == tuple(coco.toBbox(merged))
    warnings = {"exact-duplicate": 1, "area-mismatch": 1}  # only the last has no mask of that area
    assert dry_run(source).ledger.annotations.warnings == warnings


def test_ids_may_be_text_zero_or_missing(tmp_path: Path) -> None:
    data = json.loads(coco_instances(tmp_path, [{"bbox": BOX}]).read_text())
    data["images"][0]["id"] = "img-a"
    data["annotations"] = [
        {"id": "x", "image_id": "img-a", "category_id": 0, "bbox": BOX},
        {"image_id": "img-a", "category_id": "7", "bbox": [0, 0, 3, 3]},
        {"id": 0, "image_id": "img-a", "category_id": 3, "bbox": [0, 0, 4, 4]},
    ]
    source = open_coco_instances(
        write_json(tmp_path / "text.json", data), tmp_path / "images", boxes_only=True
    )
    (sample,) = samples(source)
    assert sample.id == "img-a"
    assert [(s.class_id, s.source_id) for s in sample.segments] == [(0, "x"), (7, None), (3, "0")]
    assert json.loads(sample.source) == data["images"][0]


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "twin"}, {"id": 2, "name": "twin"}]
    annotations = [
        {"category_id": 1, "bbox": BOX},
        {"category_id": 2, "bbox": BOX},
        {"category_id": 2, "bbox": SQUARE[0][:4]},
    ]
    source = open_coco_instances(
        coco_instances(tmp_path, annotations, categories=categories), tmp_path / "images"
    )
    ledger = dry_run(source).ledger
    assert {name: count.kept for name, count in ledger.per_class.items()} == {
        "twin [1]": 1,
        "twin [2]": 2,
    }


def test_lvis_lists_the_annotated_classes(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "aerosol_can", "synonyms": ["aerosol_can", "spray_can"]},
        {"id": 2, "name": "bow_(weapon)", "synonyms": ["bow_(weapon)"]},
        {"id": 3, "name": "cat", "synonyms": ["cat"]},
    ]
    data = json.loads(
        coco_instances(tmp_path, [{"category_id": 2, "bbox": BOX}], 2, categories).read_text()
    )
    for number, image in enumerate(data["images"]):
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
        image["neg_category_ids"] = [1, 77]
        image["not_exhaustive_category_ids"] = [2, 88] if number == 0 else []
    source = open_coco_instances(write_json(tmp_path / "lvis.json", data), tmp_path / "images")
    first, second = samples(source)
    assert (first.annotated, first.exhaustive, first.not_exhaustive) == ((1, 2), False, (2,))
    assert (second.annotated, second.exhaustive, second.not_exhaustive) == ((1,), True, ())
    assert first.file_name == "train2017/i0.jpg"
    assert source.taxonomy.by_id[1].words == ("aerosol can", "spray can")
    assert dry_run(source).ledger.images.kept == 2


def test_annotations_may_come_before_images_in_the_file(tmp_path: Path) -> None:
    path = coco_instances(tmp_path, [{"bbox": BOX}, {"bbox": BOX, "image_id": 1}], images=2)
    data = json.loads(path.read_text())
    expected = samples(open_coco_instances(path, tmp_path / "images"))
    turned = write_json(tmp_path / "turned.json", dict(reversed(data.items())))
    assert samples(open_coco_instances(turned, tmp_path / "images")) == expected
    assert len(expected[1].segments) == 1


DEFECTS: list[tuple[dict[str, Any], str]] = [
    ({"bbox": BOX, "category_id": 99}, "unknown-category"),
    ({"bbox": BOX, "category_id": None}, "unknown-category"),
    ({"bbox": BOX, "image_id": 5}, "unknown-image"),
    ({"bbox": BOX, "image_id": None}, "malformed-annotation"),
    ({"bbox": BOX, "segmentation": [[1, 2, 3, 4]]}, "degenerate-polygon"),
    ({"bbox": BOX, "segmentation": [[1, 2, 3, 4, 5], []]}, "degenerate-polygon"),
    ({"bbox": BOX, "segmentation": [SQUARE[0], [1, 2, 3, 4, 5, 6, 7]]}, "malformed-annotation"),
    ({"bbox": BOX, "segmentation": [[1e300] * 6]}, "malformed-annotation"),
    ({"bbox": BOX, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "malformed-annotation"),
    ({"bbox": BOX, "segmentation": [[5, 5, 5, 5, 5, 5]]}, "empty-mask"),
    ({"bbox": BOX, "segmentation": [["a", 2, 3, 4, 5, 6]]}, "malformed-annotation"),
    (
        {"bbox": BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}},
        "empty-mask",
    ),
    (
        {"bbox": BOX, "segmentation": {"size": [WIDTH, HEIGHT], "counts": [1, 2]}},
        "mask-size-mismatch",
    ),
    (
        {"bbox": BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [1, 2]}},
        "malformed-annotation",
    ),
    (
        {"bbox": BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, 2**70]}},
        "malformed-annotation",
    ),
    (
        {"bbox": BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "0Q~~~"}},
        "malformed-annotation",
    ),
    (
        {"bbox": BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "\u00e9"}},
        "malformed-annotation",
    ),
    ({"bbox": BOX, "segmentation": {}, "area": "big"}, "malformed-annotation"),
    ({"bbox": BOX, "segmentation": 7}, "malformed-annotation"),
    ({"bbox": [1, 2, 0, 5]}, "degenerate-box"),
    ({"bbox": [1, 2, 5, -1]}, "degenerate-box"),
    ({"bbox": None}, "degenerate-box"),
    ({"bbox": [1, 2, 3]}, "malformed-annotation"),
    ({"bbox": [1, 2, 3, 1e12]}, "malformed-annotation"),
    ({"bbox": "0 0 1 1"}, "malformed-annotation"),
    ({"bbox": BOX, "id": 1}, "duplicate-id"),
]


@pytest.mark.parametrize(("bad", "code"), DEFECTS)
def test_every_defect_has_its_code_and_the_rest_is_kept(
    tmp_path: Path, bad: dict[str, Any], code: str
) -> None:
    path = coco_instances(tmp_path, [{"segmentation": SQUARE, "bbox": BOX}, bad])
    report = dry_run(open_coco_instances(path, tmp_path / "images"))
    assert codes(report) == {code: 1}
    assert (report.ledger.annotations.input, report.ledger.annotations.kept) == (2, 1)
    (defect,) = report.defects
    assert defect.data["bbox"] == bad["bbox"]
    assert str(path) in str(defect.error())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"width": 31}, "size-mismatch"),
        ({"width": -1}, "bad-size"),
        ({"width": 10**7, "height": 10**7}, "bad-size"),
        ({"width": 2**80}, "bad-size"),
        ({"file_name": "gone.jpg"}, "missing-image"),
        ({"file_name": "../instances.json"}, "unsafe-path"),
        ({"file_name": None}, "malformed-image"),
        ({"id": 0}, "duplicate-id"),
    ],
)
def test_a_lost_image_loses_its_annotations_too(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    path = coco_instances(tmp_path, [{"bbox": BOX}, {"bbox": BOX, "image_id": 1}], images=2)
    data = json.loads(path.read_text())
    data["images"][1].update(change)
    report = dry_run(open_coco_instances(write_json(path, data), tmp_path / "images"))
    assert report.ledger.images.model_dump(exclude={"warnings"}) == {
        "input": 2,
        "kept": 1,
        "dropped": {code: 1},
    }
    assert (report.ledger.annotations.input, report.ledger.annotations.kept) == (2, 1)
    assert sum(report.ledger.annotations.dropped.values()) == 1


def test_an_image_without_size_takes_it_from_its_file(tmp_path: Path) -> None:
    path = coco_instances(tmp_path, [{"bbox": BOX}])
    data = json.loads(path.read_text())
    del data["images"][0]["width"], data["images"][0]["height"]
    write_json(path, data)
    assert dry_run(open_coco_instances(path, tmp_path / "images")).ledger.images.kept == 1
    assert codes(dry_run(open_coco_instances(path, tmp_path / "images"), images_by="none")) == {
        "bad-size": 1
    }


def test_oddities_that_lose_nothing_are_warnings(tmp_path: Path) -> None:
    path = coco_instances(
        tmp_path,
        [
            {"segmentation": SQUARE, "bbox": BOX},
            {"segmentation": SQUARE, "bbox": BOX},
            {"segmentation": SQUARE, "bbox": [-5, -5, 50, 50]},
        ],
        images=2,
    )
    report = dry_run(open_coco_instances(path, tmp_path / "images"))
    assert report.ledger.annotations.warnings == {"box-beyond-image": 1, "exact-duplicate": 1}
    assert report.ledger.images.warnings == {"unlabelled-image": 1}
    assert report.ledger.annotations.kept == 3
    assert not report.defects


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"images": []}',
        '{"images": 3, "annotations": [], "categories": []}',
        "\xff\xfe",
        "nul",
        "1e999",
    ],
)
def test_a_file_that_is_not_coco_is_reported_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"bad.json") as error:
        read_coco(path, "instances")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "category", [{"id": 1}, {"name": "a"}, {"id": "x", "name": "a"}, {"id": 1, "name": 2}, 7]
)
def test_bad_categories_are_named(tmp_path: Path, category: Any) -> None:
    path = coco_instances(tmp_path, [], categories=[{"id": 3, "name": "blob"}, category])
    with pytest.raises(InputError, match=r"instances.json: categories\[1\]"):
        read_coco(path, "instances")


@given(st.data())
@settings(max_examples=80)
def test_truncated_or_mangled_files_never_end_in_a_traceback(
    tmp_path_factory: Any, data: Any
) -> None:
    root = tmp_path_factory.mktemp("f")
    path = coco_instances(root, [{"segmentation": SQUARE, "bbox": BOX}, {"bbox": BOX}])
    text = path.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    path.write_bytes(
        text[:start]
        + data.draw(st.binary(max_size=3))
        + text[start + data.draw(st.integers(0, 9)) :]
    )
    try:
        report = dry_run(open_coco_instances(path, root / "images"))
    except InputError:
        return
    counted = report.ledger.annotations
    assert counted.input == counted.kept + sum(counted.dropped.values())
