"""Predictions in COCO files: a list of results, or a panoptic JSON and its PNGs."""

import codecs
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from segkit import parse
from segkit.errors import InputError
from segkit.file_names import relative_name
from segkit.masks import rle
from segkit.masks.boxes import tight_boxes
from segkit.masks.run_lengths import decode_runs, first_malformed, join
from segkit.metrics.prediction_ids import panoptic_images, results_images
from segkit.sample import Box, MaskSource, Sample, Segment
from segkit.shards.coco_image_ids import class_id
from segkit.sources.coco_instances import RunLengths
from segkit.sources.image_files import resolve_inside
from segkit.sources.label_maps import read_ids
from segkit.sources.ledger import ImageError
from segkit.taxonomy import Category, Taxonomy

_PREDICTION: MaskSource = "prediction"
_END, _MORE, _OTHER = b"e", b"m", b"x"
_KINDS = bytes(
    (_END if 48 <= byte < 80 else _MORE if 80 <= byte < 112 else _OTHER)[0] for byte in range(256)
)
"""COCO's compressed counts: 64 characters from `0` on, of which the first 32 end a number."""
MAX_DIGITS = 12
"""Characters of a number of 60 bits."""
MAX_BYTES = 16 << 30
"""Bytes of a file of predictions, which are all in memory."""
_Record = TypeVar("_Record")


class Result(msgspec.Struct, frozen=True, gc=False):
    """A record of COCO's results."""

    image_id: int | float | str
    category_id: int | float | str
    score: float
    segmentation: RunLengths | list[list[float]] | None = None
    bbox: list[float] | None = None


class SegmentInfo(msgspec.Struct, frozen=True):
    """A segment in a COCO panoptic file."""

    id: int
    category_id: int | float | str
    area: float | None = None
    score: float | None = None


class PanopticImage(msgspec.Struct, frozen=True):
    """The record of an image in a COCO panoptic file."""

    image_id: int | float | str
    file_name: str
    segments_info: list[SegmentInfo]


class PanopticFile(msgspec.Struct, frozen=True):
    """A COCO panoptic file."""

    annotations: list[PanopticImage]
    categories: Any = None


_RESULTS = msgspec.json.Decoder(list[Result])
_PANOPTIC = msgspec.json.Decoder(PanopticFile)


def load(path: Path) -> list[Result] | PanopticFile:
    """The records of a file of predictions.

    Raises:
        InputError: it is not JSON, or not of this form; the message names the first such record.
    """
    data = parse.read_bytes(path, max_bytes=MAX_BYTES).removeprefix(codecs.BOM_UTF8)
    is_list = data.lstrip().startswith(b"[")
    try:
        return _RESULTS.decode(data) if is_list else _PANOPTIC.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # slower, but names the record, also one with the NaN and Infinity that Python writes
    content = parse.parse_json(data, file=path, hint="write the file again", finite=not is_list)
    hint = "see COCO's results format"
    if is_list:
        return [_convert(row, Result, path, f"result {n}", hint) for n, row in enumerate(content)]
    rows = content.get("annotations") if isinstance(content, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(first, dict) or "segments_info" not in first:
        raise _not_predictions(path, first)
    images = [
        _convert(row, PanopticImage, path, f"annotations[{n}]", "see COCO's panoptic format")
        for n, row in enumerate(rows or ())
    ]
    return PanopticFile(images, content.get("categories"))


def _convert(row: Any, kind: type[_Record], path: Path, record: str, hint: str) -> _Record:
    return parse.convert(row, kind, file=path, noun="a prediction", record=record, hint=hint)


class CocoResults:
    """COCO results: `[{image_id, category_id, score, segmentation and / or bbox}]`."""

    def __init__(
        self,
        path: Path,
        results: Sequence[Result],
        taxonomy: Taxonomy,
        ids_by_coco_id: Mapping[str, str],
    ) -> None:
        """Check the results.

        Args:
            path: the file, for messages.
            results: its content.
            taxonomy: the classes that its category ids mean.
            ids_by_coco_id: image ids by those of a COCO export; results have these or those.

        Raises:
            InputError: a result lacks a key, or its score or category is invalid.
        """
        self.file = path
        self._taxonomy = taxonomy
        by_id: dict[str, list[tuple[int, Result]]] = {}
        for number, result in enumerate(results):
            self._check(number, result)
            by_id.setdefault(_id(result.image_id), []).append((number, result))
        self._ids = results_images(list(by_id), ids_by_coco_id)
        self._by_image = dict(zip(self._ids, by_id.values(), strict=True))

    def ids(self) -> list[str]:
        """Ids of the images that have results; repeated where two ids of the file mean one."""
        return self._ids

    def get(self, image: Sample) -> Sample | None:
        """The results of an image as segments.

        Raises:
            InputError: a mask is not a valid one of the image's size, or a box is invalid.
        """
        results = self._by_image.get(image.id)
        if results is None:
            return None
        masks = [self._mask(number, result, image) for number, result in results]
        runs = decode_runs(*join([mask or b"" for mask in masks]))
        pixels = image.height * image.width
        boxes, areas = tight_boxes(runs, image.height), runs.area.tolist()
        size = np.array([pixels])
        damaged = set()
        if not runs.is_wellformed:
            damaged = {k for k, m in enumerate(masks) if m and first_malformed([m], size) == 0}
        segments = []
        for k, ((number, result), mask) in enumerate(zip(results, masks, strict=True)):
            if mask is not None and runs.total[k] != pixels:
                message = f"a mask of {runs.total[k]} pixels, image {image.id} has {pixels}"
                raise self._error(number, message)
            if k in damaged:
                raise self._error(number, f"a mask with run lengths below 0 (image {image.id})")
            box = self._box(number, result) or boxes[k]
            category = self._category(number, result)
            area, source = box[2] * box[3], None
            if mask is not None:
                area, source = float(areas[k]), _PREDICTION
            shape = category.id, category.kind, box, mask, area
            segments.append(Segment(*shape, mask_from=source, score=result.score))
        return Sample(image.id, image.file_name, image.width, image.height, tuple(segments))

    def _check(self, number: int, result: Result) -> None:
        if result.segmentation is None and result.bbox is None:
            raise self._error(number, "neither segmentation nor bbox")
        if not math.isfinite(result.score):
            message = f"score {result.score} of image {result.image_id} is not a number"
            raise self._error(number, message)
        self._category(number, result)

    def _category(self, number: int, result: Result) -> Category:
        category = _category(result.category_id, self._taxonomy)
        if category is None:
            value, image = result.category_id, result.image_id
            message = f"category {value} is not in {self._taxonomy.name} (image {image})"
            raise self._error(number, message)
        return category

    def _box(self, number: int, result: Result) -> Box | None:
        box = result.bbox
        if box is None or (result.segmentation and not box):
            return None
        if len(box) != 4 or not all(math.isfinite(side) for side in box):
            raise self._error(number, f"bbox {box} is not four numbers")
        x, y, width, height = box
        if width < 0 or height < 0:
            message = f"bbox {box} is of negative size (expected x, y, width, height)"
            raise self._error(number, message)
        return x, y, width, height

    def _mask(self, number: int, result: Result, image: Sample) -> bytes | None:
        segmentation = result.segmentation
        if not segmentation:
            return None
        try:
            if isinstance(segmentation, list):
                return rle.from_polygons(segmentation, image.height, image.width)
            (height, width), counts = segmentation.size, segmentation.counts
            if (height, width) != (image.height, image.width):
                size = f"{image.width} x {image.height}"
                message = f"mask of {width} x {height}, image {image.id} is {size}"
                raise self._error(number, message)
            if isinstance(counts, list):
                return rle.from_uncompressed(counts, image.height, image.width)
            return _checked_counts(counts)
        except ValueError as error:
            raise self._error(number, f"not a COCO segmentation ({error})") from error

    def _error(self, number: int, message: str) -> InputError:
        hint = "see COCO's results format"
        return InputError(message, file=self.file, record=f"result {number}", hint=hint)


def _checked_counts(counts: str) -> bytes:
    """Compressed counts as bytes; ValueError if they are not numbers, or one is too long."""
    encoded = counts.encode() if counts.isascii() else _OTHER
    kinds = encoded.translate(_KINDS)
    if not kinds.endswith(_END) or _OTHER in kinds or MAX_DIGITS * _MORE in kinds:
        raise ValueError("counts are not run lengths")
    return encoded


def _id(value: int | float | str) -> str:
    """An image id as text; whole numbers that are written as floats are integers."""
    return str(parse.without_fraction(value))


def _category(value: int | float | str, taxonomy: Taxonomy) -> Category | None:
    number = class_id(value)
    return None if number is None else taxonomy.by_id.get(number)


class CocoPanoptic:
    """A COCO panoptic JSON and its folder of PNGs, each read when its image is asked for."""

    def __init__(
        self,
        path: Path,
        content: PanopticFile,
        folder: Path,
        taxonomy: Taxonomy,
        ids_by_file: Mapping[str, str],
        ids_by_coco_id: Mapping[str, str],
    ) -> None:
        """Check the file.

        Args:
            path: the file, for messages.
            content: its records.
            folder: folder of its PNGs.
            taxonomy: the classes that its category ids mean.
            ids_by_file: image ids by the names of files without extensions.
            ids_by_coco_id: image ids by those of a COCO export.

        Raises:
            InputError: the folder is missing.
        """
        self.file, self._folder, self._taxonomy = path, folder, taxonomy
        rows = content.annotations
        ids = [_id(row.image_id) for row in rows]
        names = [relative_name(folder, row.file_name) for row in rows]
        self._ids = panoptic_images(ids, names, ids_by_file, ids_by_coco_id)
        self._rows = dict(zip(self._ids, rows, strict=True))
        if not folder.is_dir():
            message = f"the PNG folder {folder} is not there"
            hint = "move it there, or pass it by `segkit eval --prediction-masks DIR`"
            raise InputError(message, file=path, hint=hint)

    def ids(self) -> list[str]:
        """Ids of the images, in the order of the file."""
        return self._ids

    def get(self, image: Sample) -> Sample | None:
        """The segments of an image.

        Raises:
            InputError: the PNG cannot be read, or contradicts the JSON.
        """
        row = self._rows.get(image.id)
        if row is None:
            return None
        regions = rle.regions(self._id_map(row, image))
        regions.pop(0, None)
        infos = {info.id: info for info in row.segments_info}
        self._check_ids(row, set(regions), infos)
        segments = tuple(
            self._segment(row, info, regions[number]) for number, info in infos.items()
        )
        return Sample(image.id, image.file_name, image.width, image.height, segments)

    def _id_map(self, row: PanopticImage, image: Sample) -> NDArray[np.uint32]:
        """(H, W) segment ids of a PNG."""
        name, record = relative_name(self._folder, row.file_name), f"image {image.id}"
        try:
            path = resolve_inside(self._folder, name, record=record)
            return read_ids(path, (image.width, image.height), record=record)
        except ImageError as error:
            defect = error.defect
            hint = "write one PNG of segment ids for each image, at its size"
            raise InputError(
                defect.message, file=defect.file, record=defect.record, hint=hint
            ) from error

    def _check_ids(self, row: PanopticImage, painted: set[int], infos: dict[int, Any]) -> None:
        record = f"image {_id(row.image_id)}"
        if len(infos) != len(row.segments_info):
            raise self._contradiction("a segment id occurs twice in segments_info", record)
        if painted - infos.keys():
            ids = sorted(painted - infos.keys())[:5]
            raise self._contradiction(f"ids in the PNG that segments_info lacks: {ids}", record)
        if infos.keys() - painted:
            ids = sorted(infos.keys() - painted)[:5]
            raise self._contradiction(f"segments without a pixel: {ids}", record)

    def _contradiction(self, message: str, record: str) -> InputError:
        hint = "list exactly the ids that the PNG shows"
        return InputError(message, file=self.file, record=record, hint=hint)

    def _segment(self, row: PanopticImage, info: SegmentInfo, region: rle.Region) -> Segment:
        category = _category(info.category_id, self._taxonomy)
        record = f"image {_id(row.image_id)}, segment {info.id}"
        if category is None:
            message = f"category {info.category_id} is not in {self._taxonomy.name}"
            hint = "predict in the vocabulary of the ground truth"
            raise InputError(message, file=self.file, record=record, hint=hint)
        if info.area is not None and info.area != region.area:
            message = f"area {info.area:g}, but the PNG shows {region.area} pixels"
            hint = "count areas from the PNG, or leave them out"
            raise InputError(message, file=self.file, record=record, hint=hint)
        return Segment(
            category.id,
            category.kind,
            region.box,
            region.counts,
            float(region.area),
            mask_from=_PREDICTION,
            score=info.score,
        )


def _not_predictions(path: Path, first: Any) -> InputError:
    """The error for JSON that is neither a list of results nor a panoptic file.

    Args:
        path: the file.
        first: its first annotation, if it has one.
    """
    message = "is neither a list of COCO results nor a COCO panoptic file"
    if isinstance(first, dict) and "category_id" in first:
        message = "is a file of annotations as ground truth has it, not of predictions"
    hint = (
        "give a list of COCO results ([{image_id, category_id, score, segmentation or bbox}, ...])"
        ", a COCO panoptic file with its PNG folder, or a shard set"
    )
    return InputError(message, file=path, hint=hint)
