"""Runs tasks in processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

from segkit.errors import SegkitError
from segkit.stopping import set_child_signals, signals_blocked

_Result = TypeVar("_Result")
_work: Callable[..., Any] | None = None
"""The function of this worker process."""
_CONTEXT = multiprocessing.get_context("spawn")
"""Not fork: a forked child would hold the destination's lock after its parent was killed."""
_WARNINGS = "PYTHONWARNINGS"
MAX_DEATHS = 3
"""Deaths of worker processes in a row, without a finished task in between, that have a cause."""


def available_cores() -> int:
    """Processor cores that this process may use; all of the machine's where the system, such as
    macOS, does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerDiedError(SegkitError):
    """A worker process died."""

    def __init__(self) -> None:
        message = "a worker process died, perhaps because memory ran out"
        super().__init__(message, hint="run it again: finished shards are kept")


@contextmanager
def process_pool(
    work: Callable[..., _Result], count: int
) -> Iterator[Callable[..., "Future[_Result]"]]:
    """Yield a function that runs `work(*arguments)` in one of `count` processes.

    It returns the future of the result.

    Raises:
        WorkerDiedError: a process died.
    """
    with _pool(count, _start_worker, (work,)) as submit:
        yield submit


def run_on_devices(
    make: Callable[[str], Callable[..., _Result]],
    tasks: Iterable[tuple[Any, ...]],
    devices: Sequence[str],
) -> Iterator[_Result]:
    """Run tasks in one process for each device, and yield each result as soon as it is ready.

    The tasks of a process that dies run again in a new one.

    Args:
        make: called once in each process, with its device; returns the function of a task.
            Picklable.
        tasks: arguments of each task.
        devices: such as `cuda:0`; they may repeat.

    Raises:
        WorkerDiedError: processes died again and again.
    """
    _start_resource_tracker()  # before a queue starts it
    remaining, deaths = dict(enumerate(tasks)), 0
    while remaining:
        try:
            with _pool(len(devices), _start_device_worker, (make, _queue(devices))) as submit:
                numbered = [(number, *arguments) for number, arguments in remaining.items()]
                for number, result in as_completed(submit, numbered, len(devices)):
                    del remaining[number]
                    deaths = 0
                    yield result
        except WorkerDiedError:
            deaths += 1
            if deaths == MAX_DEATHS:
                raise


@contextmanager
def _pool(
    count: int, initializer: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[Callable[..., "Future[Any]"]]:
    _start_resource_tracker()
    pool = ProcessPoolExecutor(count, _CONTEXT, initializer=initializer, initargs=arguments)

    def submit(*arguments: Any) -> "Future[_Result]":
        with signals_blocked():  # it may start a process
            return pool.submit(_run_work, *arguments)

    try:
        yield submit
    except BrokenProcessPool:
        raise WorkerDiedError from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_resource_tracker() -> None:
    """Start the process that removes semaphores after a stop signal, which would warn of them."""
    set_before = os.environ.get(_WARNINGS)
    os.environ[_WARNINGS] = ",".join(filter(None, (set_before, "ignore:resource_tracker")))
    resource_tracker.ensure_running()
    if set_before is None:
        del os.environ[_WARNINGS]
    else:
        os.environ[_WARNINGS] = set_before


def as_completed(
    submit: Callable[..., "Future[_Result]"], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[_Result]:
    """Submit tasks and yield each result as soon as it is ready.

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


def _queue(devices: Sequence[str]) -> "SimpleQueue[str]":
    """A queue from which each process takes its device."""
    queue: SimpleQueue[str] = _CONTEXT.SimpleQueue()
    for device in devices:
        queue.put(device)
    return queue


def _start_device_worker(
    make: Callable[[str], Callable[..., Any]], devices: "SimpleQueue[str]"
) -> None:
    _start_worker(_DeviceWork(make, devices.get()))


class _DeviceWork:
    """The numbered tasks of a process; the first one opens the model, so that it can report."""

    def __init__(self, make: Callable[[str], Callable[..., Any]], device: str) -> None:
        self._make, self._device = make, device

    def __call__(self, number: int, *arguments: Any) -> tuple[int, Any]:
        return number, self._work(*arguments)

    @cached_property
    def _work(self) -> Callable[..., Any]:
        return self._make(self._device)


def _exit_with_parent() -> None:
    """Keep a worker whose parent was killed from writing into what the next run resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_work(*arguments: Any) -> Any:
    assert _work is not None
    return _work(*arguments)
