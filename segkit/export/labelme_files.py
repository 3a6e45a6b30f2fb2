"""Exports labelme: a JSON file for each image, beside the images.

Masks are shapes of type mask, with the exact pixels; segments without a mask are rectangles.
"""

import base64
import json
import posixpath
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segkit.arguments import check_number
from segkit.atomic import new_directory
from segkit.export.destination import (
    ExportReport,
    counted_samples,
    new_file_path,
    single_objects,
    write_images,
)
from segkit.export.image_names import plan_names
from segkit.masks import rle
from segkit.masks.boxes import tight_box
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.sources.labels_file import write_labels

_LABELS = "labels.txt"
_VERSION = "5.5.0"  # of labelme, the first with masks is 5.3


def export_labelme(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    min_score: float = 0.0,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write a JSON file for each image, and `labels.txt`.

    labelme has no crowds and no objects to ignore: they are left out and counted. Ids and scores
    are not kept.

    Args:
        data: a set of any kind.
        out: directory to create.
        images: also write the image files, beside the JSON files.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: `out` is not empty.
    """
    check_number(min_score, "min_score", 0, 1)
    names = data.taxonomy.unique_names

    def layout(name: PurePosixPath) -> list[PurePosixPath]:
        return [name.with_suffix(".json"), *([name] if images else [])]

    file_names = plan_names(data, layout, rename=images, listed=images, reserved=[_LABELS])
    report = ExportReport(images=len(data), files=["*.json", _LABELS])
    report.add_names(file_names)
    with new_directory(out) as folder:
        for sample in counted_samples(data, report, min_score=min_score, on_image=on_image):
            sample = replace(sample, file_name=file_names[sample])
            content = _content(sample, names, report)
            path = new_file_path(folder, PurePosixPath(sample.file_name).with_suffix(".json"))
            path.write_text(json.dumps(content, indent=1), "utf-8")
        write_labels(folder / _LABELS, names)
        if images:
            write_images(data, folder, file_names, on_image)
            report.files.append("images beside their JSON files")
    return report


def _content(sample: Sample, names: dict[int, str], report: ExportReport) -> dict[str, Any]:
    shapes = [
        _shape(segment, sample, names[segment.class_id])
        for segment in single_objects(sample, report)
    ]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": posixpath.basename(sample.file_name),
        "imageData": None,
        "imageHeight": sample.height,
        "imageWidth": sample.width,
    }


def _shape(segment: Segment, sample: Sample, label: str) -> dict[str, Any]:
    common: dict[str, Any] = {"label": label, "group_id": None, "description": "", "flags": {}}
    if segment.mask is None:
        x, y, width, height = segment.box
        points = [[x, y], [x + width, y + height]]
        return {**common, "shape_type": "rectangle", "points": points, "mask": None}
    mask = rle.decode(segment.mask, sample.height, sample.width)
    left, top, width, height = map(int, tight_box(mask))
    crop = mask[top : top + height, left : left + width]
    points = [[left, top], [left + width - 1, top + height - 1]]
    return {**common, "shape_type": "mask", "points": points, "mask": _png_text(crop)}


def _png_text(crop: Any) -> str:
    import cv2

    data = cv2.imencode(".png", crop.astype(np.uint8) * 255)[1].tobytes()
    return base64.b64encode(data).decode("ascii")
