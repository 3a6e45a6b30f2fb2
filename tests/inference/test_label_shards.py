"""Label shards by any number of workers: the same bytes, whatever is killed in between."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import InputError, SegkitError
from segkit.inference.label_shards import Counts, Label, label_shards
from segkit.sample import Sample
from segkit.shards import shard
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.sidecar import labels_name
from segkit.workers import process_pool
from segkit.workers.devices import Workers

from .labelers import IMAGES, label, labeled, open_killing, open_plainly, write_bare_set

PROGRAM = """
import sys
from pathlib import Path
from segkit.shards import shard
from tests.inference.labelers import label_slowly, labeled
from segkit.workers.devices import Workers
shard.MIN_ROWS = 4
workers = Workers(count=int(sys.argv[3]), device="cpu")
labeled(Path(sys.argv[1]), Path(sys.argv[2]), label_slowly, workers=workers)
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """22 images without labels, in shards of 4."""
    monkeypatch.setattr(shard, "MIN_ROWS", 4)
    return write_bare_set(tmp_path / "data")


def contents(layer: ShardSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layer.path.iterdir()}


@given(st.integers(0, 3_000_000))
def test_shards_are_neither_small_nor_large(images: int) -> None:
    rows = shard.rows_per_shard(images)
    assert 32 <= rows <= 1024
    assert images <= 64 * rows or rows == 1024
    assert shard.rows_per_shard(images + 1) >= rows


def test_workers_write_the_bytes_of_one_process(data: ShardSet, tmp_path: Path) -> None:
    images: list[int] = []
    totals: Counter[str] = Counter()

    def on_labeled(number: int, of_images: Counts) -> None:
        images.append(number)
        totals.update(of_images)

    opened = ShardSet.open(data.path.parent)
    header = Header.from_set(opened, "label")
    layer, counts = label_shards(
        tmp_path / "one", opened, open_plainly, header, on_labeled=on_labeled
    )
    assert (len(layer.manifest.parts), images) == (6, [1] * IMAGES)
    assert counts == totals == {"images": IMAGES, "odd": IMAGES // 2}
    assert [sample.id for sample in layer.samples()] == [f"{n:02}" for n in range(IMAGES)]
    two, counts_of_two = labeled(
        data.path.parent,
        tmp_path / "two",
        open_plainly,
        workers=Workers(count=2, device="cpu"),
        on_labeled=on_labeled,
    )
    assert sorted(images[IMAGES:]) == [2, 4, 4, 4, 4, 4], "once for each shard"
    assert totals == {"images": 2 * IMAGES, "odd": IMAGES}
    assert counts_of_two == counts
    assert contents(two) == contents(layer)


def test_a_killed_worker_changes_no_byte(
    data: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = labeled(data.path.parent, tmp_path / "expected", open_plainly)
    (tmp_path / "deaths").mkdir()
    workers = Workers(count=2, device="cpu")
    layer, _ = labeled(
        data.path.parent,
        tmp_path / "out",
        partial(open_killing, tmp_path / "deaths", 1),
        workers=workers,
    )
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert contents(layer) == contents(expected)
    monkeypatch.setattr(process_pool, "MAX_DEATHS", 1)
    with pytest.raises(SegkitError, match="a worker process died"):
        labeled(
            data.path.parent,
            tmp_path / "again",
            partial(open_killing, tmp_path / "deaths", 99),
            workers=workers,
        )


def test_a_killed_command_continues_at_the_next_shard(data: ShardSet, tmp_path: Path) -> None:
    expected, _ = labeled(data.path.parent, tmp_path / "expected", open_plainly)
    chance, out, deaths = random.Random(0), tmp_path / "out", 0
    program = [sys.executable, "-c", PROGRAM, str(data.path.parent), str(out), "1"]
    while not (out / "v1").exists():
        with subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE) as process:
            shards = {path.name for path in out.glob(".v1.partial/labels-*.parquet")}
            while process.poll() is None and (deaths > 3 or shards == set_of(out)):
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
            process.kill()
            deaths += process.wait() != 0
            assert set_of(out) >= shards or (out / "v1").exists()
    assert deaths >= 2
    assert contents(ShardSet.open(out)) == contents(expected)


def test_random_kills_of_command_and_workers_change_no_byte(data: ShardSet, tmp_path: Path) -> None:
    """A small version of scripts/chaos.py."""
    expected, _ = labeled(data.path.parent, tmp_path / "expected", open_plainly)
    chance, out = random.Random(0), tmp_path / "out"
    program = [sys.executable, "-c", PROGRAM, str(data.path.parent), str(out), "2"]
    victims = ["worker", "command", "worker"]
    while not (out / "v1").exists():
        with subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE) as process:
            workers = spawned(process.pid)
            while victims and process.poll() is None:
                while process.poll() is None and not (workers := spawned(process.pid)):
                    time.sleep(0.005)
                time.sleep(chance.random() * 0.5)
                victim = victims.pop()
                target = chance.choice(workers) if victim == "worker" else process.pid
                with suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
                if victim == "command":
                    break
            process.wait()
            while any(Path(f"/proc/{worker}").exists() for worker in workers):
                time.sleep(0.01)  # workers end with their command
    assert not victims
    assert contents(ShardSet.open(out)) == contents(expected)


def spawned(pid: int) -> list[int]:
    """The worker processes of a command."""
    children = []
    with suppress(OSError):  # it has ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                children.append(int(child))
    return children


def set_of(out: Path) -> set[str]:
    return {path.name for path in out.glob(".v1.partial/labels-*.parquet")}


def test_only_the_intact_shards_of_the_same_work_are_used(data: ShardSet, tmp_path: Path) -> None:
    def labels_until(end: str, seen: list[str]) -> Callable[[str], Label]:
        def fail(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Counts]]:
            for sample, counts in label(samples, seen):
                if sample.id == end:
                    raise SegkitError("stop")
                yield sample, counts

        return lambda device: fail

    out = tmp_path / "out"
    with pytest.raises(SegkitError, match="stop"):
        labeled(data.path.parent, out, labels_until("09", []))
    assert not (out / "v1").exists()
    (out / ".v1.partial" / labels_name(1)).write_bytes(b"damaged")
    seen: list[str] = []
    with pytest.raises(SegkitError, match="stop"):
        labeled(data.path.parent, out, labels_until("19", seen))
    assert seen == [f"{number:02}" for number in range(4, 20)]
    header = Header.from_set(data, "label", {"min_score": 0.5})
    seen.clear()
    layer, _ = label_shards(out, data, labels_until("none", seen), header)
    assert len(seen) == IMAGES == len(layer)


@pytest.mark.parametrize("workers", [Workers(), Workers(count=2, device="cpu")])
def test_images_of_finished_shards_are_not_counted_as_labeled_now(
    data: ShardSet, tmp_path: Path, workers: Workers
) -> None:
    out, finished = tmp_path / "out", list[str]()

    def fail_late(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Counts]]:
        for sample, counts in label(samples, finished):
            if sample.id == "09":
                raise SegkitError("stop")
            yield sample, counts

    with pytest.raises(SegkitError, match="stop"):
        labeled(data.path.parent, out, lambda device: fail_late)
    calls: list[tuple[str, int]] = []
    labeled(
        data.path.parent,
        out,
        open_plainly,
        workers=workers,
        on_labeled=lambda images, counts: calls.append(("labeled", images)),
        on_resume=lambda images: calls.append(("resumed", images)),
    )
    assert calls[0] == ("resumed", 8), "two shards of 4"
    assert {name for name, _ in calls[1:]} == {"labeled"}
    assert sum(images for _, images in calls[1:]) == IMAGES - 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("local", "0", "auto", None), "--devices 0"),
        (("local", "many", "auto", None), "--devices many"),
        (("local", "9" * 5000, "auto", None), "--devices 9"),
        (("local", "1", "banana", None), "--device: unknown device 'banana'; give auto, cpu"),
        (("local", "2", "cuda:1", None), "--device cuda:1 is one device"),
        (("local", "2", "auto", "auto"), "--address does nothing here"),
        (("ray", "all", "cpu", None), "--engine ray chooses the devices itself"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: tuple[str, str, str, str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Workers.from_options(*options)  # type: ignore[arg-type]


def test_options_name_the_devices() -> None:
    assert Workers.from_options("local", "1", "cuda:1", None).in_process
    assert Workers.from_options("local", "all", "cpu", None) == Workers("local", None, "cpu", None)
    assert not Workers.from_options("local", "all", "cpu", None).in_process
