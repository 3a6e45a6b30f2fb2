import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.shards import upload as uploads
from segkit.shards.header import Header
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.versions import resolve, versions
from segkit.shards.writer import write_layer, write_set
from tests.shards.conftest import TAXONOMY, picture, toy_records


def write(destination, count=5, **options):
    return write_set(
        destination,
        toy_records(count),
        Header(
            taxonomy=TAXONOMY, kind="panoptic", name="toy", split="train", command="test", **options
        ),
        shard_size=4000,
    )


def files(store):
    return sorted(storage.list_files(store))


def test_a_version_in_a_store_has_the_bytes_of_a_local_one(store, tmp_path):
    local, remote = write(tmp_path / "set"), write(store / "set")
    assert str(remote.path) == f"{store}/set/v1"
    assert remote.manifest == local.manifest
    assert files(remote.path) == sorted(path.name for path in local.path.iterdir())
    for name in files(remote.path):
        assert storage.read_bytes(remote.path / name) == (local.path / name).read_bytes()
    assert list(remote.samples()) == list(local.samples())
    assert [remote.image_bytes(remote.sample(index)) for index in (4, 0, 2)] == [
        picture(n) for n in (4, 0, 2)
    ]
    assert list(validate(remote.path)) == []


def test_an_image_is_read_without_the_rest_of_its_tar(store, monkeypatch):
    shards = ShardSet.open(write(store / "set").path)
    sample = shards.sample(3)
    assert 0 < sample.image.offset < sum(part.images_bytes for part in shards.manifest.parts)
    requests, filesystem = [], storage._store(store)
    cat_file = filesystem.cat_file
    monkeypatch.setattr(
        filesystem, "cat_file", lambda path, **part: requests.append(part) or cat_file(path, **part)
    )
    assert shards.image_bytes(sample) == picture(3)
    assert requests == [
        {"start": sample.image.offset, "end": sample.image.offset + sample.image.length}
    ]


def test_versions_count_up_and_the_newest_is_the_default(store):
    for number in range(1, 4):
        assert write(store / "set", number).path.name == f"v{number}"
    assert list(versions(store / "set")) == [1, 2, 3]
    assert len(ShardSet.open(f"{store}/set")) == 3
    assert len(ShardSet.open(f"{store}/set@v2")) == 2
    assert len(ShardSet.open(f"{store}/set/v1")) == 1
    with pytest.raises(InputError, match="no version v9"):
        resolve(f"{store}/set@v9")
    with pytest.raises(InputError, match="no published version"):
        resolve(f"{store}/elsewhere")


@pytest.mark.parametrize("stop_at", ["labels-00001.parquet", "manifest.json"])
def test_an_interrupted_upload_is_invisible_and_resumes(store, monkeypatch, stop_at):
    """The connection breaks at a file; the second call puts the missing files, and none twice."""
    put, create, sent = storage.put, storage.create, []

    def breaking(working):
        def send(source, path):
            name = (source if working is create else path).name
            if name == stop_at and len(broken) == 0:
                broken.append(name)
                raise ConnectionError("the line is dead")
            sent.append(name)
            working(source, path)

        return send

    names = ["labels-00000.parquet", "labels-00001.parquet", "manifest.json"]
    broken: list[str] = []
    monkeypatch.setattr(storage, "put", breaking(put))
    monkeypatch.setattr(storage, "create", breaking(create))

    def run():
        with staging(store / "set", {"same": 1}, inputs=(), resume=True) as stage:
            if not stage.resumed:
                for name in (*names, "shard-0.json"):
                    (stage.path / name).write_text(f"text of {name}")
            return stage.publish(names)

    with pytest.raises(SegkitError, match=r"the line is dead.*run it again: it resumes after"):
        run()
    assert versions(store / "set") == {}
    assert run() == store / "set" / "v1"
    assert sorted(sent) == sorted({*sent}), "no file is sent twice"
    assert files(store / "set" / "v1") == names
    assert (
        store / "set" / "v1" / "labels-00001.parquet"
    ).read_text() == "text of labels-00001.parquet"


def test_an_upload_that_is_not_resumed_is_removed_from_the_store(store, monkeypatch):
    with monkeypatch.context() as broken, pytest.raises(SegkitError, match="full") as stopped:
        broken.setattr(storage, "put", lambda source, path: (_ for _ in ()).throw(OSError("full")))
        write(store / "set")
    assert str(stopped.value).endswith("; run it again"), "it does not resume"
    assert files(store / "set") == ["v1/upload.json"]
    assert write(store / "set", 1).path.name == "v1"
    assert "upload.json" not in files(store / "set" / "v1")
    assert list(validate(store / "set" / "v1")) == []


def test_a_claimed_or_occupied_number_is_skipped(store):
    storage.create(
        store / "set" / "v1" / uploads.CLAIM,
        json.dumps({"version": 1, "token": "another"}).encode(),
    )
    storage.create(store / "set" / "v2" / "images-00000.tar", b"of whom?")
    assert write(store / "set").path.name == "v3"
    assert files(store / "set" / "v1") == [uploads.CLAIM]
    assert files(store / "set" / "v2") == ["images-00000.tar"]


def test_writers_on_two_machines_get_different_versions(store, tmp_path, monkeypatch):
    """Both try v1 at the same moment; they are two machines in that they share no cache."""
    barrier, published, create = threading.Barrier(2), [], storage.create

    def create_together(path, data):
        if path.name == uploads.CLAIM and path.parent.name == "v1":
            barrier.wait(20)
        create(path, data)

    monkeypatch.setattr(storage, "create", create_together)
    directories = iter([tmp_path / "one", tmp_path / "two"])
    monkeypatch.setattr(
        "segkit.shards.publish._local_directory", lambda destination: next(directories)
    )
    threads = [
        threading.Thread(target=lambda n=n: published.append(write(store / "set", n)))
        for n in (2, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shards.path.name for shards in published) == ["v1", "v2"]
    for shards in published:
        assert list(validate(shards.path)) == []
        assert len(list(shards.samples())) in (2, 5)


def test_two_writers_of_one_machine_exclude_each_other(store):
    with (
        staging(store / "set", {}, inputs=(), resume=False),
        pytest.raises(SegkitError, match="another process"),
    ):
        write(store / "set")


def test_a_layer_reads_its_parents_images_in_the_store(store, tmp_path):
    parent = write(store / "data" / "set")
    layer = write_layer(
        store / "data" / "deep" / "layer",
        parent,
        parent.samples(),
        Header.from_set(parent, "again"),
    )
    assert {sample.image.tar for sample in layer.samples()} == {
        f"../../../set/v1/{part.images}" for part in parent.manifest.parts
    }
    assert [layer.image_bytes(sample) for sample in layer.samples()] == [
        picture(seed) for seed in range(5)
    ]
    assert list(validate(layer.path)) == []
    local = write_layer(
        tmp_path / "layer", parent, parent.samples(), Header.from_set(parent, "again")
    )
    assert local.sample(0).image.tar == f"{parent.path}/images-00000.tar"
    assert [local.image_bytes(sample) for sample in local.samples()] == [
        picture(seed) for seed in range(5)
    ]
    assert list(validate(local.path)) == []
    with pytest.raises(InputError, match="images on this machine"):
        write_layer(store / "layer", local, local.samples(), Header.from_set(local, "again"))


_KILLED = """
import os, sys
from segkit import storage
from segkit.shards.publish import staging
put = storage.put
def dying(source, path):
    if path.name == "b":
        os.kill(os.getpid(), 9)
    put(source, path)
storage.put = dying
with staging(storage.location(sys.argv[1]), {}, inputs=(), resume=True) as stage:
    for name in ("a", "b", "manifest.json"):
        (stage.path / name).write_text(name)
    stage.publish()
"""


def test_the_upload_of_a_killed_process_is_invisible_and_resumes(s3):
    process = subprocess.run(
        [sys.executable, "-c", _KILLED, f"{s3}/set"], env=os.environ, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert files(s3 / "set") == ["v1/a", "v1/upload.json"]
    assert versions(s3 / "set") == {}
    with staging(s3 / "set", {}, inputs=(), resume=True) as stage:
        assert stage.resumed
        assert stage.publish() == s3 / "set" / "v1"
    assert files(s3 / "set") == ["v1/a", "v1/b", "v1/manifest.json"]


def stop_before(monkeypatch, name, act):
    """Run an upload whose connection breaks before the file of this name is put or created."""
    put, create = storage.put, storage.create

    def check(path):
        if path.name == name:
            raise ConnectionError("the line is dead")

    with monkeypatch.context() as broken, pytest.raises(SegkitError, match="the line is dead"):
        broken.setattr(storage, "put", lambda source, path: [check(path), put(source, path)])
        broken.setattr(storage, "create", lambda path, data: [check(path), create(path, data)])
        act()


def publish(store, texts):
    """Write the files that differ from `texts`, and publish all of them."""
    with staging(store / "set", {}, inputs=(), resume=True) as stage:
        for name, text in texts.items():
            path = stage.path / name
            if not path.is_file() or path.read_text() != text:
                path.write_text(text)
        return stage.publish(texts)


@pytest.mark.parametrize("stop_at", ["c", "manifest.json"])
def test_what_changed_since_a_killed_upload_is_put_again(store, monkeypatch, stop_at):
    """Tars are padded, so files of equal size are often different."""
    first = {"a": "1111", "b": "2222", "c": "3333", "manifest.json": "first"}
    stop_before(monkeypatch, stop_at, lambda: publish(store, first))
    second = {"a": "1111", "c": "9999", "manifest.json": "second"}
    put, sent = storage.put, []
    monkeypatch.setattr(storage, "put", lambda s, path: [sent.append(path.name), put(s, path)])
    published = publish(store, second)
    assert published == store / "set" / "v1"
    assert {name: (published / name).read_text() for name in files(published)} == second
    assert sent == ["c"]


def test_a_kill_between_the_deletions_and_the_next_put_loses_nothing(store, monkeypatch):
    first = {"a": "1111", "b": "2222", "manifest.json": "first"}
    stop_before(monkeypatch, "manifest.json", lambda: publish(store, first))
    second = {"a": "1111", "b": "8888", "manifest.json": "second"}
    stop_before(monkeypatch, "b", lambda: publish(store, second))
    published = publish(store, second)
    assert {name: (published / name).read_text() for name in files(published)} == second


def test_a_version_that_a_killed_upload_has_published_is_never_changed(store, monkeypatch):
    texts = {"a": "1111", "manifest.json": "first"}
    delete = storage.delete

    def dying(path):
        raise ConnectionError("killed before the claim is removed")

    with monkeypatch.context() as broken, pytest.raises(SegkitError, match="killed before"):
        broken.setattr(storage, "delete", dying)
        publish(store, texts)
    assert list(versions(store / "set")) == [1]
    changed = {"a": "5555", "manifest.json": "second"}
    assert publish(store, changed) == store / "set" / "v2"
    assert (store / "set" / "v1" / "a").read_text() == "1111"
    assert (store / "set" / "v2" / "a").read_text() == "5555"
    assert storage.delete is delete


@pytest.mark.parametrize("data", [b"", b'{"vers', b"[1]", b'{"version": "../x", "token": 1}'])
def test_a_damaged_claim_belongs_to_nobody(store, monkeypatch, data):
    texts = {"a": "1111", "manifest.json": "first"}
    stop_before(monkeypatch, "manifest.json", lambda: publish(store, texts))
    with staging(store / "set", {}, inputs=(), resume=True) as stage:
        (stage.path / uploads.CLAIM).write_bytes(data)
    assert publish(store, texts) == store / "set" / "v2"  # v1 is claimed, by nobody knows whom
    storage.delete(store / "set" / "v1" / uploads.CLAIM)
    storage.create(store / "set" / "v3" / uploads.CLAIM, data)
    assert publish(store, texts) == store / "set" / "v4"
