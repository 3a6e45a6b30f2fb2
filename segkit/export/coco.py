"""Native COCO JSON from shard sets: instances, and panoptic with its PNGs; written as a stream."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segkit.export.destination import (
    ExportReport,
    Names,
    need,
    output,
    painted,
    split_name,
    write_images,
)
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

Rows = Iterable[dict[str, Any]]
_IDS = 2**24  # a panoptic PNG codes an id in three bytes


def export_instances(
    data: ShardSet, out: Path, *, images: bool = False, datumaro: bool = False
) -> ExportReport:
    """Write `instances_<split>.json`: polygons verbatim where the source had them, RLE otherwise,
    boxes alone as boxes.

    Crowds are uncompressed RLE as in COCO's own files. Stuff is left out and counted. A joined set
    (panoptic and instances) gives the instances' own `segmentation` back, with area and box as
    drawn.

    Args:
        data: a set of kind instance, boxes or panoptic.
        out: directory to make.
        images: also write the image files, under `images/`.
        datumaro: the folders that Datumaro's COCO importer looks into: `annotations/` and
            `images/<split>/`; every mask is RLE, since Datumaro rounds the coordinates of polygons,
            which changes one mask in four.
    """
    need(data, ("instance", "boxes", "panoptic"), "COCO instances", "its regions are not instances")
    report = ExportReport(images=len(data))
    ids = _image_ids(data)
    numbers = _numbers(data)

    def annotations() -> Iterator[dict[str, Any]]:
        for index, sample in enumerate(data.samples()):
            for segment in sample.segments:
                if segment.kind == "stuff":
                    report.leave_out("stuff", 1)
                    continue
                report.annotations += 1
                whole = _whole(segment, sample) if data.manifest.kind == "panoptic" else segment
                whole = replace(whole, source_polygon=None) if datumaro else whole
                yield _annotation(whole, sample, ids(index, sample), numbers(segment))

    with output(out) as folder:
        places = _Places(folder, split_name(data), datumaro)
        name = f"instances_{split_name(data)}.json"
        _write(places.annotations / name, data, ids, annotations())
        _finish(data, places, report, [name], images)
    return report


def export_panoptic(
    data: ShardSet, out: Path, *, images: bool = False, datumaro: bool = False
) -> ExportReport:
    """Write `panoptic_<split>.json` and, beside it, the folder of PNGs of that name.

    Segments keep their ids where those fit in a PNG; pixels of no segment are 0. Segments without a
    mask are left out and counted.

    Args:
        data: a set of kind panoptic.
        out: directory to make.
        images: also write the image files, under `images/`.
        datumaro: the folders that Datumaro's COCO importer looks into: `annotations/` and
            `images/<split>/`.

    Raises:
        SegkitError: two masks of an image share pixels.
    """
    need(
        data,
        ("panoptic",),
        "COCO panoptic",
        "its masks need not be one disjoint cover of the image",
    )
    report = ExportReport(images=len(data))
    ids = _image_ids(data)
    stem = f"panoptic_{split_name(data)}"

    def annotations(folder: Path) -> Iterator[dict[str, Any]]:
        names = Names(folder / stem)
        for index, sample in enumerate(data.samples()):
            masked = [segment for segment in sample.segments if segment.mask is not None]
            report.leave_out("box-only", len(sample.segments) - len(masked))
            report.annotations += len(masked)
            numbered = _number_segments(masked)
            path = names.path(sample, ".png")
            masks = [(number, segment.mask or b"") for number, segment in numbered]
            _write_png(path, painted(masks, sample, "a panoptic PNG"))
            yield {
                "image_id": ids(index, sample),
                "file_name": path.relative_to(folder / stem).as_posix(),
                "segments_info": [_info(number, segment) for number, segment in numbered],
            }

    with output(out) as folder:
        places = _Places(folder, split_name(data), datumaro)
        (places.annotations / stem).mkdir()
        _write(places.annotations / f"{stem}.json", data, ids, annotations(places.annotations))
        _finish(data, places, report, [f"{stem}.json", f"{stem}/"], images)
    return report


class _Places:
    """Where the files of an export go; the folder of annotations is made."""

    def __init__(self, folder: Path, split: str, datumaro: bool) -> None:
        self.before = "annotations/" if datumaro else ""
        self.images = f"images/{split}/" if datumaro else "images/"
        self.folder, self.annotations = folder, folder / self.before
        self.annotations.mkdir(exist_ok=True)


def _finish(
    data: ShardSet, places: _Places, report: ExportReport, files: list[str], images: bool
) -> None:
    report.files.extend(places.before + name for name in files)
    if images:
        write_images(data, places.folder / places.images)
        report.files.append(places.images)


def _write(
    path: Path, data: ShardSet, ids: Callable[[int, Sample], int | str], annotations: Rows
) -> None:
    header = data.manifest.source_header
    with path.open("wb") as file:
        file.write(b"{")
        for name in ("info", "licenses"):
            if name in header:
                file.write(
                    msgspec.json.encode(name) + b":" + msgspec.json.encode(header[name]) + b",\n"
                )
        file.write(b'"categories":' + msgspec.json.encode(_categories(data)) + b",\n")
        images = (_image(index, sample, ids) for index, sample in enumerate(data.samples()))
        for key, rows, end in (
            (b'"images"', images, b",\n"),
            (b'"annotations"', annotations, b"}\n"),
        ):
            file.write(key + b":[")
            for number, row in enumerate(rows):
                file.write((b",\n" if number else b"\n") + msgspec.json.encode(row))
            file.write(b"]" + end)


def _categories(data: ShardSet) -> list[dict[str, Any]]:
    """The source's own category records, in its order, where they are those of the taxonomy; all
    say `isthing`."""
    rest = dict(data.taxonomy.by_id)
    rows = []
    for native in data.manifest.source_header.get("categories") or ():
        category = rest.get(_integer(str(native.get("id"))) or 0)
        if category is not None and native.get("name") in (category.name, category.source_name):
            rows.append({**native, "isthing": int(category.kind == "thing")})
            del rest[category.id]
    fresh = [
        {"id": c.id, "name": c.source_name or c.name, "isthing": int(c.kind == "thing")}
        for c in rest.values()
    ]
    return rows + fresh


def _image(index: int, sample: Sample, ids: Callable[[int, Sample], int | str]) -> dict[str, Any]:
    own = {
        "id": ids(index, sample),
        "file_name": sample.file_name,
        "width": sample.width,
        "height": sample.height,
    }
    source = _source(sample) or {}
    return {**source, **{key: value for key, value in own.items() if source.get(key) is None}}


def _source(sample: Sample) -> dict[str, Any] | None:
    record = json.loads(sample.source) if sample.source else None
    return record if isinstance(record, dict) else None


def _image_ids(data: ShardSet) -> Callable[[int, Sample], int | str]:
    """The source's image id of a sample, or its own as a number; 1, 2, ... where those are no
    distinct numbers."""
    numbers = [_integer(s.id) for s in data.samples() if _source_id(s) is None]
    plain = None not in numbers and len(set(numbers)) == len(numbers)

    def image_id(index: int, sample: Sample) -> int | str:
        own = _source_id(sample)
        if own is not None:
            return own
        number = _integer(sample.id)
        return number if plain and number is not None else index + 1

    return image_id


def _source_id(sample: Sample) -> int | str | None:
    own: int | str | None = (_source(sample) or {}).get("id")
    return own


def _numbers(data: ShardSet) -> Callable[[Segment], int | str]:
    """The source's annotation id, or the next number beyond all of them.

    Ids of panoptic segments are unique in their image alone: where one comes again, it is replaced.
    """
    given: set[int | str] | None = set() if data.manifest.kind == "panoptic" else None
    ids = (_integer(segment.source_id) for sample in data.samples() for segment in sample.segments)
    fresh = max((number for number in ids if number is not None), default=0)

    def number(segment: Segment) -> int | str:
        nonlocal fresh
        number = _integer(segment.source_id)
        own = segment.source_id if number is None else number
        if own and (given is None or own not in given):
            if given is not None:
                given.add(own)
            return own
        fresh += 1
        return fresh

    return number


def _integer(text: str | None) -> int | None:
    return (
        int(text)
        if text is not None and text.isascii() and text.removeprefix("-").isdigit()
        else None
    )


def _annotation(
    segment: Segment, sample: Sample, image_id: int | str, number: int | str
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "image_id": image_id, "category_id": segment.class_id}
    if segment.mask is not None:
        row["segmentation"] = _segmentation(segment, segment.mask, sample)
    row["area"] = _plain(segment.area)
    row["bbox"] = [_plain(side) for side in segment.box]
    row["iscrowd"] = int(segment.is_crowd)
    extra = {"ignore": int(segment.ignore), "score": segment.score, "mask_from": segment.mask_from}
    if segment.mask_from == "human":
        del extra["mask_from"]
    return row | {key: value for key, value in extra.items() if value}


def _whole(segment: Segment, sample: Sample) -> Segment:
    """A panoptic segment as its instance has it: with what lies under other segments, where the
    source draws that."""
    if segment.source_polygon is None or segment.mask_from != "human":
        return segment
    drawn = json.loads(segment.source_polygon)
    size = (sample.height, sample.width)
    if isinstance(drawn, list):
        mask = rle.from_polygons(drawn, *size)
    else:
        counts = drawn["counts"]
        mask = rle.from_uncompressed(counts, *size) if isinstance(counts, list) else counts.encode()
    return replace(segment, mask=mask, area=float(rle.area(mask, *size)), box=rle.box(mask, *size))


def _segmentation(segment: Segment, mask: bytes, sample: Sample) -> msgspec.Raw | dict[str, Any]:
    if segment.source_polygon is not None and segment.mask_from == "human":
        return msgspec.Raw(segment.source_polygon.encode())
    counts = rle.decompress(mask).tolist() if segment.is_crowd else mask.decode("ascii")
    return {"size": [sample.height, sample.width], "counts": counts}


def _number_segments(segments: list[Segment]) -> list[tuple[int, Segment]]:
    """Segments with ids that a PNG can hold: their own where it is one, the lowest free one
    otherwise."""
    taken: dict[int, Segment] = {}
    rest = []
    for segment in segments:
        own = _integer(segment.source_id)
        if own is not None and 0 < own < _IDS and own not in taken:
            taken[own] = segment
        else:
            rest.append(segment)
    free = (number for number in range(1, _IDS) if number not in taken)
    given = {
        id(segment): number for number, segment in [*taken.items(), *zip(free, rest, strict=False)]
    }
    return [(given[id(segment)], segment) for segment in segments]


def _write_png(path: Path, ids: NDArray[np.int32]) -> None:
    import cv2

    bgr = np.stack((ids >> 16, (ids >> 8) & 255, ids & 255), axis=-1).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def _info(number: int, segment: Segment) -> dict[str, Any]:
    row = {
        "id": number,
        "category_id": segment.class_id,
        "iscrowd": int(segment.is_crowd),
        "bbox": [_plain(side) for side in segment.box],
        "area": _plain(segment.area),
    }
    return row if segment.score is None else {**row, "score": segment.score}


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() else value
