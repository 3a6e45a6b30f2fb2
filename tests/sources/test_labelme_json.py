"""labelme's JSON files, from its public documentation of the format."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segkit.errors import InputError
from segkit.masks import rle
from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.labelme_json import open_labelme

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples, write_json


def shape(kind: str | None, points: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    fields = {"label": label, "points": points, "group_id": None, "flags": {}}
    return {**fields, **({"shape_type": kind} if kind else {}), **more}


def content(*shapes: Any, image: str | None = "a.jpg", **more: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }


def opened(root: Path, *shapes: Any, **options: Any) -> Any:
    picture(root / "a.jpg")
    write_json(root / "a.json", content(*shapes))
    return open_labelme(root, **options)


def drawn(segment: Any) -> np.ndarray:
    return rle.decode(segment.mask, HEIGHT, WIDTH)


def truth_of(*rings: list[list[float]]) -> np.ndarray:
    flat = [[float(v) for point in ring for v in point] for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH))) > 0


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")  # 1 bit a pixel, as labelme writes it
    return base64.b64encode(buffer.getvalue()).decode()


TRIANGLE = [[3.5, 2.0], [20.25, 4.0], [10.0, 20.5]]


def test_polygons_boxes_circles_and_masks(tmp_path: Path) -> None:
    crop = np.random.default_rng(0).random((5, 7)) > 0.4
    source = opened(
        tmp_path,
        shape("polygon", TRIANGLE),
        shape("rectangle", [[20, 12.5], [10, 2]], "dog"),
        shape("circle", [[16, 12], [16, 17]]),
        shape("mask", [[4, 6], [10, 10]], mask=png(crop)),
        shape(None, TRIANGLE),
    )
    (sample,) = samples(source)
    polygon, box, circle, mask, old = sample.segments
    assert np.array_equal(drawn(polygon), truth_of(TRIANGLE))
    assert np.array_equal(drawn(old), truth_of(TRIANGLE))
    assert (box.box, box.mask) == ((10, 2, 10, 10.5), None)
    assert circle.area == pytest.approx(np.pi * 25, rel=0.03)
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[6:11, 4:11] = crop
    assert np.array_equal(drawn(mask), whole)
    assert (source.kind, source.taxonomy.names) == ("instance", ("cat", "dog"))
    assert dry_run(source).ledger.annotations.kept == 5


def test_groups_are_objects_of_several_parts(tmp_path: Path) -> None:
    left, right = [[1, 1], [6, 1], [6, 9]], [[20, 1], [28, 1], [28, 9]]
    box = [[10, 10], [14, 14]]
    source = opened(
        tmp_path,
        shape("polygon", left, group_id=0),
        shape("polygon", right, group_id=0),
        shape("rectangle", box, group_id=0),
        shape("rectangle", box, "dog", group_id=0),
        shape("rectangle", [[0, 0], [3, 3]], "dog", group_id=0),
        shape("point", [[1, 1]], group_id=0),
    )
    cat, dog = samples(source)[0].segments
    corners = [[10, 10], [14, 10], [14, 14], [10, 14]]
    assert np.array_equal(drawn(cat), truth_of(left, right, corners))
    assert (dog.box, dog.mask) == ((0, 0, 14, 14), None)
    count = dry_run(source).ledger.annotations
    assert (count.input, count.kept, count.dropped) == (3, 2, {"unsupported-shape": 1})
    assert count.warnings["joined-parts"] == 3


def test_a_group_of_masks_and_polygons(tmp_path: Path) -> None:
    square = shape("mask", [[20, 15], [25, 20]], mask=png(np.ones((6, 6), bool)), group_id=1)
    source = opened(tmp_path, shape("polygon", TRIANGLE, group_id=1), square)
    (segment,) = samples(source)[0].segments
    expected = truth_of(TRIANGLE)
    expected[15:21, 20:26] = True
    assert np.array_equal(drawn(segment), expected)


def test_oriented_rectangles(tmp_path: Path) -> None:
    points = [[10, 10], [14, 14], [12, 16], [8, 12]]
    (segment,) = samples(opened(tmp_path, shape("oriented_rectangle", points)))[0].segments
    assert (segment.box, segment.mask) == ((8, 10, 6, 6), None)
    assert json.loads(segment.source_polygon) == [[10, 10, 14, 14, 12, 16, 8, 12]]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (shape("line", [[1, 1], [2, 2]]), "unsupported-shape"),
        (shape("linestrip", [[1, 1], [2, 2]]), "unsupported-shape"),
        (shape("points", [[1, 1]]), "unsupported-shape"),
        (shape("star", [[1, 1]]), "malformed-annotation"),
        (shape("polygon", [[1, 1], [2, 2]]), "degenerate-polygon"),
        (shape("polygon", [[1, 1], [2], [3, 4]]), "malformed-annotation"),
        (shape("polygon", [[1, 1], [2, "2"], [3, 4]]), "malformed-annotation"),
        (shape("polygon", None), "malformed-annotation"),
        (shape("polygon", [[1, 1], [2, 10**400], [5, 6]]), "malformed-annotation"),
        (shape("rectangle", [[1, 1], [1, 5]]), "degenerate-box"),
        (shape("rectangle", [[1, 1]]), "malformed-annotation"),
        (shape("circle", [[1, 1], [1, 1]]), "empty-mask"),
        (shape("mask", [[1, 1], [2, 2]]), "malformed-annotation"),
        (shape("mask", [[1, 1], [2, 2]], mask="no base64!"), "malformed-annotation"),
        (shape("mask", [[1, 1], [2, 2]], mask="AAAA"), "malformed-annotation"),
        (shape("mask", [[1, 1], [2, 2]], mask=png(np.zeros((2, 2), bool))), "empty-mask"),
        (shape("rectangle", [[1, 1], [5, 5]], label=True), "unknown-category"),
        (7, "malformed-annotation"),
    ],
)
def test_shapes_that_cannot_be_kept(tmp_path: Path, bad: Any, code: str) -> None:
    report = dry_run(opened(tmp_path, shape("rectangle", [[1, 1], [5, 5]]), bad))
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)


def test_images_by_path_by_name_and_embedded(tmp_path: Path) -> None:
    rectangle = shape("rectangle", [[1, 1], [5, 5]])
    picture(tmp_path / "images" / "a.jpg", seed=1)
    picture(tmp_path / "images" / "b.jpg", seed=2)
    picture(tmp_path / "images" / "bare.jpg", seed=3)
    write_json(tmp_path / "json" / "a.json", content(rectangle, image="..\\images\\a.jpg"))
    write_json(tmp_path / "json" / "b.json", content(rectangle, image="/elsewhere/old.jpg"))
    data = picture(tmp_path / "c.png", seed=4).read_bytes()
    (tmp_path / "c.png").unlink()
    text = base64.b64encode(data).decode()
    write_json(tmp_path / "json" / "c.json", content(rectangle, image="c.png", imageData=text))
    write_json(tmp_path / "json" / "other.json", {"images": []})
    source = open_labelme(tmp_path / "json", tmp_path / "images")
    report = dry_run(source)
    assert report.ledger.images.dropped == {"not-annotated": 1}
    assert (report.ledger.images.kept, report.offenders) == (3, 0)
    assert "passed over: 1" in report.notes[0]
    convert(source, tmp_path / "set", ConvertOptions(workers=1))
    published = ShardSet.open(tmp_path / "set")
    assert {s.id: s.file_name for s in published.samples()} == {
        "a": "a.jpg",
        "b": "b.jpg",
        "c": "c.png",
    }
    (embedded,) = (s for s in published.samples() if s.id == "c")
    assert published.image_bytes(embedded) == data
    assert codes(dry_run(source, images_by="reference")) == {"missing-image": 1, "not-annotated": 1}


def test_damaged_embedded_images(tmp_path: Path) -> None:
    rectangle = shape("rectangle", [[1, 1], [5, 5]])
    write_json(tmp_path / "a.json", content(rectangle, imageData="AAAA"))
    write_json(tmp_path / "b.json", content(rectangle, image="b.jpg", imageData="%%%"))
    assert codes(dry_run(open_labelme(tmp_path))) == {"missing-image": 1, "unreadable-image": 1}


def test_sizes(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    rectangle = shape("rectangle", [[1, 1], [5, 5]])
    write_json(tmp_path / "a.json", content(rectangle, imageWidth=None, imageHeight=None))
    assert dry_run(open_labelme(tmp_path)).ledger.images.kept == 1
    write_json(tmp_path / "a.json", content(rectangle, imageWidth=99))
    assert codes(dry_run(open_labelme(tmp_path))) == {"size-mismatch": 1}


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_damaged_files(tmp_path: Path, data: bytes) -> None:
    source = opened(tmp_path, shape("rectangle", [[1, 1], [5, 5]]))
    assert dry_run(source).ledger.images.kept == 1
    (tmp_path / "b.json").write_bytes(data)
    report = dry_run(open_labelme(tmp_path))
    assert (codes(report), report.ledger.images.kept) == ({"unreadable-annotations": 1}, 1)


def test_a_bom_and_refused_folders(tmp_path: Path) -> None:
    opened(tmp_path, shape("rectangle", [[1, 1], [5, 5]]))
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert dry_run(open_labelme(tmp_path)).ledger.annotations.kept == 1
    with pytest.raises(InputError, match="is a file, not a folder"):
        open_labelme(path)
    with pytest.raises(InputError, match="no such folder"):
        open_labelme(tmp_path / "none")
    write_json(path, content())
    with pytest.raises(InputError, match="; give `segkit convert labelme --labels FILE`"):
        open_labelme(tmp_path)


def test_an_image_with_another_name_than_the_files_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "b.jpg")
    box = shape("rectangle", [[1, 1], [9, 9]])
    write_json(tmp_path / "a.json", content(box, image="..\\photos\\IMG_1.JPG"))
    write_json(tmp_path / "b.json", content(box, image="..\\photos\\b.png"))
    report = dry_run(open_labelme(tmp_path))
    assert report.ledger.images.kept == 2
    assert report.ledger.images.warnings == {"file-name-differs": 1}


def test_numbers_are_labels(tmp_path: Path) -> None:
    numbers = [shape("polygon", TRIANGLE, label) for label in (5, 0, "5")]
    source = opened(tmp_path, *numbers, shape("polygon", TRIANGLE, None))
    assert source.taxonomy.names == ("0", "5")
    report = dry_run(source)
    assert (report.ledger.annotations.kept, codes(report)) == (3, {"unknown-category": 1})


def test_the_order_of_records_does_not_depend_on_hashes(tmp_path: Path) -> None:
    opened(tmp_path, shape("polygon", TRIANGLE))
    for extension in ("jpg", "png", "jpeg", "bmp", "webp"):
        picture(tmp_path / f"x.{extension}")
    code = (
        "import sys; from pathlib import Path; "
        "from segkit.sources.labelme_json import open_labelme; "
        "from segkit.sources.provenance import records_digest; "
        "print(records_digest(open_labelme(Path(sys.argv[1])).all_records()))"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] and digests[0] == digests[1]
