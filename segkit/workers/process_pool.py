"""Runs tasks in processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from segkit.errors import SegkitError
from segkit.stopping import set_child_signals, signals_blocked

_Result = TypeVar("_Result")
_work: Callable[..., Any] | None = None
"""The function of this worker process."""


@contextmanager
def process_pool(
    work: Callable[..., _Result], count: int
) -> Iterator[Callable[..., "Future[_Result]"]]:
    """Yield a function that runs `work(*arguments)` in one of `count` processes.

    It returns the future of the result.

    Raises:
        SegkitError: a process died.
    """
    # spawn, not fork: a forked child would hold the destination's lock after its parent was killed
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(work,))

    def submit(*arguments: Any) -> "Future[_Result]":
        with signals_blocked():  # it may start a process
            return pool.submit(_run_work, *arguments)

    try:
        yield submit
    except BrokenProcessPool:
        message = "a worker process died, perhaps because memory ran out"
        raise SegkitError(message, hint="run it again: finished shards are kept") from None
    finally:
        pool.shutdown(cancel_futures=True)


def as_completed(
    submit: Callable[..., "Future[_Result]"], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[_Result]:
    """Submit tasks and yield each result once it is there.

    Args:
        submit: the function of a pool or a cluster.
        tasks: arguments of each task; read only as far ahead as keeps the workers busy.
        workers: tasks at a time.
    """
    pending: set[Future[_Result]] = set()
    for arguments in tasks:
        pending.add(submit(*arguments))
        if len(pending) > workers + 1:  # bounds the records that wait in memory
            done, pending = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while pending:
        done, pending = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _start_worker(work: Callable[..., Any]) -> None:
    global _work
    _work = work
    set_child_signals(signal.SIGINT)  # only the parent answers Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Keep a worker whose parent was killed from writing into what the next run resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_work(*arguments: Any) -> Any:
    assert _work is not None
    return _work(*arguments)
