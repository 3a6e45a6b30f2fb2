"""Converts Pascal VOC detection: one XML file for each image, as labelImg and Roboflow write it.

VOC counts pixels from 1 and includes the last one: xmin 1 and xmax W are a box as wide as the
image. Objects that are `difficult` become segments to ignore, as VOC's own evaluation ignores them.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from segkit import parse
from segkit.errors import InputError, plural
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.sources import drawn_shapes
from segkit.sources.annotation_files import (
    AnnotationFiles,
    ImageFolder,
    broken_file,
    image_candidates,
    list_annotations,
    read_all,
    stem,
)
from segkit.sources.drawn_shapes import Draw, number
from segkit.sources.drawn_source import Annotation, ImageAnnotations, classes_of
from segkit.sources.file_claims import Match, PossibleFiles, match_files
from segkit.sources.ledger import AnnotationError, ImageError
from segkit.sources.source import Record
from segkit.sources.xml_files import child_text, element_data, parse_xml
from segkit.storage import StrPath, location

_HINT = "give the folder of XML files, such as VOC2012/Annotations"
_TRUE = ("1", "true", "yes")
_SUFFIXES = (".jpg", ".png", ".jpeg")  # of an image that is not there
_FLAGGED = re.compile(r"(.*\S)\s+(-1|0|1)")
"""A line in a list of one class: a name, and whether the image shows the class."""


@dataclass(frozen=True)
class VocBoxes(AnnotationFiles):
    """VOC XML files and their images, paired by name."""

    zero_based: bool = False
    """Whether xmin and ymin count from 0, and xmax and ymax are the far edges."""
    name: str = "voc-boxes"

    def read(self, record: Record) -> ImageAnnotations:
        """Read the objects of an XML file, and the parts of persons, which are dropped."""
        file, name = self.annotations / str(record.data), f"image {record.id}"
        if record.data is None and not record.listed:
            message = "the list names it, but no image and no XML file has this name"
            file = self.images / record.file_name
            raise ImageError("missing-image", message, file=file, record=name)
        data = self.read_file(record)
        try:
            root = _parse(data)
        except ValueError as error:
            code = "unreadable-annotations"
            raise ImageError(code, str(error), file=file, record=name) from None
        annotations = []
        for count, entry in enumerate(root.iterfind("object"), start=1):
            annotations.append(self._annotation(entry, f"object {count}"))
            for part in entry.iterfind("part"):
                label = child_text(part, "name") or ""
                reason = AnnotationError("unsupported-shape", f"part {label!r} of an object")
                place = f"part of object {count}"
                annotations.append(Annotation(label, place, reason, element_data(part)))
        named = (child_text(root, "filename") or "").replace("\\", "/").rpartition("/")[2]
        differs = bool(named) and stem(named) != stem(record.file_name).rpartition("/")[2]
        warnings = ("file-name-differs",) if differs else ()
        return ImageAnnotations(file, annotations, _size(root), warnings=warnings)

    def _annotation(self, entry: Element, place: str) -> Annotation:
        draw: Draw | AnnotationError
        try:
            draw = self._draw(entry)
        except AnnotationError as error:
            draw = error
        difficult = (child_text(entry, "difficult") or "").lower() in _TRUE
        label = child_text(entry, "name") or ""
        return Annotation(label, place, draw, element_data(entry), ignore=difficult)

    def _draw(self, entry: Element) -> Draw:
        if (polygon := entry.find("polygon")) is not None and len(polygon):
            return drawn_shapes.polygons([self._points(polygon)])
        if (rotated := entry.find("robndbox")) is not None:
            names = ("cx", "cy", "w", "h", "angle")
            x, y, width, height, angle = (number(child_text(rotated, key)) for key in names)
            return drawn_shapes.turned_box((x, y), width, height, angle, radians=True)
        box = entry.find("bndbox")
        if box is None:
            raise AnnotationError("malformed-annotation", "the object has no bndbox")
        x0, y0, x1, y1 = (number(child_text(box, key)) for key in ("xmin", "ymin", "xmax", "ymax"))
        first = 0 if self.zero_based else 1
        return drawn_shapes.box(x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first)

    def _points(self, polygon: Element) -> list[float]:
        """Coordinates of Roboflow's polygons, <x1> <y1> <x2> ..., which count as its boxes do."""
        first = 0 if self.zero_based else 1
        return [number(child.text) - first for child in polygon]


def open_voc_boxes(
    annotations: StrPath,
    images: StrPath,
    *,
    labels: StrPath | None = None,
    listed: StrPath | None = None,
    zero_based: bool = False,
) -> VocBoxes:
    """Open a folder of VOC XML files as a source.

    An XML file belongs to the image with its relative path, or else with its name, except for the
    extension, if that can be the image of no other file. Images without a file are counted as not
    annotated.

    Args:
        annotations: folder of the XML files; its subfolders are searched.
        images: folder of the images; its subfolders are searched.
        labels: list of classes; None takes the names that occur: those of VOC with its ids, or
            else in alphabetical order from 0.
        listed: text file of the images to convert, one name a line, such as one of ImageSets/Main;
            a name that no file has becomes a missing image.
        zero_based: coordinates are the edges of boxes, counted from 0.

    Raises:
        InputError: a folder or list cannot be read, or there is no class.
    """
    annotations, images = location(annotations), location(images)
    labels = None if labels is None else location(labels)
    listed = None if listed is None else location(listed)
    names = list_annotations(annotations, ".xml", "voc-boxes", hint=_HINT)
    folder = ImageFolder.of(images)
    missing: list[str] = []
    if listed is not None:
        chosen, missing = _read_list(listed, (*names, *folder.names))
        names = [name for name in names if _is_listed(name, chosen)]
        kept = tuple(name for name in folder.names if _is_listed(name, chosen))
        folder = ImageFolder(kept)
        if not names:
            message = f"lists no XML file of {annotations}"
            raise InputError(message, file=listed, hint="give one name a line")
    contents = _Contents()
    for name, data in read_all(annotations, names):
        contents.add(name, data)
    matches = match_files(
        [_possible_files(name, contents.file_names.get(name), folder) for name in names]
    )
    bare = sorted(set(folder.names) - {match.file for match in matches})
    entries = [
        _record(name, match, contents.file_names.get(name))
        for name, match in zip(names, matches, strict=True)
    ]
    entries += [Record(stem(image), image, (image,), None, listed=True) for image in bare]
    entries += [_record_of_line(name) for name in missing]
    entries.sort(key=lambda record: record.id)
    return VocBoxes(
        images,
        annotations,
        classes_of(
            contents.names,
            labels,
            file=annotations,
            name="voc-boxes",
            vocabulary="voc-20",
            broken=broken_file(annotations, contents.problems),
        ),
        "instance" if contents.polygons else "boxes",
        {"zero_based": zero_based},
        notes=contents.notes(zero_based),
        entries=tuple(entries),
        zero_based=zero_based,
    )


class _Contents:
    """What the XML files of a folder contain."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.polygons = False
        self.zeros = 0
        """Boxes that begin at 0."""
        self.file_names: dict[str, str] = {}
        """XML file -> the image that it names."""
        self.problems: dict[str, str] = {}
        """XML file that cannot be read -> the reason."""

    def add(self, name: str, data: bytes | None) -> None:
        """Add a file; one that cannot be parsed is reported when it is converted."""
        if data is None:
            self.problems[name] = "cannot be read"
            return
        try:
            root = _parse(data)
        except ValueError as error:
            self.problems[name] = str(error)
            return
        self.file_names[name] = (child_text(root, "filename") or "").replace("\\", "/")
        for entry in root.iterfind("object"):
            self.names.add(child_text(entry, "name") or "")
            polygon = entry.find("polygon")
            self.polygons |= polygon is not None and len(polygon) > 0
            corner = (child_text(entry, f"bndbox/{key}") for key in ("xmin", "ymin"))
            self.zeros += any(map(_is_zero, corner))

    def notes(self, zero_based: bool) -> tuple[str, ...]:
        """Return what the user must know."""
        if zero_based or not self.zeros:
            return ()
        return (
            f"{plural(self.zeros, 'box begins', 'boxes begin')} at 0, so that the tool counts "
            "pixels from 0, not from 1 as VOC does: give `segkit convert voc-boxes --zero-based`, "
            "or all boxes are shifted by a pixel",
        )


def _is_zero(text: str | None) -> bool:
    try:
        return text is not None and float(text) == 0
    except ValueError:
        return False


def _parse(data: bytes) -> Element:
    root = parse_xml(data)
    if root.tag != "annotation":
        raise ValueError(f"is not an annotation of VOC: its root is <{root.tag}>")
    return root


def _possible_files(name: str, named: str | None, folder: ImageFolder) -> PossibleFiles:
    """The images that an XML file can have: that of its path, or else those that it names.

    What it names is a fallback, because a renamed file may still have the name of another image.
    """
    fallback = folder.by_name(name)
    if named:
        beside = posixpath.join(posixpath.dirname(name), named)
        fallback = folder.by_path(beside) or fallback
        fallback = fallback or folder.by_path(named) or folder.by_name(named)
    return PossibleFiles(stem(name), stem(name), folder.by_path(name), fallback)


def _record(name: str, match: Match, named: str | None) -> Record:
    if match.file is not None:
        return Record(stem(name), match.file, (match.file,), name, listed=True)
    candidates = [named, named.rpartition("/")[2]] if named and not match.conflict else []
    candidates += [stem(name) + suffix for suffix in _SUFFIXES]
    paths = image_candidates(candidates)
    return Record(stem(name), paths[0], paths, name, conflict=match.conflict)


def _size(root: Element) -> tuple[int, int] | None:
    """Width and height, or None where they are missing, 0 or not numbers."""
    texts = [child_text(root, f"size/{key}") for key in ("width", "height")]
    try:
        width, height = (int(number(text)) for text in texts)
    except AnnotationError:
        return None
    return (width, height) if width and height else None


def _record_of_line(name: str) -> Record:
    """The record of a name in a list that no file has."""
    image = f"{name}{_SUFFIXES[0]}"
    return Record(name, image, (image,), None)


def _read_list(path: Path, files: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """The names of a list that files have, and those that no file has.

    A line is a name, which may hold blanks, or a name and a flag, of which -1 leaves the image out.
    """
    known = {key for file in files for key in _keys(file)}
    chosen, missing = set[str](), set[str]()
    for _, line in parse.read_lines(path, hint="give a text file, one name a line"):
        name, flag = _without_extension(line, known), ""
        if name not in known and (match := _FLAGGED.fullmatch(line)):
            name, flag = _without_extension(match[1], known), match[2]
        if flag != "-1":
            (chosen if name in known else missing).add(name)
    return frozenset(chosen), sorted(missing)


def _without_extension(line: str, known: set[str]) -> str:
    """A name as `_keys` has it: without the extension of an image or an XML file."""
    extensions = {*IMAGE_EXTENSIONS, ".xml"}
    has_extension = line not in known and PurePosixPath(line).suffix.lower() in extensions
    return stem(line) if has_extension else line


def _is_listed(name: str, chosen: frozenset[str]) -> bool:
    return not chosen.isdisjoint(_keys(name))


def _keys(name: str) -> tuple[str, str]:
    """The names by which a list may call a file: without extension, with and without folders."""
    return stem(name), stem(name.rpartition("/")[2])
