"""Options that several commands share, their completions, and the checks of options' values.

Nothing here imports torch, so that wrong usage is refused at once.
"""

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

from segkit import torchrun
from segkit.errors import InputError, SegkitError
from segkit.storage import is_remote, location
from segkit.taxonomy import known_taxonomies

if TYPE_CHECKING:
    from segkit.shards.manifest import Task
    from segkit.workers.devices import Workers

TASKS: "tuple[Task, ...]" = ("panoptic", "semantic", "instance")
Choice = TypeVar("Choice", bound=str)
Unused = tuple[str, bool, str]
"""An option, whether it was set but does nothing, and the option or value that it needs."""
_has_force: ContextVar[bool] = ContextVar("has_force", default=False)
"""Of the command that runs."""


@dataclass(frozen=True, kw_only=True)
class _Output:
    """The options of every command."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress on stderr.")] = False


_output: ContextVar[_Output] = ContextVar("output", default=_Output())  # noqa: B039
"""Of the command that runs."""


def with_output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, with --json and --quiet, which every command has.

    What prints asks `is_json` and `is_quiet`, so that no command declares the two or passes their
    values on.
    """

    @wraps(command)
    def run(*, as_json: bool, quiet: bool, **options: Any) -> Any:
        token = _output.set(_Output(as_json=as_json, quiet=quiet))
        try:
            return command(**options)
        finally:
            _output.reset(token)

    declared = signature(command)
    options = (*declared.parameters.values(), *signature(_Output).parameters.values())
    run.__signature__ = declared.replace(  # type: ignore[attr-defined]  # typer reads it
        parameters=options
    )
    return run


def is_json() -> bool:
    """Whether the running command was given --json."""
    return _output.get().as_json


def is_quiet() -> bool:
    """Whether the running command was given --quiet."""
    return _output.get().quiet


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin like this."""
    from segkit.recipes.load import known_recipes

    return [name for name in known_recipes() if name.startswith(incomplete)]


def complete_vocabulary(incomplete: str) -> list[str]:
    """Return the shipped vocabularies that begin like this."""
    return [name for name in known_taxonomies() if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that begin like this."""
    return [name for name in TASKS if name.startswith(incomplete)]


def _offer_force(context: typer.Context, force: bool) -> bool:
    """Remember that the command has the option while it runs."""
    _has_force.set(True)
    context.call_on_close(lambda: _has_force.set(False))
    return force


def has_force_option() -> bool:
    """Whether the command that runs has --force, so that a note may name it."""
    return _has_force.get()


def _allow_images(context: typer.Context, folders: list[str]) -> list[str]:
    """Add the folders of --images-root to $SEGKIT_IMAGES_ROOT while the command runs."""
    from segkit.shards.locations import IMAGES_ROOT, allow_images

    for folder in folders:
        path = location(folder)
        if not is_remote(path) and not path.is_dir():
            raise InputError("no such folder", file=folder, hint="check --images-root")
    if folders:
        before = os.environ.get(IMAGES_ROOT, "")
        context.call_on_close(lambda: os.environ.update({IMAGES_ROOT: before}))
        allow_images(folders)
    return folders


SET_HELP = "A shard set: DIR (its newest version) or DIR@v1."
IMAGES_ROOT_OPTION: list[str] = typer.Option(
    [],
    "--images-root",
    metavar="DIR",
    callback=_allow_images,
    help="Folder whose image files a set may name, for a set that another user or another machine "
    "made with --images-by reference; repeatable ($SEGKIT_IMAGES_ROOT).",
)
VERIFY_OPTION = typer.Option(
    True,
    "--verify-images/--no-verify-images",
    help="Read every image and compare its bytes with the SHA-256 in the set.",
)
PREVIEW_OPTION = typer.Option(
    True,
    "--preview/--no-preview",
    help="Draw nine of the images into a PNG beside the version (local sets only).",
)
FORCE_OPTION = typer.Option(
    False,
    "--force",
    callback=_offer_force,
    help="Publish a version even if it equals the newest one.",
)

OVERRIDES_OPTION: list[str] = typer.Option(
    [],
    "--set",
    metavar="KEY=VALUE",
    help="Change a key of the recipe, such as optimizer.lr=3e-4; repeatable.",
)
SETTINGS_OPTION: list[str] = typer.Option(
    [],
    "--set",
    metavar="KEY=VALUE",
    help="Override an inference setting of the run, such as inference.batch_size=4.",
)
CHECKPOINT_OPTION: str | None = typer.Option(
    None, "--checkpoint", metavar="RUN", help="Predict with this run and evaluate its predictions."
)
PREDICTIONS_OPTION: str | None = typer.Option(
    None,
    "--predictions",
    metavar="SET|FILE|DIR",
    help="Evaluate these: a shard set, COCO results (JSON), COCO panoptic (JSON and PNGs) or, for "
    "semantic segmentation, a folder of index PNGs.",
)
EVALUATOR_OPTION: str = typer.Option(
    "hotcoco", "--evaluator", help="Library for COCO AP: hotcoco, faster-coco-eval or pycocotools."
)
DEVICE_OPTION: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N.")
CHECKPOINT_DEVICE_OPTION: str = typer.Option(
    "auto", "--device", help="Device of --checkpoint: auto, cpu, cuda or cuda:N."
)
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


def parse_choice(value: str, choices: Sequence[Choice], option: str) -> Choice:
    """The choice that equals the value of an option; InputError if none does."""
    for choice in choices:
        if value == choice:
            return choice
    raise InputError(f"{option} {value}", hint=f"give one of {', '.join(choices)}")


def parse_data(item: str) -> tuple[str, float]:
    """Parse `SET` or `SET=WEIGHT`; the default weight is 1. A set's own path may contain `=`."""
    spec, equals, weight = item.rpartition("=")
    if not equals or _is_set(item) or ("/" in weight and not _is_set(spec)):
        return item, 1.0
    hint = "write SET or SET=WEIGHT, with a positive number"
    try:
        return spec, float(weight)
    except ValueError:
        message = f"no number after = in {item!r}"
        raise InputError(message, record="--data", hint=hint) from None


def _is_set(text: str) -> bool:
    from segkit.shards.versions import parse_spec, versions

    try:
        return bool(versions(parse_spec(text)[0]))
    except (SegkitError, OSError, ValueError):  # a name that no folder can have
        return False


def parse_workers(engine: str, devices: str, device: str, address: str | None) -> "Workers":
    """The devices that share the work of a command.

    Raises:
        InputError: an option that cannot be used, or a process of torchrun.
    """
    from segkit.workers.devices import Engine, Workers

    if torchrun.is_distributed():
        message = "torchrun starts several processes, which would all write the same set"
        raise InputError(message, hint="start the command once, with --devices N")
    chosen = parse_choice(engine, get_args(Engine), "--engine")
    return Workers.from_options(chosen, devices, device, address)


def reject_unused(*options: Unused) -> None:
    """Raise InputError for the first option that would do nothing."""
    for option, unused, partner in options:
        if unused:
            message = f"{option} does nothing here; it requires {partner}"
            raise InputError(message, hint="leave it out")
