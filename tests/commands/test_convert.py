"""`segkit convert` as a user runs it: exit codes, one clear line, JSON, and the real data."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from pycocotools.coco import COCO

from segkit.commands.app import main
from segkit.commands.convert import Common, app
from segkit.masks import rle
from segkit.shards.reader import ShardSet

from ..sources.builders import coco_instances, coco_panoptic, picture, write_json
from ..sources.test_cityscapes import frame
from ..sources.test_cityscapes import maps as cityscapes_maps
from ..sources.test_coco_joined import scene
from ..sources.test_voc import maps as voc_maps
from ..sources.test_voc import voc


def segkit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process; it is the same as in one of its own, and a second
    faster."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["segkit", *map(str, arguments)])
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def convert_json(*arguments: object) -> Any:
    done = segkit("convert", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    done = segkit("convert", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_json_says_what_the_contract_promises(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    out = tmp_path / "out"
    made = convert_json(
        "coco",
        "--images",
        tmp_path / "images",
        "--panoptic",
        tmp_path / "panoptic.json",
        "--out",
        out,
        "--split",
        "val",
    )
    published = ShardSet.open(out)
    assert made["ledger"] == {"input": 9, "kept": 9, "dropped": {}, "warnings": {}}
    assert made["images"] == {"input": 3, "kept": 3, "dropped": {}, "warnings": {}}
    assert (made["path"], made["version"], made["digest"]) == (
        str(published.path),
        1,
        published.manifest.digest,
    )
    assert made["schema"] == "segkit.convert/1"
    assert made["segkit_version"] == published.manifest.segkit_version
    assert published.manifest.split == "val"
    assert published.manifest.arguments["panoptic"] == str(tmp_path / "panoptic.json")


def test_every_source_takes_its_own_options_and_those_of_all() -> None:
    common = {field.name for field in fields(Common)}
    own = {
        "ade": {"root", "instances", "classes"},
        "cityscapes": {"root", "instances"},
        "coco": {"images", "panoptic", "panoptic_masks", "instances", "boxes_only"},
        "objects365": {"annotations", "images"},
        "semantic": {"images", "masks", "labels", "ignore", "first_label"},
        "voc": {"root", "instances"},
    }
    commands = typer.main.get_group(app).commands
    assert {
        name: {option.name for option in command.params} - common
        for name, command in commands.items()
    } == own
    for name, command in commands.items():
        needed = {option.name for option in command.params if option.required}
        assert needed == own[name] & {"annotations", "images", "labels", "masks", "root"} | (
            {"split"} if "root" in own[name] else set()
        )
        assert common <= {option.name for option in command.params}
        help_text = segkit("convert", name, "--help").stdout
        assert f"Example: segkit convert {name} --" in " ".join(help_text.split())
        assert "--on-error" in help_text and "--engine" in help_text


def test_the_table_shows_counts_and_the_path(tmp_path: Path) -> None:
    path = coco_instances(tmp_path, [{"bbox": [1, 1, 5, 5]}])
    done = segkit(
        "convert",
        "coco",
        "--images",
        tmp_path / "images",
        "--instances",
        path,
        "--boxes-only",
        "--out",
        tmp_path / "o",
    )
    assert done.returncode == 0
    assert "annotations" in done.stdout
    assert str(tmp_path / "o" / "v1") in done.stdout
    assert ShardSet.open(tmp_path / "o").manifest.kind == "boxes"


def test_a_process_of_its_own_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 1)
    (tmp_path / "images" / "p0.jpg").unlink()
    options = [
        "--images",
        tmp_path / "images",
        "--panoptic",
        tmp_path / "panoptic.json",
        "--out",
        tmp_path / "out",
    ]
    command = [
        sys.executable,
        "-c",
        "from segkit.commands.app import main; main()",
        "convert",
        "coco",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "p0.jpg: image 0: no such image [missing-image]" in done.stderr


def test_bad_input_is_one_line_that_names_file_record_and_mend(tmp_path: Path) -> None:
    coco = ("coco", "--images", tmp_path / "images", "--out", tmp_path / "out")
    data = coco_panoptic(tmp_path)
    panoptic = (*coco, "--panoptic", tmp_path / "panoptic.json")

    line = refused(*coco, "--panoptic", tmp_path / "none.json")
    assert "none.json" in line
    assert "No such file" in line

    data["annotations"][1]["segments_info"][0]["category_id"] = 99
    write_json(tmp_path / "panoptic.json", data)
    line = refused(*panoptic)
    assert all(
        part in line
        for part in (
            "panoptic.json",
            "image 1",
            "category 99",
            "unknown-category",
            "--on-error skip",
        )
    )

    coco_panoptic(tmp_path)
    image = tmp_path / "images" / "p2.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    assert all(
        part in (line := refused(*panoptic))
        for part in ("p2.jpg", "image 2", "truncated", "unreadable-image")
    )
    image.unlink()
    assert all(
        part in (line := refused(*panoptic))
        for part in ("p2.jpg", "image 2", "no such image", "missing-image")
    )

    assert "--panoptic FILE or --instances FILE" in refused(*coco)
    assert "--shard-size" in refused(*panoptic, "--shard-size", "big")
    assert "no such folder of images" in refused("coco", "--images", tmp_path / "x", *panoptic[3:])
    assert "--out" in refused(*panoptic[:3], *panoptic[5:])
    assert not list(tmp_path.glob("out/v*"))


def test_panoptic_and_instances_together(tmp_path: Path) -> None:
    scene(tmp_path, 2)
    files = ("--panoptic", tmp_path / "panoptic.json", "--instances", tmp_path / "instances.json")
    made = convert_json(
        "coco", "--images", tmp_path / "images", *files, "--out", tmp_path / "out", "--workers", 1
    )
    published = ShardSet.open(tmp_path / "out")
    joined = [
        s for sample in published.samples() for s in sample.segments if s.source_polygon is not None
    ]
    assert (made["kind"], made["ledger"]["warnings"]) == ("panoptic", {"joined": len(joined)})
    assert made["ledger"]["kept"] == len(joined) + 2
    assert {"panoptic", "instances"} <= published.manifest.arguments.keys()
    assert "--boxes-only" in refused(
        "coco", "--images", tmp_path / "images", *files, "--boxes-only", "--dry-run"
    )


def test_many_offenders_are_listed_before_the_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 5)
    for number in (1, 3):
        (tmp_path / "images" / f"p{number}.jpg").unlink()
    arguments = ("coco", "--images", tmp_path / "images", "--panoptic", tmp_path / "panoptic.json")
    done = segkit("convert", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    *listed, last = done.stderr.strip().splitlines()
    assert ["p1.jpg" in listed[0], "p3.jpg" in listed[1], len(listed)] == [True, True, 2]
    assert "(and 1 more defect)" in last


def test_where_no_image_is_found_the_folder_is_said_to_be_wrong(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 3)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    arguments = ("coco", "--images", tmp_path / "images", "--panoptic", tmp_path / "panoptic.json")
    wrong = f"none of the 3 images is under {tmp_path / 'images'}: --images is probably wrong"
    *listed, last = (
        segkit("convert", *arguments, "--out", tmp_path / "out").stderr.strip().splitlines()
    )
    assert ["[missing-image]" in line and wrong not in line for line in listed] == [True] * 3
    assert last.endswith(
        f"p0.jpg: image 0: no such image [missing-image] (and 2 more defects); {wrong}"
    )
    assert segkit("convert", *arguments, "--dry-run").stderr.strip().splitlines() == [
        *listed,
        wrong,
    ]
    assert convert_json(*arguments, "--dry-run")["images"]["dropped"] == {"missing-image": 3}
    (tmp_path / "elsewhere" / "p1.jpg").rename(tmp_path / "images" / "p1.jpg")
    *_, last = segkit("convert", *arguments, "--out", tmp_path / "out").stderr.strip().splitlines()
    assert "(and 1 more defect); put the file there" in last
    root = voc(tmp_path / "v", *voc_maps(), "2007_000001\n2007_000002\n")
    masks = root / "SegmentationClass"
    (masks / "2007_000002.png").write_bytes((masks / "2007_000001.png").read_bytes())
    (root / "JPEGImages" / "2007_000001.jpg").unlink()
    line = segkit("convert", "voc", "--root", root, "--split", "train", "--dry-run").stderr
    assert line.endswith(
        f"none of the 2 images is under {root / 'JPEGImages'}: --root is probably wrong\n"
    )


def test_a_class_that_is_not_listed_is_shown_once_with_how_to_list_it(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "images" / f"a{number}.jpg", seed=number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        indices = np.tile(np.array([0, 1, 7, 9 if number == 2 else 0], np.uint8), (24, 8))
        Image.fromarray(indices).save(tmp_path / "masks" / f"a{number}.png")
    (tmp_path / "labels.txt").write_text("sky\nroad")
    folders = (
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--labels",
        tmp_path / "labels.txt",
    )
    done = segkit("convert", "semantic", *folders, "--out", tmp_path / "out", "--json")
    seven, nine, last = done.stderr.strip().splitlines()
    what = "192 pixels of index 7, which is not in the labels [unknown-category]"
    assert seven == f"{tmp_path / 'masks' / 'a0.png'}: image a0: {what} (and 3 more of category 7)"
    assert "a2.png: image a2: 192 pixels of index 9" in nine and "more" not in nine
    assert (
        "(and 4 more defects); add index 7 to --labels" in last
        and "or give --ignore 7 if it means void" in last
    )
    assert json.loads(done.stdout)["ledger"]["dropped"] == {"unknown-category": 5}
    assert (
        convert_json("semantic", *folders, "--ignore", 7, "--ignore", 9, "--dry-run")["defects"]
        == []
    )


def test_a_conversion_that_fails_over_defects_prints_its_json_all_the_same(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 130)
    for number in range(120):
        (tmp_path / "images" / f"p{number}.jpg").unlink()
    arguments = (
        "coco",
        "--images",
        tmp_path / "images",
        "--panoptic",
        tmp_path / "panoptic.json",
        "--workers",
        1,
    )
    done = segkit("convert", *arguments, "--out", tmp_path / "out", "--json")
    failed, dry = json.loads(done.stdout), convert_json(*arguments, "--dry-run")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == f"error: {failed['error']}"
    assert (
        "p0.jpg: image 0: no such image [missing-image] (and 119 more defects)" in failed["error"]
    )
    assert [defect["record"] for defect in failed["defects"]] == [
        f"image {number}" for number in range(100)
    ]
    assert (failed["schema"], failed["offenders"], failed["path"]) == (
        "segkit.convert/1",
        120,
        None,
    )
    assert failed["images"]["dropped"] == {"missing-image": 120}
    assert dry["error"] is None
    assert {key for key in failed if failed[key] != dry[key]} == {"error", "seconds"}


def test_numbers_that_json_cannot_write_are_text_in_json_and_in_the_quarantine(
    tmp_path: Path,
) -> None:
    path = coco_instances(tmp_path, [{"bbox": [1, 1, 5, 5]}, {"bbox": [float("nan"), 1e9, 5, 5]}])
    path.write_text(path.read_text().replace("1000000000.0", "1e999"))
    arguments = (
        "coco",
        "--images",
        tmp_path / "images",
        "--instances",
        path,
        "--boxes-only",
        "--out",
        tmp_path / "o",
    )
    failed = segkit("convert", *arguments, "--json")
    made = convert_json(*arguments, "--on-error", "skip")
    (line,) = Path(made["quarantine"]).read_text().splitlines()
    for defects in (json.loads(failed.stdout)["defects"], made["defects"], [json.loads(line)]):
        assert [(d["code"], d["data"]["bbox"]) for d in defects] == [
            ("malformed-annotation", ["NaN", "1e999", 5, 5])
        ]


def test_skip_and_dry_run_report_what_was_set_aside(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 3)
    (tmp_path / "images" / "p1.jpg").unlink()
    arguments = ("coco", "--images", tmp_path / "images", "--panoptic", tmp_path / "panoptic.json")
    dry = convert_json(*arguments, "--dry-run")
    assert dry["path"] is None
    assert [defect["code"] for defect in dry["defects"]] == ["missing-image"]
    made = convert_json(*arguments, "--out", tmp_path / "out", "--on-error", "skip")
    assert (made["ledger"], made["images"]) == (dry["ledger"], dry["images"])
    assert made["ledger"]["dropped"] == {"missing-image": 3}
    assert len(Path(made["quarantine"]).read_text().splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "images",
        "out",
        "panoptic",
        "panoptic.json",
    ]


def test_common_options(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 6)
    arguments = (
        "coco",
        "--images",
        tmp_path / "images",
        "--panoptic",
        tmp_path / "panoptic.json",
        "--workers",
        2,
    )
    made = convert_json(
        *arguments,
        "--out",
        tmp_path / "o",
        "--shard-size",
        "1KiB",
        "--name",
        "mine",
        "--limit",
        4,
        "--images-by",
        "reference",
    )
    manifest = ShardSet.open(tmp_path / "o").manifest
    assert (manifest.name, manifest.images_by, manifest.statistics.images) == (
        "mine",
        "reference",
        4,
    )
    assert made["images"]["input"] == 4


def test_semantic_options_and_ade(tmp_path: Path) -> None:
    root = tmp_path / "ADE"
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir(parents=True)
    picture(root / "images" / "training" / "a.jpg")
    Image.fromarray(np.tile(np.array([0, 1, 150, 3], np.uint8), (24, 8))).save(
        root / "annotations/training/a.png"
    )
    made = convert_json("ade", "--root", root, "--split", "training", "--out", tmp_path / "ade")
    assert (made["ledger"]["kept"], made["taxonomy"]) == (3, "ade20k-150")
    (tmp_path / "labels.txt").write_text("a\nb\nc")
    folders = (
        "--images",
        root / "images",
        "--masks",
        root / "annotations",
        "--labels",
        tmp_path / "labels.txt",
    )
    options = ("--first-label", 1, "--ignore", 0, "--ignore", 150, "--out", tmp_path / "semantic")
    made = convert_json("semantic", *folders, *options)
    assert made["ledger"]["kept"] == 2
    assert ShardSet.open(tmp_path / "semantic").manifest.split is None
    assert ShardSet.open(tmp_path / "ade").manifest.split == "training"


def test_cityscapes_and_voc(tmp_path: Path) -> None:
    labels, numbers = cityscapes_maps()
    made = convert_json(
        "cityscapes",
        "--root",
        frame(tmp_path / "c", labels, numbers),
        "--split",
        "train",
        "--instances",
        "--out",
        tmp_path / "1",
    )
    assert (made["kind"], made["ledger"]["kept"]) == ("panoptic", 4)
    voc_root = voc(tmp_path / "v", *voc_maps())
    made = convert_json(
        "voc", "--root", voc_root, "--split", "train", "--instances", "--out", tmp_path / "2"
    )
    assert (made["kind"], made["ledger"]["kept"]) == ("instance", 3)
    assert "--split train, val or trainval" in refused(
        "voc", "--root", voc_root, "--split", "x", "--out", tmp_path / "3"
    )


def test_real_panoptic_is_exact_from_png_to_set(real_data: Path, tmp_path: Path) -> None:
    coco = real_data / "coco"
    made = convert_json(
        "coco",
        "--images",
        coco / "val2017",
        "--panoptic",
        coco / "annotations/panoptic_val2017.json",
        "--out",
        tmp_path,
    )
    data = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    assert made["ledger"]["kept"] == sum(len(a["segments_info"]) for a in data["annotations"])
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
    made = convert_json(
        "coco", "--images", coco / "val2017", "--instances", path, "--out", tmp_path
    )
    truth = COCO(str(path))
    assert made["ledger"]["kept"] == len(truth.anns)
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
        made = convert_json(
            "objects365",
            "--annotations",
            path,
            "--images",
            real_data / "coco",
            "--out",
            tmp_path / split,
        )
        data = json.loads(path.read_text())
        assert made["ledger"]["kept"] == len(data["annotations"])
        assert made["images"]["kept"] == len(data["images"])
        assert made["taxonomy"] == "objects365-v2"
    camvid = real_data / "camvid"
    folders = ("--images", camvid / "images/train", "--masks", camvid / "annotations/train")
    made = convert_json(
        "semantic",
        *folders,
        "--labels",
        camvid / "labels.txt",
        "--ignore",
        11,
        "--out",
        tmp_path / "camvid",
    )
    assert made["images"]["kept"] == 123
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
