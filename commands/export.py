"""`segkit export`: write a shard set in a native format."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segkit.storage import writable_local

from .common import JSON_OPTION, emit, table

if TYPE_CHECKING:
    from segkit.export.destination import ExportReport

app = typer.Typer(
    no_args_is_help=True,
    help="Write a shard set in a native format, without loss where the format allows.\n\n"
    "Example: segkit export coco-panoptic --data work/coco-val --out exported",
)
_DATA = typer.Option(
    ..., "--data", metavar="SET", help="Shard set: DIR (its newest version) or DIR@v1."
)
_OUT = typer.Option(..., "--out", metavar="DIR", parser=writable_local, help="New directory.")
_IMAGES = typer.Option(False, "--images", help="Also write the image files, under images/.")
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
    datumaro: bool = _DATUMARO,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write COCO instances with the original polygons, ids, crowds, categories and licenses.

    Masks that were not drawn as polygons are written as RLE.

    Example: segkit export coco-instances --data work/coco-train --out exported
    """
    from segkit.export.coco import export_instances
    from segkit.shards.reader import ShardSet

    report = export_instances(ShardSet.open(data), out, images=images, datumaro=datumaro)
    _show(data, out, report, as_json)


@app.command("coco-panoptic")
def coco_panoptic(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    datumaro: bool = _DATUMARO,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write COCO panoptic: a JSON and a folder of PNGs with the exact pixels of the source.

    Example: segkit export coco-panoptic --data work/coco-panoptic-val --out exported
    """
    from segkit.export.coco import export_panoptic
    from segkit.shards.reader import ShardSet

    report = export_panoptic(ShardSet.open(data), out, images=images, datumaro=datumaro)
    _show(data, out, report, as_json)


@app.command("yolo-seg")
def yolo_seg(
    data: str = _DATA, out: Path = _OUT, images: bool = _IMAGES, as_json: bool = JSON_OPTION
) -> None:
    """Write YOLO-seg: one polygon per object in labels/SPLIT/*.txt, and data.yaml.

    Parts and holes are joined to one polygon by bridges; such objects are counted.

    Crowds, boxes without a mask, and stuff are left out and counted.

    Example: segkit export yolo-seg --data work/coco-train --out exported --images
    """
    from segkit.export.yolo import export_yolo_seg
    from segkit.shards.reader import ShardSet

    _show(data, out, export_yolo_seg(ShardSet.open(data), out, images=images), as_json)


@app.command()
def semantic(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    void: int = typer.Option(
        None, help="Index of pixels without a label; by default the source's own, or 255."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Write index PNGs of class ids, with labels.txt and taxonomy.json.

    Example: segkit export semantic --data work/camvid-train --out exported
    """
    from segkit.export.semantic_png import export_semantic
    from segkit.shards.reader import ShardSet

    _show(data, out, export_semantic(ShardSet.open(data), out, images=images, void=void), as_json)


def _show(data: str, out: Path, report: "ExportReport", as_json: bool) -> None:
    fields = report.to_json()
    dropped, altered = (
        ", ".join(f"{code} {count}" for code, count in fields[key].items()) or "none"
        for key in ("dropped", "altered")
    )
    rows = [
        ("images", fields["images"]),
        ("annotations", fields["annotations"]),
        ("left out", dropped),
        ("altered", altered),
        ("files", ", ".join(fields["files"])),
    ]
    result = {"data": data, "path": str(out.resolve()), **fields}
    tables = [table(str(out), ("", ""), rows)]
    emit(result, schema="segkit.export/1", as_json=as_json, tables=tables)
