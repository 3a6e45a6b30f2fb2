import json
import random
from dataclasses import replace

import numpy as np
import pytest

from segkit.masks import rle
from segkit.sample import ImageRef, Sample, Segment
from segkit.shards.consistency import check_sample
from segkit.shards.header import Header
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer, write_set
from tests.shards.conftest import TAXONOMY, picture, toy_sample


def codes(version):
    return {item.code for item in validate(version)}


def test_a_fresh_set_and_a_layer_over_it_are_clean(make_set, tmp_path):
    made = make_set()
    assert list(validate(made.path)) == []
    layer = write_layer(tmp_path / "layer", made, made.samples(), Header.from_set(made, "t"))
    assert list(validate(layer.path)) == []


@pytest.mark.parametrize("seed", range(12))
def test_any_changed_byte_of_any_file_is_found(make_set, seed):
    made = make_set(count=3)
    files = sorted(path for path in made.path.iterdir() if path.name != "manifest.json")
    rng = random.Random(seed)
    path = files[seed % len(files)]
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    found = [item for item in validate(made.path) if item.code == "checksum"]
    assert [item.where for item in found] == [path.name]


def test_truncated_missing_and_foreign_files_are_found(make_set):
    made = make_set(count=6)
    tars = sorted(made.path.glob("*.tar"))
    tars[0].write_bytes(tars[0].read_bytes()[:3000])
    tars[1].unlink()
    labels = sorted(made.path.glob("*.parquet"))[2]
    labels.write_bytes(labels.read_bytes()[:-10])
    (made.path / "labels-99999.parquet").write_bytes(b"")
    found = [(item.code, item.where.split(":")[0]) for item in validate(made.path)]
    assert ("checksum", tars[0].name) in found
    assert ("missing-file", tars[1].name) in found
    assert ("checksum", labels.name) in found
    assert ("labels-unreadable", labels.name) in found
    assert ("unlisted-file", "labels-99999.parquet") in found
    assert (
        sum(code == "image-bytes" for code, _ in found) == 3
    )  # one cut off, two in the tar that is gone


def change_manifest(made, **changes):
    path = made.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_changed_manifest_is_found(make_set):
    made = make_set()
    taxonomy = json.loads(made.manifest.model_dump_json())["taxonomy"]
    taxonomy["categories"][0]["name"] = "dog"
    change_manifest(made, taxonomy=taxonomy)
    assert codes(made.path) == {"digest", "statistics"}
    change_manifest(made, ledger={"annotations": {"input": 2, "kept": 1}})
    assert "ledger" in codes(made.path)
    change_manifest(made, kind="video")
    assert codes(made.path) == {"manifest"}


def test_a_layer_over_another_parent_is_found(make_set, tmp_path):
    made = make_set()
    layer = write_layer(tmp_path / "layer", made, made.samples(), Header.from_set(made, "t"))
    change_manifest(made, digest="0" * 64)
    assert codes(layer.path) == {"parent"}
    tar = made.path / "images-00000.tar"
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert codes(layer.path) == {"parent", "checksum", "image-checksum", "image-size"}


def test_images_of_another_size_and_ids_that_occur_twice_are_found(tmp_path):
    records = [
        (toy_sample(1), picture(1)),
        (toy_sample(1), picture(1, height=25)),
        (toy_sample(2), b"no image"),
    ]
    options = {
        "taxonomy": TAXONOMY,
        "kind": "panoptic",
        "name": "x",
        "split": None,
        "command": "t",
        "arguments": {},
    }
    made = write_set(tmp_path / "set", records, Header(**options))
    assert codes(made.path) == {"duplicate-id", "image-size"}
    bare = write_set(tmp_path / "bare", [(toy_sample(1), None)], Header(**options))
    assert codes(bare.path) == {"no-image"}
    elsewhere = replace(
        toy_sample(1), image=ImageRef(tar="../../set/v1/images-00000.tar", length=1)
    )
    foreign = write_set(tmp_path / "foreign", [(elsewhere, None)], Header(**options))
    assert codes(foreign.path) == {"unlisted-tar"}


def break_segment(**changes):
    sample = toy_sample(1)
    return replace(sample, segments=(replace(sample.segments[0], **changes), *sample.segments[1:]))


CAT = toy_sample(1).segments[0]
SQUARE = np.zeros((24, 32), bool)
SQUARE[6:9, 7:9] = True
BROKEN = {
    "unknown-class": break_segment(class_id=99),
    "kind": break_segment(kind="stuff"),
    "not-annotated": replace(toy_sample(1), annotated=(7,)),
    "score": break_segment(score=1.5),
    "mask-from": break_segment(mask_from=None),
    "source-json": break_segment(source_polygon="[1,"),
    "box": break_segment(box=(0.0, 0.0, 3.0, 3.0)),
    "area": break_segment(area=CAT.area + 1),
    "mask-invalid": break_segment(mask=rle.encode(np.ones((3, 3)))),
    "mask-empty": break_segment(mask=rle.encode(np.zeros((24, 32)))),
    "polygon": break_segment(source_polygon="[[1, 1, 9]]"),
    "overlap": break_segment(
        mask=rle.encode(np.ones((24, 32))), area=768, box=(0.0, 0.0, 32.0, 24.0)
    ),
    "void-overlap": replace(toy_sample(1), void=rle.encode(SQUARE)),
    "void-invalid": replace(toy_sample(1), void=b"0"),
    "image-size": replace(toy_sample(1), width=0),
}


@pytest.mark.parametrize("code", BROKEN)
def test_each_inconsistency_has_its_code(code):
    assert list(check_sample(toy_sample(1), TAXONOMY, "panoptic")) == []
    assert code in {item.code for item in check_sample(BROKEN[code], TAXONOMY, "panoptic")}


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, -1.0, 5.0), (float("nan"), 0.0, 1.0, 1.0), (0.0, float("inf"), 1.0, 1.0)]
)
def test_boxes_that_are_no_boxes(box):
    sample = replace(toy_sample(1), segments=(Segment(3, "thing", box, None, 1.0),))
    assert [item.code for item in check_sample(sample, TAXONOMY, "boxes")] == ["box"]


def test_instances_may_overlap_and_keep_the_sources_area():
    sample = break_segment(area=CAT.area + 0.5, mask=CAT.mask)
    sample = replace(sample, segments=(*sample.segments, CAT))
    assert list(check_sample(sample, TAXONOMY, "instance")) == []


def test_a_polygon_must_draw_its_mask_except_where_segments_hide_each_other():
    triangle, square = [[1, 1, 9, 1, 9, 9]], [[1, 1, 9, 1, 9, 9, 1, 9]]
    counts = rle.from_polygons(triangle, 24, 32)
    area = float(rle.area(counts, 24, 32))
    segment = Segment(3, "thing", (1.0, 1.0, 8.0, 8.0), counts, area, mask_from="human")
    for polygon, kind, wanted in (
        (triangle, "instance", []),
        (square, "instance", ["polygon"]),
        (square, "panoptic", []),
    ):
        sample = Sample(
            "1", "a.jpg", 32, 24, (replace(segment, source_polygon=json.dumps(polygon)),)
        )
        assert [violation.code for violation in check_sample(sample, TAXONOMY, kind)] == wanted
