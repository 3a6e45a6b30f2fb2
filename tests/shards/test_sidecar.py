"""Records of finished shards: whatever a killed run or another program left is found."""

import json
import os
from pathlib import Path

import pytest

from segkit.errors import SegkitError
from segkit.shards import shard, sidecar
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.sidecar import DamagedShardError, read_shard
from segkit.shards.versions import MANIFEST
from segkit.shards.writer import finish
from tests.shards.conftest import TAXONOMY, picture, toy_sample

HEADER = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="test")
NAMES = ("labels-00000.parquet", "images-00000.tar", "shard-00000.json", "log")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A directory with shards 0 and 1; shard 0 has a log."""
    (tmp_path / "log").write_text("two lines\nof losses\n")
    for index in range(2):
        records = [(toy_sample(10 * index + row), picture(10 * index + row)) for row in range(3)]
        extra = ["log"] if index == 0 else []
        shard.write_shard(tmp_path, index, records, notes={"n": index}, extra_files=extra)
    return tmp_path


def test_a_record_is_read_back_and_another_index_is_unfinished(finished: Path) -> None:
    first = read_shard(finished, 0)
    assert first is not None and first.notes == {"n": 0}
    assert first.part.rows == first.counts.images == 3
    assert first.counts.class_segments == {3: 6, 7: 3}
    assert read_shard(finished, 0, verify=False) == first
    assert read_shard(finished, 2) is None


def test_publishing_does_not_read_the_files_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(sidecar, "file_sha256", hashed.append)
    assert read_shard(finished, 1, verify=False) is not None
    assert hashed == []


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_anywhere_is_found(finished: Path, name: str) -> None:
    data = (finished / name).read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (finished / name).write_bytes(damaged)
        with pytest.raises(DamagedShardError):
            read_shard(finished, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_file_is_found_even_without_reading_it(
    finished: Path, name: str, share: float
) -> None:
    os.truncate(finished / name, int((finished / name).stat().st_size * share))
    with pytest.raises(DamagedShardError, match=name):
        read_shard(finished, 0, verify=False)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"null", b"[" * 99_999, b"\xff\xfe", b'{"part": 3}', b"a\nb", b"\n"],
)
def test_a_foreign_record_is_one_line(finished: Path, data: bytes) -> None:
    (finished / "shard-00000.json").write_bytes(data)
    with pytest.raises(DamagedShardError, match=r"shard-00000\.json: .*; run it again"):
        read_shard(finished, 0)


@pytest.mark.parametrize("change", [{"part": {}}, {"counts": []}, {"counts": {"images": {"a": 1}}}])
def test_a_record_of_another_version_is_one_line(finished: Path, change: dict[str, object]) -> None:
    file = finished / "shard-00000.json"
    record = json.loads(file.read_bytes().partition(b"\n")[2]) | change
    data = json.dumps(record).encode()
    file.write_bytes(sidecar._first_line(data) + data)
    with pytest.raises(DamagedShardError, match="another version of segkit"):
        read_shard(finished, 0)


def test_the_record_of_another_shard_is_found(finished: Path) -> None:
    (finished / "shard-00001.json").replace(finished / "shard-00000.json")
    with pytest.raises(DamagedShardError, match="another shard"):
        read_shard(finished, 0)


def test_a_shard_that_is_written_again_is_unfinished_meanwhile(finished: Path) -> None:
    """A kill in the middle must not leave the old labels beside a new record."""

    def interrupted() -> object:
        assert read_shard(finished, 0) is None
        yield toy_sample(1), picture(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard.write_shard(finished, 0, interrupted())
    assert read_shard(finished, 0) is None


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("info", [nested(199), nested(900), {"a": "\ud800"}])
def test_a_version_that_cannot_be_read_back_is_not_published(
    tmp_path: Path, info: dict[str, object]
) -> None:
    """A version that only its writer understands would hide the good one before it."""
    for source_header in ({}, {"info": info}):
        header = Header(
            taxonomy=TAXONOMY, kind="panoptic", name="a", command="c", source_header=source_header
        )
        with staging(tmp_path, {}, inputs=(), resume=False) as stage:
            shard.write_shard(stage.path, 0, [(toy_sample(0), picture(0))])
            if not source_header:
                good = finish(stage, 1, header, Ledger())
                continue
            with pytest.raises(SegkitError, match="nothing was published") as error:
                finish(stage, 1, header, Ledger())
            assert "\n" not in str(error.value)
            break
    assert ShardSet.open(tmp_path).path == good.path


@pytest.mark.parametrize("name", ["labels-00000.parquet", "images-00000.tar"])
def test_a_shard_that_was_damaged_before_publishing_is_not_published(
    tmp_path: Path, name: str
) -> None:
    with staging(tmp_path, {}, inputs=(), resume=True) as stage:
        shard.write_shard(stage.path, 0, [(toy_sample(0), picture(0))])
        os.truncate(stage.path / name, 100)
        with pytest.raises(SegkitError, match=name):
            finish(stage, 1, HEADER, Ledger())
    assert not list(tmp_path.glob(f"v*/{MANIFEST}"))
