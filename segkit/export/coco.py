"""Exports COCO JSON: instances, and panoptic with its PNGs; written as a stream."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segkit.arguments import check_number
from segkit.atomic import new_directory
from segkit.errors import InputError
from segkit.export.coco_records import AnnotationIds, ImageRecords
from segkit.export.destination import (
    ExportReport,
    confident_segments,
    counted_samples,
    new_file_path,
    paint_masks,
    require_kind,
    split_name,
    unlabeled_pixels,
    write_images,
)
from segkit.export.image_names import ImageNames, plan_names
from segkit.masks import rle
from segkit.parse import without_fraction
from segkit.sample import Sample, Segment
from segkit.shards.coco_image_ids import Id, class_id, decode, integer
from segkit.shards.reader import ShardSet
from segkit.sources.coco_instances import RunLengths

Rows = Iterable[dict[str, Any]]
_SEGMENTATION = msgspec.json.Decoder(RunLengths | list[list[float]])
_MAX_IDS = 2**24  # a panoptic PNG codes an id in three bytes


def export_instances(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    min_score: float = 0.0,
    datumaro: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `instances_<split>.json`.

    Masks are the source's polygons verbatim where it had them, otherwise RLE; crowds are
    uncompressed RLE as in COCO's own files. Ids are the source's where they are distinct. Where an
    image is annotated for only some classes, LVIS's lists say so. Stuff is left out and counted;
    images with void pixels, which are not marked, are counted. A joined set (panoptic and
    instances) returns the `segmentation` of its instances, with area and box as drawn.

    Args:
        data: a set of kind instance, boxes or panoptic.
        out: directory to create.
        images: also write the image files, under `images/`.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        datumaro: use the folders that Datumaro's COCO importer expects, `annotations/` and
            `images/<split>/`, and write every mask as RLE. (Datumaro rounds the coordinates of
            polygons, which changes one mask in four.)
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: the set is of another kind, or `out` is not empty.
    """
    check_number(min_score, "min_score", 0, 1)
    kinds = ("instance", "boxes", "panoptic")
    require_kind(data, kinds, "COCO instances", "its regions are not instances")
    report = ExportReport(images=len(data))
    names = _image_names(data, report, images)
    records = ImageRecords(data, names, annotated=True, min_score=min_score)
    annotation_ids = AnnotationIds(data)

    def annotations() -> Iterator[dict[str, Any]]:
        for index, sample in enumerate(data.samples(check_masks=True)):
            report.count_void(sample)
            for segment in confident_segments(sample, min_score, report):
                if segment.kind == "stuff":
                    report.leave_out("stuff", 1)
                    continue
                report.annotations += 1
                if data.manifest.kind == "panoptic":
                    segment = _full_instance(segment, sample)
                if datumaro:
                    segment = replace(segment, source_polygon=None)
                annotation_id = annotation_ids.next(segment)
                yield _annotation(segment, sample, records.id(index), annotation_id)
            on_image()

    with new_directory(out) as folder:
        paths = _Paths(folder, split_name(data), datumaro)
        name = f"instances_{split_name(data)}.json"
        _write_json(paths.annotations / name, data, records, annotations(), report)
        _finish(data, paths, report, [name], names if images else None, on_image)
    if annotation_ids.renumbered:
        report.altered["renumbered"] += annotation_ids.renumbered
    return report


def export_panoptic(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    datumaro: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `panoptic_<split>.json` and, beside it, the folder of PNGs of that name.

    Segments keep their ids if those fit in a PNG; pixels of no segment are 0, which is void: images
    in which some of them are not void are counted (`unlabeled`). Segments without a mask are left
    out and counted.

    Args:
        data: a set of kind panoptic.
        out: directory to create.
        images: also write the image files, under `images/`.
        datumaro: use the folders that Datumaro's COCO importer expects, `annotations/` and
            `images/<split>/`.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: the set is of another kind, or `out` is not empty.
        SegkitError: two masks of an image share pixels.
    """
    reason = "its masks need not be a disjoint cover of the image"
    require_kind(data, ("panoptic",), "COCO panoptic", reason)
    report = ExportReport(images=len(data))
    names = _image_names(data, report, images)
    records = ImageRecords(data, names, annotated=False)
    pngs = plan_names(data, lambda name: [name.with_suffix(".png")], rename=True)
    stem = f"panoptic_{split_name(data)}"

    def annotations(folder: Path) -> Iterator[dict[str, Any]]:
        for index, sample in enumerate(
            counted_samples(data, report, keeps_void=True, on_image=on_image)
        ):
            masked = [segment for segment in sample.segments if segment.mask is not None]
            report.leave_out("box-only", len(sample.segments) - len(masked))
            report.annotations += len(masked)
            numbered = _number_segments(masked)
            path = new_file_path(folder / stem, pngs.path(sample).with_suffix(".png"))
            masks = [(number, segment.mask or b"") for number, segment in numbered]
            ids = paint_masks(masks, sample, "a panoptic PNG")
            report.count_unlabeled(unlabeled_pixels(ids, sample))
            _write_png(path, ids)
            yield {
                "image_id": records.id(index),
                "file_name": path.relative_to(folder / stem).as_posix(),
                "segments_info": [_segment_info(number, segment) for number, segment in numbered],
            }

    with new_directory(out) as folder:
        paths = _Paths(folder, split_name(data), datumaro)
        (paths.annotations / stem).mkdir()
        rows = annotations(paths.annotations)
        _write_json(paths.annotations / f"{stem}.json", data, records, rows, report)
        _finish(
            data, paths, report, [f"{stem}.json", f"{stem}/"], names if images else None, on_image
        )
    return report


class _Paths:
    """The folders of an export; creates the one of annotations."""

    def __init__(self, folder: Path, split: str, datumaro: bool) -> None:
        self.prefix = "annotations/" if datumaro else ""
        self.images = f"images/{split}/" if datumaro else "images/"
        self.folder, self.annotations = folder, folder / self.prefix
        self.annotations.mkdir(exist_ok=True)


def _image_names(data: ShardSet, report: ExportReport, images: bool) -> ImageNames:
    """The file names of the images, and their count; images of equal bytes may share one."""
    if not images:
        report.add_same_names(data)
        return ImageNames()
    names = plan_names(data, lambda name: [name], rename=True, shared=True)
    report.add_names(names)
    return names


def _finish(
    data: ShardSet,
    paths: _Paths,
    report: ExportReport,
    files: list[str],
    names: ImageNames | None,
    on_image: Callable[[], None],
) -> None:
    """List the files; write the images if they have names."""
    report.files.extend(paths.prefix + name for name in files)
    if names is not None:
        write_images(data, paths.folder / paths.images, names, on_image)
        report.files.append(paths.images)


def _write_json(
    path: Path, data: ShardSet, records: ImageRecords, annotations: Rows, report: ExportReport
) -> None:
    """Write the JSON row by row; annotations may be a generator."""
    if records.renumbered:
        report.images_altered["renumbered"] += records.renumbered
    header = data.manifest.source_header
    lists: tuple[tuple[bytes, Rows, bytes], ...] = (
        (b'"images"', records, b",\n"),
        (b'"annotations"', annotations, b"}\n"),
    )
    with path.open("wb") as file:
        file.write(b"{")
        for name in ("info", "licenses"):
            if name in header:
                file.write(msgspec.json.encode(name) + b":")
                file.write(msgspec.json.encode(header[name]) + b",\n")
        file.write(b'"categories":' + msgspec.json.encode(_categories(data)) + b",\n")
        for key, rows, end in lists:
            file.write(key + b":[")
            for number, row in enumerate(rows):
                file.write((b",\n" if number else b"\n") + msgspec.json.encode(row))
            file.write(b"]" + end)


def _categories(data: ShardSet) -> list[dict[str, Any]]:
    """The source's own category records, in its order, and new ones for the rest of the taxonomy.

    A record is used if it has id and name of a class. All records say `isthing`.
    """
    remaining = dict(data.taxonomy.by_id)
    rows = []
    natives = data.manifest.source_header.get("categories")
    for native in natives if isinstance(natives, list) else ():
        if not isinstance(native, dict):
            continue
        number = class_id(native.get("id"))
        category = None if number is None else remaining.get(number)
        if category is not None and native.get("name") in (category.name, category.source_name):
            changed = {"id": category.id, "isthing": int(category.kind == "thing")}
            rows.append({**native, **changed})
            del remaining[category.id]
    for category in remaining.values():
        name = category.source_name or category.name
        rows.append({"id": category.id, "name": name, "isthing": int(category.kind == "thing")})
    return rows


def _annotation(
    segment: Segment, sample: Sample, image_id: Id, annotation_id: Id
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": segment.class_id,
    }
    if segment.mask is not None:
        row["segmentation"] = _segmentation(segment, segment.mask, sample)
    row["area"] = without_fraction(segment.area)
    row["bbox"] = [*map(without_fraction, segment.box)]
    row["iscrowd"] = int(segment.is_crowd)
    return row | ({"ignore": 1} if segment.ignore else {}) | _predicted(segment)


def _predicted(segment: Segment) -> dict[str, Any]:
    """`score` and `mask_from` of a segment, where it is not of a human."""
    fields = {"score": segment.score, "mask_from": segment.mask_from}
    return {key: value for key, value in fields.items() if value not in (None, "human")}


def _full_instance(segment: Segment, sample: Sample) -> Segment:
    """A panoptic segment with the full mask of its instance, also where other segments cover it.

    Segments for which the source has no instance are returned as they are.
    """
    if segment.source_polygon is None or segment.mask_from != "human":
        return segment
    segmentation = decode(_SEGMENTATION, segment.source_polygon, sample.id, "a source polygon")
    size = (sample.height, sample.width)
    try:
        if isinstance(segmentation, list):
            mask = rle.from_polygons(segmentation, *size)
        elif isinstance(segmentation.counts, list):
            mask = rle.from_uncompressed(segmentation.counts, *size)
        else:
            mask = segmentation.counts.encode()
        area, box = float(rle.area(mask, *size)), rle.box(mask, *size)
    except ValueError as error:
        message, hint = f"a source polygon ({error})", "`segkit validate` lists the damage"
        raise InputError(message, record=f"image {sample.id}", hint=hint) from error
    return replace(segment, mask=mask, area=area, box=box)


def _segmentation(segment: Segment, mask: bytes, sample: Sample) -> msgspec.Raw | dict[str, Any]:
    if segment.source_polygon is not None and segment.mask_from == "human":
        decode(_SEGMENTATION, segment.source_polygon, sample.id, "a source polygon")
        return msgspec.Raw(segment.source_polygon.encode())
    counts = rle.decompress(mask).tolist() if segment.is_crowd else mask.decode("ascii")
    return {"size": [sample.height, sample.width], "counts": counts}


def _number_segments(segments: list[Segment]) -> list[tuple[int, Segment]]:
    """Give segments ids that a PNG can hold: their own where it can, else the lowest free one."""
    by_number: dict[int, Segment] = {}
    remaining = []
    for segment in segments:
        number = integer(segment.source_id)
        if number is not None and 0 < number < _MAX_IDS and number not in by_number:
            by_number[number] = segment
        else:
            remaining.append(segment)
    free = (number for number in range(1, _MAX_IDS) if number not in by_number)
    pairs = [*by_number.items(), *zip(free, remaining, strict=False)]
    numbers = {id(segment): number for number, segment in pairs}
    return [(numbers[id(segment)], segment) for segment in segments]


def _write_png(path: Path, ids: NDArray[np.int32]) -> None:
    import cv2

    bgr = np.stack((ids >> 16, (ids >> 8) & 255, ids & 255), axis=-1)  # (H, W, 3)
    path.write_bytes(cv2.imencode(".png", bgr.astype(np.uint8))[1].tobytes())


def _segment_info(number: int, segment: Segment) -> dict[str, Any]:
    row = {
        "id": number,
        "category_id": segment.class_id,
        "iscrowd": int(segment.is_crowd),
        "bbox": [*map(without_fraction, segment.box)],
        "area": without_fraction(segment.area),
    }
    return row | _predicted(segment)
