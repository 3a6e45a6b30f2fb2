"""Whatever a source holds, `segkit validate` accepts what `convert` publishes of it."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from segkit.errors import InputError
from segkit.masks import rle
from segkit.shards.rules import RULES, agrees, reaches
from segkit.shards.validate import validate
from segkit.sources.ade import open_ade
from segkit.sources.cityscapes import open_cityscapes
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_joined import open_coco_joined
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConversionReport, ConvertOptions, convert
from segkit.sources.label_studio import open_label_studio
from segkit.sources.ledger import DROP_HINTS, WARNINGS
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.source import Source
from segkit.sources.voc import open_voc
from tests.shards.test_validate import BROKEN

from . import test_label_studio as label_studio
from .builders import CATEGORIES, HEIGHT, WIDTH, coco_instances, id_png, picture, write_json
from .test_damaged_formats import OPENERS, altered, rich_files

SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
REASONABLE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

numbers = st.one_of(
    st.integers(-5, 45),
    st.floats(-10, 45),
    st.sampled_from([0, -0.0, 1e-300, 1e5, -1e5, 1e7, 2**31, 1e300]),
)
extents = numbers.filter(lambda value: value >= 0)
boxes = st.one_of(
    st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, max_size=5), st.none()
)
areas = st.one_of(numbers, st.sampled_from([None, "3", True, -1e300, 1e308, 2**70]))


@st.composite
def run_lengths(draw: st.DrawFn) -> dict[str, Any]:
    """Counts of a mask in any form: with empty runs, long numbers, of another size, damaged."""
    runs, rest = [], HEIGHT * WIDTH
    for run in draw(st.lists(st.integers(0, 200), max_size=9)):
        runs.append(min(run, rest))
        rest -= runs[-1]
    runs += [rest, *draw(st.lists(st.just(0), max_size=2))]
    runs[0] += draw(st.sampled_from([0, 0, 0, 1]))
    size = draw(st.sampled_from([[HEIGHT, WIDTH]] * 4 + [[WIDTH, HEIGHT]]))
    if draw(st.booleans()):
        return {"size": size, "counts": runs}
    text = rle.compress(np.array(runs)).decode()
    place = draw(st.integers(0, len(text) - 1))
    value = ord(text[place]) - 48
    if draw(st.booleans()) and not value & 32:  # one more group that repeats the sign
        group = 31 if value & 16 else 0
        text = text[:place] + chr(48 + (value | 32)) + chr(48 + group) + text[place + 1 :]
    return {"size": size, "counts": text[: draw(st.sampled_from([None, None, None, -1]))]}


polygons = st.lists(st.lists(numbers, max_size=12), max_size=3)
segmentations = st.one_of(
    polygons,
    st.lists(st.floats(0, 32), min_size=6, max_size=6),  # flat
    run_lengths(),
    st.sampled_from([None, {}, "", "x", 5, [[1, "a"]], [SQUARE], [SQUARE], SQUARE]),
)
annotations = st.fixed_dictionaries(
    {"category_id": st.sampled_from([3, 3, 7, 0, "3", 3.0, 99, None])},
    optional={
        "id": st.one_of(st.integers(-3, 20), st.sampled_from(["x", 1.0, None])),
        "bbox": boxes,
        "area": areas,
        "segmentation": segmentations,
        "iscrowd": st.sampled_from([0, 1, True, 2, 1.0, None, "1"]),
        "ignore": st.sampled_from([0, 1, True, None]),
        "score": st.sampled_from([0.5, -1, 7, "high", None]),
        "attributes": st.sampled_from([{"a": [1]}, "\u2028", None]),
    },
)


class_ids = st.lists(st.sampled_from([3, 7, 0, 99, -1]), max_size=4)
images = st.fixed_dictionaries(
    {},
    optional={
        "width": st.sampled_from([WIDTH, float(WIDTH), 0, None]),
        "height": st.sampled_from([HEIGHT, 0, None]),
        "neg_category_ids": class_ids,
        "not_exhaustive_category_ids": class_ids,
        "date_captured": st.sampled_from(["\u2028", 2**70, 1e300, [[[]]], {"": None}, "\x1b[31m"]),
    },
)
names = st.one_of(st.text(min_size=1, max_size=4), st.sampled_from(["cat", "cat [3]", "\x00", " "]))


def assert_valid(source: Source, out: Path, **options: Any) -> ConversionReport:
    """Convert a source, and let `validate` find nothing in what is published."""
    shutil.rmtree(out, ignore_errors=True)
    report = convert(source, out, ConvertOptions(workers=1, on_error="skip", **options))
    assert report.published is not None
    assert list(validate(report.published.path)) == []
    report.ledger.check()
    assert len(list(report.published.samples())) == report.ledger.images.kept
    return report


@REASONABLE
@given(
    rows=st.lists(annotations, min_size=1, max_size=8),
    image=images,
    class_names=st.lists(names, min_size=3, max_size=3),
    options=st.fixed_dictionaries(
        {name: st.booleans() for name in ("boxes_only", "crowds_as_objects", "drop_unused_twins")}
    ),
)
def test_loose_coco_instances(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    image: dict[str, Any],
    class_names: list[str],
    options: dict[str, bool],
) -> None:
    ids = (3, 7, 0)
    categories = [{"id": i, "name": name} for i, name in zip(ids, class_names, strict=True)]
    file = coco_instances(tmp_path, rows, categories=categories)
    data = json.loads(file.read_text())
    data["images"][0] |= image
    file.write_text(json.dumps(data))
    try:
        source = open_coco_instances(file, tmp_path / "images", **options)
    except InputError:  # a name without a letter
        return
    assert_valid(source, tmp_path / "out")


id_maps = st.lists(
    st.tuples(st.sampled_from([0, 5, 300, 70000, 255, 8]), *[st.integers(0, 31)] * 4), max_size=8
)


def painted(rectangles: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    for value, x, y, w, h in rectangles:
        ids[y : y + h, x : x + w] = value
    return ids


segment_infos = st.fixed_dictionaries(
    {"id": st.sampled_from([5, 300, 70000, 8, 0, 99]), "category_id": st.sampled_from([3, 7, 0])},
    optional={"area": areas, "bbox": boxes, "iscrowd": st.sampled_from([0, 1, None])},
)


@settings(REASONABLE, max_examples=20)
@given(id_maps, st.lists(segment_infos, max_size=5), st.none() | st.lists(annotations, max_size=5))
def test_loose_coco_panoptic_also_joined_with_instances(
    tmp_path: Path,
    rectangles: list[tuple[int, ...]],
    infos: list[dict[str, Any]],
    rows: list[dict[str, Any]] | None,
) -> None:
    picture(tmp_path / "images" / "i0.jpg")
    id_png(tmp_path / "panoptic" / "i0.png", painted(rectangles))
    image = {"id": 0, "file_name": "i0.jpg", "width": WIDTH, "height": HEIGHT}
    annotation = {"image_id": 0, "file_name": "i0.png", "segments_info": infos}
    data = {"images": [image], "annotations": [annotation], "categories": CATEGORIES}
    file = write_json(tmp_path / "panoptic.json", data)
    if rows is None:
        source: Source = open_coco_panoptic(file, tmp_path / "images", tmp_path / "panoptic")
    else:
        instances = coco_instances(tmp_path, rows)
        source = open_coco_joined(file, instances, tmp_path / "images", tmp_path / "panoptic")
    assert_valid(source, tmp_path / "out")


def gray(path: Path, indices: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(indices).save(path)


def semantic(root: Path, indices: NDArray[Any], numbers: NDArray[Any]) -> Source:
    picture(root / "images" / "a.jpg")
    gray(root / "masks" / "a.png", indices.astype(np.uint8))
    (root / "labels.txt").write_text("5 wall\n44 sky\n255 other\n")
    return open_semantic(root / "images", root / "masks", root / "labels.txt", ignore=[255])


def ade(root: Path, indices: NDArray[Any], numbers: NDArray[Any]) -> Source:
    picture(root / "images" / "training" / "a.jpg")
    gray(root / "annotations" / "training" / "a.png", (indices % 160).astype(np.uint8))
    rgb = np.stack([numbers % 110, numbers // 110 % 5, indices], axis=-1).astype(np.uint8)
    gray(root / "annotations_instance" / "training" / "a.png", rgb)
    return open_ade(root, "training", instances=True)


def cityscapes(root: Path, indices: NDArray[Any], numbers: NDArray[Any]) -> Source:
    """Two cities with one frame name: the second one is dropped."""
    values = np.where(numbers % 3 == 0, indices % 40, indices % 40 * 1000 + numbers % 9)
    for city in ("a", "b"):
        picture(root / "leftImg8bit" / "val" / city / "x_leftImg8bit.png")
        name = "x_gtFine_instanceIds.png"
        gray(root / "gtFine" / "val" / city / name, values.astype(np.uint16))
    return open_cityscapes(root, "val", instances=True)


def voc(root: Path, indices: NDArray[Any], numbers: NDArray[Any]) -> Source:
    picture(root / "JPEGImages" / "a.jpg")
    gray(root / "SegmentationClass" / "a.png", (indices % 25).astype(np.uint8))
    objects = np.where(numbers % 7 == 0, 255, numbers % 4)
    gray(root / "SegmentationObject" / "a.png", objects.astype(np.uint8))
    list_file = root / "ImageSets" / "Segmentation" / "train.txt"
    list_file.parent.mkdir(parents=True, exist_ok=True)
    list_file.write_text("a\na\n")
    return open_voc(root, "train", instances=True)


@pytest.mark.parametrize("write", [semantic, ade, cityscapes, voc])
@settings(REASONABLE, max_examples=5)
@given(id_maps, id_maps)
def test_any_index_masks(
    tmp_path: Path,
    write: Callable[..., Source],
    first: list[tuple[int, ...]],
    second: list[tuple[int, ...]],
) -> None:
    assert_valid(write(tmp_path, painted(first), painted(second)), tmp_path / "out")


CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "box elsewhere": ({"bbox": [20, 15, 5, 5]}, {"box-mismatch": 1}),
    "box of negative origin, elsewhere": ({"bbox": [-20, -20, 15, 15]}, {"box-mismatch": 1}),
    "box without extent": ({"bbox": [2, 2, 0, 0]}, {"box-mismatch": 1}),
    "box of negative sides": ({"bbox": [12, 12, -10, -10]}, {"box-mismatch": 1}),
    "box partly outside": ({"bbox": [-3, 2, 40, 12]}, {"box-beyond-image": 1}),
    "box a pixel too small": ({"bbox": [3, 3, 8.5, 8.5]}, {}),
    "no box": ({"bbox": None}, {}),
    "negative area": ({"area": -100}, {"negative-area": 1}),
    "no area": ({"area": None}, {}),
    "area 0": ({"area": 0}, {"area-mismatch": 1}),
    "area far too large": ({"area": 1e6}, {"area-mismatch": 1}),
    "area of the polygon": ({"area": 99.5}, {}),
    "odd score": ({"score": -7}, {"score-out-of-range": 1}),
    "empty run": (
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [26, 3, 0, 7, HEIGHT * WIDTH - 36]}},
        {"non-canonical-rle": 1, "area-mismatch": 1},
    ),
    "no mask, area 0": ({"segmentation": [], "area": 0}, {"area-mismatch": 1}),
    "no mask, negative area": ({"segmentation": [], "area": -1}, {"negative-area": 1}),
    "no mask, box outside": (
        {"segmentation": [], "bbox": [100, 100, 10, 10]},
        {"box-beyond-image": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_oddity_has_its_warning_and_a_valid_set(tmp_path: Path, case: str) -> None:
    change, expected = CASES[case]
    row = {"segmentation": [SQUARE], "bbox": [2, 2, 10, 10], "area": 100, **change}
    source = open_coco_instances(coco_instances(tmp_path, [row]), tmp_path / "images")
    report = assert_valid(source, tmp_path / "out")
    assert report.ledger.annotations.kept == 1
    assert report.ledger.annotations.warnings == expected


def test_repaired_values_are_those_of_the_pixels(tmp_path: Path) -> None:
    row = {"segmentation": [SQUARE], "bbox": [20, 15, 5, 5], "area": -3}
    source = open_coco_instances(coco_instances(tmp_path, [row]), tmp_path / "images")
    published = assert_valid(source, tmp_path / "out").published
    (segment,) = published.sample(0).segments
    drawn = coco.merge(coco.frPyObjects([SQUARE], HEIGHT, WIDTH))
    assert segment.box == tuple(coco.toBbox(drawn)) and segment.area == coco.area(drawn) == 100


@given(run_lengths())
def test_canonical_run_lengths_are_those_of_pycocotools(counts: dict[str, Any]) -> None:
    if isinstance(counts["counts"], list) or counts["size"] != [HEIGHT, WIDTH]:
        return
    text = counts["counts"].encode()
    try:
        canonical = rle.canonical(text, HEIGHT, WIDTH)
    except ValueError:
        with pytest.raises(ValueError):
            rle.decode(text, HEIGHT, WIDTH)
        return
    mask = rle.decode(text, HEIGHT, WIDTH)
    assert canonical == coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    region = rle.region(canonical, HEIGHT, WIDTH)
    assert (region.area, region.box) == (int(mask.sum()), rle.box(text, HEIGHT, WIDTH))


def test_a_flat_polygon_joined_with_panoptic_is_exported_as_a_list(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "i0.jpg")
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[2:12, 2:12] = 5
    id_png(tmp_path / "panoptic" / "i0.png", ids)
    image = {"id": 0, "file_name": "i0.jpg", "width": WIDTH, "height": HEIGHT}
    infos = [{"id": 5, "category_id": 3}]
    annotation = {"image_id": 0, "file_name": "i0.png", "segments_info": infos}
    data = {"images": [image], "annotations": [annotation], "categories": CATEGORIES}
    file = write_json(tmp_path / "panoptic.json", data)
    instances = coco_instances(tmp_path, [{"segmentation": SQUARE}])
    source = open_coco_joined(file, instances, tmp_path / "images", tmp_path / "panoptic")
    published = assert_valid(source, tmp_path / "out").published
    (segment,) = published.sample(0).segments
    assert json.loads(str(segment.source_polygon)) == [SQUARE]


def test_one_table_serves_conversion_validation_and_the_documentation() -> None:
    for rule in RULES.values():
        assert set(rule.repaired) <= WARNINGS.keys() and set(rule.dropped) <= DROP_HINTS.keys()
    assert {code for code in BROKEN if code not in RULES} == set()
    manual = (Path(__file__).parents[2] / "docs" / "conversion.md").read_text("utf-8")
    for code, rule in RULES.items():
        repaired, dropped = (
            f" {' '.join(f'`{name}`' for name in names)}" if names else ""
            for names in (rule.repaired, rule.dropped)
        )
        assert f"| `{code}` | {rule.text} |{repaired} |{dropped} |\n" in manual


@given(st.tuples(numbers, numbers, extents, extents), st.floats(1, 1e6))
def test_predicates_take_any_box(box: tuple[float, float, float, float], pixels: float) -> None:
    assert reaches(box, box)
    perimeter = 2 * (box[2] + box[3])
    for area in (pixels / 2, pixels, 2 * pixels, pixels + 0.99 * perimeter):
        assert agrees(area, pixels, box)
    for area in (0.0, -pixels, 2.01 * (pixels + perimeter)):
        assert not agrees(area, pixels, box)


@pytest.mark.parametrize("score", [0.5, -1, 87, 1e308, True, "high", None])
def test_scores_of_label_studio_are_within_0_and_1_or_left_out(tmp_path: Path, score: Any) -> None:
    picture(tmp_path / "images" / "a.jpg")
    region = label_studio.rectangle(5, 5, 10, 10, score=score)
    task = {"id": 8, "data": {"image": "a.jpg"}, "predictions": [{"result": [region]}]}
    write_json(tmp_path / "tasks.json", [task])
    source = open_label_studio(tmp_path / "tasks.json", tmp_path / "images", predictions=True)
    report = assert_valid(source, tmp_path / "out")
    (segment,) = report.published.sample(0).segments
    odd = score not in (0.5, None)
    assert segment.score == (score if score == 0.5 else None)
    assert report.ledger.annotations.warnings.get("score-out-of-range", 0) == odd


@pytest.mark.parametrize("command", sorted(OPENERS))
def test_altered_files_of_labeling_tools(tmp_path: Path, command: str) -> None:
    file = rich_files(tmp_path)[command]
    whole = {"train": "images/train", "nc": 2, "path": ".", "names": {"0": "cat", "1": "dog"}}
    whole = whole if command == "yolo" else json.loads(file.read_text())
    rng, valid = random.Random(command), 0
    for _ in range(15):
        file.write_text(json.dumps(altered(whole, rng)))
        try:
            source = OPENERS[command](file)
            assert_valid(source, tmp_path / "out")
            valid += 1
        except InputError:
            continue
    assert valid > 0
