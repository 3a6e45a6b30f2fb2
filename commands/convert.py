"""`segkit convert`: convert native datasets to shard sets."""

import time
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.storage import location, writable

from .convert_options import CommonOptions, Engine, refuse_idle_options, typed_options
from .convert_report import fail, show
from .progress import progress_bar

if TYPE_CHECKING:
    from segkit.sources.engine import ConvertOptions
    from segkit.sources.source import Source

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Convert a dataset to a shard set, and check that input = kept + dropped.\n\n"
    "Example: segkit convert coco --images val2017 --panoptic annotations/panoptic_val2017.json "
    "--out work/coco-val",
)


Images = Annotated[Path, typer.Option(help="Folder of the images.")]
_NOT_NOTED = ("out", "dry_run", "workers", "engine", "address", "preview", "force")
"""Options that do not affect the content of a version."""


def source_command(open_source: Callable[..., "Source"]) -> Callable[..., "Source"]:
    """Register a function that opens a source as a subcommand.

    The options of the command are the function's parameters and the fields of `CommonOptions`.
    """
    source_options = signature(open_source).parameters
    common_options = signature(CommonOptions).parameters
    parameters = [
        common_options["out"],
        *source_options.values(),
        *(
            option
            for name, option in common_options.items()
            if name not in ("out", *source_options)
        ),
    ]
    parameters.sort(key=lambda option: option.default is not Parameter.empty)  # required ones first
    for parameter in parameters:
        if get_origin(parameter.annotation) is Annotated:
            type_, info = get_args(parameter.annotation)
            if Path in (type_, *get_args(type_)):
                info.parser, info.metavar = location, "PATH|URL"

    def command(context: typer.Context, **arguments: Any) -> None:
        common = CommonOptions(**{name: arguments[name] for name in common_options})
        refuse_idle_options(common, typed_options(context))
        chosen = {name: arguments[name] for name in source_options}
        _run(common, arguments, lambda: open_source(**chosen))

    command.__doc__ = open_source.__doc__
    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = Signature(  # type: ignore[attr-defined]  # typer reads it
        [context, *parameters]
    )
    command.__annotations__ = {}
    app.command(open_source.__name__.replace("_", "-"))(command)
    return open_source


@source_command
def coco(
    images: Images,
    panoptic: Annotated[Path | None, typer.Option(help="Panoptic JSON.")] = None,
    panoptic_masks: Annotated[
        Path | None,
        typer.Option(help="Folder of its PNGs; by default beside the JSON, under the same stem."),
    ] = None,
    instances: Annotated[
        Path | None, typer.Option(help="Instances JSON, with any category list.")
    ] = None,
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="Omit the masks of the instances.")
    ] = False,
    crowds_as_objects: Annotated[
        bool,
        typer.Option(
            "--crowds-as-objects",
            help="Treat every annotation as one object and ignore iscrowd (CVAT brush masks).",
        ),
    ] = False,
    drop_unused_twins: Annotated[
        bool,
        typer.Option(
            "--drop-unused-twins",
            help="Drop classes without annotations whose name another class has (Roboflow's 0).",
        ),
    ] = False,
) -> "Source":
    """COCO panoptic (JSON and PNG folder), COCO instances (polygons, RLE or boxes), or both joined.

    With both, panoptic segments take id, polygon and crowd flag from their instances.

    Example: segkit convert coco --images val2017 --panoptic annotations/panoptic_val2017.json
    --out work/coco-val

    Example: segkit convert coco --images train2017 --instances annotations/instances_train2017.json
    --boxes-only --out work/coco-boxes
    """
    from segkit.sources.coco_instances import open_coco_instances
    from segkit.sources.coco_joined import open_coco_joined
    from segkit.sources.coco_panoptic import open_coco_panoptic

    if panoptic is None:
        if instances is None:
            raise InputError("no annotation file", hint="give --panoptic or --instances, or both")
        if panoptic_masks is not None:
            message = "--panoptic-masks is the folder of a panoptic file's PNGs"
            raise InputError(message, hint="give --panoptic with it, or omit it")
        return open_coco_instances(
            instances,
            images,
            boxes_only=boxes_only,
            crowds_as_objects=crowds_as_objects,
            drop_unused_twins=drop_unused_twins,
        )
    if boxes_only:
        hint = "omit one of the two"
        raise InputError("--boxes-only cannot be combined with --panoptic", hint=hint)
    if instances is None:
        return open_coco_panoptic(
            panoptic,
            images,
            panoptic_masks,
            crowds_as_objects=crowds_as_objects,
            drop_unused_twins=drop_unused_twins,
        )
    for option, value in (
        ("--crowds-as-objects", crowds_as_objects),
        ("--drop-unused-twins", drop_unused_twins),
    ):
        if value:
            message = f"{option} cannot be combined with both --panoptic and --instances"
            raise InputError(message, hint="omit the option or one of the files")
    return open_coco_joined(panoptic, instances, images, panoptic_masks)


@source_command
def ade(
    root: Annotated[Path, typer.Option(help="Folder ADEChallengeData2016.")],
    split: Annotated[str, typer.Option(help="training or validation.")],
    instances: Annotated[
        bool, typer.Option("--instances", help="Join annotations_instance into panoptic labels.")
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="Table of other classes than the 150, in the form of objectInfo150.csv."),
    ] = None,
) -> "Source":
    """ADE20K SceneParsing: 150 classes in index PNGs; 100 thing classes with --instances.

    Index 0 is void. Thing pixels that no instance covers keep their class as a crowd segment.

    Example: segkit convert ade --root ADEChallengeData2016 --split training --out work/ade-train
    """
    from segkit.sources.ade import open_ade

    return open_ade(root, split, instances=instances, classes=classes)


@source_command
def objects365(
    annotations: Annotated[
        Path,
        typer.Option(
            help="zhiyuan_objv2_train.json, zhiyuan_objv2_val.json, or a file of the same format."
        ),
    ],
    images: Images,
) -> "Source":
    """Objects365 v2: boxes of 365 classes, with images in any known layout of the archives.

    Example: segkit convert objects365 --annotations zhiyuan_objv2_val.json --images val
    --out work/o365-val
    """
    from segkit.sources.objects365 import open_objects365

    return open_objects365(annotations, images)


@source_command
def visual_genome(
    annotations: Annotated[Path, typer.Option(help="objects.json, of version 1.2 or 1.4.")],
    images: Images,
    image_data: Annotated[
        Path | None,
        typer.Option(help="image_data.json: sizes and addresses of the images, to be checked."),
    ] = None,
    classes: Annotated[
        int, typer.Option(min=1, help="Number of classes: the most frequent synsets.")
    ] = 3000,
) -> "Source":
    """Visual Genome: boxes of the most frequent synsets; images in VG_100K and VG_100K_2.

    Example: segkit convert visual-genome --annotations objects.json --images vg --image-data
    image_data.json --out work/vg-boxes
    """
    from segkit.sources.visual_genome import open_visual_genome

    return open_visual_genome(annotations, images, image_data=image_data, classes=classes)


@source_command
def semantic(
    images: Images,
    masks: Annotated[
        Path,
        typer.Option(
            help="Folder of PNGs with the names of the images: indices (gray, palette) or colors."
        ),
    ],
    labels: Annotated[
        Path,
        typer.Option(
            help="One class a line: all lines `name`, all `index name`, all `R G B name`, or "
            "CVAT's labelmap.txt."
        ),
    ],
    ignore: Annotated[
        list[int] | None, typer.Option(help="Index that means void; may be given several times.")
    ] = None,
    first_label: Annotated[
        int | None,
        typer.Option(help="Index of the first line of a list of plain names; 0 by default."),
    ] = None,
) -> "Source":
    """Any semantic dataset of index or color PNGs, such as CamVid or your own.

    Example: segkit convert semantic --images streets/images --masks streets/masks --labels
    streets/labels.txt --ignore 255 --out work/streets
    """
    from segkit.sources.semantic_masks import open_semantic

    return open_semantic(images, masks, labels, ignore=ignore or (), first_label=first_label)


@source_command
def cityscapes(
    root: Annotated[Path, typer.Option(help="Folder that contains leftImg8bit and gtFine.")],
    split: Annotated[str, typer.Option(help="train or val.")],
    instances: Annotated[
        bool, typer.Option("--instances", help="Read *_instanceIds.png for panoptic labels.")
    ] = False,
) -> "Source":
    """Cityscapes gtFine: the 19 classes of its benchmarks; other classes are void.

    Example: segkit convert cityscapes --root cityscapes --split val --instances
    --out work/cityscapes-val
    """
    from segkit.sources.cityscapes import open_cityscapes

    return open_cityscapes(root, split, instances=instances)


@source_command
def voc(
    root: Annotated[Path, typer.Option(help="Folder VOC2012.")],
    split: Annotated[
        str, typer.Option(help="train, val or trainval: a list of ImageSets/Segmentation.")
    ],
    instances: Annotated[
        bool, typer.Option("--instances", help="Take the objects of SegmentationObject.")
    ] = False,
    background: Annotated[
        bool,
        typer.Option(
            "--background", help="Make background the 21st class, as VOC's own mean IoU does."
        ),
    ] = False,
) -> "Source":
    """Pascal VOC segmentation: 20 classes; index 255 is void, index 0 is background.

    Without --background, pixels of background do not count in the mean IoU.

    Example: segkit convert voc --root VOCdevkit/VOC2012 --split train --out work/voc-train
    """
    from segkit.sources.voc import open_voc

    return open_voc(root, split, instances=instances, background=background)


def _run(
    common: CommonOptions, arguments: dict[str, Any], open_source: Callable[[], "Source"]
) -> None:
    """Open a source, convert or check it, and print the result."""
    from segkit.sources import engine

    options = _convert_options(common)
    out, dry_run = common.out, common.dry_run
    if not dry_run and out is None:
        raise InputError("no destination", hint="give --out DIR, or --dry-run")
    if out is not None and not dry_run:
        writable(out)
    if common.engine is Engine.ray:
        require_extra("ray", "--engine ray")
    source, option = open_source(), _images_option(arguments)
    if options.images_by != "none" and not source.images.is_dir():
        raise InputError("no such folder of images", file=source.images, hint=f"check {option}")
    started = time.perf_counter()
    try:
        with progress_bar(_progress_label(out, dry_run), None) as advance:
            if out is None or dry_run:
                report = engine.check(source, options, on_progress=advance)
            else:
                noted = _noted_arguments(arguments)
                report = engine.convert(
                    source,
                    out,
                    options,
                    arguments=noted,
                    on_progress=advance,
                    on_resume=advance.resume,
                )
    except engine.DefectsError as error:
        fail(error.report, source, option, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    show(report, source, option, seconds, common.preview)
    if dry_run and report.offenders and options.on_error == "fail":
        raise typer.Exit(InputError.exit_code)


def _images_option(arguments: dict[str, Any]) -> str:
    """The option by which the user gave the folder of images, directly or with its data set."""
    names = ("images", "root", "data", "annotations")
    name = next((name for name in names if arguments.get(name) is not None), None)
    return f"--{name}" if name else "the path"


def _progress_label(out: Path | None, dry_run: bool) -> str:
    return "check" if out is None or dry_run else f"convert {out.name}"


def _convert_options(common: CommonOptions) -> "ConvertOptions":
    from segkit.arguments import parse_size
    from segkit.sources.engine import ConvertOptions

    return ConvertOptions(
        name=common.name,
        split=common.split,
        limit=common.limit,
        images_by=common.images_by.value,
        exif=common.exif.value,
        on_error=common.on_error.value,
        shard_bytes=parse_size(common.shard_size, "--shard-size"),
        workers=common.workers,
        engine=common.engine.value,
        address=common.address,
        force=common.force,
    )


def _noted_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that affect the content of a version, as JSON values."""
    return {
        name: value if isinstance(value, str | int | list) else str(value)
        for name, value in arguments.items()
        if name not in _NOT_NOTED and value not in (None, False)
    }
