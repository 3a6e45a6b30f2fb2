"""Reads the regions of a Label Studio annotation: polygons, brush masks, ellipses, boxes."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.images.png import MAX_PIXELS
from segkit.masks import brush_rle
from segkit.parse import is_integer, is_number
from segkit.sources import drawn_shapes
from segkit.sources.drawn_shapes import Draw, Drawing
from segkit.sources.drawn_source import Annotation
from segkit.sources.ledger import AnnotationError

RegionKind = Literal["polygon", "brush", "bitmask", "ellipse", "box", "unsupported"]
MASKED = ("polygon", "brush", "bitmask", "ellipse")
"""Kinds of regions that have a mask."""
_UNSUPPORTED = ("keypoint", "vector", "video", "timeseries", "paragraph", "hypertext")
CROWD, IGNORE = "crowd", "ignore"
"""Texts of a region's `meta` that mark a crowd, and an object that neither counts nor trains."""


def results(content: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the results of an annotation or a prediction."""
    entries = (content or {}).get("result")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            yield entry


def region_kind(result: Mapping[str, Any]) -> RegionKind | None:
    """Return the kind of a result; None if it is not a region, such as a choice or a relation."""
    value, type_ = result.get("value"), str(result.get("type") or "")
    if not isinstance(value, dict):
        return None
    if type_.startswith(_UNSUPPORTED) or "vertices" in value:
        return "unsupported"
    if "points" in value:
        return "polygon"
    if "rle" in value:
        return "brush"
    if "imageDataURL" in value:
        return "bitmask"
    if "radiusX" in value:
        return "ellipse"
    if "x" in value and "width" in value and "height" in value:
        return "box"
    return "unsupported" if "x" in value and "y" in value else None


def labels_of(content: Mapping[str, Any] | None) -> Iterator[tuple[str, RegionKind | None]]:
    """Yield (label, kind) of every region, once for each of its labels."""
    for _, label, kind in _labeled(content):
        yield label, kind


def regions(content: Mapping[str, Any] | None, *, predicted: bool) -> Iterator[Annotation]:
    """Yield the regions of an annotation, one for each of their labels.

    Args:
        content: the annotation or prediction.
        predicted: keep scores.
    """
    total = (content or {}).get("score") if predicted else None
    for result, label, kind in _labeled(content):
        draw: Draw | AnnotationError
        try:
            draw = _draw(result, kind)
        except AnnotationError as error:
            draw = error
        score = result.get("score", total) if predicted else None
        marks = _marks(result)
        region_id = result.get("id")
        yield Annotation(
            label,
            f"region {region_id}",
            draw,
            _data(result),
            is_crowd=CROWD in marks,
            ignore=IGNORE in marks,
            score=score,
            source_id=None if region_id is None else str(region_id),
            mask_from="prediction" if predicted else "human",
        )


def annotated_images(content: Mapping[str, Any] | None) -> set[tuple[str, int]]:
    """Return the name (`to_name`) and the page, from 0, of the images that have regions."""
    return {
        (str(result.get("to_name") or ""), _page(result))
        for result in results(content)
        if region_kind(result) not in (None, "unsupported")
    }


def image_size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the width and height that the first region states, or None."""
    for result in results(content):
        size = drawn_shapes.stated_size(result.get("original_width"), result.get("original_height"))
        if size is not None:
            return size
    return None


def _labeled(
    content: Mapping[str, Any] | None,
) -> Iterator[tuple[dict[str, Any], str, RegionKind | None]]:
    """Yield every region with each of its labels; a region without a label has "".

    A region may be two results with one id: its shape, and its labels.
    """
    by_id: dict[str, list[str]] = {}
    shape_ids = set()
    for result in results(content):
        labels, key = _labels(result), str(result.get("id"))
        if labels:
            by_id.setdefault(key, []).extend(labels)
            if region_kind(result) is not None:
                shape_ids.add(key)
    for result in results(content):
        kind, key = region_kind(result), str(result.get("id"))
        if kind is None:
            continue
        labels = _labels(result)
        if not labels and key in shape_ids:
            continue  # its other result has the shape and the labels
        for label in dict.fromkeys(labels or by_id.get(key) or [""]):
            yield result, label, kind


def _labels(result: Mapping[str, Any]) -> list[str]:
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    lists = (value[key] for key in value if str(key).endswith("labels"))
    labels = next((entry for entry in lists if isinstance(entry, list) and entry), [])
    return [str(label) for label in labels]


def _draw(result: Mapping[str, Any], kind: RegionKind | None) -> Draw:
    if kind == "unsupported" or kind is None:
        message = f"a region of type {str(result.get('type'))[:40]} covers no pixels"
        raise AnnotationError("unsupported-shape", message)
    if result.get("image_rotation"):
        message = "its image was rotated in Label Studio, so that its coordinates are not known"
        raise AnnotationError("malformed-annotation", message)
    value: dict[str, Any] = result["value"]
    if kind == "polygon":
        return _polygon(value)
    if kind == "brush":
        return _brush(value, result)
    if kind == "bitmask":
        return _bitmask(value)
    if kind == "ellipse":
        x, y, radius_x, radius_y = _numbers(value, "x", "y", "radiusX", "radiusY")
        angle = _angle(value)
        return lambda width, height: drawn_shapes.ellipse(
            (x * width / 100, y * height / 100),
            radius_x * width / 100,
            radius_y * height / 100,
            angle,
        )(width, height)
    return _box(value)


def _box(value: Mapping[str, Any]) -> Draw:
    """A box from its upper left corner, around which Label Studio rotates it."""
    x, y, box_width, box_height = _numbers(value, "x", "y", "width", "height")
    angle = _angle(value)

    def draw(width: int, height: int) -> Drawing:
        left, top = x * width / 100, y * height / 100
        side_x, side_y = box_width * width / 100, box_height * height / 100
        upright = drawn_shapes.box(left, top, side_x, side_y)
        if not angle:
            return upright(width, height)
        right, bottom = left + side_x, top + side_y
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return drawn_shapes.rotated_box(drawn_shapes.rotate(corners, (left, top), angle))(
            width, height
        )

    return draw


def _polygon(value: Mapping[str, Any]) -> Draw:
    if value.get("closed") is False:
        raise AnnotationError("unsupported-shape", "an open polygon covers no pixels")
    points = value["points"]
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        raise AnnotationError("malformed-annotation", "points are not a list of [x, y]")
    numbers = [_number(number) for point in points for number in point]

    def draw(width: int, height: int) -> Drawing:
        sides = (width, height)
        ring = [number * sides[index % 2] / 100 for index, number in enumerate(numbers)]
        return drawn_shapes.polygons([ring])(width, height)

    return draw


def _brush(value: Mapping[str, Any], result: Mapping[str, Any]) -> Draw:
    numbers = value["rle"]
    size = image_size({"result": [result]})
    if not isinstance(numbers, list) or not all(map(is_integer, numbers)):
        raise AnnotationError("malformed-annotation", "its rle is not a list of numbers")
    if size is None or size[0] * size[1] > MAX_PIXELS:
        message = "a brush mask without original_width and original_height of its image"
        raise AnnotationError("malformed-annotation", message)
    width, height = size

    def decode() -> NDArray[np.bool_]:
        try:
            return brush_rle.decode(numbers, height, width)
        except ValueError as error:
            raise AnnotationError("malformed-annotation", f"rle: {error}") from None

    return drawn_shapes.full_mask(decode, size)


def _bitmask(value: Mapping[str, Any]) -> Draw:
    text = str(value["imageDataURL"])
    head, _, content = text.partition(",")
    if not head.startswith("data:image/png;base64"):
        raise AnnotationError("malformed-annotation", "its imageDataURL is not a PNG in base64")
    data, size = drawn_shapes.png_bytes(content)
    return drawn_shapes.full_mask(lambda: drawn_shapes.png_mask(data), size)


def _numbers(value: Mapping[str, Any], *keys: str) -> list[float]:
    return [_number(value.get(key)) for key in keys]


def _number(value: Any) -> float:
    if not is_number(value):
        raise AnnotationError("malformed-annotation", f"{str(value)[:40]!r} is not a number")
    drawn_shapes.check_coordinates([value])
    return float(value)


def _angle(value: Mapping[str, Any]) -> float:
    angle = value.get("rotation")
    return 0.0 if angle is None else _number(angle)


def _page(result: Mapping[str, Any]) -> int:
    """The page of a region, from 0, where its image is a list of pages."""
    page = result.get("item_index")
    return page if is_integer(page) else 0


def _marks(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts in a region's `meta`."""
    meta = result.get("meta")
    texts = meta.get("text") if isinstance(meta, dict) else None
    if isinstance(texts, str):
        return (texts,)
    return tuple(str(text) for text in texts) if isinstance(texts, list) else ()


def _data(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result for a quarantine line, without long lists."""
    value = result.get("value")
    short = {
        key: entry if len(str(entry)) < 10_000 else "..."
        for key, entry in (value.items() if isinstance(value, dict) else ())
    }
    return {**{key: entry for key, entry in result.items() if key != "value"}, "value": short}
