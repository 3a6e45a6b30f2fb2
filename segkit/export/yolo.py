"""Exports YOLO-seg: a text file for each image, a line for each object: class index and polygon.

A line holds a single polygon. Further parts and the holes of a mask are attached to it by bridges
of zero width, there and back. Filled by the even-odd rule (`cv2.fillPoly`, with which YOLO trainers
draw), the mask comes back, except for the pixels under a bridge between two parts.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.atomic import new_directory
from segkit.export.destination import (
    ExportReport,
    FileNames,
    require_kind,
    split_name,
    write_images,
    write_taxonomy,
)
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

Points = NDArray[np.int32]
_DIGITS = 7  # of a coordinate: a thousandth of a pixel at 10,000 pixels


def export_yolo_seg(data: ShardSet, out: str | Path, *, images: bool = False) -> ExportReport:
    """Write `labels/<split>/`, `data.yaml` and `taxonomy.json`; YOLO numbers the things from 0.

    The format has no place for crowds, ignored objects, objects without a mask, and stuff: they are
    left out and counted. Objects of several parts (`bridged-parts`) or with holes
    (`bridged-holes`) count as altered. Scores and ids are not kept.

    Args:
        data: a set of kind instance or panoptic.
        out: directory to create.
        images: also write the image files, under `images/<split>/`.

    Raises:
        InputError: the set is of another kind, or `out` is not empty.
    """
    require_kind(data, ("instance", "panoptic"), "YOLO-seg", "it has no masks of objects")
    split = split_name(data)
    things = [category for category in data.taxonomy.categories if category.kind == "thing"]
    yolo_classes = {category.id: index for index, category in enumerate(things)}
    files = [f"labels/{split}/", "data.yaml", "taxonomy.json"]
    report = ExportReport(images=len(data), files=files)
    with new_directory(out) as folder:
        names = FileNames(folder / "labels" / split)
        for sample in data.samples():
            lines = [_line(segment, sample, yolo_classes, report) for segment in sample.segments]
            names.path(sample, ".txt").write_text("".join(line for line in lines if line), "utf-8")
        yaml = _data_yaml(split, [category.name for category in things])
        (folder / "data.yaml").write_text(yaml, "utf-8")
        write_taxonomy(folder / "taxonomy.json", data.taxonomy)
        if images:
            write_images(data, folder / "images" / split)
            report.files.append(f"images/{split}/")
    return report


def mask_polygon(mask: NDArray[np.bool_]) -> tuple[Points, int, int]:
    """Trace a mask as one closed polygon.

    A polygon has at least three points; smaller parts repeat theirs.

    Args:
        mask: (H, W), not empty.

    Returns:
        (N, 2) pixel positions x, y; the number of parts; the number of holes.
    """
    import cv2

    contours, hierarchy = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    holes = sum(int(row[3]) >= 0 for row in hierarchy[0])  # contours with a parent
    rings: list[Points] = [contour.reshape(-1, 2) for contour in contours]
    rings.sort(key=len, reverse=True)
    polygon = rings[0]
    for ring in rings[1:]:
        polygon = _bridge(polygon, ring)
    if len(polygon) < 3:
        polygon = np.concatenate([polygon, *[polygon[-1:]] * (3 - len(polygon))])
    return polygon, len(rings) - holes, holes


def _bridge(polygon: Points, ring: Points) -> Points:
    """Insert a ring where it is closest to the polygon: across, once around, and back."""
    differences = polygon[:, None].astype(np.int64) - ring[None]  # (P, R, 2)
    distances = (differences**2).sum(axis=-1)  # (P, R)
    start, end = divmod(int(distances.argmin()), len(ring))
    around = np.concatenate([ring[end:], ring[: end + 1]])
    return np.concatenate([polygon[: start + 1], around, polygon[start:]])


def _line(
    segment: Segment, sample: Sample, yolo_classes: dict[int, int], report: ExportReport
) -> str | None:
    """Return the line of a segment, or None if it is left out."""
    reasons = {
        "stuff": segment.kind == "stuff",
        "crowd": segment.is_crowd,
        "ignore": segment.ignore,
        "box-only": segment.mask is None,
    }
    reason = next((reason for reason, applies in reasons.items() if applies), None)
    if reason is not None or segment.mask is None:
        report.leave_out(str(reason), 1)
        return None
    points, parts, holes = mask_polygon(rle.decode(segment.mask, sample.height, sample.width))
    report.annotations += 1
    report.altered.update(["bridged-parts"] * (parts > 1) + ["bridged-holes"] * (holes > 0))
    # pixel centers: readers that truncate and readers that round find the same pixel
    fractions = (points + 0.5) / (sample.width, sample.height)
    coordinates = (f"{fraction:.{_DIGITS}g}" for fraction in fractions.ravel())
    return " ".join([str(yolo_classes[segment.class_id]), *coordinates]) + "\n"


def _data_yaml(split: str, names: list[str]) -> str:
    """Return Ultralytics' description of a dataset, with this split for training and validation.

    Without a `path`, folders are relative to the file.
    """
    rows = [f"train: images/{split}\nval: images/{split}\nnames:"]
    rows += [
        f"  {index}: {json.dumps(name, ensure_ascii=False)}" for index, name in enumerate(names)
    ]
    return "\n".join(rows) + "\n"
