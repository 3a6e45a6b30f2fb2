import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from segkit.errors import InputError, SegkitError
from segkit.export.coco import export_instances, export_panoptic
from segkit.export.semantic_png import export_semantic
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.writer import write_set
from tests.shards.conftest import TAXONOMY, picture, toy_sample

OPTIONS = {"taxonomy": TAXONOMY, "name": "toy", "split": "val", "command": "t", "arguments": {}}


def instances(folder, kind="instance"):
    """One image: a crowd with a hole, a polygon, a box without a mask, a pseudo-mask, and stuff."""
    ring = np.zeros((24, 32), bool)
    ring[2:12, 2:12], ring[5:7, 5:7] = True, False
    polygon = [[10.25, 3, 20, 3.125, 20, 15]]
    drawn = rle.from_polygons(polygon, 24, 32)
    crowd, square = rle.encode(ring), rle.encode(~ring)
    segments = (
        replace(
            Segment(3, "thing", (2.0, 2.0, 10.0, 10.0), crowd, 96.0, mask_from="human"),
            is_crowd=True,
            source_id="900",
        ),
        replace(
            Segment(3, "thing", (10.25, 3.0, 9.75, 12.0), drawn, 58.5, mask_from="human"),
            source_id="17",
            source_polygon="[[10.25, 3, 20, 3.125, 20, 15]]",
        ),
        Segment(3, "thing", (1.5, 1.0, 4.0, 4.0), None, 16.0),
        Segment(3, "thing", (0.0, 0.0, 32.0, 24.0), square, 672.0, mask_from="pseudo", score=0.5),
        Segment(7, "stuff", (0.0, 0.0, 32.0, 24.0), square, 672.0, mask_from="human"),
    )
    record = '{"id": 391895, "license": 3, "file_name": "a/b.jpg", "flickr_url": "http://x"}'
    sample = Sample("391895", "a/b.jpg", 32, 24, segments, source=record)
    header = {
        "info": {"year": 2017},
        "licenses": [{"id": 3}],
        "categories": [{"supercategory": "animal", "id": 3, "name": "cat"}],
    }
    return write_set(
        folder, [(sample, picture(1))], Header(kind=kind, source_header=header, **OPTIONS)
    ), sample


def test_instances_keep_polygons_ids_crowds_and_the_header(tmp_path):
    data, sample = instances(tmp_path / "set")
    report = export_instances(data, tmp_path / "out", images=True)
    assert (report.images, report.annotations, dict(report.dropped)) == (1, 4, {"stuff": 1})
    text = (tmp_path / "out" / "instances_val.json").read_text()
    assert '"segmentation":[[10.25, 3, 20, 3.125, 20, 15]]' in text
    native = json.loads(text)
    assert native["info"] == {"year": 2017} and native["licenses"] == [{"id": 3}]
    assert native["images"][0] == {**json.loads(sample.source), "width": 32, "height": 24}
    assert native["categories"] == [
        {"supercategory": "animal", "id": 3, "name": "cat", "isthing": 1},
        {"id": 7, "name": "sky", "isthing": 0},
    ]
    assert [row["id"] for row in native["annotations"]] == [900, 17, 901, 902]
    assert isinstance(native["annotations"][0]["segmentation"]["counts"], list)
    assert "segmentation" not in native["annotations"][2]
    assert native["annotations"][3]["score"] == 0.5
    coco = COCO(tmp_path / "out" / "instances_val.json")
    for row, segment in zip(native["annotations"], sample.segments[:4], strict=True):
        assert (row["area"], tuple(row["bbox"]), row["iscrowd"]) == (
            segment.area,
            segment.box,
            segment.is_crowd,
        )
        if segment.mask is not None:
            assert np.array_equal(coco.annToMask(row), rle.decode(segment.mask, 24, 32))
    assert (tmp_path / "out" / "images" / "a" / "b.jpg").read_bytes() == picture(1)


def test_images_without_numeric_ids_are_numbered(tmp_path):
    cases = {
        ("a", "b", "7"): [1, 2, 7],
        ("007", "7", "8"): [1, 7, 8],
        ("2", "a", "02", "1"): [2, 3, 4, 1],
        ("000012", "7", "008"): [12, 7, 8],
    }
    for number, (names, expected) in enumerate(cases.items()):
        samples = [
            replace(toy_sample(seed), id=name, source=None) for seed, name in enumerate(names)
        ]
        data = write_set(
            tmp_path / f"{number}",
            [(sample, None) for sample in samples],
            Header(kind="panoptic", **OPTIONS),
        )
        export_instances(data, tmp_path / f"out{number}")
        native = json.loads((tmp_path / f"out{number}" / "instances_val.json").read_text())
        assert [image["id"] for image in native["images"]] == expected
        assert {row["image_id"] for row in native["annotations"]} == set(expected)


def panoptic(folder, samples):
    return write_set(
        folder, [(sample, None) for sample in samples], Header(kind="panoptic", **OPTIONS)
    )


def read_ids(path):
    b, g, r = cv2.split(cv2.imread(str(path)).astype(np.int64))
    return r + 256 * g + 256**2 * b


def test_panoptic_pngs_hold_the_segments_and_void(tmp_path):
    sample = toy_sample(1)
    first, second, box = sample.segments
    sample = replace(
        sample,
        segments=(replace(first, source_id="16777215"), replace(second, source_id="oops"), box),
    )
    report = export_panoptic(panoptic(tmp_path / "set", [sample]), tmp_path / "out")
    assert (report.annotations, dict(report.dropped)) == (2, {"box-only": 1})
    native = json.loads((tmp_path / "out" / "panoptic_val.json").read_text())
    (row,) = native["annotations"]
    ids = read_ids(tmp_path / "out" / "panoptic_val" / row["file_name"])
    assert [info["id"] for info in row["segments_info"]] == [16777215, 1]
    for info, segment in zip(row["segments_info"], sample.segments, strict=False):
        assert rle.encode(ids == info["id"]) == segment.mask
        assert info["area"] == (ids == info["id"]).sum()
    assert rle.encode(ids == 0) == sample.void


def test_masks_that_share_pixels_do_not_fit_a_png(tmp_path):
    sample = toy_sample(1)
    data = panoptic(tmp_path / "set", [replace(sample, segments=sample.segments[:1] * 2)])
    for export in (export_panoptic, export_semantic):
        with pytest.raises(SegkitError, match="share pixels"):
            export(data, tmp_path / export.__name__)
        assert not (tmp_path / export.__name__).exists()


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg"])
def test_names_that_lead_out_of_the_export_are_refused(tmp_path, name):
    data = panoptic(tmp_path / "set", [replace(toy_sample(1), file_name=name)])
    with pytest.raises(InputError, match="leads out"):
        export_panoptic(data, tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "out").exists() and not list(tmp_path.rglob("evil*"))


def test_images_that_would_share_a_file_are_refused(tmp_path):
    samples = [replace(toy_sample(1), file_name="x.jpg"), replace(toy_sample(2), file_name="x.png")]
    with pytest.raises(InputError, match="both"):
        export_semantic(panoptic(tmp_path / "set", samples), tmp_path / "out")


def test_kinds_that_do_not_fit_and_used_directories_are_refused(tmp_path):
    data, _ = instances(tmp_path / "set")
    for export in (export_panoptic, export_semantic):
        with pytest.raises(InputError, match="kind instance"):
            export(data, tmp_path / "out")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export_instances(data, tmp_path / "used")
    assert (tmp_path / "used" / "file").read_text() == "mine"


def test_the_folders_that_datumaro_imports(tmp_path):
    """Its COCO importer wants annotations/instances_<split>.json and images/<split>/."""
    data, _ = instances(tmp_path / "set")
    report = export_instances(data, tmp_path / "out", images=True, datumaro=True)
    files = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert files == {"annotations/instances_val.json", "images/val/a/b.jpg"}
    assert report.files == ["annotations/instances_val.json", "images/val/"]
    export_panoptic(
        panoptic(tmp_path / "panoptic", [toy_sample(1)]), tmp_path / "png", datumaro=True
    )
    assert (tmp_path / "png/annotations/panoptic_val.json").is_file()
    assert list((tmp_path / "png/annotations/panoptic_val").rglob("*.png"))
