"""Streams that keep a device busy: work ahead in threads, batches of like items, answers in their
old order."""

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
"""Of each stage that reads or finishes images; decoding, resizing and tensor work leave Python's
lock alone."""


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, waiting: int
) -> Iterator[Result]:
    """`function` of each item, in order, worked out by threads while the caller is busy.

    Args:
        function: called in another thread; what it raises is raised here, at its item's turn.
        items: read by the caller's own thread, at most `waiting` ahead of what was given back.
        waiting: items under way or done and not yet given back.
    """
    pool = ThreadPoolExecutor(THREADS)
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > waiting:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def like(
    items: Iterable[Item], key: Callable[[Item], Hashable], *, size: int, patience: int
) -> Iterator[list[tuple[int, Item]]]:
    """Batches of items with equal keys, each with its place in the stream.

    Args:
        items: any number.
        key: what the items of a batch have in common.
        size: most items of a batch.
        patience: an item whose batch is not full goes once so many later ones have come.
    """
    groups: dict[
        Hashable, list[tuple[int, Item]]
    ] = {}  # the group whose first item is the oldest comes first
    for place, item in enumerate(items):
        own = key(item)
        groups.setdefault(own, []).append((place, item))
        if len(groups[own]) == size:
            yield groups.pop(own)
        oldest = next(iter(groups), None)
        if oldest is not None and place - groups[oldest][0][0] >= patience:
            yield groups.pop(oldest)
    yield from groups.values()


def in_order(answers: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Answers by the places 0, 1, 2, ... that they come with, each place once."""
    early: dict[int, Result] = {}
    following = 0
    for place, answer in answers:
        early[place] = answer
        while following in early:
            yield early.pop(following)
            following += 1


def by_parts(
    items: Iterable[Item],
    parts: Callable[[Item], Sequence[Part]],
    work: Callable[[Iterator[Part]], Iterator[Result]],
) -> Iterator[tuple[Item, list[Result]]]:
    """Each item with the answers for its parts, where the parts of all items run through `work` as
    one stream.

    Args:
        items: read only as far ahead as `work` reads its parts.
        parts: any number of an item's, none included.
        work: gives one answer a part, in order.
    """
    opened: deque[tuple[Item, int]] = deque()

    def stream() -> Iterator[Part]:
        for item in items:
            own = parts(item)
            opened.append((item, len(own)))
            yield from own

    answers = work(stream())
    for first in answers:
        while not opened[0][1]:
            yield opened.popleft()[0], []
        item, count = opened.popleft()
        yield item, [first, *islice(answers, count - 1)]
    yield from ((item, []) for item, _ in opened)
