"""Converts labelme: a JSON file for each image, with polygons, boxes, circles and masks.

Shapes of one `group_id` and label are parts of one object. Where an image file is missing, the
image that the JSON embeds is used.
"""

import base64
import binascii
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segkit import parse
from segkit.errors import InputError, first_line
from segkit.sources import drawn_shapes
from segkit.sources.annotation_files import (
    AnnotationFiles,
    ImageFolder,
    broken_file,
    list_annotations,
    read_all,
    stem,
)
from segkit.sources.drawn_shapes import Draw, Point
from segkit.sources.drawn_source import Annotation, ImageAnnotations, classes_of
from segkit.sources.file_claims import Match, PossibleFiles, match_files
from segkit.sources.ledger import AnnotationError, ImageError
from segkit.sources.source import Record
from segkit.storage import StrPath, location

_HINT = "give the folder of labelme's JSON files"
_MASKED = ("polygon", "circle", "mask", "")
_UNSUPPORTED = ("point", "points", "line", "linestrip", "points_with_labels")


@dataclass(frozen=True)
class LabelmeJson(AnnotationFiles):
    """labelme's JSON files and their images."""

    name: str = "labelme"

    def read(self, record: Record) -> ImageAnnotations:
        """Read the shapes of a JSON file, and the image if it is embedded."""
        file, name = self.annotations / str(record.data), f"image {record.id}"
        try:
            content = _parse(self.read_file(record))
        except ValueError as error:
            code = "unreadable-annotations"
            raise ImageError(code, str(error), file=file, record=name) from None
        annotations = _annotations(content["shapes"])
        named = _last_part(content.get("imagePath"))
        differs = bool(named) and stem(named) != stem(record.file_name).rpartition("/")[2]
        warnings = ("file-name-differs",) if differs else ()
        size = drawn_shapes.stated_size(content.get("imageWidth"), content.get("imageHeight"))
        embedded = _embedded(content)
        return ImageAnnotations(file, annotations, size, embedded, warnings)


def open_labelme(
    annotations: StrPath,
    images: StrPath | None = None,
    *,
    labels: StrPath | None = None,
    boxes_only: bool = False,
) -> LabelmeJson:
    """Open a folder of labelme's JSON files as a source.

    JSON files of other programs are passed over, and noted. Images without a file are counted as
    not annotated.

    Args:
        annotations: folder of the JSON files; its subfolders are searched.
        images: folder of the images; by default that of the JSON files. An image has the path in
            the JSON, or the path of the JSON file, or one of these names in another folder if it
            can be the image of no other file.
        labels: list of classes; None takes the labels that occur, in alphabetical order from 0.
        boxes_only: keep only the boxes of polygons and masks.

    Raises:
        InputError: a folder cannot be read or has no JSON file of labelme, or there is no label.
    """
    annotations = location(annotations)
    images = None if images is None else location(images)
    labels = None if labels is None else location(labels)
    names = list_annotations(annotations, ".json", "labelme", hint=_HINT)
    root = annotations if images is None else images
    contents = _Contents()
    for name, data in read_all(annotations, names):
        contents.add(name, data)
    if not contents.names:
        message = "contains no JSON file of labelme, only of other programs"
        raise InputError(message, file=annotations, hint=_HINT)
    folder = ImageFolder.of(root)
    images_there = set(folder.names)
    matches = match_files(
        [
            _possible_files(name, contents.paths[name], folder, images_there)
            for name in contents.names
        ]
    )
    entries = [
        _record(name, match, contents.paths[name])
        for name, match in zip(contents.names, matches, strict=True)
    ]
    bare = sorted(images_there - {match.file for match in matches})  # ids may be equal
    entries += [Record(stem(image), image, (image,), None, listed=True) for image in bare]
    entries.sort(key=lambda record: record.id)
    return LabelmeJson(
        root,
        annotations,
        classes_of(
            contents.labels,
            labels,
            file=annotations,
            name="labelme",
            broken=broken_file(annotations, contents.problems),
        ),
        "instance" if contents.masked and not boxes_only else "boxes",
        {},
        boxes_only,
        contents.notes(),
        entries=tuple(entries),
    )


class _ImagePaths(NamedTuple):
    """The paths under which the image of a JSON file may be."""

    target: str
    """`imagePath` from the folder of the JSON files, or the path of the JSON file without one."""
    possible: tuple[str, ...]
    """Those that do not lead out of the folder of images, in the order in which they are tried."""


class _Contents:
    """What the JSON files of a folder contain."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.paths: dict[str, _ImagePaths] = {}
        """JSON file -> paths of its image."""
        self.labels: set[str] = set()
        self.masked = False
        self.problems: dict[str, str] = {}
        """JSON file that cannot be read -> the reason."""
        self._passed_over = 0

    def add(self, name: str, data: bytes | None) -> None:
        """Add a file; one that is damaged is reported when it is converted."""
        content: dict[str, Any] = {"shapes": []}
        try:
            if data is None:
                raise ValueError("cannot be read")
            content = _parse(data)
        except _OtherProgramError:
            self._passed_over += 1
            return
        except ValueError as error:
            self.problems[name] = str(error)
        self.names.append(name)
        self.paths[name] = _image_paths(name, content.get("imagePath"))
        for shape in content["shapes"]:
            if isinstance(shape, dict) and _type(shape) not in _UNSUPPORTED:
                self.labels.add(_label(shape))
                self.masked |= _type(shape) in _MASKED

    def notes(self) -> tuple[str, ...]:
        """Return what the user must know."""
        if not self._passed_over:
            return ()
        return (f"JSON files that are not labelme's were passed over: {self._passed_over}",)


class _OtherProgramError(ValueError):
    """JSON that labelme has not written."""


def _parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON file of labelme; ValueError, in words that complete a sentence, for others."""
    if not data.strip():
        raise ValueError("is empty")
    try:
        content = parse.parse_loosely(parse.decode_text(data, file=None), parse.nothing)
    except InputError as error:
        raise ValueError(error.message) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON that can be read ({first_line(error)})") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise _OtherProgramError("is not a JSON file of labelme: it has no list `shapes`")
    return content


def _last_part(path: Any) -> str:
    """The file name in `imagePath`, which labelme on Windows writes with backslashes."""
    return path.replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else ""


def _image_paths(name: str, value: Any) -> _ImagePaths:
    """The paths of an image, from `imagePath`, which is relative to the JSON file."""
    if not isinstance(value, str) or not value:
        return _ImagePaths(stem(name), ())
    text = value.replace("\\", "/")
    last = _last_part(value)
    folder = posixpath.dirname(name)
    beside = posixpath.normpath(posixpath.join(folder, text))
    paths = [path for path in (beside, text) if not path.startswith(("/", "../")) and path != ".."]
    paths += [posixpath.join(folder, last), last]
    inside = dict.fromkeys(path for path in paths if path and ".." not in path.split("/"))
    return _ImagePaths(beside, tuple(inside))


def _possible_files(
    name: str, paths: _ImagePaths, folder: ImageFolder, images: set[str]
) -> PossibleFiles:
    """The images that a JSON file can have: the one that it names, or else that with its name."""
    by_path = paths.target if paths.target in images else folder.by_path(name)
    named = next((path for path in paths.possible if path in images), None)
    return PossibleFiles(stem(name), paths.target, by_path, named or folder.by_name(name))


def _record(name: str, match: Match, paths: _ImagePaths) -> Record:
    if match.file is not None:
        return Record(stem(name), match.file, (match.file,), name, listed=True)
    possible = () if match.conflict else paths.possible
    candidates = (*possible, f"{stem(name)}.jpg")
    return Record(stem(name), candidates[0], candidates, name, conflict=match.conflict)


def _embedded(content: Mapping[str, Any]) -> bytes | None:
    text = content.get("imageData")
    if not isinstance(text, str) or not text:
        return None
    try:
        return base64.b64decode(text) or None
    except (binascii.Error, ValueError):
        return None


def _annotations(entries: Sequence[Any]) -> list[Annotation]:
    return [_annotation(entry, count) for count, entry in enumerate(entries, start=1)]


def _annotation(entry: Any, count: int) -> Annotation:
    place = f"shape {count}"
    if not isinstance(entry, dict):
        error = AnnotationError("malformed-annotation", "the shape is not a JSON object")
        return Annotation("", place, error, str(entry)[:200])
    draw: Draw | AnnotationError
    try:
        draw = _draw(entry)
    except AnnotationError as reason:
        draw = reason
    group = entry.get("group_id")
    return Annotation(
        _label(entry),
        place,
        draw,
        {key: value for key, value in entry.items() if len(str(value)) < 10_000},
        group=group if parse.is_integer(group) else None,
    )


def _label(shape: Mapping[str, Any]) -> str:
    """The label of a shape, where a program has written a number as its text; "" for none."""
    label = shape.get("label")
    return str(label) if parse.is_id(label) else ""


def _type(shape: Mapping[str, Any]) -> str:
    """The type of a shape; "" before version 3, when all shapes were polygons."""
    return str(shape.get("shape_type") or "")


def _draw(shape: Mapping[str, Any]) -> Draw:
    kind, points = _type(shape), _points(shape)
    if kind in _UNSUPPORTED:
        raise AnnotationError("unsupported-shape", f"a {kind} covers no pixels")
    if kind in ("polygon", ""):
        return drawn_shapes.polygons([[number for point in points for number in point]])
    if kind == "oriented_rectangle":
        return drawn_shapes.rotated_box(_exactly(points, 4))
    if kind not in ("rectangle", "circle", "mask"):
        message = f"a shape of type {kind[:40]!r} is not known"
        raise AnnotationError("malformed-annotation", message)
    (x0, y0), (x1, y1) = _exactly(points, 2)
    if kind == "rectangle":
        return drawn_shapes.corner_box(x0, y0, x1, y1)
    if kind == "circle":
        radius = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        return drawn_shapes.ellipse((x0, y0), radius, radius)
    if not isinstance(shape.get("mask"), str):
        raise AnnotationError("malformed-annotation", "the shape has no mask")
    # the first point is that of the mask's first pixel
    data, size = drawn_shapes.png_bytes(shape["mask"])
    return drawn_shapes.mask_crop(lambda: drawn_shapes.png_mask(data), size, int(x0), int(y0))


def _points(shape: Mapping[str, Any]) -> list[Point]:
    points = shape.get("points")
    valid = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(parse.is_number, point))
        for point in points
    )
    if not valid or not isinstance(points, list):
        raise AnnotationError("malformed-annotation", "points are not a list of [x, y]")
    drawn_shapes.check_coordinates([number for point in points for number in point])
    return [(float(x), float(y)) for x, y in points]


def _exactly(points: list[Point], count: int) -> list[Point]:
    if len(points) != count:
        message = f"the shape has {len(points)} points, not {count}"
        raise AnnotationError("malformed-annotation", message)
    return points
