"""Options of the devices that share the work of `predict`, `pseudolabel`, `eval`, `benchmark`."""

from typing import TYPE_CHECKING, get_args

import typer

from segkit import torchrun
from segkit.errors import InputError

from .scoring import parse_choice

if TYPE_CHECKING:
    from segkit.workers.devices import Workers

ENGINE_OPTION: str = typer.Option(
    "local",
    "--engine",
    metavar="local|ray",
    help="Share the work among processes of this machine or actors of a Ray cluster, one for each "
    "device. Without GPUs, each CPU is a device.",
)
DEVICES_OPTION: str = typer.Option(
    "1",
    "--devices",
    metavar="N|all",
    help="Number of devices. A killed command resumes at the next shard, with any number of them.",
)
ADDRESS_OPTION: str | None = typer.Option(
    None,
    "--address",
    metavar="HOST:PORT|auto",
    help="Address of the Ray cluster; without it, RAY_ADDRESS or a cluster of this machine.",
)


def parse_workers(engine: str, devices: str, device: str, address: str | None) -> "Workers":
    """The devices of a command; imports no torch.

    Raises:
        InputError: an option that cannot be used, or a process of torchrun.
    """
    from segkit.workers.devices import Engine, Workers

    if torchrun.is_distributed():
        message = "torchrun starts several processes, which would all write the same set"
        raise InputError(message, hint="start the command once, with --devices N")
    chosen = parse_choice(engine, get_args(Engine), "--engine")
    return Workers.from_options(chosen, devices, device, address)
