"""Shards in processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from segkit.errors import SegkitError

_Result = TypeVar("_Result")
_work: Callable[..., Any] | None = None


@contextmanager
def processes(
    work: Callable[..., _Result], count: int
) -> Iterator[Callable[..., "Future[_Result]"]]:
    """A function that runs `work(*arguments)` in one of `count` processes and gives its future.

    Raises:
        SegkitError: a process died.
    """
    # spawn, not fork: a forked child would hold the destination's lock after its parent was killed
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(work,))
    try:
        yield lambda *arguments: pool.submit(_run, *arguments)
    except BrokenProcessPool:
        what = "a worker process died, perhaps for want of memory; run it again: finished shards are kept"
        raise SegkitError(what) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(work: Callable[..., Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone answers to Ctrl-C
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed must not write into what the next run takes over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run(*arguments: Any) -> Any:
    assert _work is not None
    return _work(*arguments)
