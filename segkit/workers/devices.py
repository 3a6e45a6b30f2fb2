"""Workers: the devices that share the work of a command, and the tasks that run on them."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from segkit import torchrun
from segkit.arguments import check_choice, check_number
from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.workers.process_pool import as_completed, available_cores, run_on_devices

Engine = Literal["local", "ray"]
Result = TypeVar("Result")
ALL = "all"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Workers:
    """One worker for each device: a process of this machine, or an actor of a Ray cluster."""

    engine: Engine = "local"
    count: int | None = 1
    """Number of devices; None for all of them."""
    device: str = "auto"
    """auto, cpu or cuda, of local processes; auto or cpu, of a Ray cluster."""
    address: str | None = None
    """Of a Ray cluster, see `ray_cluster`."""

    def __post_init__(self) -> None:
        """Raise InputError for an unknown engine or device, or a number below 1."""
        check_choice(self.engine, Engine, "engine")
        check_device(self.device)
        if self.count is not None:
            check_number(self.count, "count", 1)

    @classmethod
    def from_options(
        cls, engine: Engine, devices: str, device: str, address: str | None
    ) -> "Workers":
        """Parse the options of a command; imports no torch.

        Raises:
            InputError: `devices` is not a number above 0 or `all`, an unknown device, an option
                that does nothing here, or Ray is not installed.
        """
        check_device(device)
        if devices != ALL and not re.fullmatch("0*[1-9][0-9]{0,5}", devices):
            hint = "give a number above 0, or all"
            raise InputError(f"--devices {devices}", hint=hint)
        count = None if devices == ALL else int(devices)
        if engine == "ray":
            require_extra("ray", "--engine ray")
        elif address is not None:
            message = "--address does nothing here"
            raise InputError(message, hint="give --engine ray, or leave it out")
        allowed = {"local": ("auto", "cpu", "cuda"), "ray": ("auto",)}[engine]
        if (engine == "ray" or count != 1) and device not in allowed:
            if engine == "ray":
                message, hint = "--engine ray chooses the devices itself", "leave --device out"
            else:
                message = f"--device {device} is one device"
                hint = "leave it out, or leave out --devices"
            raise InputError(message, hint=hint)
        return cls(engine, count, device, address)

    @property
    def caller_device(self) -> str:
        """Device of what the calling process opens; workers open their own on theirs."""
        return self.device if self.in_process else "cpu"

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Kind of the devices that do the work; imports torch, and connects to the cluster."""
        if self.device != "auto":
            return "cpu" if self.device == "cpu" else "cuda"
        if self.engine == "local":
            return "cuda" if _gpus() else "cpu"
        from segkit.workers.ray_cluster import has_gpus

        return "cuda" if has_gpus(self.address) else "cpu"

    @property
    def in_process(self) -> bool:
        """Whether this process does the work by itself."""
        return self.engine == "local" and self.count == 1

    def require(self) -> None:
        """Raise InputError where this machine lacks the devices; imports torch."""
        if self.in_process:
            from segkit.distributed import choose_device

            choose_device(self.device)
        elif self.engine == "local":
            self._local_devices()

    @property
    def threads(self) -> int:
        """Threads of each local process that has no GPU."""
        return max(1, available_cores() // (self.count or available_cores()))

    def run(
        self,
        make: Callable[[str], Callable[..., Result]],
        tasks: Sequence[tuple[Any, ...]],
        folders: Sequence[Path],
    ) -> Iterator[Result]:
        """Run tasks on the devices, and yield each result as soon as it is ready.

        A task runs again if its worker dies.

        Args:
            make: called once for each worker, with its device; returns the function of a task.
                Picklable.
            tasks: arguments of each task.
            folders: paths that every node of a cluster must see.

        Raises:
            InputError: there are not that many devices.
            SegkitError: workers died again and again.
        """
        if self.engine == "local":
            yield from run_on_devices(make, tasks, self._local_devices()[: len(tasks)])
            return
        from segkit.workers.ray_cluster import ray_devices

        with ray_devices(make, self.address, self.count, folders, on_cpu=self.device == "cpu") as (
            submit,
            size,
        ):
            yield from as_completed(submit, tasks, size)

    def _local_devices(self) -> list[str]:
        gpus = _gpus()
        if self.device == "cpu" or (self.device == "auto" and not gpus):
            return ["cpu"] * (self.count or available_cores())
        if (self.count or 1) > gpus:
            message = f"{self.count or 1} devices, this machine has {gpus} GPUs"
            hint = f"give at most {gpus}, or --device cpu" if gpus else "give --device cpu"
            raise InputError(message, record="--devices", hint=hint)
        return [f"cuda:{index}" for index in range(self.count or gpus)]


def check_device(device: str) -> None:
    """Raise InputError where a device is not auto, cpu, cuda or cuda:N; imports no torch.

    cuda:N is refused where torchrun started several processes on this machine: they would share it.
    """
    if not (isinstance(device, str) and _DEVICE.fullmatch(device)):
        hint = "give auto, cpu, cuda or cuda:N"
        raise InputError(f"unknown device {device!r}", record="--device", hint=hint)
    if ":" in device and (processes := torchrun.local_world_size()) > 1:
        message = f"{processes} processes of torchrun would share {device}"
        hint = "give --device cuda or auto, of which each process takes its own GPU"
        raise InputError(message, record="--device", hint=hint)


def _gpus() -> int:
    """GPUs of this machine; none where torch is not installed, which no CPU teacher needs."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
