"""Sources and sets behind URLs: the same bytes, path checks, resumption and defects as locally."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.versions import versions
from segkit.sources import engine, json_stream
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import convert
from segkit.sources.objects365 import open_objects365
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.voc import open_voc

from .builders import (
    coco_instances,
    coco_panoptic,
    codes,
    dry_run,
    id_png,
    label_map,
    picture,
    write_json,
)
from .test_engine import SMALL, contents
from .test_voc import maps, voc

_BOX = {"bbox": [1, 2, 10, 12]}


def copied(folder: Path, store: Path) -> Path:
    """The folder with all its files, in the store."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put(path, store / path.relative_to(folder).as_posix())
    return store


def test_a_conversion_from_store_to_store_has_the_bytes_of_a_local_one(
    store: Path, tmp_path: Path
) -> None:
    coco_panoptic(tmp_path / "data", 7)
    data = copied(tmp_path / "data", store / "data")
    options = replace(
        SMALL, workers=2 if str(store).startswith("s3") else 1
    )  # memory:// is of one process
    sets = {}
    for name, root, out in (
        ("local", tmp_path / "data", tmp_path / "set"),
        ("remote", data, store / "set"),
    ):
        source = open_coco_panoptic(root / "panoptic.json", root / "images")
        sets[name] = convert(source, out, options, arguments={}).published
    assert sets["remote"] is not None and sets["local"] is not None
    assert sets["remote"].path == store / "set" / "v1"
    assert sets["remote"].manifest == sets["local"].manifest
    assert {
        name: storage.read_bytes(sets["remote"].path / name)
        for name in contents(sets["local"].path)
    } == contents(sets["local"].path)
    assert list(validate(sets["remote"].path)) == []


def test_reference_points_at_urls(store: Path, tmp_path: Path) -> None:
    coco_instances(tmp_path / "data", [_BOX], 2)
    data = copied(tmp_path / "data", store / "data")
    source = open_coco_instances(data / "instances.json", data / "images")
    published = convert(
        source, tmp_path / "set", replace(SMALL, images_by="reference"), arguments={}
    ).published
    assert published is not None
    for sample in published.samples():
        assert sample.image.path == f"{data}/images/{sample.file_name}"
        assert (
            published.image_bytes(sample)
            == (tmp_path / "data" / "images" / sample.file_name).read_bytes()
        )


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "memory://other/x.jpg"]
)
def test_names_in_annotation_files_stay_in_their_folder(
    store: Path, tmp_path: Path, name: str
) -> None:
    coco_instances(tmp_path / "data", [_BOX], 2)
    picture(tmp_path / "data" / "secret.jpg")
    content = json.loads((tmp_path / "data" / "instances.json").read_text())
    content["images"][1]["file_name"] = name
    write_json(tmp_path / "data" / "instances.json", content)
    data = copied(tmp_path / "data", store / "data")
    report = dry_run(open_coco_instances(data / "instances.json", data / "images"))
    assert report.ledger.images.dropped == {"unsafe-path": 1}


def test_a_mask_name_stays_in_its_folder(store: Path, tmp_path: Path) -> None:
    content = coco_panoptic(tmp_path / "data", 2)
    content["annotations"][0]["file_name"] = "../images/p0.jpg"
    write_json(tmp_path / "data" / "panoptic.json", content)
    data = copied(tmp_path / "data", store / "data")
    report = dry_run(open_coco_panoptic(data / "panoptic.json", data / "images"))
    assert report.ledger.images.dropped == {"unsafe-path": 1}


def test_missing_files_are_defects_and_a_failing_store_is_a_failure(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path / "data", 3)
    (tmp_path / "data" / "images" / "p0.jpg").unlink()
    (tmp_path / "data" / "panoptic" / "p1.png").unlink()
    data = copied(tmp_path / "data", store / "data")
    source = open_coco_panoptic(data / "panoptic.json", data / "images")
    assert dry_run(source).ledger.images.dropped == {"missing-image": 1, "missing-mask": 1}
    monkeypatch.setattr(storage._store(data), "cat_file", lambda *_, **__: 1 / 0)
    with pytest.raises(SegkitError, match=r"the store failed .*run it again"):
        dry_run(source, on_error="skip")


def test_a_long_annotation_file_is_read_in_pieces(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 4096)
    path = write_json(tmp_path / "long.json", {"numbers": list(range(50_000))})
    storage.put(path, store / "long.json")
    read = [
        value for _, value, text in json_stream.members(store / "long.json", ("numbers",)) if text
    ]
    assert read == list(range(50_000))
    with pytest.raises(InputError, match="cannot be read"):
        list(json_stream.members(store / "absent.json", ()))


def test_folders_that_are_listed(store: Path, tmp_path: Path) -> None:
    """Semantic folders with subfolders, VOC with its lists, Objects365 in another layout."""
    for number in range(3):
        picture(tmp_path / "data" / "images" / "town" / f"{number}.png", seed=number)
        (tmp_path / "data" / "masks" / "town").mkdir(parents=True, exist_ok=True)
        ids = label_map(number, (0, 1, 2)).astype("uint8")
        Image.fromarray(ids).save(tmp_path / "data" / "masks" / "town" / f"{number}.png")
    (tmp_path / "data" / "labels.txt").write_text("sky\nroad\ncar\n")
    voc(tmp_path / "data" / "voc", *maps())
    coco_instances(tmp_path / "data" / "o365", [_BOX], 2)
    content = json.loads((tmp_path / "data" / "o365" / "instances.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"images/v1/patch4/{image['file_name']}"
    write_json(tmp_path / "data" / "o365" / "instances.json", content)
    local_root, remote_root = tmp_path / "data", copied(tmp_path / "data", store / "data")

    def sources(root: Path) -> list[Any]:
        return [
            open_semantic(root / "images", root / "masks", root / "labels.txt"),
            open_voc(root / "voc", "train", instances=True),
            open_objects365(root / "o365" / "instances.json", root / "o365" / "images"),
        ]

    for local, remote in zip(sources(local_root), sources(remote_root), strict=True):
        expected, actual = dry_run(local, on_error="skip"), dry_run(remote, on_error="skip")
        assert actual.ledger == expected.ledger
        assert actual.ledger.images.kept >= 1
        assert codes(actual) == codes(expected)


def test_files_of_a_store_that_changed_since_are_converted_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path / "data", 12)
    data = copied(tmp_path / "data", store / "data")
    source = open_coco_panoptic(data / "panoptic.json", data / "images")
    storage.delete(data / "images" / "p11.jpg")

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(engine, "finish", interrupt)
        convert(source, store / "set", replace(SMALL, on_error="skip"))
    local = tmp_path / "data"
    picture(local / "images" / "p0.jpg", seed=77)
    id_png(local / "panoptic" / "p4.png", label_map(78))
    for name in ("images/p0.jpg", "images/p11.jpg", "panoptic/p4.png"):
        storage.put(local / name, data / name)
    report = convert(source, store / "set", replace(SMALL, on_error="skip"), arguments={})
    fresh = open_coco_panoptic(local / "panoptic.json", local / "images")
    expected = convert(fresh, tmp_path / "set", SMALL, arguments={}).published
    assert report.published is not None and expected is not None
    assert report.published.manifest == expected.manifest
    assert "finished shards of an interrupted run" in str(report.resumed)
    assert list(validate(report.published.path)) == []


_KILLED_IN_WORK = """
import os, sys, time
from segkit import storage
from segkit.shards import shard
from segkit.sources import engine
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.storage import location
if sys.argv[2] == "converting":
    write = shard.write_shard
    def stopping(directory, index, *arguments, **options):
        if index == 2:
            os.kill(os.getpid(), 9)
        return write(directory, index, *arguments, **options)
    shard.write_shard = stopping
else:
    put = storage.put
    def stopping(source, path):
        if path.name == "labels-00001.parquet":
            os.kill(os.getpid(), 9)
        put(source, path)
    storage.put = stopping
root = location(sys.argv[1])
source = open_coco_panoptic(root / "data" / "panoptic.json", root / "data" / "images")
engine.convert(source, root / "set", engine.ConvertOptions(workers=1, shard_bytes=2000))
"""


@pytest.mark.parametrize("when", ["converting", "uploading"])
def test_a_killed_run_leaves_nothing_visible_and_is_resumed(
    s3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    coco_panoptic(tmp_path / "data", 12)
    data = copied(tmp_path / "data", s3 / "data")
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED_IN_WORK, str(s3), when], env=os.environ, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert versions(s3 / "set") == {}
    assert bool(storage.list_files(s3 / "set")) == (when == "uploading")
    written: list[int] = []
    write = engine.shards.write_shard

    def noted(directory: Path, index: int, *arguments: Any, **options: Any) -> Any:
        written.append(index)
        return write(directory, index, *arguments, **options)

    source = open_coco_panoptic(data / "panoptic.json", data / "images")
    with monkeypatch.context() as patched:
        patched.setattr(engine.shards, "write_shard", noted)
        published = convert(source, s3 / "set", SMALL, arguments={}).published
    local_data = tmp_path / "data"
    source = open_coco_panoptic(local_data / "panoptic.json", local_data / "images")
    local = convert(source, tmp_path / "set", SMALL, arguments={}).published
    assert published is not None and local is not None
    assert written == (list(range(2, len(local.manifest.parts))) if when == "converting" else [])
    assert published.path == s3 / "set" / "v1"
    assert published.manifest == local.manifest
    assert sorted(storage.list_files(s3 / "set" / "v1")) == sorted(contents(local.path))
    assert list(validate(published.path)) == []


def test_training_reads_a_remote_set_in_worker_processes(s3: Path, tmp_path: Path) -> None:
    """Workers are forked: the connection of the parent must not be theirs."""
    from torch.utils.data import DataLoader

    coco_panoptic(tmp_path / "data", 6)
    source = open_coco_panoptic(tmp_path / "data" / "panoptic.json", tmp_path / "data" / "images")
    convert(source, s3 / "set", SMALL, arguments={})
    data = ShardSet.open(f"{s3}/set")
    expected = [data.image(sample) for sample in data.samples()]  # connects before the fork

    class Images:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> Any:
            return data.image(data.sample(index))

    started = time.monotonic()
    read = list(
        DataLoader(
            Images(), batch_size=None, num_workers=2, collate_fn=lambda item: item, timeout=60
        )
    )  # type: ignore[arg-type]
    assert time.monotonic() - started < 60
    assert all((first == second).all() for first, second in zip(read, expected, strict=True))
