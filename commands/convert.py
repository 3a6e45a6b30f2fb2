"""`segkit convert`: native datasets to shard sets, every annotation accounted for."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from segkit.errors import InputError
from segkit.storage import location, writable

from .common import JSON_OPTION, counting
from .convert_report import fail, show

if TYPE_CHECKING:
    from segkit.sources.engine import ConvertOptions
    from segkit.sources.source import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Convert a dataset to a shard set; input = kept + dropped is counted, checked and printed.",
)


class ImagesBy(StrEnum):
    """How a set leads to its images."""

    embed = "embed"
    reference = "reference"
    none = "none"


class Engine(StrEnum):
    """What converts the shards."""

    local = "local"
    ray = "ray"


class OnError(StrEnum):
    """What happens where a defect of the source would lose data."""

    fail = "fail"
    skip = "skip"


Images = Annotated[Path, typer.Option(help="Folder of the images.")]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


@dataclass(frozen=True)
class Common:
    """The options of every source."""

    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the shard set; a new version v1, v2, ... is published."),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="Name of the set in tables; by default that of the source.")
    ] = None
    split: Annotated[str | None, typer.Option(help="train, val, ...; noted in the manifest.")] = (
        None
    )
    limit: Annotated[int | None, typer.Option(min=1, help="Convert the first N images only.")] = (
        None
    )
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes or Ray tasks at a time; by default one for each core."),
    ] = None
    images_by: Annotated[
        ImagesBy,
        typer.Option(
            help="Copy images into tars, point at the files, or labels only (no image is opened)."
        ),
    ] = ImagesBy.embed
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Stop where a defect would lose data, or set it aside in quarantine.jsonl and go on."
        ),
    ] = OnError.fail
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read and check everything, report, write nothing."),
    ] = False
    shard_size: Annotated[
        str, typer.Option(help="Image bytes at which a shard is closed, such as 96MiB.")
    ] = "96MiB"
    engine: Annotated[
        Engine,
        typer.Option(
            help="Processes of this machine, or tasks of a Ray cluster whose nodes share the folders."
        ),
    ] = Engine.local
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the Ray cluster's head, or auto; by default $RAY_ADDRESS, else one of its own."
        ),
    ] = None
    as_json: bool = JSON_OPTION


def _command(open_source: Callable[..., "Source"]) -> Callable[..., "Source"]:
    """Make the function that opens a source a subcommand: its parameters, then those of `Common`,
    are the options."""
    own, shared = signature(open_source).parameters, signature(Common).parameters
    options = [
        shared["out"],
        *own.values(),
        *(shared[name] for name in shared if name not in ("out", *own)),
    ]
    options.sort(
        key=lambda option: option.default is not Parameter.empty
    )  # what must be given comes first
    for kind, info in (
        get_args(option.annotation)
        for option in options
        if get_origin(option.annotation) is Annotated
    ):
        if Path in (kind, *get_args(kind)):
            info.parser, info.metavar = location, "PATH|URL"

    def command(**given: Any) -> None:
        common = Common(**{name: given[name] for name in shared})
        _run(common, given, lambda: open_source(**{name: given[name] for name in own}))

    command.__doc__ = open_source.__doc__
    command.__signature__ = Signature(options)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {}
    app.command(open_source.__name__)(command)
    return open_source


@_command
def coco(
    images: Images,
    panoptic: Annotated[Path | None, typer.Option(help="Panoptic JSON.")] = None,
    panoptic_masks: Annotated[
        Path | None,
        typer.Option(help="Folder of its PNGs; by default beside the JSON under the same stem."),
    ] = None,
    instances: Annotated[
        Path | None, typer.Option(help="Instances JSON, with any category list.")
    ] = None,
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="Leave the masks of the instances out.")
    ] = False,
) -> "Source":
    """COCO panoptic (JSON and PNG folder), COCO instances (polygons, run lengths, boxes), or both
    joined.

    With both, panoptic segments take id, polygon and crowd flag of their instances.

    Example: segkit convert coco --images val2017 --panoptic annotations/panoptic_val2017.json --out
    work/coco-val
    """
    from segkit.sources.coco_instances import open_coco_instances
    from segkit.sources.coco_joined import open_coco_joined
    from segkit.sources.coco_panoptic import open_coco_panoptic

    if panoptic is None:
        if instances is None:
            raise InputError(
                "needs an annotation file", hint="give --panoptic FILE or --instances FILE, or both"
            )
        return open_coco_instances(instances, images, boxes_only=boxes_only)
    if boxes_only:
        raise InputError(
            "--boxes-only goes with --instances alone", hint="leave it or --panoptic out"
        )
    if instances is None:
        return open_coco_panoptic(panoptic, images, panoptic_masks)
    return open_coco_joined(panoptic, instances, images, panoptic_masks)


@_command
def ade(
    root: Annotated[Path, typer.Option(help="Folder ADEChallengeData2016.")],
    split: Annotated[str, typer.Option(help="training or validation.")],
    instances: Annotated[
        bool, typer.Option("--instances", help="Join annotations_instance into panoptic labels.")
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="Own classes instead of the 150: a table like objectInfo150.csv."),
    ] = None,
) -> "Source":
    """ADE20K SceneParsing: 150 classes in index PNGs (0 = void), and 100 thing classes with
    --instances.

    Thing pixels that no instance covers keep their class as a crowd segment.

    Example: segkit convert ade --root ADEChallengeData2016 --split training --out work/ade-train
    """
    from segkit.sources.ade import open_ade

    return open_ade(root, split, instances=instances, classes=classes)


@_command
def objects365(
    annotations: Annotated[
        Path, typer.Option(help="zhiyuan_objv2_train.json, zhiyuan_objv2_val.json or alike.")
    ],
    images: Images,
) -> "Source":
    """Objects365 v2: boxes of 365 classes; images are found in every known layout of the archives.

    Example: segkit convert objects365 --annotations zhiyuan_objv2_val.json --images val --out
    work/o365-val
    """
    from segkit.sources.objects365 import open_objects365

    return open_objects365(annotations, images)


@_command
def semantic(
    images: Images,
    masks: Annotated[
        Path,
        typer.Option(
            help="Folder of PNGs with the images' names: indices (grey, palette) or colours."
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="One class a line: `name`, or `index name`, or `R G B name`, the same on every line."
        ),
    ],
    ignore: Annotated[
        list[int] | None, typer.Option(help="Index that means void; may be given several times.")
    ] = None,
    first_label: Annotated[
        int | None,
        typer.Option(help="Index of the first line of a list of plain names [default: 0]."),
    ] = None,
) -> "Source":
    """Any semantic data set of index PNGs: CamVid, VOC, Cityscapes ids, your own.

    Example: segkit convert semantic --images train --masks train-labels --labels labels.txt
    --ignore 11 --out work/own
    """
    from segkit.sources.semantic_masks import open_semantic

    return open_semantic(images, masks, labels, ignore=ignore or (), first_label=first_label)


@_command
def cityscapes(
    root: Annotated[Path, typer.Option(help="Folder that holds leftImg8bit and gtFine.")],
    split: Annotated[str, typer.Option(help="train or val.")],
    instances: Annotated[
        bool, typer.Option("--instances", help="Panoptic labels from *_instanceIds.png.")
    ] = False,
) -> "Source":
    """Cityscapes gtFine: the 19 classes of its benchmarks; the other classes are void.

    Example: segkit convert cityscapes --root cityscapes --split val --instances --out
    work/cityscapes-val
    """
    from segkit.sources.cityscapes import open_cityscapes

    return open_cityscapes(root, split, instances=instances)


@_command
def voc(
    root: Annotated[Path, typer.Option(help="Folder VOC2012.")],
    split: Annotated[
        str, typer.Option(help="train, val or trainval: a list of ImageSets/Segmentation.")
    ],
    instances: Annotated[
        bool, typer.Option("--instances", help="Objects from SegmentationObject.")
    ] = False,
) -> "Source":
    """Pascal VOC segmentation: 20 classes; index 255 is void, index 0 is background without a
    segment.

    Example: segkit convert voc --root VOCdevkit/VOC2012 --split train --out work/voc-train
    """
    from segkit.sources.voc import open_voc

    return open_voc(root, split, instances=instances)


def _run(common: Common, arguments: dict[str, Any], open_source: Callable[[], "Source"]) -> None:
    """What every source has in common: open it, convert or check it, print what became of its
    data."""
    from segkit.sources import engine

    options = _options(common)
    out, dry_run = common.out, common.dry_run
    if out is None and not dry_run:
        raise InputError("no destination", hint="give --out DIR, or --dry-run")
    if out is not None and not dry_run:
        writable(out)
    if common.address and common.engine is Engine.local:
        raise InputError("--address names a Ray cluster", hint="give --engine ray with it")
    source, option = open_source(), "--images" if "images" in arguments else "--root"
    if options.images_by != "none" and not source.images.is_dir():
        raise InputError("no such folder of images", file=source.images, hint=f"check {option}")
    started = time.perf_counter()
    try:
        with counting("check" if dry_run else "convert", None) as advance:
            if out is None or dry_run:
                report = engine.check(source, options, on_progress=advance)
            else:
                report = engine.convert(
                    source, out, options, arguments=_noted(arguments), on_progress=advance
                )
    except engine.DefectsError as error:
        fail(error.report, source, option, time.perf_counter() - started, common.as_json)
    show(report, source, option, time.perf_counter() - started, common.as_json)


def _options(common: Common) -> "ConvertOptions":
    from segkit.sources.engine import ConvertOptions

    return ConvertOptions(
        name=common.name,
        split=common.split,
        limit=common.limit,
        images_by=common.images_by.value,
        on_error=common.on_error.value,
        shard_bytes=_bytes(common.shard_size),
        workers=common.workers,
        engine=common.engine.value,
        address=common.address,
    )


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    size = 0.0
    if match:
        size = float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(
            match[2].lower() or " "
        )
    if size < 1:
        raise InputError(
            f"--shard-size {text!r} is no size", hint="give bytes, or a size such as 96MiB or 100MB"
        )
    return int(size)


def _noted(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that decide what was written, as JSON values."""
    left_out = ("out", "as_json", "dry_run", "workers", "engine", "address")
    chosen = {
        key: value
        for key, value in arguments.items()
        if key not in left_out and value not in (None, False)
    }
    return {
        key: value if isinstance(value, str | int | list) else str(value)
        for key, value in chosen.items()
    }
