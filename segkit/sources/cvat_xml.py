"""Converts CVAT's dumps "CVAT for images 1.1" of jobs, tasks and projects.

Boxes, polygons, ellipses and masks become segments; polygons and masks of one group and label are
parts of one object. Polylines, points, cuboids, skeletons and tags have no place in a segment.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, fromstring, tostring

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.images.png import MAX_PIXELS
from segkit.sources import drawn_shapes
from segkit.sources.annotation_files import image_candidates, stem
from segkit.sources.categories import NativeCategory, build_taxonomy
from segkit.sources.drawn_shapes import Draw, number
from segkit.sources.drawn_source import Annotation, DrawnSource, ImageAnnotations, classes_of
from segkit.sources.file_format import reject_other_formats
from segkit.sources.ledger import AnnotationError
from segkit.sources.source import Record
from segkit.sources.xml_files import child_text, element_data, root_children
from segkit.storage import StrPath, location

_MASKED = ("polygon", "mask", "ellipse")
_SHAPES = ("box", *_MASKED)
_UNSUPPORTED = ("polyline", "points", "cuboid", "skeleton", "tag")
_HINT = "give the annotations.xml of a dump in the format `CVAT for images 1.1`"


@dataclass(frozen=True)
class CvatXml(DrawnSource):
    """An annotations.xml and its images."""

    name: str = "cvat"

    def all_records(self) -> Iterator[Record]:
        """Yield the images in the file's order, each with its XML."""
        for _, image in root_children(self.annotations):
            if image.tag != "image":
                continue
            name = (image.get("name") or "").replace("\\", "/")
            last, below = name.rpartition("/")[2], f"images/{name.lstrip('/')}"
            paths = image_candidates((name, below, last, f"images/{last}")) if name else ("",)
            record_id = stem(paths[0]) or f"without a name (id {image.get('id')})"
            yield Record(record_id, paths[0], paths, tostring(image))

    def read(self, record: Record) -> ImageAnnotations:
        """Read the shapes in the element of an image."""
        image = fromstring(record.data)
        annotations = [
            _annotation(element, count)
            for count, element in enumerate(image, start=1)
            if element.tag in (*_SHAPES, *_UNSUPPORTED)
        ]
        return ImageAnnotations(self.annotations, annotations, _size(image))


def open_cvat(
    annotations: StrPath,
    images: StrPath,
    *,
    labels: StrPath | None = None,
    boxes_only: bool = False,
) -> CvatXml:
    """Open an annotations.xml as a source.

    An image has the path `name` under the folder of images or its subfolder `images`.

    Args:
        annotations: the XML file.
        images: folder of the images.
        labels: list of classes; None takes the file's own list, in its order from 0.
        boxes_only: keep only the boxes of polygons and masks.

    Raises:
        InputError: a file cannot be read, or `annotations` is not a dump for images or lists no
            classes.
    """
    annotations, images = location(annotations), location(images)
    reject_other_formats(annotations, "cvat")
    names: list[str] = []
    counts: Counter[str] = Counter()
    for root, child in root_children(annotations):
        if root != "annotations":
            message = f"is not a dump of CVAT: its root is <{root}>"
            raise InputError(message, file=annotations, hint=_HINT)
        counts[child.tag] += 1
        if child.tag == "meta":
            names += _labels(child)
        elif child.tag == "image":
            counts.update(element.tag for element in child)
    if counts["track"]:
        message = f"has {counts['track']} tracks: it is a dump `CVAT for video`"
        raise InputError(message, file=annotations, hint=_HINT)
    if not counts["image"]:
        raise InputError("has no images", file=annotations, hint=_HINT)
    if not names:
        message = "has no list of labels (meta / task / labels)"
        raise InputError(message, file=annotations, hint=_HINT)
    if labels is None:
        natives = [NativeCategory(index, name) for index, name in enumerate(dict.fromkeys(names))]
        taxonomy = build_taxonomy(natives, default="thing", file=annotations, name="cvat")
    else:
        taxonomy = classes_of(set(), location(labels), file=annotations, name="cvat")
    masked = not boxes_only and any(counts[tag] for tag in _MASKED)
    return CvatXml(
        images,
        annotations,
        taxonomy,
        "instance" if masked else "boxes",
        {},
        boxes_only,
        _notes(counts),
    )


def _labels(meta: Element) -> list[str]:
    """The names of labels of a task, job or project, without the points of skeletons."""
    names = []
    for owner in meta:
        for label in owner.iterfind("labels/label"):
            name = child_text(label, "name")
            if name and not child_text(label, "parent"):
                names.append(name)
    return names


def _notes(counts: Counter[str]) -> tuple[str, ...]:
    known = {*_SHAPES, *_UNSUPPORTED, "version", "meta", "image", "track"}
    unknown = {tag: count for tag, count in counts.items() if tag not in known}
    if not unknown:
        return ()
    listed = ", ".join(f"<{tag}> {count}" for tag, count in sorted(unknown.items())[:5])
    return (f"elements that are not shapes of CVAT were passed over: {listed}",)


def _size(image: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(number(image.get(key))) for key in ("width", "height"))
    except AnnotationError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _annotation(element: Element, count: int) -> Annotation:
    draw: Draw | AnnotationError
    try:
        if element.tag in _UNSUPPORTED:
            message = f"a {element.tag} has no place in a segment"
            raise AnnotationError("unsupported-shape", message)
        draw = _DRAWS[element.tag](element)
    except AnnotationError as error:
        draw = error
    group = element.get("group_id", "")
    is_part = element.tag in _MASKED and group.isascii() and group.isdigit() and int(group[:18])
    return Annotation(
        element.get("label") or "",
        f"{element.tag} {count}",
        draw,
        _data(element),
        group=int(group[:18]) if is_part else None,
    )


def _data(element: Element) -> dict[str, Any]:
    """The element for a quarantine line, or only what says where it is if it is large."""
    data = element_data(element)
    return {key: text if len(str(text)) < 10_000 else "..." for key, text in data.items()}


def _box(element: Element) -> Draw:
    x0, y0, x1, y1 = (number(element.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    center = ((x0 + x1) / 2, (y0 + y1) / 2)
    angle = number(element.get("rotation", "0"))
    if not angle:
        return drawn_shapes.box(x0, y0, x1 - x0, y1 - y0)
    return drawn_shapes.turned_box(center, x1 - x0, y1 - y0, angle)


def _polygon(element: Element) -> Draw:
    points = [pair.split(",") for pair in (element.get("points") or "").split(";") if pair.strip()]
    if any(len(pair) != 2 for pair in points):
        raise AnnotationError("malformed-annotation", "points are not `x,y;x,y;...`")
    return drawn_shapes.polygons([[number(text) for pair in points for text in pair]])


def _ellipse(element: Element) -> Draw:
    x, y, radius_x, radius_y = (number(element.get(key)) for key in ("cx", "cy", "rx", "ry"))
    return drawn_shapes.ellipse((x, y), radius_x, radius_y, number(element.get("rotation", "0")))


def _mask(element: Element) -> Draw:
    """A mask: run lengths over the rows of its box, those of background first."""
    left, top, width, height = (
        _integer(element.get(key)) for key in ("left", "top", "width", "height")
    )
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise AnnotationError("malformed-annotation", f"a mask of {width} x {height} pixels")
    runs = _runs(element.get("rle") or "", width, height)

    def decode() -> NDArray[np.bool_]:
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)

    return drawn_shapes.mask_crop(decode, (width, height), left, top)


def _runs(text: str, width: int, height: int) -> NDArray[np.int64]:
    try:
        runs = np.array([int(word) for word in text.split(",") if word.strip()], np.int64)
    except (ValueError, OverflowError):
        raise AnnotationError("malformed-annotation", "its rle is not a list of numbers") from None
    # each run is checked before the sum, which could overflow
    valid = runs.min(initial=0) >= 0 and runs.max(initial=0) <= width * height
    if not valid or runs.sum() != width * height:
        message = f"its rle does not fill {width} x {height} pixels"
        raise AnnotationError("malformed-annotation", message)
    return runs


def _integer(text: str | None) -> int:
    value = number(text)
    if not value.is_integer() or abs(value) >= drawn_shapes.MAX_COORDINATE:
        raise AnnotationError("malformed-annotation", f"{text!r} is not a whole number of pixels")
    return int(value)


_DRAWS = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
