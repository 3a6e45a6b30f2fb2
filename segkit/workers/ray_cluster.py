"""Runs tasks on a Ray cluster, such as the shards of a conversion, one CPU each.

A task is run again if its worker or node dies. All nodes work on the same folders (those of the
source, and the one in which the version is written), so they need a shared file system; a task on a
node that lacks one of the folders fails instead of reporting every file as missing.
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
from threading import Lock
from types import ModuleType
from typing import Any, TypeVar

from segkit import __version__
from segkit.errors import InputError, SegkitError, first_line
from segkit.extras import require_extra
from segkit.stopping import cleanup_on_stop, handlers_kept
from segkit.workers.process_pool import available_cores

OBJECT_STORE = 256 << 20
"""Bytes of shared memory of a cluster that is started here: tasks carry annotations and counts, but
no images."""
_RETRIES = 3  # of a task whose worker died; more deaths have a cause
_CONNECT_SECONDS = 10  # Ray itself waits for minutes and then ends the process
_Result = TypeVar("_Result")


@contextmanager
def ray_cluster(
    work: Callable[..., _Result], address: str | None, workers: int | None, folders: Sequence[Path]
) -> Iterator[tuple[Callable[..., "Future[_Result]"], int]]:
    """Yield a function that runs `work(*arguments)` on the cluster, and the number of workers.

    The function returns the future of the result. Meanwhile, standard output goes to standard
    error, because Ray prints lost workers there.

    Args:
        work: function of a task; picklable. A task may run more than once.
        address: HOST:PORT of the cluster's head, or "auto" for the one that runs on this machine.
            None takes RAY_ADDRESS; without it, a cluster of this machine is started for the run.
        workers: tasks at a time; None for one on each CPU of the cluster.
        folders: paths that every node must see.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
        SegkitError: no cluster starts on this machine, a worker died again and again, or a node
            cannot do the work.
    """
    with _session(address, workers) as ray:
        setup = ray.put(_TaskSetup(work, tuple(folders)))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_run_task)
        with _tracked(ray, lambda *arguments: task.remote(setup, *arguments), force=True) as submit:
            yield submit, workers or int(ray.cluster_resources().get("CPU", 1))


@contextmanager
def ray_devices(
    make: Callable[[str], Callable[..., _Result]],
    address: str | None,
    count: int | None,
    folders: Sequence[Path],
    *,
    on_cpu: bool = False,
) -> Iterator[tuple[Callable[..., "Future[_Result]"], int]]:
    """Yield a function that runs tasks on the devices of the cluster, and the number of devices.

    Each device has one actor, which opens its model once and is started again if it dies.

    Args:
        make: called once in each actor, with `auto`: its GPU, or the CPU in a cluster without
            GPUs; with `cpu` on CPUs. Returns the function of a task. Picklable.
        address: as of `ray_cluster`.
        count: actors; None for one on each GPU of the cluster, or on each CPU where it has no GPU.
        folders: paths that every node must see.
        on_cpu: use CPUs, even if the cluster has GPUs.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached, or it has fewer devices.
        SegkitError: as of `ray_cluster`.
    """
    with _session(address, count) as ray:
        resources = ray.cluster_resources()
        kind = "GPU" if resources.get("GPU") and not on_cpu else "CPU"
        available = int(resources.get(kind, 1))
        if count is not None and count > available:
            message = f"{count} devices, the cluster has {available} {kind}s"
            raise InputError(message, record="--devices", hint=f"give at most {available}, or all")
        setup = ray.put(_TaskSetup(make, tuple(folders)))
        retries = {"max_restarts": _RETRIES, "max_task_retries": _RETRIES}
        actor = ray.remote(**_demand(kind), **retries)(_DeviceActor)
        actors = [actor.remote("cpu" if on_cpu else "auto") for _ in range(count or available)]
        load, load_lock = [0] * len(actors), Lock()

        def add_load(index: int, change: int) -> None:
            with load_lock:  # Ray's thread subtracts while the caller adds
                load[index] += change

        def start(index: int, *arguments: Any) -> Any:
            return actors[index].run.remote([setup], *arguments)

        with _tracked(ray, start, force=False) as submit:

            def submit_to_idlest(*arguments: Any) -> "Future[_Result]":
                index = load.index(min(load))
                add_load(index, 1)
                future = submit(index, *arguments)
                future.add_done_callback(lambda _: add_load(index, -1))
                return future

            yield submit_to_idlest, len(actors)


def has_gpus(address: str | None) -> bool:
    """Whether `ray_devices` runs on GPUs, unless it is told to use CPUs; arguments and errors as
    there."""
    with _session(address, None) as ray:
        return bool(ray.cluster_resources().get("GPU"))


@contextmanager
def _session(address: str | None, workers: int | None) -> Iterator[ModuleType]:
    """Yield the module `ray`, connected; its errors become those of segkit."""
    with (
        redirect_stdout(sys.stderr),
        cleanup_on_stop(),
        _connection(address or os.environ.get("RAY_ADDRESS") or None, workers) as ray,
    ):
        try:
            yield ray
        except ray.exceptions.RayTaskError as error:
            raise _task_error(error) from error
        except ray.exceptions.RayError as error:
            message = f"a worker of the Ray cluster was lost ({first_line(error)})"
            hint = "run it again: finished shards are kept"
            raise SegkitError(message, hint=hint) from error


@contextmanager
def _tracked(
    ray: ModuleType, start: Callable[..., Any], *, force: bool
) -> Iterator[Callable[..., "Future[Any]"]]:
    """Yield a function that starts a task and returns its future; cancel what is left.

    Args:
        ray: the connected module.
        start: starts a task, returns its reference.
        force: end the processes of tasks that are canceled; Ray does not do that to actors.
    """
    pending: set[Any] = set()

    def submit(*arguments: Any) -> "Future[Any]":
        ref = start(*arguments)
        pending.add(ref)
        future: Future[Any] = ref.future()
        future.add_done_callback(lambda _: pending.discard(ref))
        return future

    try:
        yield submit
    finally:
        for ref in tuple(pending):
            ray.cancel(ref, force=force)


def _demand(kind: str) -> dict[str, int]:
    """The resources of an actor on a device, a GPU or a CPU.

    That on a GPU takes no CPU: nodes with fewer CPUs than GPUs would never start some of them, and
    their tasks would wait forever.
    """
    is_gpu = kind == "GPU"
    return {"num_cpus": int(not is_gpu), "num_gpus": int(is_gpu)}


@contextmanager
def _connection(address: str | None, workers: int | None) -> Iterator[ModuleType]:
    """Yield the module `ray`, connected.

    A connection that this process already has is used and left open.
    """
    ray = _import_ray()
    try:
        if address not in (None, "auto"):
            _check_reachable(str(address))
        connected = ray.is_initialized()
        if not connected:
            with handlers_kept():
                _connect(ray, address, workers or available_cores())
    except Exception as error:  # Ray raises plain ones too, where a node takes too long to start
        message = f"no Ray cluster at {address or 'local'} ({first_line(error)})"
        if address is None:
            hint = "this machine may be too busy to start one: run it again"
            raise SegkitError(message, hint=hint) from error
        hint = (
            "check --address: give HOST:PORT of the head (the port is 6379 by default), "
            "or auto on a machine of the cluster"
        )
        raise InputError(message, hint=hint) from error
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage reports to Ray's makers
    require_extra("ray", "--engine ray")
    import ray

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


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("not of the form HOST:PORT")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


@dataclass(frozen=True)
class _TaskSetup:
    """What all tasks share."""

    work: Callable[..., Any]
    folders: tuple[Path, ...]
    directory: Path = field(default_factory=Path.cwd)
    """Working directory, to which paths may be relative."""
    version: str = __version__


def _run_task(setup: _TaskSetup, *arguments: Any) -> Any:
    _check_node(setup)
    return setup.work(*arguments)


class _DeviceActor:
    """Runs tasks on one device, with a model that the first of them opens.

    The setup comes with each task, as a reference, so that a restarted actor has it as well.
    """

    _work: Callable[..., Any] | None = None

    def __init__(self, device: str) -> None:
        self._device = device

    def run(self, setup: list[Any], *arguments: Any) -> Any:
        """Run a task."""
        if self._work is None:
            opened: _TaskSetup = _import_ray().get(setup[0])
            _check_node(opened)
            self._work = opened.work(self._device)
        return self._work(*arguments)


def _check_node(setup: _TaskSetup) -> None:
    """Enter the working directory; refuse a node that lacks segkit's version or a folder."""
    node = platform.node()
    if setup.version != __version__:
        message = f"node {node} has segkit {__version__}, this machine {setup.version}"
        raise SegkitError(message, hint="install the same version on all of them")
    if setup.directory.is_dir():
        os.chdir(setup.directory)
    for folder in setup.folders:
        if not folder.exists():
            message = f"{folder}: does not exist on node {node}"
            raise SegkitError(message, hint="--engine ray needs folders that all nodes share")


def _task_error(error: Any) -> Exception:
    """The exception that a task raised, as the local engine would raise it; else one line."""
    cause = error.cause
    if isinstance(cause, SegkitError | OSError):
        return cause
    return SegkitError(f"a task failed on the Ray cluster ({first_line(cause)})")
