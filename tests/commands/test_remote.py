"""The commands on shard sets behind URLs, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from segkit import storage

from ..sources.builders import coco_panoptic
from ..sources.test_remote import copied
from .test_convert import segkit


def said(*arguments: object) -> Any:
    done = segkit(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def data(s3: Path, tmp_path: Path) -> Path:
    coco_panoptic(tmp_path / "data", 4)
    return copied(tmp_path / "data", s3 / "data")


def test_the_life_of_a_set_in_a_store(s3: Path, data: Path, tmp_path: Path) -> None:
    """Everything but the local folders of exports and figures stays behind the URL."""
    given = (
        "--images",
        data / "images",
        "--panoptic",
        data / "panoptic.json",
        "--shard-size",
        2000,
    )
    made = said("convert", "coco", *given, "--out", s3 / "set")
    assert made["path"] == f"{s3}set/v1"
    assert made["images"]["kept"] == 4
    assert said("convert", "coco", *given, "--out", f"{s3}set")["digest"] == made["digest"]
    shown = said("inspect", f"{s3}set@v2")
    assert (shown["path"], shown["version"], shown["digest"]) == (f"{s3}set/v2", 2, made["digest"])
    assert shown["arguments"]["images"] == f"{data}/images"
    assert said("validate", f"{s3}set")["valid"]
    assert said("diff", f"{s3}set@v1", f"{s3}set@v2")["identical"]

    parts = said("split", f"{s3}set", "--part", "a=0.5", "--part", "b=0.5", "--out", s3 / "parts")[
        "parts"
    ]
    assert parts["a"]["path"] == f"{s3}parts/a/v1"
    merged = said("merge", f"{s3}parts/a", f"{s3}parts/b", "--out", s3 / "both")
    assert merged["images"] == 4
    assert said("validate", f"{s3}both")["valid"]
    lineage = said("inspect", f"{s3}both")["parents"]
    assert [(parent["found"], parent["parents"][0]["path"]) for parent in lineage] == 2 * [
        (True, f"{s3}set/v2")
    ]

    said("export", "coco-panoptic", "--data", f"{s3}both", "--out", tmp_path / "out", "--images")
    exported = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("p*.jpg")}
    assert exported == {
        path.name: path.read_bytes() for path in (tmp_path / "data" / "images").iterdir()
    }

    scored = said(
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
    again = said(
        "eval", "--data", f"{s3}set", "--predictions", data / "panoptic.json", "--task", "panoptic",
        "--out", tmp_path / "eval",
    )  # fmt: skip
    assert again["all"]["pq"] == pytest.approx(100)


def test_file_urls_are_plain_folders(tmp_path: Path) -> None:
    coco_panoptic(tmp_path / "data", 3)
    root = f"file://{tmp_path}"
    given = ("--images", f"{root}/data/images", "--panoptic", f"{root}/data/panoptic.json")
    made = said("convert", "coco", *given, "--out", f"{root}/set")
    assert made["path"] == str(tmp_path / "set" / "v1")
    assert said("validate", f"{root}/set@v1")["valid"]


def test_what_is_damaged_in_a_store_is_named(s3: Path, data: Path) -> None:
    given = ("--images", data / "images", "--panoptic", data / "panoptic.json")
    said("convert", "coco", *given, "--out", s3 / "set")
    tar = s3 / "set" / "v1" / "images-00000.tar"
    whole = storage.read_bytes(tar)
    storage.delete(tar)
    storage.create(tar, whole[: len(whole) // 2])
    done = segkit("validate", f"{s3}set", "--json")
    assert done.returncode == 1
    assert {"checksum", "image-bytes"} <= json.loads(done.stdout)["counts"].keys()
    storage.delete(tar)
    done = segkit("validate", f"{s3}set", "--json")
    assert {"missing-file", "image-bytes"} <= json.loads(done.stdout)["counts"].keys()


def test_what_cannot_be_is_one_line(s3: Path, data: Path) -> None:
    given = ("--images", data / "images", "--panoptic", data / "panoptic.json")
    for arguments, words in (
        (("convert", "coco", *given, "--out", "s3://no-such-bucket/set"), "no such bucket"),
        (("convert", "coco", *given, "--out", "nothing://x/set"), "unknown kind of URL"),
        (
            ("convert", "coco", *given[:3], f"{data}/absent.json", "--out", f"{s3}set"),
            "cannot be read",
        ),
        (("inspect", f"{s3}nothing"), "holds no published version"),
        (("export", "semantic", "--data", f"{s3}set", "--out", f"{s3}out"), "is a URL"),
        (
            ("pseudolabel", "--checkpoint", f"{s3}run", "--data", f"{s3}set", "--out", f"{s3}out"),
            "is a URL",
        ),
    ):
        done = segkit(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert words in line
