"""Round trips of real data through the formats of labeling tools: each annotation comes back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.masks import rle
from segkit.masks.iou import mask_iou
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

from .test_round_trips import run

IMAGES, MAPS = 12, 4
FORMATS = ("labelstudio", "cvat", "labelme", "voc", "yolo")
BOX_PRECISION = {"yolo": 1e-5, "voc": 1e-6, "labelstudio": 1e-6, "cvat": 1e-9, "labelme": 1e-9}
"""Pixels."""


@pytest.fixture(scope="module")
def sets(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Instances, boxes and class maps of real images."""
    root, coco = tmp_path_factory.mktemp("sets"), real_data / "coco"
    objects365 = real_data / "objects365_standin" / "annotations" / "zhiyuan_objv2_val.json"
    camvid = real_data / "camvid"
    sources = {
        "instances": (
            *("coco", "--images", coco / "val2017"),
            *("--instances", coco / "annotations" / "instances_val2017.json"),
        ),
        "boxes": ("objects365", "--annotations", objects365, "--images", coco),
        "semantic": (
            *("semantic", "--images", camvid / "images" / "test"),
            *("--masks", camvid / "annotations" / "test"),
            *("--labels", camvid / "labels.txt", "--ignore", 11),
        ),
    }
    for name, source in sources.items():
        limit = IMAGES if name != "semantic" else MAPS
        options = ("--limit", limit, "--workers", 1, "--out", root / name)
        run("convert", *source, *options)
    return {name: root / name for name in sources}


def back(exported: Path, name: str, out: Path) -> tuple[ShardSet, dict[str, Any]]:
    """Convert an export again."""
    labels = ("--labels", exported / "labels.txt")
    arguments = {
        "yolo": ("yolo", "--data", exported / "data.yaml"),
        "voc": (
            *("voc-boxes", "--annotations", exported / "Annotations"),
            *("--images", exported / "JPEGImages"),
        ),
        "labelstudio": (
            *("labelstudio", "--annotations", exported / "tasks.json"),
            *("--images", exported / "images", "--predictions", *labels),
        ),
        "cvat": (
            *("cvat", "--annotations", exported / "annotations.xml"),
            *("--images", exported / "images"),
        ),
        "labelme": ("labelme", "--annotations", exported, *labels),
    }
    result = run("convert", *arguments[name], "--workers", 1, "--out", out)
    assert run("validate", out)["violations"] == []
    return ShardSet.open(out), result


def by_file(data: ShardSet) -> dict[str, Sample]:
    return {sample.file_name.rpartition("/")[2]: sample for sample in data.samples()}


def names(data: ShardSet, segments: list[Segment]) -> list[str]:
    return [data.taxonomy.by_id[segment.class_id].name for segment in segments]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["instances", "boxes", "semantic"])
def test_every_annotation_comes_back(
    sets: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    if kind == "semantic" and name in ("voc", "yolo"):
        pytest.skip("regions are not objects")
    before = ShardSet.open(sets[kind])
    report = run("export", name, "--data", sets[kind], "--out", tmp_path / "out", "--images")
    after, result = back(tmp_path / "out", name, tmp_path / "set")
    total = sum(len(sample.segments) for sample in before.samples())
    assert report["annotations"] + sum(report["dropped"].values()) == total > 25
    assert result["ledger"]["input"] == result["ledger"]["kept"] == report["annotations"]
    assert set(report["dropped"]) <= {"crowd"} and not report["altered"]
    samples = by_file(after)
    for sample in before.samples():
        again = samples[sample.file_name.rpartition("/")[2]]
        assert before.image_bytes(sample) == after.image_bytes(again)
        theirs = [s for s in sample.segments if name == "labelstudio" or not s.is_crowd]
        ours = list(again.segments)
        assert names(before, theirs) == names(after, ours)
        for a, b in zip(theirs, ours, strict=True):
            if name in ("voc", "yolo") or a.mask is None:
                assert (b.mask, b.box) == (None, pytest.approx(a.box, abs=BOX_PRECISION[name]))
            else:
                assert b.mask == a.mask
            if name == "labelstudio":
                assert (b.source_id, b.is_crowd, again.id) == (a.source_id, a.is_crowd, sample.id)


@pytest.mark.parametrize("contours", [False, True])
def test_polygons_of_yolo(sets: dict[str, Path], tmp_path: Path, contours: bool) -> None:
    """Read as contours, masks of one part are exact; as outlines, half a pixel is lost around."""
    options = ("--data", sets["instances"], "--out", tmp_path / "out", "--images")
    report = run("export", "yolo", "--polygons", *options)
    source = ("yolo", "--data", tmp_path / "out", *(["--contours"] if contours else []))
    result = run("convert", *source, "--workers", 1, "--out", tmp_path / "set")
    assert run("validate", tmp_path / "set")["violations"] == []
    assert result["ledger"]["input"] == result["ledger"]["kept"] == report["annotations"] > 25
    before, after = ShardSet.open(sets["instances"]), ShardSet.open(tmp_path / "set")
    samples, scores, large = by_file(after), [], []
    for sample in before.samples():
        theirs = [s for s in sample.segments if not s.is_crowd]
        for a, b in zip(theirs, samples[sample.file_name].segments, strict=True):
            first, second = (rle.decode(s.mask, sample.height, sample.width) for s in (a, b))
            scores.append(mask_iou(first, second))
            large += [scores[-1]] if a.area > 96**2 else []
            assert not contours or not (first & ~second).any()
    if contours:
        changed = sum(score < 1 for score in scores)
        assert changed <= report["altered"]["bridged-parts"] and np.mean(scores) > 0.995
    else:
        assert np.mean(scores) > 0.85 and np.mean(large) > 0.97


def test_several_sets_are_the_splits_of_data_yaml(sets: dict[str, Path], tmp_path: Path) -> None:
    parts = ("--part", "train=0.7", "--part", "val=0.3")
    run("split", sets["instances"], *parts, "--out", tmp_path / "parts")
    train, val = (tmp_path / "parts" / name for name in ("train", "val"))
    options = ("--out", tmp_path / "out", "--images")
    run("export", "yolo", "--data", f"train={train}", "--data", f"val={val}", *options)
    for name, part in (("train", train), ("val", val)):
        source = ("yolo", "--data", tmp_path / "out", "--split", name, "--workers", 1)
        run("convert", *source, "--out", tmp_path / name)
        assert by_file(ShardSet.open(tmp_path / name)).keys() == by_file(ShardSet.open(part)).keys()


def test_auto_recognizes_each_export(sets: dict[str, Path], tmp_path: Path) -> None:
    kept = {}
    for name in ("cvat", "labelme", "voc", "yolo"):
        run("export", name, "--data", sets["boxes"], "--out", tmp_path / name, "--images")
        result = run("convert", "auto", tmp_path / name, "--dry-run", "--workers", 1)
        kept[name] = result["ledger"]["kept"]
    assert len(set(kept.values())) == 1 and kept["yolo"] > 25
