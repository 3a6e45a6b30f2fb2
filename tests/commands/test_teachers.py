"""`segkit pseudolabel --teacher`: every kind of teacher, from the command line to the layer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segkit
from segkit.benchmark.objects365_instances import (
    check_file,
    convert_ground_truth,
    open_annotations,
)
from segkit.errors import SegkitError
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.teacher import Teacher, mask_place
from segkit.masks.rle import area, decode
from segkit.metrics.box_prompt_iou import evaluate_box_prompts
from segkit.sample import Sample, Segment
from segkit.shards.consistency import Violation
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from segkit.training.train import train
from segkit.workers import devices
from tests.commands.slips import assert_refused_before_torch, hollow_run
from tests.commands.test_predict import call, error, invoke
from tests.training.toy import write_recipe

KINDS = ("sam", "sam2", "samhq")
CLASSICS = ("grabcut", "ellipse", "box")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from tests.inference import sams

    folder = tmp_path_factory.mktemp("sams")
    return {kind: sams.save(kind, folder / kind) for kind in KINDS}


def label(
    teacher: str, data: ShardSet, out: Path, *options: str
) -> tuple[dict[str, Any], ShardSet]:
    common = ("--teacher", teacher, "--data", data.path, "--out", out)
    return invoke("pseudolabel", *common, *options), ShardSet.open(out)


@pytest.mark.parametrize("name", [*KINDS, *CLASSICS])
def test_boxes_become_masks_of_the_teacher(
    name: str, sources: dict[str, str], boxes: ShardSet, tmp_path: Path
) -> None:
    options = ("--min-score", "0", "--device", "cpu") if name in KINDS else ()
    output, layer = label(sources.get(name, name), boxes, tmp_path / "out", *options)
    before = [s for sample in boxes.samples() for s in sample.segments]
    after = [(s, sample) for sample in layer.samples() for s in sample.segments]
    assert output["boxes"] == len(before) - 1 and output["left_alone"] == 1
    assert output["masked"] > 0 and output["masked"] == sum(s.mask is not None for s, _ in after)
    if name in CLASSICS:
        assert output["masked"] == output["boxes"]
    for old, (new, sample) in zip(before, after, strict=True):
        assert (new.class_id, new.box, new.source_id) == (old.class_id, old.box, old.source_id)
        if new.mask is None:
            assert new == old
            continue
        size = sample.height, sample.width
        assert new.mask_from == "pseudo" and new.score is not None and 0 <= new.score <= 1
        assert new.area == area(new.mask, *size) > 0
        outside = decode(new.mask, *size).copy()
        outside[mask_place(new.box, size)] = False
        assert not outside.any(), "a mask stays within the margin of its box"
    assert after[0][0].mask is None and after[0][0].is_crowd
    manifest = layer.manifest
    assert [parent.digest for parent in manifest.parents] == [boxes.manifest.digest]
    assert manifest.arguments["teacher"] == output["teacher"] == sources.get(name, name)
    assert manifest.arguments["min_score"] == output["min_score"] == 0
    assert manifest.kind == "instance" and output["strategy"] is None
    assert ("weights_sha256" in manifest.arguments) == (name in KINDS)
    assert violations(layer) == []


def test_min_score_decides_and_defaults_to_half(
    sources: dict[str, str], boxes: ShardSet, tmp_path: Path
) -> None:
    scores: list[float] = []
    for sample in label(sources["sam2"], boxes, tmp_path / "all", "--min-score", "0")[1].samples():
        scores += [s.score for s in sample.segments if s.score is not None]
    for options, lowest in (((), 0.5), (("--min-score", "0.9"), 0.9)):
        output, layer = label(sources["sam2"], boxes, tmp_path / "out", *options)
        assert output["masked"] == sum(score >= lowest for score in scores)
        assert output["min_score"] == layer.manifest.arguments["min_score"] == lowest


def test_a_layer_records_the_precision_of_its_workers(
    sources: dict[str, str], boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller opens the model on its CPU, two workers open it on a GPU each."""
    headers: list[Header] = []

    def stop(out: Path, data: ShardSet, open_label: object, header: Header, **_: object) -> None:
        headers.append(header)
        raise SegkitError("stop")

    monkeypatch.setattr("segkit.inference.pseudolabel.label_shards", stop)
    monkeypatch.setattr(devices, "_gpus", lambda: 2)
    common = ("pseudolabel", "--teacher", sources["sam2"], "--data", boxes.path, "--out", tmp_path)
    for options in (("--devices", "2"), ("--devices", "2", "--device", "cpu"), ("--device", "cpu")):
        assert str(call(*common, *options).exception) == "stop"
    assert [header.arguments["precision"] for header in headers] == ["bf16", "fp32", "fp32"]


def test_checkpoint_is_the_second_name_of_teacher(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    options = ("--data", boxes.path, "--force", "--out", tmp_path / "out")
    first = invoke("pseudolabel", "--checkpoint", run, *options)
    second = invoke("pseudolabel", "--teacher", run, *options)
    assert first["digest"] == second["digest"] and first["strategy"] == "box-prompts"
    set_by_key = ("--teacher", run, "--set", "inference.pseudo_score=0.125")
    third = invoke("pseudolabel", *set_by_key, *options)
    fourth = invoke("pseudolabel", "--teacher", run, "--min-score", "0.125", *options)
    assert third["digest"] == fourth["digest"] and fourth["min_score"] == 0.125
    arguments = ShardSet.open(tmp_path / "out").manifest.arguments
    assert arguments["inference"]["pseudo_score"] == arguments["min_score"] == 0.125
    line = error("pseudolabel", "--teacher", run, "--checkpoint", "box", *options)
    assert line == f"2 teachers: {run}, box; give it once; --checkpoint is its second name"


def test_two_teachers_in_turn(sources: dict[str, str], boxes: ShardSet, tmp_path: Path) -> None:
    """The boxes that one teacher leaves go to the next; masks stay those of the first."""
    first, layer = label(sources["sam2"], boxes, tmp_path / "sam", "--min-score", "0.9")
    second, both = label("ellipse", layer, tmp_path / "both")
    assert second["boxes"] == first["kept_as_boxes"] and second["kept_as_boxes"] == 0
    assert second["already_masked"] == first["masked"]
    for old, new in zip(layer.samples(), both.samples(), strict=True):
        for a, b in zip(old.segments, new.segments, strict=True):
            assert a == b or a.mask is None
    assert [parent.digest for parent in both.manifest.parents] == [layer.manifest.digest]


def violations(layer: ShardSet) -> list[Violation]:
    """All but those of the fixture, whose sky is a thing."""
    return [item for item in validate(layer.path) if item.code != "kind"]


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def _odd_images(folder: Path) -> tuple[ShardSet, ShardSet]:
    """Images of unusual types, and the same pixels as plain RGB."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    gray = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    alpha = np.dstack([gray, pixels])
    types = (pixels, alpha, pixels.astype(np.uint16) * 257, gray)
    taxonomy = Taxonomy("toy", (Category(1, "cat", "thing"),))
    corners = ((0, 0, 30.0, 30), (40, 20, 20.0, 20), (59, 39, 1, 1.0), (10, 10, 1, 1.0))
    segments = tuple(
        Segment(1, "thing", box, None, 1.0, source_id=str(number))
        for number, box in enumerate(corners)
    )

    def records(images: Any) -> Iterator[tuple[Sample, bytes]]:
        for number, image in enumerate(images):
            yield Sample(str(number), f"{number}.png", 60, 40, segments), _png(image)

    header = Header(taxonomy=taxonomy, kind="boxes", name="odd", command="test")
    odd = write_set(folder / "odd", records(types), header)
    return odd, write_set(folder / "plain", records([gray] * len(types)), header)


@pytest.mark.parametrize("name", [*KINDS, *CLASSICS])
def test_gray_transparent_and_16_bit_images_give_the_masks_of_rgb(
    name: str, sources: dict[str, str], tmp_path: Path
) -> None:
    options = ("--min-score", "0") if name in KINDS else ()
    masks = []
    for data in _odd_images(tmp_path):
        _, layer = label(sources.get(name, name), data, tmp_path / "out", *options)
        masks.append([sample.segments for sample in layer.samples()])
    assert masks[0] == masks[1]
    assert sum(segment.mask is not None for segments in masks[0] for segment in segments) >= 8


def test_classic_teachers_import_no_torch(boxes: ShardSet, tmp_path: Path) -> None:
    calls = [
        [
            "segkit",
            "pseudolabel",
            "--teacher",
            name,
            "--data",
            str(boxes.path),
            "--out",
            str(tmp_path),
        ]
        for name in CLASSICS
    ]
    code = f"""
import sys
from segkit.commands.app import main
for sys.argv in {calls!r}:
    try:
        main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stderr.splitlines()[-3:].count("0 False") >= 1, done.stderr
    assert done.stderr.count("0 False") == 3 and len(ShardSet.open(tmp_path)) == len(boxes)


def test_slips_are_refused_before_torch_is_imported(
    sources: dict[str, str], toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    data, (empty, mask2former) = f"--data={boxes.path}", (tmp_path / "empty", tmp_path / "m2f")
    for folder in (empty, mask2former):
        folder.mkdir()
    (mask2former / "config.json").write_text(json.dumps({"model_type": "mask2former"}))
    (mask2former / "model.safetensors").write_bytes(b"")
    sam, sam2 = (sources[kind].partition(":")[2] for kind in ("sam", "sam2"))
    hollow = hollow_run(tmp_path / "run")
    slips = (
        ["--teacher", "sam:nowhere", data],
        ["--teacher", f"sam:{empty}", data],
        ["--teacher", f"sam:{mask2former}", data],
        ["--teacher", f"sam:{sam2}", data],
        ["--teacher", f"sam2:{sam}", data],
        ["--teacher", f"hf:{sam}", data],
        ["--teacher", sources["sam"], data, "--min-score", "2"],
        ["--teacher", sources["sam"], data, "--strategy", "proposals"],
        ["--teacher", sources["sam"], data, "--set", "inference.score=0.3"],
        ["--teacher", sources["sam"], f"--data={toy.path}"],
        ["--teacher", "grabcut", data, "--device", "cpu"],
        ["--teacher", "box", data, "--min-score", "0.5"],
        ["--teacher", "sma:owner/name", data],
        ["--teacher", hollow, "--checkpoint", hollow, data],
        ["--teacher", hollow, data, "--min-score", "0", "--set", "inference.pseudo_score=0"],
    )
    assert_refused_before_torch(["pseudolabel", "--out", str(tmp_path / "out")], slips)
    assert not (tmp_path / "out").exists()


class Untidy(Teacher):
    """Empty masks, scores that are not numbers, and no masks."""

    name, min_score = "untidy", 0.0

    def predict(self, prompts: Any) -> Iterator[list[BoxMask | None]]:
        for item in prompts:
            yield [self._mask(item, index) for index in range(len(item.boxes))]

    def _mask(self, prompts: ImagePrompts, index: int) -> BoxMask | None:
        size = prompts.image.shape[:2]
        place = mask_place(prompts.boxes[index], size)
        inside = np.ones(size, bool)[place]
        score = (0.5, float("nan"), 0.5, 7.0)[index % 4]
        return None if index % 4 == 0 else BoxMask(size, place, inside * (index % 4 != 2), score, 0)


def test_a_teacher_of_ones_own_and_its_bad_masks(boxes: ShardSet, tmp_path: Path) -> None:
    """Boxes whose mask is empty, or whose score is no number, stay boxes."""
    layer, counts = segkit.pseudolabel(Untidy(), boxes, tmp_path / "out")
    expected = 0
    for old, new in zip(boxes.samples(), layer.samples(), strict=True):
        prompted = [index for index, s in enumerate(old.segments) if not s.is_crowd]
        for place, index in enumerate(prompted):
            masked = new.segments[index].mask is not None
            assert masked == (place % 4 == 3)
            expected += masked
            assert not masked or new.segments[index].score == 1.0
    assert counts.masked == expected and layer.manifest.arguments["teacher"] == "untidy"
    assert violations(layer) == []


def test_a_box_outside_the_image_stays_a_box(
    sources: dict[str, str], boxes: ShardSet, tmp_path: Path
) -> None:
    def moved() -> Iterator[tuple[Sample, bytes]]:
        for sample in boxes.samples():
            outside = [replace(s, box=(sample.width + 9.0, 3.0, 5.0, 5.0)) for s in sample.segments]
            yield replace(sample, segments=tuple(outside)), boxes.image_bytes(sample)

    header = Header(taxonomy=boxes.taxonomy, kind="boxes", name="outside", command="test")
    data = write_set(tmp_path / "data", moved(), header)
    for name in ("sam", *CLASSICS):
        layer, counts = pseudolabel(
            segkit.open_teacher(sources.get(name, name)), data, tmp_path / "out"
        )
        assert counts.masked == 0 and counts.kept_as_boxes == counts.boxes > 0
        assert layer.manifest.statistics.masked == 0


class Overflowing(Teacher):
    """Masks that fill the margin around their boxes."""

    name, min_score = "overflowing", 0.0

    def predict(self, prompts: Any) -> Iterator[list[BoxMask | None]]:
        for item in prompts:
            size = item.image.shape[:2]
            places = [mask_place(box, size) for box in item.boxes]
            yield [BoxMask(size, place, np.ones(size, bool)[place], 1.0, 0) for place in places]


def test_masks_may_reach_into_the_margin_but_no_further(tmp_path: Path) -> None:
    """`segkit validate` accepts the margin of pseudo-masks, and nothing beyond its rounding."""
    taxonomy = Taxonomy("toy", (Category(1, "cat", "thing"),))
    box = (50.0, 60.0, 200.0, 100.0)
    sample = Sample("0", "0.png", 400, 300, (Segment(1, "thing", box, None, 20000.0),))
    image = _png(np.zeros((300, 400, 3), np.uint8))
    header = Header(taxonomy=taxonomy, kind="boxes", name="large", command="test")
    data = write_set(tmp_path / "data", [(sample, image)], header)
    layer, _ = segkit.pseudolabel(Overflowing(), data, tmp_path / "out")
    (segment,) = next(layer.samples()).segments
    assert segment.box == box and segment.area == 220 * 110
    assert violations(layer) == []
    for change in ({"mask_from": "human"}, {"box": (56.0, 60.0, 200.0, 100.0)}):
        changed = replace(sample, segments=(replace(segment, **change),))
        other = replace(header, kind="instance")
        (violation,) = violations(write_set(tmp_path / "other", [(changed, image)], other))
        assert violation.code == "box"


def test_a_model_trains_on_the_masks_of_a_teacher(
    sources: dict[str, str], boxes: ShardSet, tmp_path: Path
) -> None:
    _, layer = label(sources["sam2"], boxes, tmp_path / "masks", "--min-score", "0")
    assert layer.manifest.statistics.masked > 0
    recipe = write_recipe(tmp_path / "tiny.toml")
    run = train(str(recipe), [(str(layer.path), 1.0)], tmp_path / "run", steps=2, device="cpu")
    assert segkit.load_run(run).manifest.parents[0].digest == layer.manifest.digest


def test_the_baselines_reach_the_figures_of_the_data(real_data: Path, tmp_path: Path) -> None:
    """Mean IoU over the 864 boxes of the stand-in's validation images, crowds left out."""
    annotations = real_data / "objects365_standin" / "annotations"
    common = ("--images", real_data / "coco", "--no-preview", "--annotations")
    file = annotations / "zhiyuan_objv2_val.json"
    invoke("convert", "objects365", *common, file, "--out", tmp_path / "boxes")
    source = open_annotations(annotations / "o365_instance_seg_val.json", real_data / "coco")
    check = check_file(source, find_images=False)
    truth = convert_ground_truth(
        source, check, tmp_path / "truth", with_images=False, on_progress=lambda images: None
    ).shards
    for name, expected in (("box", 0.571), ("ellipse", 0.636)):
        output, layer = label(name, ShardSet.open(tmp_path / "boxes"), tmp_path / name)
        figures = evaluate_box_prompts(truth.samples(), layer.samples(), truth.taxonomy)
        assert figures["boxes"] == figures["masked"] == output["masked"] == 864
        assert round(figures["mean_iou"], 3) == expected
