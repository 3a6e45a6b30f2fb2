"""Generators that keep a device busy: prefetch in threads, batch by shape, restore the order."""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")

THREADS = min(8, os.cpu_count() or 1)
"""Threads of each stage that reads or post-processes images; decoding, resizing and tensor
operations release Python's lock."""


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Apply a function to each item in threads, and yield the results in the order of the items.

    Args:
        function: called in another thread; an exception is raised here, in its item's turn.
        items: read in the caller's thread, at most `ahead` items before their results are yielded.
        ahead: most items that are in progress, or done and not yet yielded.
    """
    pool = ThreadPoolExecutor(THREADS)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batch_by_shape(
    items: Iterable[Item], shape: Callable[[Item], Hashable], *, size: int, patience: int
) -> Iterator[list[tuple[int, Item]]]:
    """Group items of equal shape into batches of (index in the stream, item).

    Args:
        items: a stream of any length.
        shape: the shape of an item.
        size: most items in a batch.
        patience: an incomplete batch is yielded once this many items have followed its first.
    """
    batches: dict[Hashable, list[tuple[int, Item]]] = {}  # the one with the oldest item comes first
    for index, item in enumerate(items):
        key = shape(item)
        batches.setdefault(key, []).append((index, item))
        if len(batches[key]) == size:
            yield batches.pop(key)
        oldest = next(iter(batches), None)
        if oldest is not None and index - batches[oldest][0][0] >= patience:
            yield batches.pop(oldest)
    yield from batches.values()


def reorder(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Yield results in the order of their indices, which are 0, 1, 2, ..., each of them once."""
    early: dict[int, Result] = {}
    following = 0
    for index, result in results:
        early[index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def unbatch(
    items: Iterable[Item],
    parts: Callable[[Item], Sequence[Part]],
    work: Callable[[Iterator[Part]], Iterator[Result]],
) -> Iterator[tuple[Item, list[Result]]]:
    """Run the parts of all items through `work` as one stream; yield each item with its results.

    So the parts of several items can share a batch.

    Args:
        items: read only as far ahead as `work` reads their parts.
        parts: the parts of an item; may be empty.
        work: yields one result for each part, in order.
    """
    waiting: deque[tuple[Item, int]] = deque()  # each item with its number of parts

    def stream() -> Iterator[Part]:
        for item in items:
            pieces = parts(item)
            waiting.append((item, len(pieces)))
            yield from pieces

    results = work(stream())
    for first in results:
        while waiting[0][1] == 0:
            yield waiting.popleft()[0], []
        item, count = waiting.popleft()
        yield item, [first, *islice(results, count - 1)]
    yield from ((item, []) for item, _ in waiting)
