"""Index PNGs from shard sets: one map of class ids an image."""

import json
from pathlib import Path

import numpy as np

from segkit.errors import InputError
from segkit.export.destination import ExportReport, Names, need, output, painted, write_images
from segkit.sample import Sample
from segkit.shards.reader import ShardSet


def export_semantic(
    data: ShardSet, out: Path, *, images: bool = False, void: int | None = None
) -> ExportReport:
    """Write `masks/` (8-bit index PNGs, 16-bit where ids need it), `labels.txt` (index and name)
    and `taxonomy.json`.

    Instances of a class become one region. Segments without a mask are left out and counted.

    Args:
        data: a set of kind semantic or panoptic.
        out: directory to make.
        images: also write the image files, under `images/`.
        void: index of the pixels of no class; by default the source's own, or else 255.

    Raises:
        InputError: a class id does not fit in a PNG, or is the index of void.
        SegkitError: masks of different classes share pixels.
    """
    need(data, ("semantic", "panoptic"), "semantic PNGs", "its masks may overlap")
    index = void_index(data) if void is None else void
    _check(data, index)
    report = ExportReport(images=len(data), files=["masks/", "labels.txt", "taxonomy.json"])
    wide = max((index, *data.taxonomy.by_id)) > 255
    with output(out) as folder:
        names = Names(folder / "masks")
        for sample in data.samples():
            _write(names.path(sample, ".png"), sample, index, wide, report)
        lines = [
            f"{category.id} {category.source_name or category.name}\n"
            for category in data.taxonomy.categories
        ]
        (folder / "labels.txt").write_text("".join(lines), "utf-8")
        (folder / "taxonomy.json").write_text(
            json.dumps(data.taxonomy.to_json(), indent=1) + "\n", "utf-8"
        )
        if images:
            write_images(data, folder / "images")
            report.files.append("images/")
    return report


def void_index(data: ShardSet) -> int:
    """The index that the source gives to pixels without a label (`ignore` in its header), or
    255."""
    known = data.manifest.source_header.get("ignore")
    return int(known[0]) if known else 255


def _check(data: ShardSet, void: int) -> None:
    if void in data.taxonomy.by_id:
        message = (
            f"index {void} of pixels without a label is also class {data.taxonomy.by_id[void].name}"
        )
        raise InputError(message, file=data.path, hint="give another with --void")
    for number in (void, *data.taxonomy.by_id):
        if not 0 <= number < 2**16:
            raise InputError(
                f"index {number} does not fit in a PNG",
                file=data.path,
                hint="relabel the set first",
            )


def _write(path: Path, sample: Sample, void: int, wide: bool, report: ExportReport) -> None:
    import cv2

    masks = [
        (segment.class_id + 1, segment.mask)
        for segment in sample.segments
        if segment.mask is not None
    ]
    report.leave_out("box-only", len(sample.segments) - len(masks))
    report.annotations += len(masks)
    numbers = painted(masks, sample, "an index PNG")
    indices = np.where(numbers > 0, numbers - 1, void).astype(np.uint16 if wide else np.uint8)
    path.write_bytes(cv2.imencode(".png", indices)[1].tobytes())
