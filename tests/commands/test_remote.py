"""The commands on shard sets behind URLs, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from segkit import storage
from segkit.cache import cache_root
from segkit.shards import byte_cache
from segkit.shards.reader import ShardSet
from tests.store_proxy import StoreProxy

from ..sources.builders import coco_instances, coco_panoptic
from ..sources.test_remote import copied
from ..training.toy import write_recipe
from .test_convert import segkit
from .test_predict import invoke


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


def every_stage(data: Path, sets: Path, folder: Path) -> dict[str, bytes]:
    """Convert, train, label boxes, predict, evaluate and export; the contents of what is written.

    Args:
        data: native data.
        sets: where shard sets are written.
        folder: where runs, predictions, figures and exports are.
    """
    options = ("--shard-size", 2000, "--workers", 1, "--name", "toy")
    panoptic = ("--images", data / "images", "--panoptic", data / "panoptic.json")
    invoke("convert", "coco", *panoptic, *options, "--out", sets / "set")
    things = ("--images", data / "things" / "images", "--boxes-only")
    things = (*things, "--instances", data / "things" / "instances.json")
    invoke("convert", "coco", *things, *options, "--out", sets / "boxes")
    recipe = write_recipe(folder / "tiny.toml")
    train = ("train", "--recipe", recipe, "--steps", 2, "--device", "cpu")
    invoke(*train, "--data", sets / "set", "--out", folder / "run", "--set", "data.workers=0")
    run = ("--checkpoint", folder / "run", "--device", "cpu")
    invoke("pseudolabel", *run, "--data", sets / "boxes", "--out", sets / "masks")
    invoke("predict", *run, "--data", sets / "set", "--out", folder / "predicted")
    task = ("--task", "panoptic", "--out", folder / "scores")
    scores = invoke("eval", *run, "--data", sets / "set", *task)
    exported = ("--out", folder / "exported", "--images")
    invoke("export", "coco-instances", "--data", sets / "masks", *exported)
    written = {"scores": json.dumps([scores[key] for key in ("all", "things", "stuff")]).encode()}
    for name in ("set", "boxes", "masks"):
        for file in ShardSet.open(sets / name).path.iterdir():
            if file.name.endswith((".tar", ".parquet")):
                written[f"{name}/{file.name}"] = storage.read_bytes(file)
    for pattern in ("run/v1/*.safetensors", "predicted/overlays/**/*.jpg", "exported/**/*.*"):
        for file in folder.glob(pattern):
            written[str(file.relative_to(folder))] = file.read_bytes()
    return written


def test_every_stage_gives_the_bytes_of_local_files_from_a_flaky_store(
    s3: Path, s3_proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests fail now and then; images and labels are read through a cache."""
    coco_panoptic(tmp_path / "data", 6)
    objects = [{"image_id": n % 3, "bbox": [4 + n, 3, 20, 18]} for n in range(6)]
    coco_instances(tmp_path / "data" / "things", objects, images=3)
    expected = every_stage(tmp_path / "data", tmp_path / "sets", tmp_path)
    assert {name.partition("/")[0] for name in expected} == {
        *("scores", "set", "boxes", "masks", "run", "predicted", "exported")
    }
    data = copied(tmp_path / "data", s3 / "data")
    monkeypatch.setenv(byte_cache.LIMIT, "1MB")
    s3_proxy.fail_every = 13
    (tmp_path / "remote").mkdir()
    assert every_stage(data, s3 / "sets", tmp_path / "remote") == expected
    assert len(s3_proxy.failures) == 4, "every kind of failure"
    assert list((cache_root() / "bytes").glob("??/*"))


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
