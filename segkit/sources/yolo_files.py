"""Finds the files of a YOLO data set: data.yaml, the images of a split, and their label files."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import parse, storage
from segkit.errors import InputError
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.sources.annotation_files import ImageFolder, read_annotations, stem
from segkit.sources.categories import NativeCategory
from segkit.sources.data_yaml import DataYaml, path_exists, read_names, split_path
from segkit.sources.drawn_shapes import number
from segkit.sources.file_format import reject_other_formats
from segkit.sources.image_files import visible_files
from segkit.sources.ledger import AnnotationError, ImageError
from segkit.sources.source import Record

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels/classes.txt")
_HINT = "give data.yaml, or a folder with data.yaml or classes.txt"


@dataclass(frozen=True)
class SplitImages:
    """The images of a split with their label files."""

    root: Path
    labels: Path
    """Folder to which the label files (`data` of the records) are relative."""
    records: list[Record]
    expected: str
    """The label file of the first image."""
    orphans: int = 0
    """Number of records that are label files without an image."""


def find_yaml(data: Path) -> Path | None:
    """The data.yaml that a user names: a file, or the only one of a folder; None without one.

    Raises:
        InputError: it does not exist, is of another format, or may be one of several.
    """
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


def find_names(data: Path) -> tuple[Sequence[NativeCategory], Path]:
    """The classes of a folder without data.yaml, and the file that lists them.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    for name in NAME_FILES:
        if (data / name).is_file():
            return read_names(data / name), data / name
    raise InputError("has no data.yaml and no classes.txt", file=data, hint=_HINT)


def split_images(data: DataYaml, split: str | None) -> SplitImages:
    """The images of a split; None is the only one.

    Raises:
        InputError: there is no such split, or it has no image that can be listed.
    """
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
        return listed_folders(paths)
    if any(path.is_dir() for path in paths):
        message = f"split {name} mixes folders and list files"
        raise InputError(message, file=data.file, hint="use one of the two")
    return _listed_files(paths, data)


def listed_folders(folders: Sequence[Path]) -> SplitImages:
    """The images in folders, and the label files without an image; InputError without an image."""
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
    return SplitImages(root, base, records, _label_name(names[0]), len(orphans))


def _listed_files(lists: Sequence[Path], data: DataYaml) -> SplitImages:
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
    return SplitImages(root, base, records, _label_name(records[0].file_name))


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
        text = decode(read_annotations(path, record=path.name))
    except ImageError:
        return False
    rows = [row.split() for _, row in numbered_rows(text or "")]
    return bool(rows) and all(map(_is_row, rows))


def _is_row(words: Sequence[str]) -> bool:
    try:
        for word in words:
            number(word)
    except AnnotationError:
        return False
    return len(words) > 4


def decode(data: bytes) -> str | None:
    """The text of a label file, UTF-8 or UTF-16; None if it is neither."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def numbered_rows(text: str) -> list[tuple[int, str]]:
    """The rows that are not blank, with their line from 1."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(count, line.strip()) for count, line in enumerate(lines, start=1) if line.strip()]
