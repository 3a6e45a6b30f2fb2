"""Shards on a Ray cluster: the tasks of the local engine, one CPU each, run again where a worker or
its node dies.

Every node works on the same folders (the source's, and the directory in which the version is
written), by a file system that all of them share; a task on a node that lacks one fails instead of
finding everything missing.
"""

import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from segkit import __version__
from segkit.errors import InputError, SegkitError

OBJECT_STORE = 256 << 20
"""Bytes of shared memory of a cluster that is started here; tasks carry annotations and counts, no
images."""
_RETRIES = 3  # of a task whose worker died; more deaths are no accident
_PATIENCE = 10  # seconds for a connection; Ray itself waits for minutes and then ends the process
_Result = TypeVar("_Result")


@contextmanager
def cluster(
    work: Callable[..., _Result], address: str | None, workers: int | None, folders: Sequence[Path]
) -> Iterator[tuple[Callable[..., "Future[_Result]"], int]]:
    """A function that runs `work(*arguments)` on the cluster and gives its future, and how many run
    at a time.

    Standard output goes to standard error meanwhile: Ray prints there that a worker was lost.

    Args:
        work: what a task does; picklable. It may be run more than once.
        address: HOST:PORT of the cluster's head, or "auto" for the one that runs on this machine;
            None for that of RAY_ADDRESS, else one of this machine alone is started, and ended
            afterwards.
        workers: tasks at a time; None for one on each CPU of the cluster.
        folders: what every node must see.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
        SegkitError: a worker died again and again, or a node cannot do the work.
    """
    with (
        redirect_stdout(sys.stderr),
        _connected(address or os.environ.get("RAY_ADDRESS"), workers) as ray,
    ):
        shared = ray.put(_Shared(work, tuple(folders)))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_task)
        pending: set[Any] = set()

        def submit(*arguments: Any) -> "Future[_Result]":
            ref = task.remote(shared, *arguments)
            pending.add(ref)
            future: Future[_Result] = ref.future()
            future.add_done_callback(lambda _: pending.discard(ref))
            return future

        try:
            yield submit, workers or int(ray.cluster_resources().get("CPU", 1))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:
            what = f"a worker of the Ray cluster was lost ({_line(error)}); run it again: finished shards are kept"
            raise SegkitError(what) from error
        finally:
            for ref in tuple(pending):
                ray.cancel(ref, force=True)


@contextmanager
def _connected(address: str | None, workers: int | None) -> Iterator[ModuleType]:
    """The module `ray`, connected; a connection that this process has already is used and left as
    it is."""
    ray = _ray()
    try:
        if address not in (None, "auto"):
            _reach(str(address))
        connected = ray.is_initialized()
        if not connected:
            _connect(ray, address, workers or len(os.sched_getaffinity(0)))
    except Exception as error:  # Ray raises plain ones too, where a node takes too long to start
        hint = "check --address: HOST:PORT of the head (port 6379 unless told otherwise), or auto; it must run there"
        raise InputError(
            f"no Ray cluster at {address or 'local'} ({_line(error)})", hint=hint
        ) from error
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to its makers
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"Ray is not installed ({error})", hint="run: pip install 'segkit[ray]'"
        ) from error
    return ray  # type: ignore[no-any-return]


def _connect(ray: ModuleType, address: str | None, cpus: int) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        ray.init(
            "local",
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **quiet,
        )
    else:
        ray.init(address, **quiet)


def _reach(address: str) -> None:
    """Raise OSError or ValueError where nothing listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("not of the form HOST:PORT")
    socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@dataclass(frozen=True)
class _Shared:
    """What all tasks have in common."""

    work: Callable[..., Any]
    folders: tuple[Path, ...]
    directory: Path = field(default_factory=Path.cwd)
    version: str = __version__


def _task(shared: _Shared, *arguments: Any) -> Any:
    node = platform.node()
    if shared.version != __version__:
        what = f"node {node} has segkit {__version__}, this machine {shared.version}: install one on all of them"
        raise SegkitError(what)
    if shared.directory.is_dir():
        os.chdir(shared.directory)  # paths may be relative
    for folder in shared.folders:
        if not folder.exists():
            raise SegkitError(
                f"{folder}: is not there on node {node}; --engine ray needs folders that all nodes share"
            )
    return shared.work(*arguments)


def _cause(error: Any) -> Exception:
    """What a task raised, as the local engine would have; of anything unforeseen one line."""
    cause = error.cause
    if isinstance(cause, SegkitError | OSError):
        return cause
    return SegkitError(f"a task failed on the Ray cluster ({_line(cause)})")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
