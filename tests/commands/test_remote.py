"""The commands on shard sets behind URLs, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from segkit import storage

from ..sources.builders import coco_panoptic
from ..sources.test_remote import copied
from .test_convert import segkit


def run_json(*arguments: object) -> Any:
    process = segkit(*arguments, "--json")
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture
def data(s3: Path, tmp_path: Path) -> Path:
    coco_panoptic(tmp_path / "data", 4)
    return copied(tmp_path / "data", s3 / "data")


def test_every_command_works_on_a_set_in_a_store(s3: Path, data: Path, tmp_path: Path) -> None:
    """Only exports and figures are local folders."""
    source = (
        "--images",
        data / "images",
        "--panoptic",
        data / "panoptic.json",
        "--shard-size",
        2000,
    )
    converted = run_json("convert", "coco", *source, "--out", s3 / "set")
    assert converted["path"] == f"{s3}set/v1"
    assert converted["images"]["kept"] == 4
    again = run_json("convert", "coco", *source, "--out", f"{s3}set", "--force")
    assert again["digest"] == converted["digest"]
    inspected = run_json("inspect", f"{s3}set@v2")
    assert (inspected["path"], inspected["version"], inspected["digest"]) == (
        f"{s3}set/v2",
        2,
        converted["digest"],
    )
    assert inspected["arguments"]["images"] == f"{data}/images"
    assert run_json("validate", f"{s3}set")["valid"]
    assert run_json("diff", f"{s3}set@v1", f"{s3}set@v2")["identical"]

    parts = run_json(
        "split", f"{s3}set", "--part", "a=0.5", "--part", "b=0.5", "--out", s3 / "parts"
    )["parts"]
    assert parts["a"]["path"] == f"{s3}parts/a/v1"
    merged = run_json("merge", f"{s3}parts/a", f"{s3}parts/b", "--out", s3 / "both")
    assert merged["images"] == 4
    assert run_json("validate", f"{s3}both")["valid"]
    lineage = run_json("inspect", f"{s3}both")["parents"]
    assert [(parent["found"], parent["parents"][0]["path"]) for parent in lineage] == 2 * [
        (True, f"{s3}set/v2")
    ]

    run_json(
        "export", "coco-panoptic", "--data", f"{s3}both", "--out", tmp_path / "out", "--images"
    )
    exported = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("p*.jpg")}
    assert exported == {
        path.name: path.read_bytes() for path in (tmp_path / "data" / "images").iterdir()
    }

    scored = run_json(
        "eval",
        "--data",
        f"{s3}set",
        "--predictions",
        f"{s3}both",
        "--task",
        "panoptic",
        "--out",
        tmp_path / "eval",
    )
    assert scored["all"]["pq"] == pytest.approx(100)
    assert scored["data"]["path"] == f"{s3}set/v2"
    from_files = run_json(
        "eval",
        "--data",
        f"{s3}set",
        "--predictions",
        data / "panoptic.json",
        "--task",
        "panoptic",
        "--out",
        tmp_path / "eval",
    )
    assert from_files["all"]["pq"] == pytest.approx(100)


def test_file_urls_are_plain_folders(tmp_path: Path) -> None:
    coco_panoptic(tmp_path / "data", 3)
    root = f"file://{tmp_path}"
    source = ("--images", f"{root}/data/images", "--panoptic", f"{root}/data/panoptic.json")
    converted = run_json("convert", "coco", *source, "--out", f"{root}/set")
    assert converted["path"] == str(tmp_path / "set" / "v1")
    assert run_json("validate", f"{root}/set@v1")["valid"]


def test_damage_in_a_store_is_reported(s3: Path, data: Path) -> None:
    source = ("--images", data / "images", "--panoptic", data / "panoptic.json")
    run_json("convert", "coco", *source, "--out", s3 / "set")
    tar = s3 / "set" / "v1" / "images-00000.tar"
    content = storage.read_bytes(tar)
    storage.delete(tar)
    storage.create(tar, content[: len(content) // 2])
    process = segkit("validate", f"{s3}set", "--json")
    assert process.returncode == 1
    assert {"checksum", "image-bytes"} <= json.loads(process.stdout)["counts"].keys()
    storage.delete(tar)
    process = segkit("validate", f"{s3}set", "--json")
    assert {"missing-file", "image-bytes"} <= json.loads(process.stdout)["counts"].keys()


def test_every_failure_in_a_store_is_one_line(s3: Path, data: Path) -> None:
    source = ("--images", data / "images", "--panoptic", data / "panoptic.json")
    for arguments, message in (
        (("convert", "coco", *source, "--out", "s3://no-such-bucket/set"), "no such bucket"),
        (("convert", "coco", *source, "--out", "nothing://x/set"), "unknown kind of URL"),
        (
            ("convert", "coco", *source[:3], f"{data}/absent.json", "--out", f"{s3}set"),
            "cannot be read",
        ),
        (("inspect", f"{s3}nothing"), "holds no published version"),
        (("export", "semantic", "--data", f"{s3}set", "--out", f"{s3}out"), "is a URL"),
        (
            ("pseudolabel", "--checkpoint", f"{s3}run", "--data", f"{s3}set", "--out", f"{s3}out"),
            "is a URL",
        ),
    ):
        process = segkit(*arguments)
        assert (process.returncode, process.stdout) == (2, ""), process.stderr
        (line,) = process.stderr.strip().splitlines()
        assert message in line
