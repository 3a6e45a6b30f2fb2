"""The options that all sources of `segkit convert` share."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segkit.errors import InputError
from segkit.storage import is_remote

from .shared_options import FORCE_OPTION, PREVIEW_OPTION


class ImagesBy(StrEnum):
    """How a set refers to its images."""

    embed = "embed"
    reference = "reference"
    none = "none"


class Engine(StrEnum):
    """Where shards are converted."""

    local = "local"
    ray = "ray"


class Exif(StrEnum):
    """What to do with photos that their EXIF orientation turns."""

    keep = "keep"
    apply = "apply"
    refuse = "refuse"


class OnError(StrEnum):
    """What to do about defects that would lose data."""

    fail = "fail"
    skip = "skip"


@dataclass(frozen=True)
class CommonOptions:
    """The options of every source."""

    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the shard set; a new version v1, v2, ... is published."),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="Name of the set in tables; by default that of --out.")
    ] = None
    split: Annotated[str | None, typer.Option(help="train, val, ...; noted in the manifest.")] = (
        None
    )
    limit: Annotated[int | None, typer.Option(min=1, help="Convert only the first N images.")] = (
        None
    )
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes or Ray tasks at a time; by default one per core."),
    ] = None
    images_by: Annotated[
        ImagesBy,
        typer.Option(
            help="Copy images into tars, reference the files, or write only labels without opening "
            "images."
        ),
    ] = ImagesBy.embed
    exif: Annotated[
        Exif,
        typer.Option(
            help="Photos that viewers turn: keep takes their pixels as stored, apply turns them "
            "(for labels that were drawn on the turned picture), refuse fails on them."
        ),
    ] = Exif.keep
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Fail on defects that would lose data, or write them to quarantine.jsonl and "
            "continue."
        ),
    ] = OnError.fail
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read and check everything, report, and write nothing; ends with the exit code of "
            "the conversion: 2 if defects would fail it.",
        ),
    ] = False
    shard_size: Annotated[
        str, typer.Option(help="Bytes of images at which a shard is closed, such as 96MiB.")
    ] = "96MiB"
    engine: Annotated[
        Engine,
        typer.Option(
            help="Processes of this machine, or tasks of a Ray cluster whose nodes share folders."
        ),
    ] = Engine.local
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the Ray cluster's head, or auto; by default $RAY_ADDRESS, or else a "
            "new cluster on this machine."
        ),
    ] = None
    preview: bool = PREVIEW_OPTION
    force: bool = FORCE_OPTION


def typed_options(context: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that the command line gives, whatever their values."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(
        name for name, source in sources.items() if source and source.name == "COMMANDLINE"
    )


def refuse_idle_options(common: CommonOptions, typed: Collection[str]) -> None:
    """Raise InputError for an option that would do nothing beside the others.

    Args:
        common: the options.
        typed: names of those that the command line gives.
    """
    images_by = common.images_by
    if "shard_size" in typed and images_by is not ImagesBy.embed:
        message = f"--shard-size counts bytes of images, and --images-by {images_by} copies none"
        raise InputError(message, hint="omit one of the two")
    preview = common.preview and "preview" in typed
    for option, chosen in (("--force", common.force), ("--preview", preview)):
        if common.dry_run and chosen:
            message = f"{option} does nothing with --dry-run, which publishes no version"
            raise InputError(message, hint="omit one of the two")
    if preview and common.out is not None and is_remote(common.out):
        message = "--preview draws beside a local set only, and --out is a URL"
        raise InputError(message, hint="omit --preview")
