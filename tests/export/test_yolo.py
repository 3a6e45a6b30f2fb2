"""YOLO-seg polygons, read back as trainers do.

Fractions times the size are truncated to whole pixels and filled by cv2.fillPoly.
"""

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.yolo import export_yolo, mask_polygon
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.sources.data_yaml import read_data_yaml
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import TAXONOMY, picture

from .test_round_trips import run

OPTIONS = {"taxonomy": TAXONOMY, "name": "toy", "split": "val", "command": "t", "arguments": {}}


def filled(points, shape):
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.asarray(points, np.int32)], 1)
    return canvas > 0


def read(path, width, height):
    rows = [line.split() for line in path.read_text().splitlines()]
    return [
        (int(row[0]), np.array(row[1:], float).reshape(-1, 2) * (width, height)) for row in rows
    ]


def ring():
    mask = np.zeros((24, 32), bool)
    mask[3:20, 4:25], mask[6:9, 8:12], mask[12:15, 6:22] = True, False, False
    return mask


@pytest.mark.parametrize(
    "pixels", [[(5, 7)], [(5, 7), (5, 8)], [(0, 0), (1, 1), (2, 2), (3, 2)], [(23, 31)]]
)
def test_small_and_thin_masks_come_back_exactly(pixels):
    mask = np.zeros((24, 32), bool)
    mask[tuple(zip(*pixels, strict=True))] = True
    points, parts, holes = mask_polygon(mask)
    assert len(points) >= 3 and (parts, holes) == (1, 0)
    assert np.array_equal(filled(points, mask.shape), mask)


def test_holes_come_back_exactly():
    points, parts, holes = mask_polygon(ring())
    assert (parts, holes) == (1, 2)
    assert np.array_equal(filled(points, (24, 32)), ring())


@pytest.mark.parametrize("seed", range(20))
def test_only_bridges_differ(seed):
    """Blobs of any shape lose no pixel, and the bridges add only thin lines."""
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.random((7, 9)), (72, 56), interpolation=cv2.INTER_CUBIC) > 0.6
    count, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    points, parts, _ = mask_polygon(mask)
    assert parts == count - 1
    drawn = filled(points, mask.shape)
    assert not (mask & ~drawn).any()
    if parts == 1:
        assert np.array_equal(drawn, mask)
    assert (drawn & ~mask).sum() <= (parts - 1) * sum(mask.shape)


@pytest.mark.parametrize("seed", range(20))
def test_a_part_with_many_holes_comes_back_exactly(seed):
    """Also where walls are a pixel thick, and a bridge ends within a straight edge."""
    rng = np.random.default_rng(seed)
    mask = np.ones((60, 80), bool)
    for x, y, length, thickness in rng.integers((0, 0, 1, 1), (70, 50, 30, 4), (25, 4)):
        height, width = (length, thickness) if rng.random() < 0.5 else (thickness, length)
        mask[y : y + height, x : x + width] = False
    mask &= rng.random(mask.shape) > (0.2 if seed % 2 else 0)
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    mask = labels == np.bincount(labels[mask]).argmax()
    points, parts, holes = mask_polygon(mask)
    background, _ = cv2.connectedComponents(
        np.pad(~mask, 1, constant_values=1).astype(np.uint8), connectivity=4
    )
    assert (parts, holes) == (1, background - 2) and holes > 2
    assert np.array_equal(filled(points, mask.shape), mask)


def test_bridges_between_parts_are_short():
    """Of a row of squares, each is joined to the next: the bridges cover nothing but the gaps."""
    mask = np.zeros((12, 402), bool)
    for x in range(0, 400, 10):
        mask[x % 7 % 3 : 10, x : x + 8] = True
    points, parts, _ = mask_polygon(mask)
    assert parts == 40
    extra = filled(points, mask.shape) & ~mask
    assert extra.sum() == 39 * 2


@pytest.mark.parametrize("kind", ["many holes", "long rings"])
def test_masks_of_any_size_take_seconds_and_little_memory(kind):
    """A sieve of 9,800 holes; two combs with outlines of 240,000 pixels each."""
    mask = np.zeros((1000, 1000), bool)
    if kind == "many holes":
        mask[1:-1, 1:-1] = True
        mask[5:-5:10, 5:-5:10] = False
    else:
        mask[10:490, ::4], mask[510:990, ::4] = True, True
        mask[10], mask[989] = True, True
    tracemalloc.start()
    start = time.perf_counter()
    points, parts, _ = mask_polygon(mask)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    drawn = filled(points, mask.shape)
    assert not (mask & ~drawn).any() and (drawn & ~mask).sum() <= (parts - 1) * 25
    assert seconds < 60 and peak < 400e6


def test_lines_files_and_what_is_left_out(tmp_path):
    two = np.zeros((24, 32), bool)
    two[1:5, 1:5], two[1:5, 9:12] = True, True
    masks = {"ring": ring(), "two": two}

    def thing(mask, **flags):
        box = (0.0, 0.0, 32.0, 24.0)
        return Segment(
            3, "thing", box, rle.encode(mask), float(mask.sum()), mask_from="human", **flags
        )

    bare = replace(thing(two), mask=None, mask_from=None)
    stuff = replace(thing(two), class_id=7, kind="stuff")
    segments = (
        thing(ring()),
        thing(two, is_crowd=True),
        thing(two),
        bare,
        thing(two, ignore=True),
        stuff,
    )
    samples = [Sample("1", "a/b.jpg", 32, 24, segments), Sample("2", "c.jpg", 32, 24)]
    data = write_set(
        tmp_path / "set",
        [(sample, picture(1)) for sample in samples],
        Header(kind="instance", **OPTIONS),
    )
    report = export_yolo(
        [ShardSet.open(tmp_path / "set")], tmp_path / "out", polygons=True, images=True
    )
    assert (report.images, report.annotations) == (2, 2)
    assert report.dropped == {"crowd": 1, "box-only": 1, "ignore": 1, "stuff": 1}
    assert report.altered == {"bridged-holes": 1, "bridged-parts": 1}
    out = tmp_path / "out"
    (first, hollow), (second, double) = read(out / "labels" / "val" / "a" / "b.txt", 32, 24)
    assert (first, second) == (0, 0)
    for points, name in ((hollow, "ring"), (double, "two")):
        for truncated in (np.floor(points), np.floor(points + 1e-4), np.floor(points - 1e-4)):
            assert (filled(truncated, (24, 32)) ^ masks[name]).sum() <= (4 if name == "two" else 0)
    assert (out / "labels" / "val" / "c.txt").read_text() == ""
    assert (out / "images" / "val" / "a" / "b.jpg").read_bytes() == picture(1)
    assert (
        out / "data.yaml"
    ).read_text() == 'train: images/val\nval: images/val\nnames:\n  0: "cat"\n'
    boxes = write_set(
        tmp_path / "boxes", [(samples[1], picture(1))], Header(kind="boxes", **OPTIONS)
    )
    with pytest.raises(InputError, match="kind boxes"):
        export_yolo([boxes], tmp_path / "none", polygons=True)
    assert data.manifest.kind == "instance"


def boxes_set(root, file_name, boxes, split=None):
    segments = tuple(Segment(3, "thing", box, None, box[2] * box[3]) for box in boxes)
    header = Header(kind="boxes", **{**OPTIONS, "split": split})
    return write_set(root, [(Sample("1", file_name, 32, 24, segments), picture(1))], header)


def test_boxes_are_cut_at_the_edge(tmp_path):
    """Ultralytics skips an image with a label whose fractions are not within 0-1."""
    boxes = [(1.0, 2.0, 8.0, 6.0), (-4.0, 2.0, 8.0, 30.0), (40.0, 2.0, 8.0, 6.0)]
    data = boxes_set(tmp_path / "set", "a.jpg", boxes, "val")
    report = export_yolo([data], tmp_path / "out")
    assert (report.annotations, report.altered, report.dropped) == (
        2,
        {"clipped": 1},
        {"outside": 1},
    )
    rows = np.loadtxt(tmp_path / "out" / "labels" / "val" / "a.txt")
    assert np.allclose(rows[:, 1:] * (32, 24, 32, 24), [(5, 5, 8, 6), (2, 13, 4, 22)])
    assert (rows[:, 1:] >= 0).all() and (rows[:, 1:] <= 1).all()


@pytest.mark.parametrize("name", ["a.jpg", "images/val2017/a.jpg", "x/images/y/images/a.b.jpg"])
def test_labels_are_where_ultralytics_looks_for_them(tmp_path, name):
    """Its rule: the last folder `images` of the path becomes `labels`, the extension .txt."""
    data = boxes_set(tmp_path / "set", name, [(1.0, 2.0, 8.0, 6.0)], "val")
    export_yolo([data], tmp_path / "out", images=True)
    (image,) = (tmp_path / "out").rglob("*.jpg")
    head, _, tail = image.as_posix().rpartition("/images/")
    assert Path(f"{head}/labels/{tail}").with_suffix(".txt").read_text().startswith("0 ")


@pytest.mark.parametrize("split", ["images", "Images", "labels", "val"])
@pytest.mark.parametrize("name", ["b.jpg", "labels/b.jpg", "images/labels/b.jpg"])
def test_a_set_of_any_name_is_read_back(tmp_path, split, name):
    data = boxes_set(tmp_path / "set", name, [(1.0, 2.0, 8.0, 6.0)], split)
    report = export_yolo([data], tmp_path / "out", images=True)
    assert all((tmp_path / "out" / file).exists() for file in report.files)
    (image,) = (tmp_path / "out").rglob("*.jpg")
    head, _, tail = image.as_posix().rpartition("/images/")
    assert Path(f"{head}/labels/{tail}").with_suffix(".txt").read_text().startswith("0 ")
    options = ("--data", tmp_path / "out" / "data.yaml", "--workers", 1, "--out", tmp_path / "back")
    assert run("convert", "yolo", *options)["ledger"]["kept"] == 1


def test_class_names_of_any_characters_are_read_back(tmp_path):
    names = ["del\x7fx", "esc\x1bx", "nel\x85x", "nl\nx", "no", "日本😀\x7f", "a: b # c"]
    taxonomy = Taxonomy("odd", tuple(Category(i, name, "thing") for i, name in enumerate(names)))
    header = Header(kind="boxes", **{**OPTIONS, "taxonomy": taxonomy})
    data = write_set(tmp_path / "set", [(Sample("1", "a.jpg", 32, 24), picture(1))], header)
    export_yolo([data], tmp_path / "out")
    description = read_data_yaml(tmp_path / "out" / "data.yaml")
    assert [category.name for category in description.categories] == names


def test_splits_of_data_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    box = [(1.0, 2.0, 8.0, 6.0)]
    splits = ["train2017", "valid", None, "training"]
    sets = [boxes_set(tmp_path / f"s{n}", "a.jpg", box, split) for n, split in enumerate(splits)]
    report = export_yolo(sets, tmp_path / "out", splits=[None, None, "test", None], images=True)
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data == {
        "train": ["images/train", "images/train-2"],
        "val": "images/val",
        "test": "images/test",
        "names": {0: "cat"},
    }
    assert (report.images, report.annotations) == (4, 4)
    for folder in ("train", "train-2", "val", "test"):
        assert (tmp_path / "out" / "images" / folder / "a.jpg").is_file()
        assert (tmp_path / "out" / "labels" / folder / "a.txt").is_file()
    with pytest.raises(InputError, match="has no split; give --data train="):
        export_yolo(sets[:3], tmp_path / "none")
    other = write_set(
        tmp_path / "other",
        [(Sample("1", "a.jpg", 32, 24), picture(1))],
        Header(
            kind="boxes", **{**OPTIONS, "taxonomy": Taxonomy("t", (Category(1, "x", "thing"),))}
        ),
    )
    with pytest.raises(InputError, match="has other classes than the first set"):
        export_yolo([sets[0], other], tmp_path / "none", splits=["train", "val"])
    assert not (tmp_path / "none").exists()
