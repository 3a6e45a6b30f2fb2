import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.ledger import Tally

from .builders import (
    HEIGHT,
    WIDTH,
    coco_panoptic,
    codes,
    dry_run,
    id_png,
    label_map,
    samples,
    write_json,
)


def opened(root: Path) -> Any:
    return open_coco_panoptic(root / "panoptic.json", root / "images")


def test_every_pixel_and_every_field(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path)
    for sample, annotation in zip(samples(opened(tmp_path)), data["annotations"], strict=True):
        rgb = np.asarray(Image.open(tmp_path / "panoptic" / annotation["file_name"]), int)
        ids = rgb @ [1, 256, 65536]
        assert len(sample.segments) == 3
        for segment, info in zip(sample.segments, annotation["segments_info"], strict=True):
            assert (rle.decode(segment.mask, HEIGHT, WIDTH) == (ids == info["id"])).all()
            assert (segment.class_id, segment.area) == (info["category_id"], info["area"])
            assert list(segment.box) == info["bbox"]
            assert segment.is_crowd == info["iscrowd"]
            assert segment.source_id == str(info["id"])
            assert segment.mask_from == "human"
        assert [s.kind for s in sample.segments] == ["thing", "stuff", "thing"]
        assert (rle.decode(sample.void, HEIGHT, WIDTH) == (ids == 0)).all()
    report = dry_run(opened(tmp_path))
    assert report.ledger.annotations.model_dump() == {
        "input": 9,
        "kept": 9,
        "dropped": {},
        "warnings": {},
    }


Change = Callable[[dict[str, Any], Path], Any]


def infos(data: dict[str, Any]) -> Any:
    return data["annotations"][0]["segments_info"]


DEFECTS: dict[str, tuple[Change, str]] = {
    "id without pixels": (lambda d, r: infos(d)[0].update(id=9), "empty-mask"),
    "void as a segment": (lambda d, r: infos(d).append({"id": 0, "category_id": 3}), "empty-mask"),
    "pixels without an entry": (lambda d, r: infos(d).pop(), "unlisted-segment"),
    "class not in the list": (lambda d, r: infos(d)[1].update(category_id=8), "unknown-category"),
    "the same id twice": (lambda d, r: infos(d).append(dict(infos(d)[0])), "duplicate-id"),
    "id as text": (lambda d, r: infos(d)[0].update(id="5"), "malformed-annotation"),
    "no annotation": (lambda d, r: d["annotations"].pop(0), "missing-mask"),
    "two annotations": (lambda d, r: d["annotations"].append(d["annotations"][0]), "duplicate-id"),
    "annotation of no image": (
        lambda d, r: d["annotations"][0].update(image_id=77),
        "unknown-image",
    ),
    "no PNG": (lambda d, r: (r / "panoptic/p0.png").unlink(), "missing-mask"),
    "truncated PNG": (
        lambda d, r: (r / "panoptic/p0.png").write_bytes(b"\x89PNG\r\n\x1a\n123"),
        "unreadable-mask",
    ),
    "PNG of another size": (
        lambda d, r: id_png(r / "panoptic/p0.png", label_map(0)[:-1]),
        "size-mismatch",
    ),
    "gray PNG": (
        lambda d, r: Image.new("L", (WIDTH, HEIGHT)).save(r / "panoptic/p0.png"),
        "unreadable-mask",
    ),
    "PNG elsewhere": (
        lambda d, r: d["annotations"][0].update(file_name="../panoptic/p0.png"),
        "unsafe-path",
    ),
    "no list of segments": (
        lambda d, r: d["annotations"][0].update(segments_info=None),
        "malformed-annotation",
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_json_and_png_are_checked_against_each_other(tmp_path: Path, case: str) -> None:
    data = coco_panoptic(tmp_path)
    change, code = DEFECTS[case]
    change(data, tmp_path)
    write_json(tmp_path / "panoptic.json", data)
    report = dry_run(opened(tmp_path))
    assert code in codes(report)
    assert report.ledger.annotations.kept >= 6
    for defect in report.defects:
        assert "\n" not in str(defect.error())


def test_wrong_areas_and_boxes_are_warnings_and_pixels_win(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path, 1)
    before = infos(data)[0].copy()
    infos(data)[0].update(area=1, bbox=[0, 0, 1, 1])
    write_json(tmp_path / "panoptic.json", data)
    segment = samples(opened(tmp_path))[0].segments[0]
    assert (segment.area, list(segment.box)) == (before["area"], before["bbox"])
    report = dry_run(opened(tmp_path))
    assert report.ledger.annotations.warnings == {"area-mismatch": 1, "box-mismatch": 1}


def test_a_segment_with_a_damaged_field_is_listed_all_the_same(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path, 1)
    infos(data)[0]["bbox"] = "left"
    infos(data)[1]["bbox"] = []
    write_json(tmp_path / "panoptic.json", data)
    report = dry_run(opened(tmp_path))
    assert codes(report) == {"malformed-annotation": 1}
    assert not report.ledger.annotations.warnings


def test_pixels_of_dropped_segments_become_void(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path, 1)
    infos(data)[0]["category_id"] = 99
    del infos(data)[2]
    write_json(tmp_path / "panoptic.json", data)
    (sample,) = samples(opened(tmp_path))
    assert [s.source_id for s in sample.segments] == ["300"]
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (label_map(0) != 300)).all()


def test_a_set_without_isthing_is_refused_unless_it_is_known(tmp_path: Path) -> None:
    data = coco_panoptic(tmp_path, 1)
    for category in data["categories"]:
        del category["isthing"]
    write_json(tmp_path / "panoptic.json", data)
    with pytest.raises(InputError, match="does not say whether it is a thing"):
        opened(tmp_path).taxonomy  # noqa: B018
    for category, name in zip(data["categories"], ["person", "tree-merged", "car"], strict=True):
        category["name"] = name
    write_json(tmp_path / "panoptic.json", data)
    assert [c.kind for c in opened(tmp_path).taxonomy.categories] == ["thing", "thing", "stuff"]


def test_a_missing_mask_folder_names_the_option(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 1)
    with pytest.raises(InputError, match="--panoptic-masks"):
        open_coco_panoptic(tmp_path / "panoptic.json", tmp_path / "images", tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_agree_with_a_count_id_by_id(real_data: Path, split: str) -> None:
    """The slow way: compare the id map with every id; areas and boxes are those of the JSON."""
    folder = real_data / "coco" / "annotations"
    source = open_coco_panoptic(
        folder / f"panoptic_{split}2017.json", real_data / "coco" / f"{split}2017"
    )
    data = json.loads(source.file.path.read_text())
    listed = {str(a["image_id"]): a for a in data["annotations"]}
    tally = Tally()
    for record in list(source.records(tally))[::4]:
        sample = source.sample(record, source.load(record).content, None, tally)
        annotation = listed[sample.id]
        ids = np.asarray(
            Image.open(folder / f"panoptic_{split}2017" / annotation["file_name"]), int
        ) @ [1, 256, 65536]
        assert len(sample.segments) == len(annotation["segments_info"])
        for segment, info in zip(sample.segments, annotation["segments_info"], strict=True):
            assert (rle.decode(segment.mask, *ids.shape) == (ids == info["id"])).all()
            assert segment.area == info["area"]
            assert list(segment.box) == info["bbox"]
    assert not tally.defects
    assert not tally.warnings
