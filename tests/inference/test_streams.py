import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.inference.streams import batch_by_shape, prefetch, reorder, unbatch


def test_prefetch_keeps_the_order_and_reads_at_most_so_far_ahead() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(30):
            read += 1
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    for number, result in enumerate(prefetch(slow, items(), ahead=4)):
        assert result == number * number
        assert read <= number + 5
    assert read == 30


def test_prefetch_runs_in_parallel() -> None:
    """Two items meet at a barrier, which only threads that run at the same time can pass."""
    barrier = threading.Barrier(2, timeout=10)
    assert len(list(prefetch(lambda item: barrier.wait(), range(2), ahead=2))) == 2


def test_prefetch_raises_errors_in_their_turn_and_stops() -> None:
    processed = []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        processed.append(item)
        return item

    results = prefetch(work, range(1000), ahead=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(processed) < 10


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 5), st.integers(1, 20))
def test_batches_hold_each_item_once_and_none_waits_long(
    keys: list[int], size: int, patience: int
) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for key in keys:
            read += 1
            yield key

    indices: list[int] = []
    for batch in batch_by_shape(items(), lambda key: key, size=size, patience=patience):
        assert 0 < len(batch) <= size and len({key for _, key in batch}) == 1
        assert all(keys[index] == key for index, key in batch)
        # an overdue batch is yielded as a unit, so its first item has waited longest
        assert read - 1 - batch[0][0] <= patience + 5 or read == len(keys)
        indices.extend(index for index, _ in batch)
    assert sorted(indices) == list(range(len(keys)))
    assert list(reorder((index, keys[index]) for index in indices)) == keys


def test_batches_are_full_where_possible() -> None:
    sizes = [
        len(batch) for batch in batch_by_shape([0, 1] * 16, lambda key: key, size=8, patience=100)
    ]
    assert sizes == [8, 8, 8, 8]


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=12), st.integers(1, 5))
def test_unbatch_returns_results_to_their_items(items: list[list[int]], lead: int) -> None:
    def work(parts: Iterator[int]) -> Iterator[int]:
        return prefetch(lambda part: part + 1, parts, ahead=lead)

    results = list(unbatch(items, lambda item: item, work))
    assert results == [(item, [part + 1 for part in item]) for item in items]
