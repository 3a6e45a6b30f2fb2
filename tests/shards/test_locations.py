"""A crafted set reads nothing but images that its author had, or that the user allows."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segkit.errors import InputError, SegkitError
from segkit.sample import ImageRef
from segkit.shards.header import Header
from segkit.shards.lineage import describe
from segkit.shards.locations import IMAGES_ROOT, locate, remember_folders
from segkit.shards.manifest_file import manifest_digest
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer, write_set
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.semantic_masks import open_semantic
from tests.shards.conftest import TAXONOMY, picture, toy_records, toy_sample

OPTIONS: dict[str, Any] = {"taxonomy": TAXONOMY, "kind": "panoptic", "name": "x", "command": "t"}
MakeSet = Callable[..., ShardSet]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(IMAGES_ROOT, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "home" / "secret.png"
    file.parent.mkdir()
    file.write_bytes(picture(1))
    return file


def crafted(folder: Path, image: ImageRef, **changes: Any) -> ShardSet:
    """A set with one row that names this image, and further changes in its manifest."""
    written = write_set(
        folder, [(replace(toy_sample(1), image=image), None)], Header(images_by="none", **OPTIONS)
    )
    return edit(written, images_by="reference", **changes)


def edit(shards: ShardSet, **changes: Any) -> ShardSet:
    """A set whose manifest was changed by someone who knows the format."""
    file = shards.path / "manifest.json"
    content = {**json.loads(file.read_text()), **changes}
    content["manifest_digest"] = manifest_digest(content)
    file.write_text(json.dumps(content))
    return ShardSet.open(shards.path)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(shards: ShardSet) -> bytes:
    return shards.image_bytes(shards.sample(0))


@pytest.mark.parametrize("form", ["{}", "../../home/secret.png", "file://{}", "link.png"])
def test_a_row_names_no_file_of_the_user(tmp_path: Path, secret: Path, form: str) -> None:
    """Not even with the right size and SHA-256."""
    data = secret.read_bytes()
    name = form.format(secret)
    shards = crafted(tmp_path / "set", ImageRef(None, 0, len(data), digest(data), name))
    (shards.path / "link.png").symlink_to(secret)
    with pytest.raises(
        InputError, match=r"lies outside.*--images-root|only files and object stores"
    ) as error:
        read(shards)
    assert "\n" not in str(error.value)
    assert [violation.code for violation in validate(shards.path)][-1] == "image-bytes"


def test_images_root_allows_a_folder(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(secret)
    path = crafted(tmp_path / "set", ImageRef(None, 0, 9, None, name)).path
    (tmp_path / "other").mkdir()
    monkeypatch.setenv(IMAGES_ROOT, f"{tmp_path}/other")
    with pytest.raises(InputError, match="lies outside"):
        read(ShardSet.open(path))
    monkeypatch.setenv(IMAGES_ROOT, f"{tmp_path}/other{os.pathsep}{secret.parent}")
    assert read(ShardSet.open(path)) == secret.read_bytes()
    climbing = crafted(
        tmp_path / "climbing", ImageRef(None, 0, 9, None, f"{tmp_path}/other/../home/../x.png")
    )
    with pytest.raises(InputError, match="lies outside"):
        read(climbing)


def test_a_file_beside_the_versions_may_be_named(tmp_path: Path) -> None:
    shards = crafted(tmp_path / "set", ImageRef(None, 0, 9, None, "../images/a.png"))
    (tmp_path / "set" / "images").mkdir()
    (tmp_path / "set" / "images" / "a.png").write_bytes(picture(3))
    assert read(shards) == picture(3)


def test_a_set_that_was_made_here_is_read_as_before_and_one_that_was_not_is_refused(
    tmp_path: Path, secret: Path, cache: Path
) -> None:
    image = ImageRef(path=str(secret))
    record = (replace(toy_sample(1), image=image), None)
    shards = write_set(tmp_path / "set", [record], Header(images_by="reference", **OPTIONS))
    layer = write_layer(tmp_path / "layer", shards, shards.samples(), Header.from_set(shards, "l"))
    shutil.move(tmp_path / "set", tmp_path / "moved")
    for path in (tmp_path / "moved", layer.path):
        assert read(ShardSet.open(path)) == secret.read_bytes()
    shutil.rmtree(cache)  # another user, another machine
    for path in (tmp_path / "moved", layer.path):
        with pytest.raises(InputError, match="lies outside"):
            read(ShardSet.open(path))


def test_a_note_that_cannot_be_written_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setenv(IMAGES_ROOT, "")  # restored afterwards
    monkeypatch.setattr(Path, "replace", fail)
    remember_folders(["/pictures/a.png"], None)
    assert os.environ[IMAGES_ROOT] == "/pictures"  # for this process
    assert not list((cache / "image-folders").iterdir())


def test_a_layer_of_a_crafted_set_gains_nothing(tmp_path: Path, secret: Path) -> None:
    shards = crafted(tmp_path / "set", ImageRef(None, 0, 9, None, str(secret)))
    layer = write_layer(tmp_path / "layer", shards, shards.samples(), Header.from_set(shards, "l"))
    for data in (layer, ShardSet.open(layer.path)):
        with pytest.raises(InputError, match="lies outside"):
            read(data)


def with_tar(folder: Path, tar: str, sha256: str | None) -> ShardSet:
    roots = {} if sha256 is None else {tar: sha256}
    return crafted(folder, ImageRef(tar, 0, 4, None, None), image_roots=roots)


def test_a_row_names_only_tars_that_the_manifest_lists(tmp_path: Path, secret: Path) -> None:
    for number, name in enumerate(("/etc/passwd", "../../home/secret.png", "images-00000.tar")):
        with pytest.raises(InputError, match="lists no tar"):
            read(with_tar(tmp_path / str(number), name, None))


def test_a_tar_elsewhere_is_one_that_its_own_manifest_lists(
    tmp_path: Path, secret: Path, make_set: MakeSet
) -> None:
    foreign = make_set("home/private")
    tar = foreign.manifest.parts[0]
    own = f"../../home/private/v1/{tar.images}"
    passwd = digest(Path("/etc/passwd").read_bytes())
    names = {
        "/etc/passwd": passwd,
        str(secret): digest(secret.read_bytes()),
        "../../home/secret.png": digest(secret.read_bytes()),
        own: "0" * 64,
        f"{foreign.path}/manifest.json": digest((foreign.path / "manifest.json").read_bytes()),
        f"{foreign.path}/{tar.labels}": tar.labels_sha256,
    }
    for number, (name, sha256) in enumerate(names.items()):
        shards = with_tar(tmp_path / f"set{number}", name, sha256)
        with pytest.raises(InputError, match="tar"):
            read(shards)
        assert "missing-file" in {violation.code for violation in validate(shards.path)}
    assert len(read(with_tar(tmp_path / "good", own, str(tar.images_sha256)))) == 4


def test_a_link_in_the_place_of_a_part_is_refused(tmp_path: Path, make_set: MakeSet) -> None:
    shards = make_set("set")
    part = shards.manifest.parts[0]
    for name in (part.images, part.labels):
        file = shards.path / str(name)
        elsewhere = tmp_path / file.name
        file.rename(elsewhere)
        file.symlink_to(elsewhere)
        with pytest.raises(InputError, match="leads out of"):
            read(ShardSet.open(shards.path))
        assert "missing-file" in {violation.code for violation in validate(shards.path)}
        file.unlink()
        elsewhere.rename(file)
    assert read(ShardSet.open(shards.path)) == picture(0)


@pytest.mark.parametrize("key", ["labels", "images", "labels_sha256", "images_sha256"])
@pytest.mark.parametrize("value", ["../x.parquet", "/etc/passwd", "", "..", "C:x", "a/b", "a\0b"])
def test_parts_have_plain_names_and_digests(make_set: MakeSet, key: str, value: str) -> None:
    shards = make_set()
    parts = [{**shards.manifest.parts[0].model_dump(), key: value}]
    with pytest.raises(InputError, match=f"parts.0.{key}"):
        edit(shards, parts=parts)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "../../x"},
        {"image_roots": {"images-00000.tar": "../x"}},
        {"parents": [{"path": ".", "version": 1, "digest": "x" * 64}]},
    ],
)
def test_digests_of_a_manifest_are_hex(make_set: MakeSet, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        edit(make_set(), **change)


@pytest.mark.parametrize(
    "header", [{"ignore": 5}, {"ignore": ["x"]}, {"categories": {"id": 1}}, {"categories": [1]}]
)
def test_headers_hold_what_exports_read(make_set: MakeSet, header: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="source_header"):
        edit(make_set(), source_header=header)


URLS = ["http://127.0.0.1:9/v1", "https://x.invalid/v1", "ftp://x/v1", "github://a:b@c/v1"]


@pytest.mark.parametrize("path", [*URLS, "/etc", "../../home", "\0/v1", "v1/" * 2000])
def test_parents_are_versions_on_disk_or_in_stores(
    tmp_path: Path, make_set: MakeSet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsspec.filesystem", refuse_to_connect)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "manifest.json").write_text(json.dumps({"digest": "0" * 64, "name": "s"}))
    shards = edit(make_set("set"), parents=[{"path": path, "version": 1, "digest": "0" * 64}])
    (parent,) = describe(shards.path)["parents"]
    assert parent["found"] is False and "name" not in parent
    list(validate(shards.path))


@pytest.mark.parametrize("url", URLS)
def test_other_urls_are_not_requested(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsspec.filesystem", refuse_to_connect)
    by_path = crafted(tmp_path / "path", ImageRef(None, 0, 4, None, url))
    for shards in (by_path, with_tar(tmp_path / "tar", f"{url}/images-00000.tar", "0" * 64)):
        with pytest.raises(InputError, match=r"names '(http|ftp|git)"):
            read(shards)


def test_other_urls_may_be_those_of_allowed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.shards.locations.join", lambda _, name: Path(name))
    allowed = ["https://host/photos"]
    assert locate(tmp_path, "https://host/photos/a.jpg", allowed).name == "a.jpg"
    for name in (
        "https://host/photos2/a.jpg",
        "https://other/photos/a.jpg",
        "http://host/photos/a",
    ):
        with pytest.raises(InputError, match="only files and object stores"):
            locate(tmp_path, name, allowed)


def refuse_to_connect(*_: object, **__: object) -> None:
    pytest.fail("a URL was requested")


def test_devices_and_fifos_are_not_read(tmp_path: Path, make_set: MakeSet) -> None:
    shards = make_set("set")
    tar = shards.path / str(shards.manifest.parts[0].images)
    tar.unlink()
    os.mkfifo(tar)
    with pytest.raises(SegkitError, match="not a file"):
        read(ShardSet.open(shards.path))
    assert "missing-file" in {violation.code for violation in validate(shards.path)}


def test_images_of_a_source_with_links_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that is converted holds links to files elsewhere: those folders are covered."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks, tmp_path / "store"):
        folder.mkdir()
    (tmp_path / "store" / "a.png").write_bytes(picture(1))
    (images / "a.png").symlink_to(tmp_path / "store" / "a.png")
    (images / "b.png").write_bytes(picture(2))
    for name in "ab":
        Image.new("L", (32, 24)).save(masks / f"{name}.png")
    (tmp_path / "labels.txt").write_text("one\n")
    source = open_semantic(images, masks, tmp_path / "labels.txt", ignore=())
    options = ConvertOptions(images_by="reference", workers=1)
    shards = convert(source, tmp_path / "set", options).published
    assert shards is not None
    opened = ShardSet.open(shards.path)
    assert [opened.image_bytes(s) for s in opened.samples()] == [picture(1), picture(2)]
    assert len(list((tmp_path / "cache" / "image-folders").iterdir())) == 2


def test_toy_sets_are_read(tmp_path: Path) -> None:
    shards = write_set(tmp_path / "set", toy_records(3), Header(**OPTIONS))
    assert [shards.image_bytes(s) for s in shards.samples()] == [picture(n) for n in range(3)]
