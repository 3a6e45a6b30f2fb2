"""YOLO-seg from shard sets: a text file an image, a line an object: class index and one polygon, in
shares of the size.

A line holds a single polygon. Further parts and holes of a mask are tied to it by bridges of no
width, there and back: filled by the even-odd rule (`cv2.fillPoly`, which is what YOLO trainers draw
with) the mask comes back, apart from the pixels that a bridge between two parts runs over.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.export.destination import ExportReport, Names, need, output, split_name, write_images
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

Points = NDArray[np.int32]
_DIGITS = 7  # of a coordinate: a thousandth of a pixel at 10,000 pixels


def export_yolo_seg(data: ShardSet, out: Path, *, images: bool = False) -> ExportReport:
    """Write `labels/<split>/`, `data.yaml` and `taxonomy.json` (YOLO numbers the things from 0 on).

    Left out and counted, since the format has no place for them: crowds, ignored objects, bare
    boxes, stuff. Counted as altered: objects of several parts (`bridged-parts`) and with holes
    (`bridged-holes`). Scores and ids are not kept.

    Args:
        data: a set of kind instance or panoptic.
        out: directory to make.
        images: also write the image files, under `images/<split>/`.
    """
    need(data, ("instance", "panoptic"), "YOLO-seg", "it has no masks of objects")
    split = split_name(data)
    things = [category for category in data.taxonomy.categories if category.kind == "thing"]
    numbers = {category.id: number for number, category in enumerate(things)}
    report = ExportReport(
        images=len(data), files=[f"labels/{split}/", "data.yaml", "taxonomy.json"]
    )
    with output(out) as folder:
        names = Names(folder / "labels" / split)
        for sample in data.samples():
            lines = [_line(segment, sample, numbers, report) for segment in sample.segments]
            names.path(sample, ".txt").write_text("".join(line for line in lines if line), "utf-8")
        (folder / "data.yaml").write_text(
            _yaml(split, [category.name for category in things]), "utf-8"
        )
        (folder / "taxonomy.json").write_text(_taxonomy(data.taxonomy), "utf-8")
        if images:
            write_images(data, folder / "images" / split)
            report.files.append(f"images/{split}/")
    return report


def polygon_of(mask: NDArray[np.bool_]) -> tuple[Points, int, int]:
    """One closed polygon (N, 2) of pixel places x, y for a (H, W) mask that is not empty; its parts
    and holes.

    A polygon has three points at least; parts that are smaller repeat theirs.
    """
    import cv2

    contours, tree = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    holes = sum(int(row[3]) >= 0 for row in tree[0])
    rings: list[Points] = [contour.reshape(-1, 2) for contour in contours]
    rings.sort(key=len, reverse=True)
    joined = rings[0]
    for ring in rings[1:]:
        joined = _bridge(joined, ring)
    if len(joined) < 3:
        joined = np.concatenate([joined, *[joined[-1:]] * (3 - len(joined))])
    return joined, len(rings) - holes, holes


def _bridge(polygon: Points, ring: Points) -> Points:
    """Insert a ring where it comes closest: over to it, once around, and back the same way."""
    squares = ((polygon[:, None].astype(np.int64) - ring[None]) ** 2).sum(axis=-1)
    here, there = divmod(int(squares.argmin()), len(ring))
    around = np.concatenate([ring[there:], ring[: there + 1]])
    return np.concatenate([polygon[: here + 1], around, polygon[here:]])


def _line(
    segment: Segment, sample: Sample, numbers: dict[int, int], report: ExportReport
) -> str | None:
    left_out = {
        "stuff": segment.kind == "stuff",
        "crowd": segment.is_crowd,
        "ignore": segment.ignore,
        "box-only": segment.mask is None,
    }
    reason = next((reason for reason, applies in left_out.items() if applies), None)
    if reason is not None or segment.mask is None:
        report.leave_out(str(reason), 1)
        return None
    points, parts, holes = polygon_of(rle.decode(segment.mask, sample.height, sample.width))
    report.annotations += 1
    report.altered.update(["bridged-parts"] * (parts > 1) + ["bridged-holes"] * (holes > 0))
    # the middle of each pixel: readers that cut fractions off and readers that round get the same
    # pixel
    shares = (points + 0.5) / (sample.width, sample.height)
    return (
        " ".join(
            [str(numbers[segment.class_id]), *(f"{share:.{_DIGITS}g}" for share in shares.ravel())]
        )
        + "\n"
    )


def _yaml(split: str, names: list[str]) -> str:
    """Ultralytics' description of a data set: this split in both roles that a trainer asks for.

    Without a `path`, folders are looked for beside the file.
    """
    rows = [f"train: images/{split}\nval: images/{split}\nnames:"]
    rows += [
        f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(names)
    ]
    return "\n".join(rows) + "\n"


def _taxonomy(taxonomy: Taxonomy) -> str:
    return json.dumps(taxonomy.to_json(), indent=1) + "\n"
