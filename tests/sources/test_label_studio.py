"""Label Studio's JSON export, from its public description of the format."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segkit.errors import InputError
from segkit.masks import brush_rle, rle
from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.label_studio import open_label_studio

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples, write_json

UPLOAD = "/data/upload/1/0a1b2c3d-a.jpg"


def region(type_: str, value: dict[str, Any], label: str | None = "cat", **more: Any) -> Any:
    labels = {} if label is None else {type_: [label]}
    return {
        "id": "r1",
        "type": type_,
        "from_name": "l",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, **labels},
        **more,
    }


def rectangle(x: float, y: float, w: float, h: float, rotation: float = 0, **more: Any) -> Any:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation}
    return region("rectanglelabels", value, **more)


def task(*results: Any, image: str = UPLOAD, **more: Any) -> dict[str, Any]:
    annotations = [{"id": 1, "was_cancelled": False, "result": list(results)}]
    return {"id": 7, "data": {"image": image}, "annotations": annotations, **more}


def opened(root: Path, *tasks: Any, **options: Any) -> Any:
    picture(root / "images" / "a.jpg")
    return open_label_studio(write_json(root / "tasks.json", tasks), root / "images", **options)


def drawn(segment: Any) -> np.ndarray:
    return rle.decode(segment.mask, HEIGHT, WIDTH)


def test_polygons_brushes_and_boxes(tmp_path: Path) -> None:
    points = [[10, 10], [62.5, 20.0], [50, 90]]
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    brush = {"format": "rle", "rle": brush_rle.encode(mask)}
    source = opened(
        tmp_path,
        task(
            region("polygonlabels", {"points": points, "closed": True}, id="p"),
            region("brushlabels", brush, "dog", id="b"),
            rectangle(25, 50, 12.5, 25, id="r"),
        ),
    )
    (sample,) = samples(source)
    polygon, painted, box = sample.segments
    pixels = [v * (WIDTH, HEIGHT)[n] / 100 for point in points for n, v in enumerate(point)]
    truth = coco_mask.decode(coco_mask.frPyObjects([pixels], HEIGHT, WIDTH))[..., 0]
    assert np.array_equal(drawn(polygon), truth)
    assert np.array_equal(drawn(painted), mask)
    assert box.box == pytest.approx((0.25 * WIDTH, 0.5 * HEIGHT, 0.125 * WIDTH, 0.25 * HEIGHT))
    assert [s.source_id for s in sample.segments] == ["p", "b", "r"]
    assert (sample.id, source.taxonomy.names, source.kind) == ("7", ("cat", "dog"), "instance")
    assert dry_run(source).ledger.annotations.kept == 3


def test_boxes_turn_clockwise_around_their_upper_left_corner(tmp_path: Path) -> None:
    """In pixels, although percentages of width and height differ."""
    source = opened(tmp_path, task(rectangle(50, 50, 25, 25, rotation=90)))
    (segment,) = samples(source)[0].segments
    assert segment.box == pytest.approx((16 - 6, 12, 6, 8))
    corners = np.array(json.loads(segment.source_polygon)).reshape(4, 2)
    assert np.allclose(corners, [[16, 12], [16, 20], [10, 20], [10, 12]])
    assert dry_run(source).ledger.annotations.warnings == {"rotated-box": 1}


def test_ellipses_and_bitmasks(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:9, 3:20] = 255
    png = base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}
    source = opened(
        tmp_path,
        task(
            region("ellipselabels", value),
            region("bitmasklabels", {"imageDataURL": f"data:image/png;base64,{png}"}),
        ),
    )
    ellipse, bitmask = samples(source)[0].segments
    assert ellipse.area == pytest.approx(np.pi * 8 * 6, rel=0.03)
    assert np.array_equal(drawn(bitmask), mask > 0)


def test_one_of_several_annotations_is_chosen(tmp_path: Path) -> None:
    def annotation(number: int, x: float, **more: Any) -> dict[str, Any]:
        return {"id": number, "result": [rectangle(x, 0, 10, 10)], **more}

    entries = [
        annotation(1, 10, updated_at="2024-03-01T00:00:00Z"),
        annotation(2, 20, updated_at="2024-01-01T00:00:00Z"),
        annotation(3, 30, updated_at="2025-01-01T00:00:00Z", was_cancelled=True),
    ]
    data = {"image": "a.jpg"}
    source = opened(tmp_path, {"id": 1, "data": data, "annotations": entries})
    assert samples(source)[0].segments[0].box[0] == pytest.approx(3.2)
    report = dry_run(source)
    assert (codes(report), report.offenders) == ({"not-chosen": 2}, 0)
    assert (report.ledger.annotations.input, report.ledger.annotations.kept) == (3, 1)
    entries[1]["ground_truth"] = True
    source = opened(tmp_path, {"id": 1, "data": data, "annotations": entries})
    assert samples(source)[0].segments[0].box[0] == pytest.approx(6.4)


@pytest.mark.parametrize(
    ("score", "kept"),
    [(1, 1.0), (-0.0, 0.0), (10**400, None), (True, None), ("1", None)],
    ids=["1", "-0", "400 digits", "true", "text"],
)
def test_a_score_is_a_number_within_0_1_or_left_out(
    tmp_path: Path, score: Any, kept: float | None
) -> None:
    for result, total in (({"score": score}, 0.5), ({}, score)):
        predictions = [{"result": [rectangle(5, 5, 10, 10, **result)], "score": total}]
        source = opened(
            tmp_path,
            {"id": 8, "data": {"image": UPLOAD}, "predictions": predictions},
            predictions=True,
        )
        assert samples(source)[0].segments[0].score == kept
        warnings = dry_run(source).ledger.annotations.warnings
        assert warnings == ({} if kept is not None else {"score-out-of-range": 1})


def test_tasks_without_annotations_and_predictions(tmp_path: Path) -> None:
    predictions = [7, {"result": [rectangle(5, 5, 10, 10, score=0.5)], "score": 0.25}]
    tasks = (
        task(rectangle(1, 1, 10, 10)),
        {"id": 8, "data": {"image": UPLOAD}, "annotations": [], "predictions": predictions},
        {"id": 9, "data": {"image": UPLOAD}, "annotations": [{"result": []}]},
    )
    source = opened(tmp_path, *tasks)
    report = dry_run(source)
    assert (report.ledger.images.dropped, report.ledger.images.kept) == ({"not-annotated": 1}, 2)
    assert "--predictions" in report.notes[0]
    _, predicted = samples(opened(tmp_path, *tasks[:2], predictions=True))
    (segment,) = predicted.segments
    assert (segment.score, segment.mask_from) == (0.5, None)
    with pytest.raises(
        InputError, match=r"`segkit convert labelstudio .* --predictions` takes those"
    ):
        opened(tmp_path, tasks[1])


def test_labels_apart_from_shapes_and_several_labels(tmp_path: Path) -> None:
    shape = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    labels = region("labels", {**shape, "labels": ["cat", "dog"]}, None)
    bare = region("rectangle", shape, None)
    lone = region("rectangle", shape, None, id="r2")
    choice = region("choices", {"choices": ["day"]}, None, id="r3")
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2"}
    source = opened(tmp_path, task(bare, labels, lone, choice, relation))
    report = dry_run(source)
    assert codes(report) == {"unknown-category": 1}
    assert report.defects[0].message == "it has no label"
    assert [s.class_id for s in samples(source)[0].segments] == [0, 1]
    assert "choices 1" in report.notes[0]


def polygon(*points: Any, **more: Any) -> Any:
    return region("polygonlabels", {"points": list(points), **more})


def brush(mask: np.ndarray) -> Any:
    return region("brushlabels", {"rle": brush_rle.encode(mask)})


def bitmask(url: str) -> Any:
    return region("bitmasklabels", {"imageDataURL": url})


BOOLEAN_BYTES = [
    bool(byte) if byte < 2 else byte for byte in brush_rle.encode(np.ones((HEIGHT, WIDTH), bool))
]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (region("keypointlabels", {"x": 1, "y": 1, "width": 0.5}), "unsupported-shape"),
        (polygon([1, 1], [2, 2], [3, 1], closed=False), "unsupported-shape"),
        (polygon([1, 1], [2, 2]), "degenerate-polygon"),
        (region("polygonlabels", {"points": "x"}), "malformed-annotation"),
        (polygon([1, 1], [2, float("nan")], [5, 6]), "malformed-annotation"),
        (polygon([1, 1], [2, True], [5, 6]), "malformed-annotation"),
        (region("brushlabels", {"rle": [1, 2, 3]}), "malformed-annotation"),
        (region("brushlabels", {"rle": "abc"}), "malformed-annotation"),
        (region("brushlabels", {"rle": BOOLEAN_BYTES}), "malformed-annotation"),
        (brush(np.ones((3, 3), bool)), "malformed-annotation"),
        (brush(np.zeros((HEIGHT, WIDTH), bool)), "empty-mask"),
        (bitmask("http://x"), "malformed-annotation"),
        (bitmask("data:image/png;base64,AAAA"), "malformed-annotation"),
        (rectangle(1, 1, 0, 5), "degenerate-box"),
        (rectangle(1, 1, 10**400, 5), "malformed-annotation"),
        (rectangle(1, 1, 10, 5, image_rotation=90), "malformed-annotation"),
    ],
)
def test_regions_that_cannot_be_kept(tmp_path: Path, result: Any, code: str) -> None:
    report = dry_run(opened(tmp_path, task(rectangle(1, 1, 10, 10), {**result, "id": "bad"})))
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)
    if code != "unsupported-shape":
        assert report.defects[0].record == "region bad of image 7"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/upload/3/0a1b2c3d-my%20photo.jpg", "my photo.jpg"),
        ("/data/upload/0a1b2c3d-x.jpg", "0a1b2c3d-x.jpg"),
        ("/data/local-files/?d=street/a%2Bb.jpg", "street/a+b.jpg"),
        ("/data/local-files/?d=/mnt/photos/street/c.jpg", "c.jpg"),
        ("https://host/some/where/d.jpg?X-Amz-Signature=1", "where/d.jpg"),
        ("s3://bucket/where/e.jpg", "where/e.jpg"),
        ("C:\\photos\\f.jpg", "f.jpg"),
        ("photos/100% #1.jpg", "photos/100% #1.jpg"),
    ],
)
def test_names_of_images(tmp_path: Path, url: str, file: str) -> None:
    picture(tmp_path / "images" / file)
    report = dry_run(opened(tmp_path, task(rectangle(1, 1, 10, 10), image=url)))
    assert report.ledger.images.kept == 1


def test_images_that_are_not_named_or_lead_outside(tmp_path: Path) -> None:
    tasks = (
        {**task(rectangle(1, 1, 9, 9)), "id": 1, "data": {"text": "hello"}},
        {**task(rectangle(1, 1, 9, 9)), "id": 2, "data": {"photo": "a.jpg", "text": "hello"}},
        task(rectangle(1, 1, 9, 9), image="/data/local-files/?d=../../secret.jpg"),
        {**task(rectangle(1, 1, 9, 9), image="none.jpg"), "id": 3},
    )
    report = dry_run(opened(tmp_path, *tasks))
    assert report.ledger.images.dropped == {
        "malformed-image": 1,
        "missing-image": 1,
        "unsafe-path": 1,
    }
    assert (report.ledger.images.kept, report.ledger.annotations.input) == (1, 4)


def test_a_list_of_labels_gives_the_ids(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("5 dog\n9 cat\n")
    source = opened(tmp_path, task(rectangle(1, 1, 9, 9)), labels=tmp_path / "labels.txt")
    assert samples(source)[0].segments[0].class_id == 9


def test_marks_in_meta(tmp_path: Path) -> None:
    rows = (
        rectangle(1, 1, 9, 9, meta={"text": ["crowd"]}),
        rectangle(2, 2, 9, 9, meta={"text": "ignore"}),
        rectangle(3, 3, 9, 9, meta={"text": ["a crowd of people"]}),
    )
    segments = samples(opened(tmp_path, task(*rows)))[0].segments
    assert [(s.is_crowd, s.ignore) for s in segments] == [
        (True, False),
        (False, True),
        (False, False),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": []}', "is a COCO file"),
        ('[{"image": "a.jpg", "label": [], "annotator": 1}]', "JSON-MIN"),
        ("[1]", "is not a task"),
        ("[]", "has no annotation with a label"),
        ("{}", "is not a JSON list"),
        ("[{", "is not a JSON list|ends too early"),
        ("<annotations/>", "is a dump of CVAT"),
        ("[" * 100_000, "cannot be read|is not a JSON list|ends too early"),
    ],
)
def test_refused_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_label_studio(path, tmp_path)


def test_halves_of_characters_can_be_written(tmp_path: Path) -> None:
    half = {**task(rectangle(1, 1, 9, 9, label="a\ud800", id="\udc00")), "id": "7\ud800"}
    convert(opened(tmp_path, half), tmp_path / "set", ConvertOptions(workers=1))
    (sample,) = ShardSet.open(tmp_path / "set").samples()
    assert (sample.id, sample.segments[0].source_id) == ("7?", "?")


@pytest.mark.parametrize(
    "broken",
    [
        {"id": 1, "data": {"image": UPLOAD}, "annotations": {}},
        {"id": 1, "data": {"image": UPLOAD}, "annotations": [None, 3]},
        {"id": 1, "data": {"image": UPLOAD}, "annotations": [{"result": {"a": 1}}]},
        {"id": 1, "data": {"image": UPLOAD}, "annotations": [{"result": [3, None]}]},
        {"id": [1], "data": {"image": ["b.jpg"]}, "annotations": [{"result": []}]},
        {"id": 1, "data": {"image": UPLOAD}, "annotations": [{"result": [{"value": 3}]}]},
    ],
)
def test_odd_structures_end_in_counts(tmp_path: Path, broken: Any) -> None:
    ledger = dry_run(opened(tmp_path, task(rectangle(1, 1, 9, 9)), broken)).ledger
    assert (ledger.images.input, ledger.annotations.kept) == (2, 1)
