"""An object that conversion drops from a kept image is neither background nor a false positive."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.augment import Crop
from segkit.data.targets import build_targets
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.source import Source
from segkit.sources.visual_genome import open_visual_genome
from segkit.sources.voc import open_voc
from segkit.sources.yolo_labels import open_yolo
from tests.metrics.files import figures

from . import test_cvat_xml as cvat
from . import test_label_studio as labelstudio
from . import test_labelme_json as labelme
from . import test_voc as voc
from . import test_voc_boxes as voc_boxes
from . import test_yolo_labels as yolo
from .builders import HEIGHT, WIDTH, coco_instances, picture, write_json

SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
FULL = Crop((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))


def coco(root: Path, *damaged: str) -> Source:
    rows = {
        "known": {"segmentation": [[1, 1, 2, 2]]},
        "unknown": {"category_id": 99, "segmentation": [SQUARE]},
    }
    file = coco_instances(root, [{"segmentation": [SQUARE]}, *map(rows.__getitem__, damaged)])
    return open_coco_instances(file, root / "images")


def coco_repeated(root: Path, *damaged: str) -> Source:
    rows = {"known": {"id": 1}, "unknown": {"id": 1, "category_id": 99}}
    rows = {name: {"bbox": [20, 2, 5, 5], **row} for name, row in rows.items()}
    file = coco_instances(root, [{"bbox": [2, 2, 9, 9]}, *map(rows.__getitem__, damaged)])
    return open_coco_instances(file, root / "images")


def yolo_rows(root: Path, *damaged: str) -> Source:
    rows = {"known": "0 200 100 50 50", "unknown": "17 0.5 0.5 0.2 0.2"}
    text = "\n".join(["0 0.5 0.5 0.25 0.5", *map(rows.__getitem__, damaged)])
    return open_yolo(yolo.dataset(root, {"a": text}))


def cvat_shapes(root: Path, *damaged: str) -> Source:
    shapes = {"known": cvat.box(9, 9, 9, 9), "unknown": cvat.box(1, 1, 9, 9, label="cow")}
    shapes["no object"] = '<tag label="cat"></tag>'
    return cvat.opened(cvat.dump(root, cvat.box(1, 1, 9, 9), *map(shapes.__getitem__, damaged)))


def labelme_shapes(root: Path, *damaged: str) -> Source:
    shapes = {"known": labelme.shape("polygon", [[1, 1], [2, 2]])}
    shapes["unknown"] = labelme.shape("rectangle", [[1, 1], [9, 9]], label="")
    shapes["no object"] = labelme.shape("point", [[1, 1]])
    good = labelme.shape("polygon", labelme.TRIANGLE)
    return labelme.opened(root, good, *map(shapes.__getitem__, damaged))


def label_studio_regions(root: Path, *damaged: str) -> Source:
    regions = {"known": labelstudio.polygon([1, 1], [9, 9])}
    regions["unknown"] = labelstudio.region("polygonlabels", {"points": [[1, 1]]}, label=None)
    regions["no object"] = labelstudio.region("keypointlabels", {"x": 1, "y": 1, "width": 1})
    good = labelstudio.rectangle(5, 5, 10, 10)
    task = labelstudio.task(good, *map(regions.__getitem__, damaged))
    task["annotations"].append({"id": 2, "was_cancelled": True, "result": [good]})
    return labelstudio.opened(root, task)


def voc_objects(root: Path, *damaged: str) -> Source:
    objects = {"known": voc_boxes.entry("cat"), "unknown": voc_boxes.entry("", 1, 1, 9, 9)}
    good = voc_boxes.entry("cat", 1, 1, 9, 9)
    voc_boxes.write(root, "a", good, *map(objects.__getitem__, damaged))
    return voc_boxes.opened(root)


BUILDERS = [coco, coco_repeated, yolo_rows, cvat_shapes, labelme_shapes, label_studio_regions]
BUILDERS += [voc_objects]
UNNAMED = [labelme_shapes, voc_objects]
"""Their unknown class is none at all."""
SHAPELESS = [cvat_shapes, labelme_shapes, label_studio_regions]


def converted(root: Path, source: Source) -> ShardSet:
    report = convert(source, root / "out", ConvertOptions(workers=1, on_error="skip"))
    assert report.published is not None and not list(validate(report.published.path))
    return report.published


def void(data: ShardSet) -> np.ndarray:
    targets = build_targets(
        data.sample(0), FULL, taxonomy=data.taxonomy, task="instance", policies={}
    )
    return targets.void.numpy()


@pytest.mark.parametrize("build", BUILDERS)
def test_the_class_of_a_dropped_object_is_not_exhaustive(
    tmp_path: Path, build: Callable[..., Source]
) -> None:
    dropped = ["known"] if build in UNNAMED else ["known", "unknown"]
    data = converted(tmp_path, build(tmp_path, *dropped))
    sample = data.sample(0)
    (segment,) = sample.segments
    assert (sample.annotated, sample.exhaustive) == (None, False)
    assert sample.not_exhaustive == (segment.class_id,)
    assert data.manifest.ledger.images.warnings["not-exhaustive"] == 1
    x, y, width, height = segment.box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    outside = (columns < x - 1) | (columns > x + width) | (rows < y - 1) | (rows > y + height)
    assert void(data)[outside].all()


@pytest.mark.parametrize(
    ("build", "dropped"),
    [
        *((build, ()) for build in BUILDERS),
        *((build, ("unknown",)) for build in BUILDERS if build not in UNNAMED),
        *((build, ("no object",)) for build in SHAPELESS),
    ],
)
def test_classes_that_lose_no_object_stay_exhaustive(
    tmp_path: Path, build: Callable[..., Source], dropped: tuple[str, ...]
) -> None:
    data = converted(tmp_path, build(tmp_path, *dropped))
    sample = data.sample(0)
    assert (len(sample.segments), sample.exhaustive, sample.not_exhaustive) == (1, True, ())
    assert "not-exhaustive" not in data.manifest.ledger.images.warnings
    assert not void(data).all()


@pytest.mark.parametrize("build", UNNAMED)
def test_an_object_without_a_class_may_be_of_any(
    tmp_path: Path, build: Callable[..., Source]
) -> None:
    data = converted(tmp_path, build(tmp_path, "unknown"))
    sample = data.sample(0)
    assert (len(sample.segments), sample.exhaustive) == (1, False)
    assert sample.not_exhaustive == tuple(sorted(data.taxonomy.by_id))


@pytest.mark.parametrize("word", ["-1", "x", "0.5", "0,0.5,0.5,0.2,0.2"])
def test_a_row_of_no_readable_class_may_be_of_any(tmp_path: Path, word: str) -> None:
    rows = f"0 0.5 0.5 0.25 0.5\n{word} 0.5 0.5 0.2 0.2"
    data = converted(tmp_path, open_yolo(yolo.dataset(tmp_path, {"a": rows})))
    sample = data.sample(0)
    assert (len(sample.segments), sample.exhaustive) == (1, False)
    assert sample.not_exhaustive == tuple(sorted(data.taxonomy.by_id))


@pytest.mark.parametrize("row", [{"category_id": None}, {"category_id": "cat"}, {}])
def test_an_annotation_of_no_readable_class_may_be_of_any(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    file = coco_instances(tmp_path, [{"bbox": [2, 2, 9, 9]}, {"bbox": [20, 2, 5, 5], **row}])
    if not row:
        file.write_text(
            file.read_text().replace(
                '"id": 2, "image_id": 0, "category_id": 3', '"id": 2, "image_id": 0'
            )
        )
    sample = converted(tmp_path, open_coco_instances(file, tmp_path / "images")).sample(0)
    assert (len(sample.segments), sample.not_exhaustive) == (1, (0, 3, 7))


def test_dropped_objects_of_lvis_join_its_list(tmp_path: Path) -> None:
    rows = [{"segmentation": [SQUARE]}, {"category_id": 0, "segmentation": [[1, 1, 2, 2]]}]
    file = coco_instances(tmp_path, rows)
    lists = '"neg_category_ids": [0, 7], "not_exhaustive_category_ids": [3], "file_name"'
    file.write_text(file.read_text().replace('"file_name"', lists))
    sample = converted(tmp_path, open_coco_instances(file, tmp_path / "images")).sample(0)
    assert (sample.annotated, sample.not_exhaustive) == ((0, 3, 7), (0, 3))


def test_visual_genome_never_says_which_classes_lack_objects(tmp_path: Path) -> None:
    def entry(number: int, width: int) -> dict[str, Any]:
        place = {"x": 1, "y": 1, "w": width, "h": 5}
        return {"object_id": number, "synsets": ["car.n.01"], "names": ["car"], **place}

    picture(tmp_path / "images" / "1.jpg")
    image = {"image_id": 1, "objects": [entry(1, 5), entry(2, 0)]}
    source = open_visual_genome(write_json(tmp_path / "o.json", [image]), tmp_path / "images")
    sample = converted(tmp_path, source).sample(0)
    assert (len(sample.segments), sample.exhaustive, sample.not_exhaustive) == (1, False, ())


def test_pixels_of_a_dropped_object_of_voc_are_void(tmp_path: Path) -> None:
    classes, objects = voc.maps()
    classes[10:15, 10:15], objects[10:15, 10:15] = 77, 9
    root = voc.voc(tmp_path, classes, objects)
    data = converted(tmp_path, open_voc(root, "train", instances=True))
    expected = np.isin(objects, (9, voc.BORDER))
    assert (rle.decode(data.sample(0).void or b"", HEIGHT, WIDTH) == expected).all()


@pytest.mark.parametrize(("class_id", "errors"), [(3, 0), (0, 1)])
def test_a_detection_of_the_dropped_object_is_not_a_false_positive(
    tmp_path: Path, class_id: int, errors: int
) -> None:
    """Of two objects, the second is dropped; a detection there counts if it is of class 0."""
    file = coco_instances(tmp_path, [{"bbox": [2, 2, 9, 9]}, {"bbox": [20, 2, 5, -5]}])
    data = converted(tmp_path, open_coco_instances(file, tmp_path / "images"))
    kept = Segment(3, "thing", (2.0, 2.0, 9.0, 9.0), None, 81.0, score=0.5)
    dropped = Segment(class_id, "thing", (20.0, 2.0, 5.0, 5.0), None, 25.0, score=0.9)
    prediction = Sample("0", "i0.jpg", WIDTH, HEIGHT, (dropped, kept))
    metrics = figures(data, [prediction], "instance", iou_type="box", tide=True)
    assert metrics["ap"] == pytest.approx(100)
    assert metrics["errors"]["background"]["count"] == errors
