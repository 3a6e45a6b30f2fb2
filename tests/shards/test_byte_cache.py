"""The cache of remote files: bounded, shared by processes, intact whatever is killed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segkit import storage
from segkit.errors import InputError, Notice
from segkit.shards import byte_cache
from segkit.shards.byte_cache import ByteCache
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from tests.store_proxy import StoreProxy

from .test_upload import write

SIZE = 1000
ROOT = Path(__file__).parents[2]
PROGRAM = """
import random, sys
from pathlib import Path
from segkit.shards.byte_cache import ByteCache
from tests.shards.test_byte_cache import content, digest
cache, chance = ByteCache(Path(sys.argv[1]), int(sys.argv[2])), random.Random(int(sys.argv[3]))
for _ in range(int(sys.argv[4])):
    number = chance.randrange(60)
    assert cache.read(digest(number), lambda: content(number)) == content(number)
"""


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def digest(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def kept(cache: ByteCache) -> dict[str, bytes]:
    """The contents by their digests, all intact."""
    files = {file.name: file.read_bytes() for file in cache.folder.glob("??/*")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in files.items())
    return files


def start(cache: ByteCache, seed: int, reads: int) -> "subprocess.Popen[bytes]":
    arguments = [str(cache.folder), str(cache.limit), str(seed), str(reads)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT)


def test_the_least_recently_used_contents_go_first(tmp_path: Path) -> None:
    """Against a list in order of use."""
    cache = ByteCache(tmp_path, 20 * SIZE)
    chance, used, loaded = random.Random(0), list[int](), list[int]()

    def load(number: int) -> bytes:
        loaded.append(number)
        return content(number)

    for _ in range(400):
        number, before = chance.randrange(30), len(loaded)
        assert cache.read(digest(number), partial(load, number)) == content(number)
        assert (len(loaded) > before) == (number not in used)
        if len(loaded) > before and len(used) == 20:
            used = used[-17:]  # 90 % remain, the new one included
        used = [n for n in used if n != number] + [number]
        files = kept(cache)
        assert files.keys() == {digest(n) for n in used}
        assert sum(map(len, files.values())) <= cache.limit
    assert 100 < len(loaded) < 400


def test_only_what_the_digest_promises_is_kept(tmp_path: Path) -> None:
    cache = ByteCache(tmp_path / "cache", 20 * SIZE)
    assert cache.read(digest(1), lambda: b"damaged") == b"damaged"
    assert cache.read("../outside", lambda: b"any") == b"any"
    large = b"x" * (2 * SIZE)
    assert cache.read(hashlib.sha256(large).hexdigest(), lambda: large) == large
    assert not list(tmp_path.glob("cache/??/*"))
    cache.read(digest(1), lambda: content(1))
    (file,) = tmp_path.glob("cache/??/*")
    file.write_bytes(b"y" * SIZE)
    assert cache.read(digest(1), lambda: content(1)) == content(1)
    assert file.read_bytes() == content(1), "replaced by intact bytes"
    assert int((cache.folder / ".total").read_text()) == SIZE


def test_an_open_content_survives_its_eviction(tmp_path: Path) -> None:
    cache = ByteCache(tmp_path, 16 * SIZE)
    for _ in range(2):
        opened = cache.open(digest(0), lambda: content(0))
        assert opened is not None
    for number in range(1, 40):
        cache.read(digest(number), lambda n=number: content(n))
    assert digest(0) not in kept(cache)
    assert opened.read() == content(0)
    large = b"x" * (2 * SIZE)
    name = hashlib.sha256(large).hexdigest()
    assert cache.open(name, lambda: large).read() == large  # type: ignore[union-attr]
    assert cache.open(name, lambda: large) is None, "too large: its parts are read instead"


def test_several_processes_share_it(tmp_path: Path) -> None:
    cache = ByteCache(tmp_path, 20 * SIZE)
    processes = [start(cache, seed, 300) for seed in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    total = sum(map(len, kept(cache).values()))
    assert 16 * SIZE < total <= cache.limit
    assert int((cache.folder / ".total").read_text()) == total
    assert not (cache.folder / ".draft").exists()


def test_killed_writers_leave_no_damaged_content(tmp_path: Path) -> None:
    cache = ByteCache(tmp_path, 20 * SIZE)
    chance = random.Random(0)
    for seed in range(4):
        process = start(cache, seed, 10**9)
        while not cache.folder.exists() or not list(cache.folder.glob("??/*")):
            time.sleep(0.01)
        time.sleep(0.3 + chance.random() * 0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept(cache)
        cache.read(digest(99), lambda: content(99))
        assert sum(map(len, kept(cache).values())) <= cache.limit
    (cache.folder / ".total").write_text("")
    for number in range(40):
        cache.read(digest(number), lambda n=number: content(n))
    assert sum(map(len, kept(cache).values())) <= cache.limit


def test_a_cache_that_cannot_be_written_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ByteCache(tmp_path / "file" / "cache", 20 * SIZE)
    with pytest.warns(Notice, match=r"cache: nothing is cached there \(") as caught:
        assert cache.read(digest(1), lambda: content(1)) == content(1)
        assert cache.read(digest(2), lambda: content(2)) == content(2)
    assert len(caught) == 1


def test_a_set_in_a_store_is_read_once(
    s3: Path, s3_proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(byte_cache.LIMIT, "1MB")
    write(s3 / "set")
    local = write(tmp_path / "set")
    expected = [(sample, local.image_bytes(sample)) for sample in local.samples()]
    ranges = []
    for _ in range(2):
        data, before = ShardSet.open(s3 / "set"), s3_proxy.ranges
        samples = list(data.samples_at(range(len(data))))
        read = [(sample, data.image_bytes(sample)) for sample in data.read_ahead(samples)]
        assert [(sample.segments, image) for sample, image in read] == [
            (sample.segments, image) for sample, image in expected
        ]
        ranges.append(s3_proxy.ranges - before)
    assert ranges == [len(expected), 0]


def flip_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", flip_byte, lambda data: data + b"x"],
    ids=["truncated", "empty", "flipped", "longer"],
)
def test_damaged_labels_are_read_from_the_store_and_replaced(
    damage: Callable[[bytes], bytes],
    s3: Path,
    s3_proxy: StoreProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(byte_cache.LIMIT, "1MB")
    written = write(s3 / "set")
    expected = [sample.segments for sample in write(tmp_path / "set").samples()]
    assert [sample.segments for sample in written.samples()] == expected
    (part, *_) = written.manifest.parts
    cache = ByteCache.from_environment()
    assert cache is not None
    file = cache.folder / part.labels_sha256[:2] / part.labels_sha256
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    for _ in range(2):
        opened = ShardSet.open(s3 / "set")
        assert [sample.segments for sample in opened.samples()] == expected
        assert file.read_bytes() == intact
    before = s3_proxy.ranges
    list(ShardSet.open(s3 / "set").samples())
    assert s3_proxy.ranges == before, "the replaced file is used"


def test_a_kept_file_is_compared_once_in_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    file_digest = hashlib.file_digest

    def count(file: Any, name: str) -> Any:
        compared.append(name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    for _ in range(2):
        cache = ByteCache(tmp_path, 20 * SIZE)
        for _ in range(3):
            opened = cache.open(digest(1), lambda: content(1))
            assert opened is not None and opened.read() == content(1)
    assert len(compared) == 2
    (file,) = tmp_path.glob("??/*")
    file.write_bytes(b"")
    opened = cache.open(digest(1), lambda: content(1))
    assert opened is not None and opened.read() == content(1)
    assert file.read_bytes() == content(1)


def test_validate_reads_the_store_and_no_cache(s3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(byte_cache.LIMIT, "1MB")
    data = write(s3 / "set")
    for sample in data.samples():
        data.image_bytes(sample)
    tar = data.path / "images-00000.tar"
    damaged = storage.read_bytes(tar)[:600] + b"damage"
    storage.delete(tar)
    storage.create(tar, damaged)
    fresh = ShardSet.open(data.path)
    sample = next(fresh.samples())
    assert fresh.image_bytes(sample), "from the cache"
    with pytest.raises(Exception, match="image"):
        fresh.verify_image(sample)
    codes = {violation.code for violation in validate(fresh.path)}
    assert {"checksum", "image-bytes"} <= codes


def test_missing_labels_are_reported_in_one_line(s3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(byte_cache.LIMIT, "1MB")
    data = write(s3 / "set")
    storage.delete(data.path / "labels-00000.parquet")
    with pytest.raises(InputError, match="labels not readable"):
        next(ShardSet.open(data.path).samples())


@pytest.mark.parametrize("size", ["many", "-1", "1 GB please"])
def test_an_invalid_size_is_refused(s3: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(s3 / "set")
    monkeypatch.setenv(byte_cache.LIMIT, size)
    with pytest.raises(InputError, match="invalid SEGKIT_CACHE_SIZE"):
        ShardSet.open(s3 / "set")
