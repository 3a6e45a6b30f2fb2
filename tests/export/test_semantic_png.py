import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.semantic_png import export_semantic
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.writer import write_set
from segkit.sources.labels_file import read_labels
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import toy_sample

from .test_coco import OPTIONS, panoptic


def test_a_panoptic_set_as_semantic_pngs(tmp_path):
    sample = toy_sample(1)
    export_semantic(panoptic(tmp_path / "set", [sample]), tmp_path / "out")
    indices = cv2.imread(str(tmp_path / "out/masks/some/folder/001.png"), cv2.IMREAD_UNCHANGED)
    expected = rle.paint(
        [(3, sample.segments[0].mask), (7, sample.segments[1].mask), (255, sample.void)], 24, 32
    )
    assert indices.dtype == np.uint8 and np.array_equal(indices, expected)
    assert (tmp_path / "out" / "labels.txt").read_text() == "3 cat\n7 sky\n"


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
