"""`segkit convert` of the real data."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from segkit.masks import rle
from segkit.shards.reader import ShardSet

from .test_convert import convert_json, segkit


def test_real_panoptic_is_exact_from_png_to_set(real_data: Path, tmp_path: Path) -> None:
    coco = real_data / "coco"
    result = convert_json(
        "coco",
        "--images",
        coco / "val2017",
        "--panoptic",
        coco / "annotations/panoptic_val2017.json",
        "--out",
        tmp_path,
    )
    data = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    assert result["ledger"]["kept"] == sum(len(a["segments_info"]) for a in data["annotations"])
    listed = {str(a["image_id"]): a for a in data["annotations"]}
    published = ShardSet.open(tmp_path)
    for sample in published.samples():
        rgb = np.asarray(
            Image.open(coco / "annotations/panoptic_val2017" / listed[sample.id]["file_name"]), int
        )
        ids = rgb @ [1, 256, 65536]
        painted = rle.paint(
            [(int(s.source_id or 0), s.mask or b"") for s in sample.segments], *ids.shape
        )
        assert (painted == ids).all()
        assert published.image_bytes(sample) == (coco / "val2017" / sample.file_name).read_bytes()


def test_real_instances_are_exact(real_data: Path, tmp_path: Path) -> None:
    coco = real_data / "coco"
    path = coco / "annotations" / "instances_val2017.json"
    result = convert_json(
        "coco", "--images", coco / "val2017", "--instances", path, "--out", tmp_path
    )
    truth = COCO(str(path))
    assert result["ledger"]["kept"] == len(truth.anns)
    for sample in ShardSet.open(tmp_path).samples():
        for segment in sample.segments:
            annotation = truth.anns[int(segment.source_id or -1)]
            assert (
                rle.decode(segment.mask or b"", sample.height, sample.width)
                == truth.annToMask(annotation)
            ).all()
            assert (list(segment.box), segment.area) == (annotation["bbox"], annotation["area"])
            assert segment.is_crowd == bool(annotation["iscrowd"])


def test_real_objects365_and_camvid_lose_nothing(real_data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        path = real_data / "objects365_standin" / "annotations" / f"zhiyuan_objv2_{split}.json"
        result = convert_json(
            "objects365",
            "--annotations",
            path,
            "--images",
            real_data / "coco",
            "--out",
            tmp_path / split,
        )
        data = json.loads(path.read_text())
        assert result["ledger"]["kept"] == len(data["annotations"])
        assert result["images"]["kept"] == len(data["images"])
        assert result["taxonomy"] == "objects365-v2"
    camvid = real_data / "camvid"
    folders = ("--images", camvid / "images/train", "--masks", camvid / "annotations/train")
    result = convert_json(
        "semantic",
        *folders,
        "--labels",
        camvid / "labels.txt",
        "--ignore",
        11,
        "--out",
        tmp_path / "camvid",
    )
    assert result["images"]["kept"] == 123
    assert (
        "[unknown-category]"
        in segkit(
            "convert",
            "semantic",
            *folders,
            "--labels",
            camvid / "labels.txt",
            "--out",
            tmp_path / "x",
        ).stderr
    )
