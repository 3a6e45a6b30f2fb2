from dataclasses import replace

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.coco import export_panoptic
from segkit.export.semantic_png import export_semantic
from segkit.masks import rle
from segkit.metrics.evaluate import evaluate
from segkit.metrics.predictions import open_predictions
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.relabel import relabel
from segkit.shards.writer import write_set
from segkit.sources.labels_file import read_labels
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import toy_sample
from tests.sources.builders import picture
from tests.sources.test_voc import BORDER, maps, voc

from .test_coco import OPTIONS, panoptic
from .test_round_trips import run


def test_a_panoptic_set_as_semantic_pngs(tmp_path):
    sample = toy_sample(1)
    export_semantic(panoptic(tmp_path / "set", [sample]), tmp_path / "out")
    indices = cv2.imread(str(tmp_path / "out/masks/some/folder/001.png"), cv2.IMREAD_UNCHANGED)
    expected = rle.paint(
        [(3, sample.segments[0].mask), (7, sample.segments[1].mask), (255, sample.void)], 24, 32
    )
    assert indices.dtype == np.uint8 and np.array_equal(indices, expected)
    assert (tmp_path / "out" / "labels.txt").read_text() == "3 cat\n7 sky\n"


@pytest.mark.parametrize("options", [(), ("--background",)])
def test_class_maps_of_voc_come_back(tmp_path, options):
    """Also a map without a border, and with an index that is no class."""
    classes, objects = maps()
    root = voc(tmp_path / "voc", classes, objects, "2007_000001\n2007_000002\n")
    plain = np.where(classes == BORDER, 0, classes)
    cv2.imwrite(str(root / "SegmentationClass" / "2007_000002.png"), plain)
    picture(root / "JPEGImages" / "2007_000002.jpg")
    source = ("voc", "--root", root, "--split", "train", *options, "--workers", 1)
    run("convert", *source, "--out", tmp_path / "set")
    report = run("export", "semantic", "--data", tmp_path / "set", "--out", tmp_path / "out")
    assert report["images_altered"] == {}
    masks = tmp_path / "out" / "masks"
    for name, expected in (("2007_000001", classes), ("2007_000002", plain)):
        indices = cv2.imread(str(masks / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(indices, expected)
    data = ShardSet.open(tmp_path / "set")
    assert evaluate(data, open_predictions(str(masks), data), "semantic").metrics["miou"] == 100


@pytest.mark.parametrize(
    ("header", "void", "plain", "altered"),
    [
        ({"ignore": [255], "background": 0}, 255, 0, 0),
        ({"ignore": [0], "background": 300}, 0, 300, 0),
        ({"ignore": [255]}, 255, 255, 1),
        ({"background": 7}, 255, 255, 1),  # a class
        ({"ignore": [9], "background": 9}, 9, 9, 1),
        ({"background": 2**16}, 255, 255, 1),
    ],
)
def test_pixels_without_a_label_are_void_only_where_they_must_be(
    tmp_path, header, void, plain, altered
):
    sample = toy_sample(1)
    cat = sample.segments[0]
    some = rle.encode(np.arange(24 * 32).reshape(24, 32) < 100)
    samples = [
        replace(sample, segments=(cat,), void=some, id="known", file_name="known.png"),
        replace(sample, segments=(cat,), void=None, id="unknown", file_name="unknown.png"),
    ]
    options = {**OPTIONS, "kind": "panoptic", "source_header": header}
    data = write_set(tmp_path / "set", [(s, None) for s in samples], Header(**options))
    report = export_semantic(data, tmp_path / "out")
    assert report.images_altered["unlabeled"] == altered
    mask = rle.decode(cat.mask, 24, 32)
    for name, rest in (
        ("known", np.where(rle.decode(some, 24, 32), void, plain)),
        ("unknown", void),
    ):
        indices = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(indices, np.where(mask, 3, rest))
    assert export_panoptic(data, tmp_path / "panoptic").images_altered["unlabeled"] == 1


def test_large_and_clashing_indices(tmp_path):
    taxonomy = Taxonomy(
        "wide",
        (Category(0, "zero", "stuff"), Category(255, "last", "stuff"), Category(400, "x", "stuff")),
    )
    mask = rle.encode(np.tri(4, 5))
    segment = Segment(400, "stuff", (0.0, 0.0, 5.0, 4.0), mask, 10.0, mask_from="human")
    options = {**OPTIONS, "taxonomy": taxonomy, "kind": "semantic"}
    data = write_set(
        tmp_path / "set", [(Sample("s", "s.jpg", 5, 4, (segment,)), None)], Header(**options)
    )
    with pytest.raises(InputError, match="also class last"):
        export_semantic(data, tmp_path / "clash")
    export_semantic(data, tmp_path / "out", void=65535)
    indices = cv2.imread(str(tmp_path / "out" / "masks" / "s.png"), cv2.IMREAD_UNCHANGED)
    assert indices.dtype == np.uint16 and np.array_equal(
        indices, np.where(np.tri(4, 5), 400, 65535)
    )


def test_labels_of_any_name_are_read_back(tmp_path):
    names = {0: "a\nb", 1: "2 3 x", 2: "#c", 4: "cat", 5: "-1 x"}
    taxonomy = Taxonomy("odd", tuple(Category(i, name, "stuff") for i, name in names.items()))
    options = {**OPTIONS, "taxonomy": taxonomy, "kind": "semantic"}
    data = write_set(tmp_path / "set", [(Sample("s", "s.jpg", 5, 4, ()), None)], Header(**options))
    export_semantic(data, tmp_path / "out")
    labels = tmp_path / "out" / "labels.txt"
    assert len(labels.read_text("utf-8").splitlines()) == len(names)
    assert {entry.id: entry.name for entry in read_labels(labels).categories} == names


@pytest.mark.parametrize("void", [-1, 70000])
def test_the_hint_for_an_index_of_void_names_its_option(tmp_path, void):
    data = panoptic(tmp_path / "set", [toy_sample(1)])
    with pytest.raises(InputError, match=f"index {void} of pixels without .* --void an index"):
        export_semantic(data, tmp_path / "out", void=void)
    taxonomy = Taxonomy("wide", (Category(70000, "x", "stuff"),))
    options = {**OPTIONS, "taxonomy": taxonomy, "kind": "semantic"}
    wide = write_set(tmp_path / "wide", [(Sample("s", "s.jpg", 5, 4), None)], Header(**options))
    with pytest.raises(InputError, match=r"id 70000 of class 'x' .* `segkit relabel`"):
        export_semantic(wide, tmp_path / "out")


def test_indices_of_void_and_background_hold_in_the_numbering_of_the_source_only(tmp_path):
    """Relabeled to them, classes have them, and pixels without a label another; not so if kept."""
    sample = toy_sample(1)
    cat = sample.segments[0]
    header = {"ignore": [11], "background": 12, "categories": [{"id": 3, "name": "cat"}], "info": 1}
    options = {**OPTIONS, "kind": "semantic", "source_header": header}
    void = rle.encode(~rle.decode(cat.mask, 24, 32) & np.tri(24, 32, dtype=bool))
    image = replace(sample, segments=(cat,), void=void, id="a", file_name="a.png")
    data = write_set(tmp_path / "set", [(image, None)], Header(**options))
    old, mask, is_void = data.taxonomy, rle.decode(cat.mask, 24, 32), rle.decode(void, 24, 32)
    kept = Taxonomy("kept", (old.by_id[3],))
    for number, new in enumerate((Taxonomy("new", (replace(old.by_id[3], id=11),)), kept)):
        (target,) = new.by_id
        class_map = dict.fromkeys(old.by_id) | {3: target}
        relabeled = relabel(
            data, tmp_path / f"new{number}", new, class_map, {}, verify_images=False
        )
        export_semantic(relabeled, tmp_path / f"out{number}")
        file = tmp_path / f"out{number}" / "masks" / "a.png"
        indices = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        rest = 255 if new is not kept else np.where(is_void, 11, 12)
        assert np.array_equal(indices, np.where(mask, target, rest))
        assert relabeled.manifest.source_header == (header if new is kept else {"info": 1})
