"""`segkit export`: write a shard set in a native format."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from segkit.sample import MIN_DRAWN_SCORE
from segkit.storage import writable_local

from .common import emit, note, table
from .progress import progress_bar
from .shared_options import IMAGES_ROOT_OPTION

if TYPE_CHECKING:
    from segkit.export.destination import ExportReport
    from segkit.progress import Advance
    from segkit.shards.reader import ShardSet

app = typer.Typer(
    no_args_is_help=True,
    help="Write a shard set in a native format, without loss where the format allows.\n\n"
    "Example: segkit export coco-panoptic --data work/coco-val --out exported",
)
_DATA = typer.Option(
    ..., "--data", metavar="SET", help="Shard set: DIR (its newest version) or DIR@v1."
)
_SETS = typer.Option(
    ...,
    "--data",
    metavar="SET",
    help="Shard set, DIR or DIR@v1. Several become the splits of data.yaml; train=SET, val=SET or "
    "test=SET where a set does not say which split it is.",
)
_OUT = typer.Option(..., "--out", metavar="DIR", parser=writable_local, help="New directory.")
_IMAGES = typer.Option(False, "--images", help="Also write the image files, under images/.")
_MIN_SCORE = typer.Option(
    0.0,
    "--min-score",
    min=0,
    max=1,
    help="Leave out and count segments with a lower score, such as unlikely predictions.",
)
_DATUMARO = typer.Option(
    False,
    "--datumaro",
    help="Use the folders that Datumaro's COCO importer expects, and write every mask as RLE.",
)


@app.command("coco-instances")
def coco_instances(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    datumaro: bool = _DATUMARO,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write COCO instances with the original polygons, ids, crowds, categories and licenses.

    Masks that were not drawn as polygons are written as RLE.

    Example: segkit export coco-instances --data work/coco-train --out exported
    """
    from segkit.export.coco import export_instances

    options = {"min_score": min_score, "datumaro": datumaro}
    _export("coco-instances", export_instances, data, out, images, **options)


@app.command("coco-panoptic")
def coco_panoptic(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    datumaro: bool = _DATUMARO,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write COCO panoptic: a JSON and a folder of PNGs with the exact pixels of the source.

    Example: segkit export coco-panoptic --data work/coco-panoptic-val --out exported
    """
    from segkit.export.coco import export_panoptic

    _export("coco-panoptic", export_panoptic, data, out, images, datumaro=datumaro)


@app.command("yolo")
def yolo(
    data: list[str] = _SETS,
    out: Path = _OUT,
    polygons: bool = typer.Option(
        False, "--polygons", help="Write a polygon for each mask, as `yolo-seg` does."
    ),
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write YOLO boxes in labels/SPLIT/*.txt, and data.yaml; several sets become its splits.

    Crowds, ignored objects and stuff are left out and counted.

    Example: segkit export yolo --data work/train --data work/val --out exported --images
    """
    options = {"polygons": polygons, "min_score": min_score}
    _export_yolo("yolo", data, out, images, **options)


@app.command("yolo-seg")
def yolo_seg(
    data: list[str] = _SETS,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write YOLO-seg: one polygon per object in labels/SPLIT/*.txt, and data.yaml.

    Parts and holes are joined to one polygon by bridges; such objects are counted.

    Crowds, boxes without a mask, and stuff are left out and counted.

    Example: segkit export yolo-seg --data work/coco-train --out exported --images
    """
    options = {"polygons": True, "min_score": min_score}
    _export_yolo("yolo-seg", data, out, images, **options)


@app.command()
def voc(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write Pascal VOC boxes: an XML file for each image in Annotations/, and ImageSets/Main.

    Ignored objects are `difficult`; crowds and stuff are left out and counted.

    Example: segkit export voc --data work/parts --out exported --images
    """
    from segkit.export.voc_xml import export_voc

    _export("voc", export_voc, data, out, images, min_score=min_score)


@app.command()
def labelstudio(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    image_prefix: str | None = typer.Option(
        None,
        help="What precedes the name of an image in its URL; by default "
        "/data/local-files/?d=images/.",
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write tasks with predictions for Label Studio: exact masks and boxes, to be corrected there.

    Corrected tasks come back with `segkit convert labelstudio`, under the same ids.

    Example: segkit export labelstudio --data work/parts-masks --out exported --images
    """
    from segkit.export.label_studio_tasks import LOCAL_FILES, export_label_studio

    prefix = f"{LOCAL_FILES}images/" if image_prefix is None else image_prefix
    options = {"min_score": min_score, "image_prefix": prefix}
    _export("labelstudio", export_label_studio, data, out, images, **options)


@app.command()
def cvat(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write annotations.xml in the format CVAT for images 1.1: exact masks, and boxes.

    Crowds and ignored objects are left out and counted.

    Example: segkit export cvat --data work/parts-masks --out exported --images
    """
    from segkit.export.cvat_dump import export_cvat

    _export("cvat", export_cvat, data, out, images, min_score=min_score)


@app.command()
def labelme(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    min_score: float = _MIN_SCORE,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write labelme's JSON files: exact masks, and boxes as rectangles.

    Crowds and ignored objects are left out and counted.

    Example: segkit export labelme --data work/parts-masks --out exported --images
    """
    from segkit.export.labelme_files import export_labelme

    _export("labelme", export_labelme, data, out, images, min_score=min_score)


@app.command()
def semantic(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    void: int | None = typer.Option(
        None, help="Index of void pixels; by default the source's own, or 255."
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Write index PNGs of class ids, with labels.txt and taxonomy.json.

    Pixels that have no label and are not void keep the source's index of background, 0 in VOC.

    Example: segkit export semantic --data work/camvid-train --out exported
    """
    from segkit.export.semantic_png import export_semantic

    _export("semantic", export_semantic, data, out, images, void=void)


def _export(
    format_name: str,
    export: "Callable[..., ExportReport]",
    data: str,
    out: Path,
    images: bool,
    **options: Any,
) -> None:
    """Write a set by a function of the library, with its options, and print the report."""
    from segkit.shards.reader import ShardSet

    shards = ShardSet.open(data)
    with _bar([shards], images) as advance:
        report = export(shards, out, images=images, on_image=advance, **options)
    _show(format_name, data, out, report)


def _export_yolo(
    format_name: str, data: list[str], out: Path, images: bool, **options: Any
) -> None:
    """Write one or several sets, each given as SET or as SPLIT=SET."""
    from segkit.export.yolo import export_yolo
    from segkit.shards.reader import ShardSet

    splits, sets = [], []
    for text in data:
        split, sep, name = text.partition("=")
        is_split = bool(sep) and split in ("train", "val", "test")
        splits.append(split if is_split else None)
        sets.append(ShardSet.open(name if is_split else text))
    with _bar(sets, images) as advance:
        report = export_yolo(sets, out, images=images, splits=splits, on_image=advance, **options)
    _show(format_name, ", ".join(data), out, report)


def _bar(sets: "Sequence[ShardSet]", images: bool) -> "AbstractContextManager[Advance]":
    """Progress of an export: its labels and, with --images, its image files."""
    name, total = sets[0].path.parent.name, sum(map(len, sets))
    if images:
        return progress_bar(f"export {name}", 2 * total, "reads")
    return progress_bar(f"export {name}", total)


def _show(format_name: str, data: str, out: Path, report: "ExportReport") -> None:
    fields = report.to_json()
    dropped, altered, images_altered = (
        ", ".join(f"{code} {count}" for code, count in fields[key].items()) or "none"
        for key in ("dropped", "altered", "images_altered")
    )
    rows = [
        ("images", fields["images"]),
        ("annotations", fields["annotations"]),
        ("left out", dropped),
        ("altered", altered),
        ("images altered", images_altered),
        ("files", ", ".join(fields["files"])),
    ]
    result = {"format": format_name, "data": data, "path": str(out.resolve()), **fields}
    tables = [table(str(out), ("", ""), rows)]
    emit(result, schema="segkit.export/1", tables=tables)
    if 2 * report.unlikely > report.segments:
        count = f"{report.unlikely} of {report.segments} segments"
        note(f"{count} have a score below {MIN_DRAWN_SCORE:g}; --min-score leaves such out")
