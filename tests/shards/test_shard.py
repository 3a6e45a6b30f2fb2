import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import SegkitError
from segkit.shards import shard, sidecar
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.shards.writer import finish
from tests.shards.conftest import TAXONOMY, picture, toy_sample

HEADER = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="test")
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.shards.test_shard import convert
def slow(index):
    print(index, flush=True)
    if index == 2:
        yield 0
        time.sleep(60)
    yield from range(3)
convert(Path(sys.argv[1]), slow)
"""


def convert(destination, rows=lambda index: range(3), shards=4):
    """Convert as commands do: plan, write the missing shards, finish.

    Returns the set and the indices that were written.
    """
    with staging(destination, {"input": "same"}, inputs=(), resume=True) as stage:
        todo = [index for index in range(shards) if sidecar.read_shard(stage.path, index) is None]
        for index in todo:
            records = (
                (toy_sample(10 * index + row), picture(10 * index + row)) for row in rows(index)
            )
            shard.write_shard(stage.path, index, records, notes={"index": index})
        return finish(stage, shards, HEADER, Ledger()), todo


def test_a_killed_conversion_is_invisible_and_resumes_at_the_next_shard(tmp_path):
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), root], stdout=subprocess.PIPE
    )
    while run.stdout.readline() != b"2\n":
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert versions(tmp_path / "killed") == {}
    resumed, written = convert(tmp_path / "killed")
    assert written == [2, 3]
    uninterrupted, _ = convert(tmp_path / "whole")
    assert resumed.manifest.digest == uninterrupted.manifest.digest
    for name in sorted(path.name for path in uninterrupted.path.iterdir()):
        assert (resumed.path / name).read_bytes() == (uninterrupted.path / name).read_bytes()
    assert sorted(path.name for path in resumed.path.iterdir()) == sorted(
        path.name for path in uninterrupted.path.iterdir()
    )


def test_a_shard_without_its_parquet_is_written_again(tmp_path):
    written = shard.write_shard(tmp_path, 3, [(toy_sample(1), picture(1))], notes=["kept"])
    assert sidecar.read_shard(tmp_path, 3) == written
    (tmp_path / sidecar.labels_name(3)).unlink()
    assert sidecar.read_shard(tmp_path, 3) is None


def test_notes_may_be_filled_while_records_are_read(tmp_path):
    notes = {"seen": 0}

    def records():
        for seed in range(3):
            notes["seen"] += 1
            yield toy_sample(seed), None

    shard.write_shard(tmp_path, 0, records(), notes=notes)
    assert sidecar.read_shard(tmp_path, 0).notes == {"seen": 3}
    assert not (tmp_path / sidecar.images_name(0)).exists()


def test_a_missing_shard_or_an_unbalanced_ledger_is_never_published(tmp_path):
    with staging(tmp_path, {}, inputs=(), resume=False) as stage:
        shard.write_shard(stage.path, 0, [(toy_sample(0), None)])
        with pytest.raises(SegkitError, match="shard 1"):
            finish(stage, 2, HEADER, Ledger())
        with pytest.raises(SegkitError, match="balance"):
            finish(
                stage,
                1,
                HEADER,
                Ledger(annotations=Count(input=3, kept=1, dropped={"empty-mask": 1})),
            )
    assert versions(tmp_path) == {}


def test_tars_are_plain_ustar_with_the_bytes_untouched(tmp_path):
    shard.write_shard(tmp_path, 0, [(toy_sample(seed), picture(seed)) for seed in range(3)])
    path = tmp_path / sidecar.images_name(0)
    with tarfile.open(path) as tar:
        for seed, member in enumerate(tar.getmembers()):
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            assert tar.extractfile(member).read() == picture(seed)
    rebuilt = tmp_path / "rebuilt.tar"
    with tarfile.open(rebuilt, "w", format=tarfile.USTAR_FORMAT) as tar, tarfile.open(path) as old:
        for member in old.getmembers():
            tar.addfile(member, old.extractfile(member))
    assert rebuilt.read_bytes() == path.read_bytes()


@given(st.lists(st.text(max_size=150), unique=True, min_size=2, max_size=2), st.text(max_size=20))
def test_member_names_are_webdataset_keys_and_distinct(ids, file_name):
    names = [shard.member_name(item, file_name) for item in ids]
    assert names[0] != names[1]
    for name in names:
        assert name.isascii() and len(name) < 100 and "/" not in name
        key, extension = name.split(".")  # exactly one dot: WebDataset's key ends at the first one
        assert key and extension


def test_shards_count_mask_pixels_per_class():
    samples = [toy_sample(seed) for seed in range(4)]
    counts = shard.count_samples(samples)
    assert (counts.images, counts.segments, counts.masked) == (4, 12, 8)
    assert counts.class_segments == {3: 8, 7: 4}
    assert counts.class_images == {3: 4, 7: 4}
    assert counts.class_pixels[7] == sum(sample.segments[1].area for sample in samples)


def test_a_set_written_by_workers_reads_in_order(tmp_path):
    shards, written = convert(tmp_path / "set")
    assert written == [0, 1, 2, 3]
    assert [sample.id for sample in ShardSet.open(tmp_path / "set").samples()] == [
        f"{10 * index + row:03d}" for index in range(4) for row in range(3)
    ]
    assert len(shards) == 12
