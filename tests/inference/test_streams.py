import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.inference.streams import ahead, by_parts, in_order, like


def test_ahead_keeps_the_order_and_reads_no_further_than_it_may() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(30):
            read += 1
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    for given_back, result in enumerate(ahead(slow, items(), waiting=4)):
        assert result == given_back * given_back
        assert read <= given_back + 5
    assert read == 30


def test_ahead_works_while_the_caller_is_busy() -> None:
    """Two items meet in a barrier: only threads that run at the same time get past it."""
    barrier = threading.Barrier(2, timeout=10)
    assert len(list(ahead(lambda item: barrier.wait(), range(2), waiting=2))) == 2


def test_ahead_passes_errors_on_in_their_turn_and_stops() -> None:
    done = []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        done.append(item)
        return item

    results = ahead(work, range(1000), waiting=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 10


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 5), st.integers(1, 20))
def test_like_batches_alike_items_once_each_and_lets_none_wait_long(
    keys: list[int], size: int, patience: int
) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for key in keys:
            read += 1
            yield key

    places: list[int] = []
    for batch in like(items(), lambda key: key, size=size, patience=patience):
        assert 0 < len(batch) <= size and len({key for _, key in batch}) == 1
        assert all(keys[place] == key for place, key in batch)
        # all of a group that is overdue go at once, so its first item is the one that has waited
        # longest
        assert read - 1 - batch[0][0] <= patience + 5 or read == len(keys)
        places.extend(place for place, _ in batch)
    assert sorted(places) == list(range(len(keys)))
    assert list(in_order((place, keys[place]) for place in places)) == keys


def test_full_batches_are_the_rule() -> None:
    sizes = [len(batch) for batch in like([0, 1] * 16, lambda key: key, size=8, patience=100)]
    assert sizes == [8, 8, 8, 8]


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=12), st.integers(1, 5))
def test_parts_come_back_to_their_items(items: list[list[int]], lead: int) -> None:
    def work(parts: Iterator[int]) -> Iterator[int]:
        return ahead(lambda part: part + 1, parts, waiting=lead)

    found = list(by_parts(items, lambda item: item, work))
    assert found == [(item, [part + 1 for part in item]) for item in items]
