"""Converts YOLO data sets: a text file of boxes or polygons for each image, and data.yaml.

A row is `class x y width height` (center and size) or `class x1 y1 x2 y2 ...`, as fractions of the
image; one more number is a confidence. A row of four values is a box, also in files that have
polygons. An image without a label file has no objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from segkit import storage
from segkit.errors import InputError, plural
from segkit.sources import drawn_shapes
from segkit.sources.annotation_files import AnnotationFiles, read_all
from segkit.sources.categories import build_taxonomy
from segkit.sources.data_yaml import read_data_yaml
from segkit.sources.drawn_shapes import Draw, number
from segkit.sources.drawn_source import Annotation, ImageAnnotations
from segkit.sources.ledger import AnnotationError, ImageError
from segkit.sources.source import Record
from segkit.sources.yolo_files import (
    decode,
    find_names,
    find_yaml,
    listed_folders,
    numbered_rows,
    split_images,
)
from segkit.storage import StrPath

_SLACK = 0.01  # fractions beyond the image that Ultralytics accepts, too


@dataclass(frozen=True)
class YoloLabels(AnnotationFiles):
    """Images and their YOLO label files."""

    has_keypoints: bool = False
    """Whether rows are boxes with key points, which are not kept."""
    contours: bool = False
    """Whether polygons run through the outermost pixels, not around them."""
    name: str = "yolo"

    def read(self, record: Record) -> ImageAnnotations:
        """Read the rows of a label file; there is no file for an image without objects."""
        if record.data is None:
            return ImageAnnotations(self.annotations, ())
        file = self.annotations / str(record.data)
        text = decode(self.read_file(record))
        if text is None:
            message = "is neither UTF-8 nor UTF-16 text"
            name = f"image {record.id}"
            raise ImageError("unreadable-annotations", message, file=file, record=name)
        rows = [self._row(line, count) for count, line in numbered_rows(text)]
        return ImageAnnotations(file, rows)

    def _row(self, line: str, count: int) -> Annotation:
        words = line.split()
        label: int | str = words[0]
        score: float | None = None
        draw: Draw | AnnotationError
        try:
            label = _class_index(words[0])
            values = [number(word) for word in words[1:]]
            if self.has_keypoints:
                values = values[:4]
            if len(values) % 2:
                score = values.pop()
            _check_row(values, score)
            draw = _draw_box(values) if len(values) == 4 else _draw_polygon(values, self.contours)
        except AnnotationError as error:
            draw, score = error, None
        if score is not None:
            score = min(max(score, 0.0), 1.0)
        return Annotation(
            label, f"line {count}", draw, line[:2000], score=score, has_class=label != words[0]
        )


def open_yolo(
    data: StrPath, split: str | None = None, *, contours: bool = False, boxes_only: bool = False
) -> YoloLabels:
    """Open a split of a YOLO data set as a source.

    Labels are where Ultralytics looks for them: the last folder `images` of an image's path
    replaced by `labels`, or beside the image.

    Args:
        data: data.yaml, or a folder that holds it; or a folder of images and labels with a list
            of names such as classes.txt.
        split: train, val or test; may be None where there is only one.
        contours: polygons run through the outermost pixels, as contours of OpenCV and exports of
            segkit do; they are filled as Ultralytics fills them.
        boxes_only: keep only the boxes of polygons.

    Raises:
        InputError: a file cannot be read, the split does not exist, it has no image, or none of
            its images has a label file.
    """
    data = storage.location(data)
    yaml = find_yaml(data)
    if yaml is None:
        categories, file = find_names(data)
        if split is not None:
            message = f"has no data.yaml, so that there is no split {split!r}"
            raise InputError(message, file=data, hint="omit --split")
        images = listed_folders([data / "images" if (data / "images").is_dir() else data])
        keypoints, notes = False, tuple[str, ...]()
    else:
        description = read_data_yaml(yaml)
        categories, file = description.categories, yaml
        images = split_images(description, split)
        keypoints, notes = description.has_keypoints, description.notes
    if keypoints:
        notes += (f"key points of {file.name} (kpt_shape) are not kept, only their boxes",)
    labels = [str(record.data) for record in images.records if record.data is not None]
    if not labels:
        message = f"no image has a label file (expected {images.labels / images.expected})"
        raise InputError(message, file=file, hint="check the folders of images and labels")
    if bare := len(images.records) - len(labels):
        notes += (
            "without a label file, an image counts as one without objects: "
            f"{bare} of {plural(len(images.records) - images.orphans, 'image')}",
        )
    contents = (content for _, content in read_all(images.labels, labels))
    polygons = not (keypoints or boxes_only) and any(map(_has_polygons, contents))
    return YoloLabels(
        images.root,
        images.labels,
        build_taxonomy(categories, default="thing", file=file, name="yolo"),
        "instance" if polygons else "boxes",
        {"keypoints": keypoints, "contours": contours},
        boxes_only,
        notes,
        entries=tuple(images.records),
        has_keypoints=keypoints,
        contours=contours,
    )


def _has_polygons(data: bytes | None) -> bool:
    return any(len(row.split()) > 6 for _, row in numbered_rows(decode(data or b"") or ""))


def _class_index(word: str) -> int:
    value = number(word)
    if not value.is_integer() or not 0 <= value < 2**31:
        raise AnnotationError("malformed-annotation", f"class {word!r} is not a number from 0")
    return int(value)


def _check_row(values: Sequence[float], score: float | None) -> None:
    if len(values) < 4:
        message = f"{len(values)} numbers after the class, a box has 4"
        raise AnnotationError("malformed-annotation", message)
    for value in (*values, *([] if score is None else [score])):
        if not -_SLACK <= value <= 1 + _SLACK:
            message = f"{value:g} is not a fraction of the image (0 to 1)"
            raise AnnotationError("malformed-annotation", message)


def _draw_box(values: Sequence[float]) -> Draw:
    x, y, width, height = values
    drawn_shapes.box(x, y, width, height)  # raises AnnotationError
    return lambda image_width, image_height: drawn_shapes.box(
        (x - width / 2) * image_width,
        (y - height / 2) * image_height,
        width * image_width,
        height * image_height,
    )(image_width, image_height)


def _draw_polygon(values: Sequence[float], contours: bool) -> Draw:
    def draw(image_width: int, image_height: int) -> drawn_shapes.Drawing:
        sides = (image_width, image_height)
        ring = [value * sides[index % 2] for index, value in enumerate(values)]
        shape = drawn_shapes.contour(ring) if contours else drawn_shapes.polygons([ring])
        return shape(image_width, image_height)

    return draw
