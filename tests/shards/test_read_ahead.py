"""Images are fetched from a store before their turn: in order, few at a time."""

import os
import threading
from pathlib import Path

import pytest
import torch

from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.errors import SegkitError
from segkit.recipes.schema import DataConfig
from segkit.sample import ImageRef, Sample
from segkit.shards import read_ahead
from segkit.shards.merge_sets import merge_sets
from segkit.shards.read_ahead import AHEAD, ReadAhead
from segkit.shards.reader import ShardSet
from tests.store_proxy import StoreProxy
from tests.training.toy import write_toy_set

LENGTH = 1000


def samples(count: int) -> list[Sample]:
    return [
        Sample(str(n), f"{n}.png", 8, 8, image=ImageRef("a.tar", offset=n * LENGTH, length=LENGTH))
        for n in range(count)
    ]


def fetch(sample: Sample) -> bytes:
    return sample.id.encode()


def always(_: Sample) -> bool:
    return True


class Counting:
    """A fetch that counts what was fetched and not yet taken."""

    def __init__(self) -> None:
        self.outstanding = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, sample: Sample) -> bytes:
        with self.lock:
            self.outstanding += 1
            self.most = max(self.most, self.outstanding)
        return fetch(sample)


@pytest.mark.parametrize(("max_bytes", "most"), [(1 << 20, AHEAD + 1), (5 * LENGTH, 6)])
def test_every_image_comes_in_order_from_few_in_memory(
    max_bytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "MAX_BYTES", max_bytes)
    counting = Counting()
    ahead = ReadAhead(counting)
    taken = []
    for sample in ahead.samples(iter(samples(200)), always):
        taken.append(ahead.take(sample))
        with counting.lock:
            counting.outstanding -= 1
    assert taken == [fetch(sample) for sample in samples(200)]
    assert counting.most <= most
    assert ahead.take(samples(1)[0]) is None, "taken once"


def test_requests_are_on_their_way_together() -> None:
    barrier = threading.Barrier(8, timeout=60)

    def wait(sample: Sample) -> bytes:
        barrier.wait()
        return fetch(sample)

    ahead = ReadAhead(wait)
    assert [ahead.take(s) for s in ahead.samples(samples(8), always)] == [
        fetch(s) for s in samples(8)
    ]


def test_an_error_is_raised_in_its_turn() -> None:
    def fail(sample: Sample) -> bytes:
        if sample.id == "3":
            raise SegkitError("the store failed")
        return fetch(sample)

    ahead = ReadAhead(fail)
    stream = ahead.samples(samples(6), always)
    assert [ahead.take(next(stream)) for _ in range(3)] == [b"0", b"1", b"2"]
    with pytest.raises(SegkitError, match="the store failed"):
        ahead.take(next(stream))
    assert ahead.take(next(stream)) == b"4"


def test_only_needed_images_are_fetched_and_unread_ones_are_dropped() -> None:
    def is_odd(sample: Sample) -> bool:
        return int(sample.id) % 2 == 1

    ahead = ReadAhead(fetch)
    assert list(ahead.samples(samples(5), is_odd)) == samples(5)
    assert [ahead.take(sample) for sample in samples(5)] == [None, b"1", None, b"3", None]
    list(ahead.samples(samples(500), always))
    assert len(ahead._pending) == read_ahead._MAX_PENDING
    assert ahead._bytes == LENGTH * read_ahead._MAX_PENDING


def test_only_images_in_the_store_are_fetched(s3: Path, tmp_path: Path) -> None:
    sets = write_toy_set(s3 / "toy"), write_toy_set(tmp_path / "toy")
    data = merge_sets(sets, tmp_path / "merged", name="both", rename=True, arguments={})
    assert len(list(data.read_ahead(data.samples()))) == len(data) == 12
    assert len(data._fetcher._pending) == 6


def test_training_reads_the_batches_of_a_local_set_from_a_store(
    s3: Path, s3_proxy: StoreProxy, tmp_path: Path
) -> None:
    """In a process that has begun to read ahead, and in a worker that it forks."""
    local, remote = write_toy_set(tmp_path / "toy"), write_toy_set(s3 / "toy")
    remote.image(next(remote.read_ahead(remote.samples())))
    sets = local, ShardSet.open(remote.path), remote
    batches = []
    for chosen, workers in zip(sets, (0, 0, 1), strict=True):
        config = DataConfig(image_size=64, batch_size=3, workers=workers)
        mix = DataMix([NamedDataset("toy", chosen, 1.0)], config, seed=0)
        batches.append([batch for _, batch in mix.batches(0, 3)])
    for read in batches[1:]:
        for batch, expected in zip(read, batches[0], strict=True):
            assert batch.sample_ids == expected.sample_ids
            assert torch.equal(batch.images, expected.images)
    assert s3_proxy.ranges


def test_a_forked_child_reads_what_its_parent_had_on_its_way(s3: Path) -> None:
    data = write_toy_set(s3 / "toy")
    stream = data.read_ahead(data.samples())
    first = next(stream)
    child = os.fork()
    if not child:
        os._exit(0 if data.image_bytes(first) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert data.image_bytes(first)
