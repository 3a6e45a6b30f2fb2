import json
import random
from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import ImageRef, Sample, Segment
from segkit.shards.check_manifest import check_digest, is_protected
from segkit.shards.consistency import check_sample
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.shard import write_shard
from segkit.shards.validate import validate
from segkit.shards.writer import finish, write_layer, write_set
from tests.shards.conftest import TAXONOMY, picture, toy_records, toy_sample
from tests.shards.manifests import change_manifest, leaves, other_values, unprotect, with_leaf


def codes(version):
    return {violation.code for violation in validate(version)}


def test_a_new_set_and_its_layer_are_valid(make_set, tmp_path):
    shards = make_set()
    assert list(validate(shards.path)) == []
    layer = write_layer(tmp_path / "layer", shards, shards.samples(), Header.from_set(shards, "t"))
    assert list(validate(layer.path)) == []


@pytest.mark.parametrize("seed", range(12))
def test_any_changed_byte_of_any_file_is_found(make_set, seed):
    shards = make_set(count=3)
    files = sorted(path for path in shards.path.iterdir() if path.name != "manifest.json")
    rng = random.Random(seed)
    path = files[seed % len(files)]
    data = bytearray(path.read_bytes())
    position = rng.randrange(len(data))
    data[position] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    violations = [item for item in validate(shards.path) if item.code == "checksum"]
    assert [item.where for item in violations] == [path.name]


def test_truncated_missing_and_foreign_files_are_found(make_set):
    shards = make_set(count=6)
    tars = sorted(shards.path.glob("*.tar"))
    tars[0].write_bytes(tars[0].read_bytes()[:3000])
    tars[1].unlink()
    labels = sorted(shards.path.glob("*.parquet"))[2]
    labels.write_bytes(labels.read_bytes()[:-10])
    (shards.path / "labels-99999.parquet").write_bytes(b"")
    violations = [(item.code, item.where.split(":")[0]) for item in validate(shards.path)]
    assert ("checksum", tars[0].name) in violations
    assert ("missing-file", tars[1].name) in violations
    assert ("checksum", labels.name) in violations
    assert ("labels-unreadable", labels.name) in violations
    assert ("unlisted-file", "labels-99999.parquet") in violations
    # one truncated image, and two in the missing tar
    assert sum(code == "image-bytes" for code, _ in violations) == 3


def test_a_changed_manifest_is_found_even_with_a_digest_that_fits(make_set):
    shards = make_set()
    taxonomy = json.loads(shards.manifest.model_dump_json())["taxonomy"]
    taxonomy["categories"][0]["name"] = "dog"
    change_manifest(shards.path, taxonomy=taxonomy)
    assert codes(shards.path) == {"digest", "statistics"}
    change_manifest(shards.path, ledger={"annotations": {"input": 2, "kept": 1}})
    assert "ledger" in codes(shards.path)
    change_manifest(shards.path, kind="video")
    assert codes(shards.path) == {"manifest"}


@pytest.mark.parametrize("which", ["set", "layer"])
def test_any_changed_leaf_of_a_manifest_is_found(make_set, tmp_path, which):
    """Also where the changed manifest cannot be a manifest any more."""
    count = Count(input=3, kept=2, dropped={"empty-mask": 1}, warnings={"no-mask": 1})
    ledger = Ledger(annotations=count, images=Count(input=2, kept=2), per_class={"cat": count})
    header = Header(
        taxonomy=TAXONOMY,
        kind="panoptic",
        name="toy",
        split="train",
        command="convert",
        arguments={"images": "photos", "limit": None, "shard_size": 1.5, "skip": True},
        source_header={"info": {"year": 2017}, "categories": [{"id": 3, "name": "cat"}]},
    )
    shards = write_set(tmp_path / "set", toy_records(2), header, ledger=ledger)
    if which == "layer":
        header = Header.from_set(shards, "test")
        shards = write_layer(tmp_path / "layer", shards, shards.samples(), header)
    file = shards.path / "manifest.json"
    content = json.loads(file.read_text())
    places = 0
    for place, value in leaves(content):
        for changed in other_values(value):
            file.write_text(json.dumps(with_leaf(content, place, changed)))
            found = {violation.code for violation in check_digest(shards.path)}
            assert found == {"manifest-digest"}, (place, changed)
            with pytest.raises(InputError, match="manifest"):
                ShardSet.open(shards.path)
            places += 1
    assert places > 100
    file.write_text(json.dumps(content))
    assert codes(shards.path) == ({"ledger"} if which == "set" else set())


@pytest.mark.parametrize("seed", range(5))
def test_any_flipped_bit_of_a_manifest_is_found(make_set, seed):
    shards = make_set(count=2)
    file, rng = shards.path / "manifest.json", random.Random(seed)
    intact = file.read_bytes()
    for _ in range(100):
        data = bytearray(intact)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        with pytest.raises(InputError) as error:
            ShardSet.open(shards.path)
        assert "\n" not in str(error.value)
        assert codes(shards.path) & {"manifest", "manifest-digest"}


def test_a_set_of_an_earlier_segkit_is_valid_and_unprotected(make_set):
    shards = make_set()
    assert is_protected(shards.path)
    unprotect(shards.path)
    assert ShardSet.open(shards.path).manifest.manifest_digest is None
    assert list(validate(shards.path)) == [] and not is_protected(shards.path)


UNFIT = {
    "images_by": ("reference", "images-by"),
    "digest": ("0" * 64, "digest"),
    "statistics": ({"images": 5}, "statistics"),
    "ledger": ({"images": {"input": 6, "kept": 6}}, "ledger"),
}


@pytest.mark.parametrize("field", UNFIT)
def test_what_a_manifest_states_is_computed_anew(make_set, field):
    value, code = UNFIT[field]
    shards = make_set()
    change_manifest(shards.path, **{field: value})
    assert codes(shards.path) == {code}


@pytest.mark.parametrize(
    "ledger",
    [
        {"images": {"input": 6, "kept": 5}},
        {"images": {"input": 4, "kept": 4}},
        {"annotations": {"input": 14, "kept": 14}},
        {"annotations": {"input": 15, "kept": 15}, "per_class": {"cat": {"input": 14, "kept": 14}}},
    ],
)
def test_ledgers_that_do_not_add_up_are_found(make_set, ledger):
    """The toy set has 5 images and 15 segments."""
    shards = make_set()
    change_manifest(shards.path, ledger=ledger)
    assert codes(shards.path) == {"ledger"}


@pytest.mark.parametrize(
    "change", [{"kind": "Thing"}, {"name": " "}, {"id": "3"}, {"text": ["kitty", 4], "id": 3.0}]
)
def test_categories_of_other_types_are_found(make_set, change):
    shards = make_set()
    content = json.loads((shards.path / "manifest.json").read_text())
    rows = content["taxonomy"]["categories"]
    rows[0] = rows[0] | change
    change_manifest(shards.path, taxonomy=content["taxonomy"])
    assert codes(shards.path) == {"manifest"}


def test_categories_that_are_not_in_the_order_of_their_ids_are_found(make_set):
    shards = make_set()
    content = json.loads((shards.path / "manifest.json").read_text())
    content["taxonomy"]["categories"].reverse()
    change_manifest(shards.path, taxonomy=content["taxonomy"])
    assert codes(shards.path) == {"digest", "taxonomy"}


def test_images_bytes_are_those_of_the_tar(make_set):
    shards = make_set()
    parts = json.loads(shards.manifest.model_dump_json())["parts"]
    parts[0]["images_bytes"] += 1
    change_manifest(shards.path, parts=parts)
    assert codes(shards.path) == {"digest", "file-size"}


def test_a_changed_parent_of_a_layer_is_found(make_set, tmp_path):
    shards = make_set()
    layer = write_layer(tmp_path / "layer", shards, shards.samples(), Header.from_set(shards, "t"))
    intact = (shards.path / "manifest.json").read_text()
    unprotect(shards.path)
    change_manifest(shards.path, kind="semantic")
    assert codes(layer.path) == {"parent"}
    (shards.path / "manifest.json").write_text("[]")
    assert "parent" in codes(layer.path)
    (shards.path / "manifest.json").write_text(intact)
    assert codes(layer.path) == set()
    tar = shards.path / "images-00000.tar"
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert codes(layer.path) == {"checksum", "image-checksum", "image-size"}


def test_a_damaged_parent_and_a_wrong_version_number_are_found(make_set, tmp_path):
    shards = make_set()
    layer = write_layer(tmp_path / "layer", shards, shards.samples(), Header.from_set(shards, "t"))
    parent = json.loads(layer.manifest.model_dump_json())["parents"][0]
    change_manifest(layer.path, parents=[parent | {"version": 2}])
    assert codes(layer.path) == {"parent"}
    change_manifest(layer.path, parents=[parent])
    assert codes(layer.path) == set()
    change_manifest(shards.path, reseal=False, name="other")
    assert codes(layer.path) == {"parent"}


def test_wrong_image_sizes_and_repeated_ids_are_found(tmp_path):
    records = [
        (toy_sample(1), picture(1)),
        (toy_sample(1), picture(1, height=25)),
        (toy_sample(2), b"no image"),
    ]
    options = {
        "taxonomy": TAXONOMY,
        "kind": "panoptic",
        "name": "x",
        "command": "t",
    }
    shards = write_set(tmp_path / "set", records, Header(**options))
    assert codes(shards.path) == {"duplicate-id", "image-size"}
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


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    "sample", [replace(toy_sample(1), source=DEEP), break_segment(source_polygon=DEEP)]
)
def test_lists_that_are_too_deep_are_no_json(sample):
    assert "source-json" in {item.code for item in check_sample(sample, TAXONOMY, "panoptic")}


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, -1.0, 5.0), (float("nan"), 0.0, 1.0, 1.0), (0.0, float("inf"), 1.0, 1.0)]
)
def test_boxes_with_invalid_numbers_are_found(box):
    sample = replace(toy_sample(1), segments=(Segment(3, "thing", box, None, 1.0),))
    assert [item.code for item in check_sample(sample, TAXONOMY, "boxes")] == ["box"]


def test_instances_may_overlap_and_keep_the_sources_area():
    sample = break_segment(area=CAT.area + 0.5, mask=CAT.mask)
    sample = replace(sample, segments=(*sample.segments, CAT))
    assert list(check_sample(sample, TAXONOMY, "instance")) == []


def test_a_polygon_must_draw_its_mask_unless_segments_hide_each_other():
    triangle, square = [[1, 1, 9, 1, 9, 9]], [[1, 1, 9, 1, 9, 9, 1, 9]]
    counts = rle.from_polygons(triangle, 24, 32)
    area = float(rle.area(counts, 24, 32))
    segment = Segment(3, "thing", (1.0, 1.0, 8.0, 8.0), counts, area, mask_from="human")
    for polygon, kind, expected in (
        (triangle, "instance", []),
        (square, "instance", ["polygon"]),
        (square, "panoptic", []),
    ):
        sample = Sample(
            "1", "a.jpg", 32, 24, (replace(segment, source_polygon=json.dumps(polygon)),)
        )
        assert [violation.code for violation in check_sample(sample, TAXONOMY, kind)] == expected


def test_a_changed_or_missing_quarantine_is_found(tmp_path):
    with staging(tmp_path / "set", {}, inputs=(), resume=False) as stage:
        write_shard(stage.path, 0, toy_records(2))
        (stage.path / "quarantine.jsonl").write_text('{"code": "empty-mask"}\n')
        header = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="test")
        names = ["quarantine.jsonl", "not-there.txt"]
        shards = finish(stage, 1, header, Ledger(), extra_files=names)
    assert list(shards.manifest.extra_files) == ["quarantine.jsonl"]
    assert codes(shards.path) == set()
    (shards.path / "quarantine.jsonl").write_text('{"code": "empty-mask!"}\n')
    assert codes(shards.path) == {"checksum"}
    (shards.path / "quarantine.jsonl").unlink()
    assert codes(shards.path) == {"missing-file"}


@pytest.mark.parametrize("origin", ["human", "derived", "pseudo", "prediction"])
def test_only_a_predicted_box_may_leave_its_mask(origin):
    sample = toy_sample(0)
    thing = next(segment for segment in sample.segments if segment.mask is not None)
    apart = replace(thing, box=(0.0, 0.0, 0.5, 0.5), mask_from=origin, source_polygon=None)
    area = float(rle.area(apart.mask, sample.height, sample.width))
    sample = replace(sample, segments=(replace(apart, area=area),))
    broken = [violation.code for violation in check_sample(sample, TAXONOMY, "instance")]
    assert broken == ([] if origin == "prediction" else ["box"])
