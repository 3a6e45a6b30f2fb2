"""Converts YOLO data sets: a text file of boxes or polygons for each image, and data.yaml.

A row is `class x y width height` (center and size) or `class x1 y1 x2 y2 ...`, as fractions of the
image; one more number is a confidence. A row of four values is a box, also in files that have
polygons. An image without a label file has no objects.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import parse, storage
from segkit.errors import InputError
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.sources import drawn_shapes
from segkit.sources.annotation_files import (
    AnnotationFiles,
    ImageFolder,
    read_all,
    read_annotations,
    stem,
)
from segkit.sources.categories import NativeCategory, build_taxonomy
from segkit.sources.data_yaml import DataYaml, path_exists, read_data_yaml, read_names, split_path
from segkit.sources.drawn_shapes import Draw, number
from segkit.sources.drawn_source import Annotation, ImageAnnotations
from segkit.sources.file_format import reject_other_formats
from segkit.sources.image_files import visible_files
from segkit.sources.ledger import AnnotationError, ImageError
from segkit.sources.source import Record
from segkit.storage import StrPath

_SLACK = 0.01  # fractions beyond the image that Ultralytics accepts, too
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt")
_HINT = "give data.yaml, or a folder with data.yaml or classes.txt"


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
        text = _decode(self.read_file(record))
        if text is None:
            message = "is neither UTF-8 nor UTF-16 text"
            name = f"image {record.id}"
            raise ImageError("unreadable-annotations", message, file=file, record=name)
        rows = [self._row(line, count) for count, line in _numbered_rows(text)]
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
    yaml = _find_yaml(data)
    if yaml is None:
        categories, file = _find_names(data)
        if split is not None:
            message = f"has no data.yaml, so that there is no split {split!r}"
            raise InputError(message, file=data, hint="omit --split")
        images = _listed_folders([data / "images" if (data / "images").is_dir() else data])
        keypoints, notes = False, tuple[str, ...]()
    else:
        description = read_data_yaml(yaml)
        categories, file = description.categories, yaml
        images = _split_images(description, split)
        keypoints, notes = description.has_keypoints, description.notes
    if keypoints:
        notes += (f"key points of {file.name} (kpt_shape) are not kept, only their boxes",)
    labels = [str(record.data) for record in images.records if record.data is not None]
    if not labels:
        message = f"no image has a label file (expected {images.labels / images.expected})"
        raise InputError(message, file=file, hint="check the folders of images and labels")
    if bare := len(images.records) - len(labels):
        notes += (
            f"{bare} of {len(images.records) - images.orphans} images have no label file: "
            "they count as images without objects",
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


@dataclass(frozen=True)
class _Images:
    """The images of a split with their label files."""

    root: Path
    labels: Path
    """Folder to which the label files (`data` of the records) are relative."""
    records: list[Record]
    expected: str
    """The label file of the first image."""
    orphans: int = 0
    """Number of records that are label files without an image."""


def _find_yaml(data: Path) -> Path | None:
    if data.is_file():
        reject_other_formats(data, "yolo")
        return data
    if not data.is_dir():
        raise InputError("no such file or folder", file=data, hint=_HINT)
    names = sorted(path.name for path in data.iterdir() if path.suffix in (".yaml", ".yml"))
    if "data.yaml" in names or len(names) == 1:
        return data / ("data.yaml" if "data.yaml" in names else names[0])
    if names:
        message = f"has several YAML files ({', '.join(names[:5])})"
        raise InputError(message, file=data, hint="give the data.yaml itself")
    return None


def _find_names(data: Path) -> tuple[Sequence[NativeCategory], Path]:
    for name in NAME_FILES:
        if (data / name).is_file():
            return read_names(data / name), data / name
    raise InputError("has no data.yaml and no classes.txt", file=data, hint=_HINT)


def _split_images(data: DataYaml, split: str | None) -> _Images:
    if not data.splits:
        hint = "add `train: images/train` or similar to the file"
        raise InputError("has none of the splits train, val and test", file=data.file, hint=hint)
    listed = ", ".join(data.splits)
    if split is None and len(set(data.splits.values())) > 1:
        hint = f"give --split, one of {listed}"
        raise InputError(f"has the splits {listed}", file=data.file, hint=hint)
    name = next(iter(data.splits)) if split is None else split
    if name not in data.splits:
        hint = f"give --split, one of {listed}"
        raise InputError(f"has no split {name!r}", file=data.file, hint=hint)
    paths = [split_path(data, value) for value in data.splits[name]]
    if all(path.is_dir() for path in paths):
        return _listed_folders(paths)
    if any(path.is_dir() for path in paths):
        message = f"split {name} mixes folders and list files"
        raise InputError(message, file=data.file, hint="use one of the two")
    return _listed_files(paths, data)


def _listed_folders(folders: Sequence[Path]) -> _Images:
    """The images in folders, and the label files without an image."""
    root = _common_folder(folders)
    prefixes = [
        "." if folder == root else folder.relative_to(root).as_posix() for folder in folders
    ]
    names = [
        f"{prefix}/{name}".removeprefix("./")
        for prefix, folder in zip(prefixes, folders, strict=True)
        for name in ImageFolder.of(folder).names
    ]
    if not names:
        listed = ", ".join(sorted(IMAGE_EXTENSIONS))
        message = f"contains no image ({listed})"
        raise InputError(message, file=root, hint="check the folder of images")
    base = _labels_folder(root, names)
    files = set(visible_files(base))
    labels = _match_labels(names, files)
    records = [
        Record(stem(name), name, (name,), labels.get(name), listed=True)
        for name in sorted(set(names))
    ]
    used = set(labels.values())
    orphans = sorted(
        name
        for name in files - used
        if name.lower().endswith(".txt") and _is_below(name, prefixes) and _has_rows(base / name)
    )
    records += [
        Record(stem(name), f"{stem(name)}.jpg", (f"{stem(name)}.jpg", f"{stem(name)}.png"), name)
        for name in orphans
    ]
    return _Images(root, base, records, _label_name(names[0]), len(orphans))


def _listed_files(lists: Sequence[Path], data: DataYaml) -> _Images:
    """The images of list files, one path a line."""
    root, images = data.root, list[tuple[str, tuple[str, ...]]]()
    for path in lists:
        for _, line in parse.read_lines(path, hint="give one path a line, in UTF-8"):
            candidates = _candidates(line.replace("\\", "/"), root, path.parent)
            name = next((entry for entry in candidates if path_exists(root / entry)), candidates[0])
            images.append((name, candidates))
    if not images:
        raise InputError("lists no image", file=lists[0], hint="give one path a line")
    base = _labels_folder(root, [name for name, _ in images])
    labels = _match_labels([name for name, _ in images], set(visible_files(base)))
    records = [
        Record(stem(name), name, candidates, labels.get(name)) for name, candidates in images
    ]
    return _Images(root, base, records, _label_name(records[0].file_name))


def _candidates(line: str, root: Path, folder: Path) -> tuple[str, ...]:
    """The possible paths of a line under the root.

    `./` means the folder of the list. Of an absolute path, which may come from another machine,
    each of its ends is tried.
    """
    if line.startswith("./"):
        whole = (folder / line).as_posix()
        start = f"{root.as_posix()}/"
        line = whole[len(start) :] if whole.startswith(start) else line[2:]
    if not storage.is_absolute(line) and line[1:2] != ":":
        return (line,)
    start = f"{root.resolve().as_posix()}/"
    inside = (line[len(start) :],) if line.startswith(start) else ()
    parts = line.strip("/").split("/")
    ends = ("/".join(parts[index:]) for index in range(1, len(parts)))
    return tuple(dict.fromkeys((*inside, *ends, parts[-1])))


def _match_labels(names: Iterable[str], files: set[str]) -> dict[str, str]:
    """Find the label file of each image that has one.

    A file whose name differs only in upper case or Unicode form counts where nothing else fits.
    """
    expected = {name: _label_name(name) for name in names}
    matched = {name: label for name, label in expected.items() if label in files}
    images, labels = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in expected.keys() - matched.keys():
        images[_fold(expected[name])].append(name)
    for label in files - set(matched.values()):
        labels[_fold(label)].append(label)
    for key, similar in images.items():
        if len(similar) == len(labels[key]) == 1:
            matched[similar[0]] = labels[key][0]
    return matched


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _labels_folder(root: Path, names: Sequence[str]) -> Path:
    """The folder to which `_label_name` is relative: that of labels beside a folder of images."""
    if any("/images/" in f"/{name}" for name in names):
        return root
    place = root if storage.is_remote(root) else root.absolute()
    head, sep, tail = f"{place.as_posix()}/".rpartition("/images/")
    folder = storage.location(f"{head}/labels/{tail}") if sep else root
    return folder if folder.is_dir() else root


def _label_name(name: str) -> str:
    """The label file of an image, by their paths relative to the roots."""
    head, sep, tail = f"/{name}".rpartition("/images/")
    return f"{stem(f'{head}/labels/{tail}'[1:] if sep else name)}.txt"


def _common_folder(folders: Sequence[Path]) -> Path:
    root = folders[0]
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    return root


def _is_below(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a label file lies in the folders of labels of these folders of images."""
    labels = (
        _label_name(f"{prefix}/x.jpg".removeprefix("./"))[: -len("x.txt")] for prefix in prefixes
    )
    return any(name.startswith(folder) for folder in labels)


def _has_rows(path: Path) -> bool:
    """Whether a text file has rows of labels, unlike classes.txt."""
    try:
        text = _decode(read_annotations(path, record=path.name))
    except ImageError:
        return False
    rows = [row.split() for _, row in _numbered_rows(text or "")]
    return bool(rows) and all(len(row) > 4 and _are_numbers(row) for row in rows)


def _has_polygons(data: bytes | None) -> bool:
    return any(len(row.split()) > 6 for _, row in _numbered_rows(_decode(data or b"") or ""))


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        return all(number(word) is not None for word in words)
    except AnnotationError:
        return False


def _decode(data: bytes) -> str | None:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _numbered_rows(text: str) -> list[tuple[int, str]]:
    """The rows that are not blank, with their line from 1."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(count, line.strip()) for count, line in enumerate(lines, start=1) if line.strip()]


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
