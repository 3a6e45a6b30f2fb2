"""`segkit convert` of defective data: what it prints, skips and writes to the quarantine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..sources.builders import CATEGORIES, coco_instances, coco_panoptic, picture, write_json
from ..sources.test_voc import maps as voc_maps
from ..sources.test_voc import voc
from .test_convert import boxes_set, convert_json, panoptic_set, refused, segkit


def test_a_separate_process_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 1)
    (tmp_path / "images" / "p0.jpg").unlink()
    options = [*panoptic_set(tmp_path), "--out", tmp_path / "out"]
    command = [
        sys.executable,
        "-c",
        "from segkit.commands.app import main; main()",
        "convert",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "p0.jpg: image 0: no such image [missing-image]" in done.stderr


def test_bad_input_is_reported_in_one_line_with_file_record_and_hint(tmp_path: Path) -> None:
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

    assert "--panoptic or --instances" in refused(*coco)
    assert "--shard-size" in refused(*panoptic, "--shard-size", "big")
    assert "no such folder of images" in refused("coco", "--images", tmp_path / "x", *panoptic[3:])
    assert "--out" in refused(*panoptic[:3], *panoptic[5:])
    assert not list(tmp_path.glob("out/v*"))


def test_many_offenders_are_listed_before_the_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 5)
    for number in (1, 3):
        (tmp_path / "images" / f"p{number}.jpg").unlink()
    arguments = panoptic_set(tmp_path)
    done = segkit("convert", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    *listed, last = done.stderr.strip().splitlines()
    assert ["p1.jpg" in listed[0], "p3.jpg" in listed[1], len(listed)] == [True, True, 2]
    assert "(and 1 more defect)" in last


def test_if_no_image_exists_the_folder_is_reported_as_wrong(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 3)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    arguments = panoptic_set(tmp_path)
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
        "next: the same command without --dry-run, once the defects are mended or with "
        "--on-error skip",
    ]
    dry = convert_json(*arguments, "--dry-run", code=2)
    assert dry["images"]["dropped"] == {"missing-image": 3}
    (tmp_path / "elsewhere" / "p1.jpg").rename(tmp_path / "images" / "P1.JPG")
    *_, last = segkit("convert", *arguments, "--out", tmp_path / "out").stderr.strip().splitlines()
    assert last.endswith(wrong)  # one that differs in case does not say where the others are
    (tmp_path / "images" / "P1.JPG").rename(tmp_path / "images" / "p1.jpg")
    *_, last = segkit("convert", *arguments, "--out", tmp_path / "out").stderr.strip().splitlines()
    assert "(and 1 more defect); put the file there" in last
    root = voc(tmp_path / "v", *voc_maps(), "2007_000001\n2007_000002\n")
    masks = root / "SegmentationClass"
    (masks / "2007_000002.png").write_bytes((masks / "2007_000001.png").read_bytes())
    (root / "JPEGImages" / "2007_000001.jpg").unlink()
    line = segkit("convert", "voc", "--root", root, "--split", "train", "--dry-run").stderr
    assert line.endswith(
        f"none of the 2 images is under {root / 'JPEGImages'}: --root is probably wrong\n"
        "next: the same command without --dry-run, once the defects are mended or with "
        "--on-error skip\n"
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
    message = "192 pixels of index 7, which is not in the labels [unknown-category]"
    assert (
        seven == f"{tmp_path / 'masks' / 'a0.png'}: image a0: {message} (and 3 more of category 7)"
    )
    assert "a2.png: image a2: 192 pixels of index 9" in nine and "more" not in nine
    assert (
        "(and 4 more defects); add index 7 to /" in last
        and "or give `segkit convert semantic --ignore 7` if it means void" in last
    )
    assert json.loads(done.stdout)["ledger"]["dropped"] == {"unknown-category": 5}
    assert (
        convert_json("semantic", *folders, "--ignore", 7, "--ignore", 9, "--dry-run")["defects"]
        == []
    )


def test_a_conversion_that_fails_over_defects_still_prints_its_json(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 130)
    for number in range(120):
        (tmp_path / "images" / f"p{number}.jpg").unlink()
    arguments = (*panoptic_set(tmp_path), "--workers", 1)
    done = segkit("convert", *arguments, "--out", tmp_path / "out", "--json")
    failed, dry = json.loads(done.stdout), convert_json(*arguments, "--dry-run", code=2)
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
    assert {key for key in failed if failed[key] != dry[key]} - {"seconds"} == {"error"}


def test_numbers_that_json_cannot_write_are_text_in_json_and_in_the_quarantine(
    tmp_path: Path,
) -> None:
    path = coco_instances(tmp_path, [{"bbox": [1, 1, 5, 5]}, {"bbox": [float("nan"), 1e9, 5, 5]}])
    path.write_text(path.read_text().replace("1000000000.0", "1e999"))
    arguments = (*boxes_set(tmp_path, path), "--out", tmp_path / "o")
    failed = segkit("convert", *arguments, "--json")
    result = convert_json(*arguments, "--on-error", "skip")
    (line,) = Path(result["quarantine"]).read_text().splitlines()
    for defects in (json.loads(failed.stdout)["defects"], result["defects"], [json.loads(line)]):
        assert [(d["code"], d["data"]["bbox"]) for d in defects] == [
            ("malformed-annotation", ["NaN", "1e999", 5, 5])
        ]


def test_skip_and_dry_run_report_the_quarantined_records(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 3)
    (tmp_path / "images" / "p1.jpg").unlink()
    arguments = panoptic_set(tmp_path)
    dry = convert_json(*arguments, "--dry-run", code=2)
    assert dry == convert_json(*arguments, "--dry-run", "--on-error", "skip") | {
        "seconds": dry["seconds"]
    }, "only the exit code differs"
    assert dry["path"] is None
    assert [defect["code"] for defect in dry["defects"]] == ["missing-image"]
    result = convert_json(*arguments, "--out", tmp_path / "out", "--on-error", "skip")
    assert (result["ledger"], result["images"]) == (dry["ledger"], dry["images"])
    assert result["ledger"]["dropped"] == {"missing-image": 3}
    assert len(Path(result["quarantine"]).read_text().splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "images",
        "out",
        "panoptic",
        "panoptic.json",
    ]


def test_an_empty_set_is_published_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_json(tmp_path / "e.json", {"images": [], "annotations": [], "categories": CATEGORIES})
    arguments = ("coco", "--images", tmp_path / "images", "--instances", tmp_path / "e.json")
    dry = segkit("convert", *arguments, "--dry-run")
    assert dry.returncode == 0 and "dry run: nothing was written" in dry.stdout
    done = segkit("convert", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 0 and "nothing was written" not in done.stdout
    assert str(tmp_path / "out" / "v1") in done.stdout
    result = convert_json(*arguments, "--out", tmp_path / "out", "--force")
    assert (result["path"], result["version"]) == (str(tmp_path / "out" / "v2"), 2)
    assert len(result["digest"]) == 64 and result["images"]["input"] == 0


def test_a_destination_that_is_deleted_during_the_preview_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path)

    def deleting(shards: Any, **_: Any) -> None:
        shutil.rmtree(shards.path.parent)

    monkeypatch.setattr("segkit.report.preview.write_preview", deleting)
    done = segkit("convert", *panoptic_set(tmp_path), "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "v1: was deleted or moved after it was published; run it again" in done.stderr


def test_shards_that_are_made_anew_are_said_to_be_also_if_the_run_fails(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 9)
    arguments = (*panoptic_set(tmp_path), "--shard-size", "2KB", "--out", tmp_path / "out")
    (tmp_path / "images" / "p8.jpg").rename(tmp_path / "away.jpg")
    refused(*arguments)
    picture(tmp_path / "images" / "p0.jpg", seed=99)
    done = segkit("convert", *arguments)
    assert done.returncode == 2
    assert " made anew: " in done.stderr and done.stderr.count("\n") == 2
    (tmp_path / "away.jpg").rename(tmp_path / "images" / "p8.jpg")
    (tmp_path / "images" / "p1.jpg").write_bytes((tmp_path / "images" / "p1.jpg").read_bytes())
    result = convert_json(*arguments)
    assert "1 of changed files" in result["notes"][0] and "p1.jpg" in result["notes"][0]


def test_a_file_of_the_user_with_the_name_of_a_version_is_one_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "v1").write_text("notes of the user")
    line = refused(*panoptic_set(tmp_path), "--out", tmp_path / "out")
    assert "v1: has the name of the next version" in line and "move it away" in line
    assert (tmp_path / "out" / "v1").read_text() == "notes of the user"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images-by", "none", "--shard-size", "96MiB"), "--shard-size counts bytes of images"),
        (("--images-by", "reference", "--shard-size", "2KB"), "--images-by reference copies none"),
        (("--dry-run", "--force"), "--force does nothing with --dry-run"),
        (("--dry-run", "--preview"), "--preview does nothing with --dry-run"),
        (("--address", "auto"), "--engine ray"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    # nothing is there: options are refused before any file is opened
    panoptic = panoptic_set(tmp_path)
    assert message in refused(*panoptic, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_do_something_are_taken(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    panoptic = (*panoptic_set(tmp_path), "--workers", 1)
    convert_json(*panoptic, "--dry-run", "--no-preview", "--images-by", "none")
    convert_json(*panoptic, "--preview", "--shard-size", "2KB", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "v1.png").is_file()


def test_masks_without_a_panoptic_file_and_previews_of_stores_are_refused(tmp_path: Path) -> None:
    file = coco_instances(tmp_path, [{"bbox": [1, 1, 5, 5]}])
    boxes = ("coco", "--images", tmp_path / "images", "--instances", file)
    masks = ("--panoptic-masks", tmp_path / "none")
    assert "give --panoptic with it" in refused(*boxes, *masks, "--dry-run")
    assert "omit --preview" in refused(*boxes, "--preview", "--out", "memory://bucket/set")


def test_a_dry_run_names_a_single_defect(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    (tmp_path / "images" / "p1.jpg").unlink()
    done = segkit("convert", *panoptic_set(tmp_path), "--dry-run")
    first, *_ = done.stderr.strip().splitlines()
    assert first == f"{tmp_path / 'images' / 'p1.jpg'}: image 1: no such image [missing-image]"
