"""CVAT dumps and labelme files, read by the rules of their public descriptions."""

import base64
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from segkit.export.cvat_dump import export_cvat
from segkit.export.labelme_files import export_labelme
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.shards.conftest import TAXONOMY, picture

WIDTH, HEIGHT = 32, 24


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    blank = np.zeros((HEIGHT, WIDTH), bool)
    corner, block = blank.copy(), blank.copy()
    corner[HEIGHT - 1, WIDTH - 1] = True
    block[5:9, 4:20] = True
    return [rng.random(blank.shape) > 0.6, corner, block, ~blank]


@pytest.fixture
def data(tmp_path: Path) -> ShardSet:
    def segment(mask: np.ndarray, **fields: Any) -> Segment:
        counts = rle.encode(mask)
        box = rle.box(counts, HEIGHT, WIDTH)
        return Segment(3, "thing", box, counts, float(mask.sum()), mask_from="human", **fields)

    segments = (
        *map(segment, masks()),
        Segment(3, "thing", (1.3, 2.7, 10.1, 0.123456789), None, 1.0),
        segment(masks()[2], is_crowd=True),
        segment(masks()[2], ignore=True),
    )
    sample = Sample("7", "street/a.jpg", WIDTH, HEIGHT, segments)
    header = Header(taxonomy=TAXONOMY, kind="instance", name="toy", command="t", arguments={})
    return write_set(tmp_path / "set", [(sample, picture(1))], header)


def test_cvat(data: ShardSet, tmp_path: Path) -> None:
    report = export_cvat(data, tmp_path / "out", images=True)
    assert (report.annotations, dict(report.dropped)) == (5, {"crowd": 1, "ignore": 1})
    root = ElementTree.parse(tmp_path / "out" / "annotations.xml").getroot()
    labels = [entry.text for entry in root.iterfind("meta/task/labels/label/name")]
    assert (labels, root.findtext("version")) == (list(TAXONOMY.names), "1.1")
    image = root.find("image")
    assert image is not None and image.get("name") == "street/a.jpg"
    drawn = []
    for element in image.iterfind("mask"):
        left, top, width, height = (
            int(element.get(k, "")) for k in ("left", "top", "width", "height")
        )
        crop: list[bool] = []
        for index, run in enumerate(element.get("rle", "").split(",")):
            crop += [index % 2 == 1] * int(run)
        mask_pixels = np.zeros((HEIGHT, WIDTH), bool)
        mask_pixels[top : top + height, left : left + width] = np.reshape(crop, (height, width))
        drawn.append(mask_pixels)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, masks(), strict=True))
    box = image.find("box")
    assert box is not None
    x0, y0, x1, y1 = (float(box.get(key, "")) for key in ("xtl", "ytl", "xbr", "ybr"))
    assert (x0, y0) == (1.3, 2.7)
    assert (x1, y1) == (1.3 + 10.1, 2.7 + 0.123456789)
    assert (tmp_path / "out" / "images" / "street" / "a.jpg").read_bytes() == picture(1)


def test_labelme(data: ShardSet, tmp_path: Path) -> None:
    report = export_labelme(data, tmp_path / "out", images=True)
    assert (report.annotations, dict(report.dropped)) == (5, {"crowd": 1, "ignore": 1})
    content = json.loads((tmp_path / "out" / "street" / "a.json").read_text())
    assert (content["imagePath"], content["imageData"]) == ("a.jpg", None)
    assert (content["imageWidth"], content["imageHeight"]) == (WIDTH, HEIGHT)
    *shapes, rectangle = content["shapes"]
    for shape, mask in zip(shapes, masks(), strict=True):
        (x0, y0), (x1, y1) = shape["points"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        mask_pixels = np.zeros((HEIGHT, WIDTH), bool)
        mask_pixels[y0 : y1 + 1, x0 : x1 + 1] = pixels  # the last point is that of the last pixel
        assert shape["shape_type"] == "mask" and np.array_equal(mask_pixels, mask)
    assert rectangle["points"] == [[1.3, 2.7], [1.3 + 10.1, 2.7 + 0.123456789]]
    assert {shape["label"] for shape in content["shapes"]} == {TAXONOMY.by_id[3].name}
    assert (tmp_path / "out" / "street" / "a.jpg").read_bytes() == picture(1)
