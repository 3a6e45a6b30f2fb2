"""YOLO data sets as people have them, beside Ultralytics' published rules for label files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segkit import storage
from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.data_yaml import read_names
from segkit.sources.yolo_labels import open_yolo

from .builders import HEIGHT, WIDTH, codes, dry_run, picture

NAMES = "names: [cat, dog]\n"


def dataset(
    root: Path, labels: dict[str, str | bytes], yaml: str = f"train: images/train\n{NAMES}"
) -> Path:
    """Images and label files of a split, by the stem of their paths; returns data.yaml."""
    for seed, (stem, content) in enumerate(labels.items()):
        picture(root / "images" / "train" / f"{stem}.jpg", seed=seed)
        path = root / "labels" / "train" / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def converted(source: Any) -> list[Any]:
    """Samples of a source with images of the builders' size."""
    from dataclasses import replace

    from segkit.sources.image_files import Picture
    from segkit.sources.ledger import Tally

    image = Picture(Path("x.jpg"), b"", WIDTH, HEIGHT)
    done = []
    for record in source.records(Tally()):
        content = source.load(replace(record)).content
        done.append(source.sample(record, content, image, Tally()))
    return done


def test_boxes_and_polygons_in_one_file(tmp_path: Path) -> None:
    ring = [0.1, 0.1, 0.6, 0.2, 0.5, 0.9]
    rows = f"0 0.5 0.5 0.25 0.5\n1 {' '.join(map(str, ring))}\n"
    source = open_yolo(dataset(tmp_path, {"a": rows}))
    (sample,) = converted(source)
    box, polygon = sample.segments
    assert (source.kind, box.mask, box.class_id, polygon.class_id) == ("instance", None, 0, 1)
    assert box.box == pytest.approx((0.375 * WIDTH, 0.25 * HEIGHT, 0.25 * WIDTH, 0.5 * HEIGHT))
    pixels = [value * (WIDTH, HEIGHT)[index % 2] for index, value in enumerate(ring)]
    truth = coco_mask.decode(coco_mask.frPyObjects([pixels], HEIGHT, WIDTH))[..., 0]
    assert np.array_equal(rle.decode(polygon.mask, HEIGHT, WIDTH), truth)
    report = dry_run(source)
    assert (report.ledger.annotations.kept, report.ledger.annotations.warnings) == (
        2,
        {"no-mask": 1},
    )


def test_boxes_only(tmp_path: Path) -> None:
    rows = "1 0.1 0.1 0.6 0.2 0.5 0.9\n"
    source = open_yolo(dataset(tmp_path, {"a": rows}), boxes_only=True)
    (segment,) = converted(source)[0].segments
    assert (source.kind, segment.mask, segment.source_polygon) == ("boxes", None, None)


@pytest.mark.parametrize(
    "content",
    [
        "0 0.5 0.5 0.2 0.2\r\n1 0.5 0.5 0.4 0.4\r\n",
        "0 0.5 0.5 0.2 0.2   \n\n\n  1\t0.5 0.5  0.4 0.4",
        "\ufeff0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.4 0.4\n",
        "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.4 0.4\n".encode("utf-16"),
        "0.0 .5 5e-1 0.2 0.2\n1.0 +0.5 0.5 0.4 0.4\r",
    ],
    ids=["crlf", "blanks", "bom", "utf-16", "numbers"],
)
def test_text_as_editors_and_windows_write_it(tmp_path: Path, content: str | bytes) -> None:
    (sample,) = converted(open_yolo(dataset(tmp_path, {"a": content})))
    assert [segment.class_id for segment in sample.segments] == [0, 1]
    assert sample.segments[1].box == pytest.approx(
        (0.3 * WIDTH, 0.3 * HEIGHT, 0.4 * WIDTH, 0.4 * HEIGHT)
    )


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("2 0.5 0.5 0.2 0.2", "unknown-category"),
        ("-1 0.5 0.5 0.2 0.2", "malformed-annotation"),
        ("0.5 0.5 0.5 0.2 0.2", "malformed-annotation"),
        ("cat 0.5 0.5 0.2 0.2", "malformed-annotation"),
        ("0 0.5 0.5 0.2", "malformed-annotation"),
        ("0", "malformed-annotation"),
        ("0 0.5 0.5 nan 0.2", "malformed-annotation"),
        ("0 0.5 0.5 inf 0.2", "malformed-annotation"),
        ("0 0.5 0.5 1_0 0.2", "malformed-annotation"),
        ("0 \u0661 0.5 0.2 0.2", "malformed-annotation"),
        ("0 300 200 50 40", "malformed-annotation"),
        ("0 0.5 0.5 1e400 0.2", "malformed-annotation"),
        ("0 0.5 0.5 0.2 0", "degenerate-box"),
        ("0 0.5 0.5 -0.001 0.2", "degenerate-box"),
        ("0 \0 0.5 0.2 0.2", "malformed-annotation"),
    ],
)
def test_rows_that_are_not_labels(tmp_path: Path, row: str, code: str) -> None:
    source = open_yolo(dataset(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n\n{row}\n"}))
    report = dry_run(source)
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)
    assert report.defects[0].record == "line 3 of image a"
    assert report.defects[0].file.endswith("labels/train/a.txt")


def test_values_slightly_beyond_the_image_and_repeated_rows(tmp_path: Path) -> None:
    """Ultralytics accepts fractions up to 1.01, and drops rows that occur twice; we keep them."""
    rows = "0 0.5 0.5 1.009 1\n" + 2 * "1 0.2 0.2 0.1 0.1\n"
    report = dry_run(open_yolo(dataset(tmp_path, {"a": rows})))
    assert report.ledger.annotations.kept == 3
    assert report.ledger.annotations.warnings == {"box-beyond-image": 1, "exact-duplicate": 1}


def test_confidence_is_the_score(tmp_path: Path) -> None:
    rows = "0 0.5 0.5 0.2 0.2 0.75\n1 0.1 0.1 0.6 0.2 0.5 0.9 0.25\n"
    (sample,) = converted(open_yolo(dataset(tmp_path, {"a": rows})))
    assert [segment.score for segment in sample.segments] == [0.75, 0.25]


def test_only_ends_of_lines_part_the_names_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("a\u2028b\r\nc\x0cd\ne\u0085f\n".encode())
    assert [category.name for category in read_names(file)] == ["a\u2028b", "c\x0cd", "e\x85f"]


def test_names_stay_text(tmp_path: Path) -> None:
    names = "names: [no, yes, null, 1, 007, 2020-01-01]\n"
    source = open_yolo(
        dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, f"train: images/train\n{names}")
    )
    assert source.taxonomy.names == ("no", "yes", "null", "1", "007", "2020-01-01")


def test_characters_that_json_writes_as_two_escapes(tmp_path: Path) -> None:
    yaml = r'{"train": "images/train", "names": ["a", "\ud83d\udc36 dog"]}'
    source = open_yolo(dataset(tmp_path, {"a": "1 0.5 0.5 0.2 0.2"}, yaml))
    assert source.taxonomy.names == ("a", "\N{DOG FACE} dog")


def test_key_points_are_not_polygons(tmp_path: Path) -> None:
    row = "0 0.5 0.5 0.2 0.2 " + "0.4 0.4 2 " * 3
    yaml = f"train: images/train\nkpt_shape: [3, 3]\n{NAMES}"
    source = open_yolo(dataset(tmp_path, {"a": row}, yaml))
    report = dry_run(source)
    assert (source.kind, report.ledger.annotations.kept) == ("boxes", 1)
    assert any("key points" in note for note in report.notes)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "has no names"),
        ("train: images/train\nnames: {a: cat}\n", "not a number"),
        ("train: images/train\nnames: [[cat], dog]\n", "is not a name"),
        ("train: images/train\nnames: cat\n", "has no names"),
        ("names: [cat]\n", "has none of the splits"),
        ("train: images/none\nnames: [cat]\n", "are not there"),
        ("train: {a: b}\nnames: [cat]\n", "is not a path"),
        ("- a\n- b\n", "not a mapping"),
        ("train: [unclosed\n", "not YAML"),
        ("names: !!python/object/apply:os.system ['true']\ntrain: x\n", "not there|has no names"),
        ("{" * 5000, "not YAML"),
        ("train: images/train\nval: images/val\nnames: [cat]\n", "give --split, one of train, val"),
        (b"names: [\xff\xfe]\n", "save it as UTF-8"),
        (r'{"train": "images/train", "names": ["\ud83d dog"]}', "that is not Unicode: .*ud83d"),
        (r'{"train": "images/train", "names": {"\udc36": "dog"}}', "that is not Unicode"),
    ],
)
def test_refused_data_yaml(tmp_path: Path, yaml: str | bytes, message: str) -> None:
    path = dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    path.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
    with pytest.raises(InputError, match=message):
        open_yolo(path)


URLS = ("http://127.0.0.1:9/images", "HTTP://host/images", "s3://bucket/images", "memory://a/b")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("key", ["train", "path"])
def test_a_file_on_this_machine_makes_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, key: str
) -> None:
    def request(*_: str) -> None:
        raise AssertionError("a request")

    monkeypatch.setattr(storage, "_check_bucket", request)
    splits = "" if key == "train" else "train: images/train\n"
    path = dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, f"{key}: {url}\n{splits}{NAMES}")
    with pytest.raises(InputError, match=r"data\.yaml: names .*, which is elsewhere"):
        open_yolo(path)


def test_aliases_do_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)
    ]
    yaml = "\n".join(lines) + "\ntrain: images/train\nnames: *a29\n"
    with pytest.raises(InputError, match="is not a name"):
        open_yolo(dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, yaml))


def test_images_must_be_opened(tmp_path: Path) -> None:
    source = open_yolo(dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}))
    report = dry_run(source, images_by="none")
    assert codes(report) == {"bad-size": 1}
    assert report.defects[0].hint == "omit --images-by none"


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    rng = np.random.default_rng(0)
    labels = {
        f"i{n}": "".join(
            f"{rng.integers(2)} {' '.join(f'{v:.6f}' for v in rng.uniform(0.3, 0.4, 4))}\n"
            for _ in range(5)
        )
        for n in range(4)
    }
    yaml = dataset(tmp_path, labels)
    theirs = sv.DetectionDataset.from_yolo(
        str(tmp_path / "images/train"), str(tmp_path / "labels/train"), str(yaml)
    )
    ours = {s.id: s for s in converted(open_yolo(yaml))}
    for path, _, detections in theirs:
        segments = ours[Path(path).stem].segments
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (s.box for s in segments)]
        assert np.allclose(detections.xyxy, boxes, atol=1e-3)
        assert detections.class_id.tolist() == [s.class_id for s in segments]


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("digits", [5, 17])
def test_contours_of_opencv_come_back(tmp_path: Path, shift: float, digits: int) -> None:
    """Of first corners of pixels, as people divide them by the size, or of their centers."""
    rng = np.random.default_rng(0)
    blob = cv2.resize(rng.random((4, 5)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    mask = (blob > 0.45).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rows, truths = [], []
    for ring in (contour.reshape(-1, 2) for contour in contours if len(contour) > 2):
        fractions = ((ring + shift) / (WIDTH, HEIGHT)).ravel()
        rows.append(" ".join(["0", *(f"{value:.{digits}f}" for value in fractions)]))
        truth = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.drawContours(truth, [ring.reshape(-1, 1, 2)], -1, 1, cv2.FILLED)
        truths.append(truth)
    yaml = dataset(tmp_path, {"a": "\n".join(rows)})
    (sample,) = converted(open_yolo(yaml, contours=True))
    assert len(sample.segments) == len(truths) > 0
    for segment, truth in zip(sample.segments, truths, strict=True):
        assert np.array_equal(rle.decode(segment.mask, HEIGHT, WIDTH), truth)
        assert segment.source_polygon is None
