"""Predictions in COCO's own files: a list of results (masks or boxes), or a panoptic JSON with its
PNGs."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.masks.boxes import tight_boxes
from segkit.masks.run_lengths import decode_runs, join, masks_with_negative_runs
from segkit.sample import Box, MaskSource, Sample, Segment
from segkit.sources.categories import plain_name
from segkit.sources.label_maps import read_ids
from segkit.sources.ledger import ImageError
from segkit.taxonomy import Taxonomy

_PREDICTION: MaskSource = "prediction"
_COUNTS = re.compile("[0-o]*[0-O]")
"""COCO's compressed counts: 64 characters from `0` on, of which the first 32 end a number."""


def load(path: Path) -> Any:
    """The JSON of a file; InputError where it is not JSON."""
    data = path.read_bytes()
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        pass
    try:
        return json.loads(
            data
        )  # accepts the NaN and Infinity that Python writes, so that the record can be named
    except ValueError as error:
        raise InputError(f"not JSON ({error})", file=path, hint="write the file again") from error


class ResultList:
    """COCO results: `[{image_id, category_id, score, segmentation and / or bbox}]`."""

    def __init__(self, path: Path, results: list[Any], taxonomy: Taxonomy) -> None:
        self._path = path
        self._taxonomy = taxonomy
        self._by_image: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for number, result in enumerate(results):
            self._check(number, result)
            self._by_image.setdefault(str(result["image_id"]), []).append((number, result))

    def ids(self) -> list[str]:
        """Ids of the images that have results."""
        return list(self._by_image)

    def of(self, truth: Sample) -> Sample | None:
        """The results of an image as segments."""
        found = self._by_image.get(truth.id)
        if found is None:
            return None
        masks = [self._mask(number, result, truth) for number, result in found]
        runs = decode_runs(*join([mask or b"" for mask in masks]))
        pixels = truth.height * truth.width
        boxes, areas = tight_boxes(runs, truth.height), runs.area.tolist()
        negative = set(masks_with_negative_runs(runs, pixels))
        segments = []
        for k, ((number, result), mask) in enumerate(zip(found, masks, strict=True)):
            if mask is not None and runs.total[k] != pixels:
                raise self._wrong(
                    number, f"a mask of {runs.total[k]} pixels, image {truth.id} has {pixels}"
                )
            if k in negative:
                raise self._wrong(number, f"a mask with run lengths below 0 (image {truth.id})")
            box = self._box(number, result) or boxes[k]
            class_id, score = int(result["category_id"]), float(result["score"])
            area, source = (
                (box[2] * box[3], None) if mask is None else (float(areas[k]), _PREDICTION)
            )
            kind = self._taxonomy.by_id[class_id].kind
            segments.append(Segment(class_id, kind, box, mask, area, mask_from=source, score=score))
        return Sample(truth.id, truth.file_name, truth.width, truth.height, tuple(segments))

    def _check(self, number: int, result: Any) -> None:
        if (
            not isinstance(result, dict)
            or not {"image_id", "category_id", "score"} <= result.keys()
        ):
            raise self._wrong(number, "a result needs image_id, category_id and score")
        if not ("segmentation" in result or "bbox" in result):
            raise self._wrong(number, "neither segmentation nor bbox")
        score = result["score"]
        if not _is_number(score):
            raise self._wrong(
                number, f"score {score} of image {result['image_id']} is not a number"
            )
        category = result["category_id"]
        if not isinstance(category, int | float) or category not in self._taxonomy.by_id:
            message = f"category {category} is not in {self._taxonomy.name}"
            raise self._wrong(number, f"{message} (image {result['image_id']})")

    def _box(self, number: int, result: dict[str, Any]) -> Box | None:
        if "bbox" not in result or (result.get("segmentation") and result["bbox"] == []):
            return None
        box = result["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise self._wrong(number, f"bbox {box} is not four numbers")
        x, y, width, height = map(float, box)
        if width < 0 or height < 0:
            raise self._wrong(
                number, f"bbox {box} is of negative size (x, y, width, height are wanted)"
            )
        return x, y, width, height

    def _mask(self, number: int, result: dict[str, Any], image: Sample) -> bytes | None:
        segmentation = result.get("segmentation")
        if not segmentation:
            return None
        try:
            if isinstance(segmentation, list):
                return rle.from_polygons(segmentation, image.height, image.width)
            height, width = segmentation["size"]
            counts = segmentation["counts"]
            if (height, width) != (image.height, image.width):
                raise self._wrong(
                    number,
                    f"mask of {width} x {height}, image {image.id} is {image.width} x {image.height}",
                )
            if isinstance(counts, list):
                return rle.from_uncompressed(counts, image.height, image.width)
            if not _COUNTS.fullmatch(counts):
                raise ValueError("counts that are no run lengths")
            return bytes(counts, "ascii")
        except (KeyError, TypeError, ValueError) as error:
            raise self._wrong(number, f"not a COCO segmentation ({error})") from error

    def _wrong(self, number: int, message: str) -> InputError:
        return InputError(
            message, file=self._path, record=f"result {number}", hint="see COCO's results format"
        )


def _is_number(value: Any) -> bool:
    """Whether a number can be reckoned with: not NaN, not infinite, not beyond a float."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


class PanopticFiles:
    """A COCO panoptic JSON and its folder of PNGs, read when an image is asked for."""

    def __init__(
        self, path: Path, content: Any, folder: Path, taxonomy: Taxonomy, by_name: Mapping[str, str]
    ) -> None:
        """Args: the file and what it holds, its PNGs, its classes, and image ids by what may stand
        for them."""
        self._path, self._folder, self._taxonomy = path, folder, taxonomy
        try:
            rows = [
                (_image_of(row, by_name), row)
                for row in content["annotations"]
                if iter(row["segments_info"])
            ]
        except (KeyError, TypeError) as error:
            raise _no_predictions(path, content) from error
        _check_categories(path, content.get("categories"), taxonomy)
        self._rows = dict(rows)
        self._ids = [image for image, _ in rows]
        if not folder.is_dir():
            raise InputError(
                f"the PNG folder {folder} is not there",
                file=path,
                hint="pass it by --prediction-masks DIR",
            )

    def ids(self) -> list[str]:
        """Ids of the images, in the order of the file."""
        return self._ids

    def of(self, truth: Sample) -> Sample | None:
        """The prediction of an image."""
        row = self._rows.get(truth.id)
        if row is None:
            return None
        found = rle.regions(self._id_map(row, truth))
        found.pop(0, None)
        listed = {int(info["id"]): info for info in row["segments_info"]}
        self._check_ids(row, set(found), listed)
        segments = tuple(self._segment(row, info, found[number]) for number, info in listed.items())
        return Sample(truth.id, truth.file_name, truth.width, truth.height, segments)

    def _id_map(self, row: dict[str, Any], image: Sample) -> NDArray[np.uint32]:
        """(H, W) segment ids of a PNG."""
        try:
            return read_ids(
                self._folder / row["file_name"],
                (image.width, image.height),
                record=f"image {image.id}",
            )
        except ImageError as error:
            found = error.defect
            hint = "write one PNG of segment ids for each image, at its size"
            raise InputError(
                found.message, file=found.file, record=found.record, hint=hint
            ) from error

    def _check_ids(self, row: dict[str, Any], painted: set[int], listed: dict[int, Any]) -> None:
        where = f"image {row['image_id']}"
        if len(listed) != len(row["segments_info"]):
            raise self._contradiction("a segment id occurs twice in segments_info", where)
        if painted - listed.keys():
            unlisted = sorted(painted - listed.keys())[:5]
            raise self._contradiction(f"ids in the PNG that segments_info lacks: {unlisted}", where)
        if listed.keys() - painted:
            empty = sorted(listed.keys() - painted)[:5]
            raise self._contradiction(f"segments without a pixel: {empty}", where)

    def _contradiction(self, message: str, record: str) -> InputError:
        return InputError(
            message, file=self._path, record=record, hint="list exactly the ids that the PNG shows"
        )

    def _segment(self, row: dict[str, Any], info: dict[str, Any], region: rle.Region) -> Segment:
        class_id = int(info["category_id"])
        where = f"image {row['image_id']}, segment {info['id']}"
        if class_id not in self._taxonomy.by_id:
            message = f"category {class_id} is not in {self._taxonomy.name}"
            hint = "predict in the vocabulary of the ground truth"
            raise InputError(message, file=self._path, record=where, hint=hint)
        if "area" in info and info["area"] != region.area:
            message = f"area {info['area']}, but the PNG shows {region.area} pixels"
            raise InputError(
                message,
                file=self._path,
                record=where,
                hint="count areas from the PNG, or leave them out",
            )
        kind, score = self._taxonomy.by_id[class_id].kind, info.get("score")
        return Segment(
            class_id,
            kind,
            region.box,
            region.counts,
            float(region.area),
            mask_from="prediction",
            score=score,
        )


def _image_of(row: dict[str, Any], by_name: Mapping[str, str]) -> str:
    """The image that a row is for: the one of its id, else that of its PNG's stem."""
    image = str(row["image_id"])
    return (
        image
        if by_name.get(image) == image
        else by_name.get(Path(row["file_name"]).stem, by_name.get(image, image))
    )


def _check_categories(path: Path, listed: Any, taxonomy: Taxonomy) -> None:
    """Refuse a file whose own list gives an id to what is another class in the ground truth."""
    ids: dict[str, set[int]] = {}
    for category in taxonomy.categories:
        for name in (category.name, category.source_name or category.name):
            ids.setdefault(plain_name(name), set()).add(category.id)
    rows = (row for row in listed if isinstance(row, dict)) if isinstance(listed, list) else ()
    for row in rows:
        meant = ids.get(plain_name(str(row.get("name"))))
        if meant and row.get("id") not in list(meant):
            message = f"category {row.get('id')} is {row['name']!r} in its list, in {taxonomy.name} that is {min(meant)}"
            raise InputError(
                message, file=path, hint="give segments the category ids of the ground truth"
            )


def _no_predictions(path: Path, content: Any) -> InputError:
    """What to say of JSON that is neither a list of results nor a panoptic file."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    what = "is neither a list of COCO results nor a COCO panoptic file"
    if isinstance(first, dict) and "category_id" in first:
        what = "is a file of annotations as ground truth has it, not of predictions"
    results = "[{image_id, category_id, score, segmentation or bbox}, ...]"
    hint = f"give a list of COCO results ({results}), a COCO panoptic file with its PNG folder, or a shard set"
    return InputError(what, file=path, hint=hint)
