"""Exports YOLO: a text file for each image, a line for each object: class index, box or polygon.

A box is center and size. A line holds a single polygon: further parts and the holes of a mask are
joined to it by bridges of zero width, there and back. Filled by the even-odd rule
(`cv2.fillPoly`, with which YOLO trainers draw), the mask comes back, except for the pixels under a
bridge between two parts.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from segkit.arguments import check_number
from segkit.atomic import new_directory
from segkit.errors import InputError
from segkit.export.destination import (
    ExportReport,
    counted_samples,
    new_file_path,
    require_kind,
    split_name,
    write_images,
    write_taxonomy,
)
from segkit.export.image_names import plan_names
from segkit.export.mask_polygon import mask_polygon
from segkit.masks import rle
from segkit.masks.boxes import corners
from segkit.sample import Box, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet

_DIGITS = 7  # of a coordinate: a thousandth of a pixel at 10,000 pixels
_BOX_DIGITS = 10  # a millionth of a pixel at 10,000 pixels
_MAX_CLIP = 1e-6  # pixels: rounding, not a change


def export_yolo(
    sets: Sequence[ShardSet],
    out: str | Path,
    *,
    polygons: bool = False,
    images: bool = False,
    min_score: float = 0.0,
    splits: Sequence[str | None] = (),
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `labels/<split>/`, `data.yaml` and `taxonomy.json`; YOLO numbers the things from 0.

    The format has no place for crowds, ignored objects and stuff: they are left out and counted.
    Boxes are cut at the edge of the image (`clipped`), as trainers demand. As polygons, objects
    without a mask are left out; those of several parts (`bridged-parts`) or with holes
    (`bridged-holes`) count as altered. Scores and ids are not kept.

    Args:
        sets: sets of one taxonomy; several become the splits of `data.yaml`.
        out: directory to create.
        polygons: write a polygon for each mask, instead of boxes; for sets of kind instance or
            panoptic.
        images: also write the image files, under `images/<split>/`.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        splits: train, val or test for each set; None takes the split of its manifest.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: a set is of another kind, taxonomies differ, it is not known which split a set
            is, `out` is not empty, or `min_score` is outside 0-1.
    """
    check_number(min_score, "min_score", 0, 1)
    kinds: tuple[SetKind, ...] = ("instance", "panoptic", *(() if polygons else ("boxes",)))
    reason = "it has no masks of objects" if polygons else "its regions are not objects"
    for data in sets:
        require_kind(data, kinds, "YOLO-seg" if polygons else "YOLO", reason)
        if data.taxonomy.categories != sets[0].taxonomy.categories:
            hint = f"give both the classes of {sets[0].path} with `segkit relabel`"
            raise InputError("has other classes than the first set", file=data.path, hint=hint)
    placed = _folders(sets, splits)
    things = [category for category in sets[0].taxonomy.categories if category.kind == "thing"]
    yolo_classes = {category.id: index for index, category in enumerate(things)}
    report = ExportReport(images=sum(map(len, sets)))

    def layout(name: PurePosixPath) -> list[PurePosixPath]:
        label = "labels" / name.with_suffix(".txt")
        return [label, "images" / name] if images else [label]

    file_names = [
        plan_names(data, layout, rename=images, listed=images, base=_base_name) for data in sets
    ]
    for names in file_names:
        report.add_names(names)
    with new_directory(out) as root:
        for data, names, (_, folder) in zip(sets, file_names, placed, strict=True):
            (root / "labels" / folder).mkdir(parents=True)
            report.files.append(f"labels/{folder}/")
            for sample in counted_samples(data, report, min_score=min_score, on_image=on_image):
                lines = (
                    _line(segment, sample, yolo_classes, report, polygons)
                    for segment in sample.segments
                )
                text = "".join(line for line in lines if line)
                name = names.path(sample).with_suffix(".txt")
                new_file_path(root / "labels" / folder, name).write_text(text, "utf-8")
            if images:
                write_images(data, root / "images" / folder, names, on_image)
                report.files.append(f"images/{folder}/")
        yaml = _data_yaml(placed, [category.name for category in things])
        (root / "data.yaml").write_text(yaml, "utf-8")
        write_taxonomy(root / "taxonomy.json", sets[0].taxonomy)
        report.files += ["data.yaml", "taxonomy.json"]
    return report


def _line(
    segment: Segment,
    sample: Sample,
    yolo_classes: dict[int, int],
    report: ExportReport,
    polygons: bool,
) -> str | None:
    """Return the line of a segment, or None if it is left out."""
    reasons = {
        "stuff": segment.kind == "stuff",
        "crowd": segment.is_crowd,
        "ignore": segment.ignore,
        "box-only": polygons and segment.mask is None,
        "outside": not polygons and _clip(segment.box, sample) is None,
    }
    reason = next((reason for reason, applies in reasons.items() if applies), None)
    if reason is not None:
        report.leave_out(reason, 1)
        return None
    report.annotations += 1
    write = _polygon_numbers if polygons else _box_numbers
    return " ".join([str(yolo_classes[segment.class_id]), *write(segment, sample, report)]) + "\n"


def _base_name(sample: Sample) -> str:
    """The file name without folders `images`, which readers would replace by `labels`."""
    parts = sample.file_name.split("/")
    return "/".join([part for part in parts[:-1] if part != "images"] + parts[-1:])


def _polygon_numbers(segment: Segment, sample: Sample, report: ExportReport) -> Iterator[str]:
    mask = rle.decode(segment.mask or b"", sample.height, sample.width)
    points, parts, holes = mask_polygon(mask)
    report.altered.update(["bridged-parts"] * (parts > 1) + ["bridged-holes"] * (holes > 0))
    # pixel centers: readers that truncate and readers that round find the same pixel
    fractions = (points + 0.5) / (sample.width, sample.height)
    return (f"{fraction:.{_DIGITS}g}" for fraction in fractions.ravel())


def _box_numbers(segment: Segment, sample: Sample, report: ExportReport) -> Iterator[str]:
    """Center and size, as fractions of the image."""
    clipped = _clip(segment.box, sample) or segment.box
    if max(abs(a - b) for a, b in zip(clipped, segment.box, strict=True)) > _MAX_CLIP:
        report.altered["clipped"] += 1
    x, y, width, height = clipped
    numbers = (
        (x + width / 2) / sample.width,
        (y + height / 2) / sample.height,
        width / sample.width,
        height / sample.height,
    )
    return (f"{fraction:.{_BOX_DIGITS}g}" for fraction in numbers)


def _clip(box: Box, sample: Sample) -> Box | None:
    """The part of a box inside the image, or None if there is none."""
    x0, y0, x1, y1 = corners(box)
    x0, x1 = max(x0, 0.0), min(x1, float(sample.width))
    y0, y1 = max(y0, 0.0), min(y1, float(sample.height))
    return (x0, y0, x1 - x0, y1 - y0) if x0 < x1 and y0 < y1 else None


def _folders(sets: Sequence[ShardSet], splits: Sequence[str | None]) -> list[tuple[str, str]]:
    """The split and the folder of each set; sets of one split have numbered folders.

    The split of a single set, unless given, is "": it serves for training and validation. Its
    folder is not called `images`, which readers would replace by `labels`.
    """
    if len(sets) == 1 and not any(splits):
        name = split_name(sets[0])
        return [("", "set" if name.lower() == "images" else name)]
    placed: list[tuple[str, str]] = []
    for index in range(len(sets)):
        split = _split(sets, splits, index)
        number = sum(earlier == split for earlier, _ in placed)
        placed.append((split, f"{split}-{number + 1}" if number else split))
    return placed


def _split(sets: Sequence[ShardSet], splits: Sequence[str | None], index: int) -> str:
    data, split = sets[index], splits[index] if splits else None
    name = split or data.manifest.split or ""
    for key in ("train", "val", "test"):
        if name.lower().startswith(key):
            return key
    message = f"its split {name!r} is none of train, val and test" if name else "has no split"
    raise InputError(message, file=data.path, hint=f"give --data train={data.path} or similar")


def _data_yaml(placed: Sequence[tuple[str, str]], names: list[str]) -> str:
    """Return Ultralytics' description of a data set.

    A missing split for training or validation is the first one. Without a `path`, folders are
    relative to the file.
    """
    by_split: dict[str, list[str]] = {}
    for split, folder in placed:
        by_split.setdefault(split, []).append(f"images/{folder}")
    first = next(iter(by_split.values()))
    rows = []
    for split in ("train", "val", "test"):
        folders = by_split.get(split, first if split != "test" else [])
        if folders:
            rows.append(f"{split}: {folders[0] if len(folders) == 1 else json.dumps(folders)}")
    rows.append("names:")
    rows += [
        f"  {index}: {json.dumps(name, ensure_ascii=not name.isprintable())}"
        for index, name in enumerate(names)
    ]
    return "\n".join(rows) + "\n"
