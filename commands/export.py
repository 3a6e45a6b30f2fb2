"""`segkit export`: native formats back from a shard set."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segkit.storage import writable_local

from .common import JSON_OPTION, emit, table

if TYPE_CHECKING:
    from segkit.export.destination import ExportReport

app = typer.Typer(
    no_args_is_help=True,
    help="Write a shard set in a native format, loss-free where that can hold it.\n\n"
    "Example: segkit export coco-panoptic --data work/coco-val --out exported",
)
_DATA = typer.Option(
    ..., "--data", metavar="SET", help="A shard set: DIR (its newest version) or DIR@v1."
)
_OUT = typer.Option(..., "--out", metavar="DIR", parser=writable_local, help="Directory to make.")
_IMAGES = typer.Option(False, "--images", help="Also write the image files, under images/.")
_DATUMARO = typer.Option(
    False, "--datumaro", help="As Datumaro imports COCO exactly: its folders, every mask as RLE."
)


@app.command("coco-instances")
def coco_instances(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    datumaro: bool = _DATUMARO,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write COCO instances: source polygons verbatim, RLE otherwise, original ids, crowds,
    categories and licences.

    Example: segkit export coco-instances --data work/coco-train --out exported
    """
    from segkit.export.coco import export_instances
    from segkit.shards.reader import ShardSet

    _show(
        data,
        out,
        export_instances(ShardSet.open(data), out, images=images, datumaro=datumaro),
        as_json,
    )


@app.command("coco-panoptic")
def coco_panoptic(
    data: str = _DATA,
    out: Path = _OUT,
    images: bool = _IMAGES,
    datumaro: bool = _DATUMARO,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write COCO panoptic: a JSON and a folder of PNGs, pixel for pixel what the source had.

    Example: segkit export coco-panoptic --data work/coco-panoptic-val --out exported
    """
    from segkit.export.coco import export_panoptic
    from segkit.shards.reader import ShardSet

    _show(
        data,
        out,
        export_panoptic(ShardSet.open(data), out, images=images, datumaro=datumaro),
        as_json,
    )


@app.command("yolo-seg")
def yolo_seg(
    data: str = _DATA, out: Path = _OUT, images: bool = _IMAGES, as_json: bool = JSON_OPTION
) -> None:
    """Write YOLO-seg: one polygon an object in labels/SPLIT/*.txt, and data.yaml.

    Parts and holes are tied to one polygon by bridges; crowds, bare boxes and stuff are left out;
    all are counted.

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
    told = report.to_json()
    dropped, altered = (
        ", ".join(f"{code} {count}" for code, count in told[key].items()) or "none"
        for key in ("dropped", "altered")
    )
    rows = [
        ("images", told["images"]),
        ("annotations", told["annotations"]),
        ("left out", dropped),
        ("altered", altered),
        ("files", ", ".join(told["files"])),
    ]
    result = {"data": data, "path": str(out.resolve()), **told}
    emit(
        result, schema="segkit.export/1", as_json=as_json, tables=[table(str(out), ("", ""), rows)]
    )
