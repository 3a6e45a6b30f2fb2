"""Recognizes the format of a data set, for `segkit convert auto`."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from segkit.errors import InputError
from segkit.sources import json_stream
from segkit.sources.data_yaml import SPLITS
from segkit.sources.drawn_source import classes_of
from segkit.sources.file_format import file_format, reject_archive
from segkit.sources.image_files import find_image, visible_files
from segkit.sources.labels_file import read_labels
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.source import Source

_MAX_FILES = 2000  # that are listed to find the first annotation file
_FIRST = 5  # images of which one must be found
_LABELS = ("labels.txt", "labelmap.txt", "classes.txt")
_HINT = (
    "give data.yaml, an XML or JSON file, or the folder of a data set; "
    "`segkit convert --help` lists the sources"
)
_LISTED = ("cvat", "labelstudio")
"""Formats of one file whose commands take a list of classes."""
_SPLIT_FOLDERS = frozenset(chain.from_iterable(SPLITS.values()))
_Opener = Callable[[], Source]


@dataclass(frozen=True)
class Recognition:
    """A data set whose format is known."""

    words: tuple[str, ...]
    """The words after `segkit convert` that convert it."""
    source: Source

    @property
    def command(self) -> str:
        """The command line, without `--out`."""
        return shlex.join(("segkit", "convert", *self.words))


def recognize(path: Path, split: str | None = None) -> Recognition:
    """Open a data set of any known format.

    Args:
        path: an annotation file, or the folder of a data set.
        split: the split, where the data set has several.

    Raises:
        InputError: the format is not known, the images are not found, or the split is missing.
    """
    if path.is_file():
        return _file(path, split)
    if not path.is_dir():
        raise InputError("no such file or folder", file=path, hint=_HINT)
    recognition = _folder(path, split)
    if recognition is None:
        raise InputError("has no known format of annotations", file=path, hint=_HINT)
    return recognition


def _folder(path: Path, split: str | None) -> Recognition | None:
    """The data set of a folder."""
    attempts = (_layout, _yolo_folder, _split_folder, _annotation_folder)
    return next(filter(None, (attempt(path, split) for attempt in attempts)), None)


def _file(path: Path, split: str | None) -> Recognition:
    """The data set of an annotation file."""
    reject_archive(path)
    known = file_format(path)
    if known is None:
        raise InputError("is not an annotation file of a known format", file=path, hint=_HINT)
    if known.command == "yolo":
        return _yolo(path, split)
    _reject_split(split, path)
    if known.command == "voc-boxes":
        return _voc_boxes(path.parent, path.parent)
    if known.command == "labelme":
        return _labelme(path.parent)
    words, open_source = _file_source(known.command, path)
    source, options = open_source(), tuple[str, ...]()
    if known.command in _LISTED:
        source, options = _numbered(source, path.parent)
    source = _with_images(source, path, words)
    return Recognition((*words, str(path), "--images", str(source.images), *options), source)


def _numbered(source: Source, folder: Path) -> tuple[Source, tuple[str, ...]]:
    """The source whose classes have the ids that segkit exported, and the option for that.

    The `labels.txt` of an export gives index and name of each class. It is passed over where it
    lacks a class of the source: a person has added one.
    """
    file = folder / "labels.txt"
    if not file.is_file():
        return source, ()
    try:
        labels = read_labels(file)
    except InputError:  # some other text
        return source, ()
    listed = {category.name for category in labels.categories}
    if not labels.has_indices or not listed.issuperset(source.taxonomy.names):
        return source, ()
    taxonomy = classes_of(set(), file, file=file, name=source.name)
    return cast(Source, replace(cast(Any, source), taxonomy=taxonomy)), ("--labels", str(file))


def _file_source(command: str, path: Path) -> tuple[tuple[str, ...], _Opener]:
    """The words before an annotation file, and a function that opens it without its images."""
    from segkit.sources.coco_instances import open_coco_instances
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.cvat_xml import open_cvat
    from segkit.sources.label_studio import open_label_studio
    from segkit.sources.objects365 import open_objects365
    from segkit.sources.visual_genome import open_visual_genome

    folder = path.parent
    if command == "cvat":
        return ("cvat", "--annotations"), lambda: open_cvat(path, folder)
    if command == "labelstudio":
        return ("labelstudio", "--annotations"), lambda: open_label_studio(path, folder)
    if command == "visual-genome":
        return ("visual-genome", "--annotations"), lambda: open_visual_genome(path, folder)
    if path.name.startswith("zhiyuan_objv2"):
        return ("objects365", "--annotations"), lambda: open_objects365(path, folder)
    if _is_panoptic(path):
        return ("coco", "--panoptic"), lambda: open_coco_panoptic(path, folder)
    return ("coco", "--instances"), lambda: open_coco_instances(path, folder)


def _is_panoptic(path: Path) -> bool:
    """Whether the first annotation of a COCO file is a panoptic one."""
    members = json_stream.members(path, ("images", "annotations", "categories"))
    first = next((value for key, value, text in members if key == "annotations" and text), None)
    return isinstance(first, dict) and "segments_info" in first


def _with_images(source: Source, path: Path, words: tuple[str, ...]) -> Source:
    """The source with the folder in which one of its first images is."""
    records = list(islice(source.records(Tally()), _FIRST))
    split = path.stem.rpartition("_")[2]
    parents = (path.parent, path.parent.parent)
    folders = [parent / name for parent in parents for name in ("images", split, f"images/{split}")]
    clue: Defect | None = None
    for folder in (*folders, *parents):
        for record in records if folder.is_dir() else ():
            try:
                find_image(folder, record.candidates, record=f"image {record.id}")
            except ImageError as error:
                clue = clue or (error.defect if error.defect.hint else None)
                continue
            return cast(Source, replace(cast(Any, source), images=folder))
    command = f"`segkit convert {shlex.join((*words, str(path)))} --images FOLDER`"
    if clue is not None:
        hint = f"{clue.hint}: {command}" if clue.code == "unsafe-path" else clue.hint
        raise InputError(clue.message, file=clue.file, record=clue.record, hint=hint)
    message = "its images are not in the folders around it"
    raise InputError(message, file=path, hint=f"say where: {command}")


def _layout(path: Path, split: str | None) -> Recognition | None:
    """A data set that its folders give away."""
    from segkit.sources.ade import open_ade
    from segkit.sources.cityscapes import open_cityscapes
    from segkit.sources.voc import open_voc

    def has(*names: str) -> bool:
        return all((path / name).is_dir() for name in names)

    if has("leftImg8bit", "gtFine"):
        name = _split_of(split, path, "Cityscapes", _folders(path / "gtFine"))
        words = ("cityscapes", "--root", str(path), "--split", name)
        return Recognition(words, open_cityscapes(path, name))
    if has("images", "annotations") and (has("images/training") or has("images/validation")):
        name = _split_of(split, path, "ADE20K", _folders(path / "annotations"))
        words = ("ade", "--root", str(path), "--split", name)
        return Recognition(words, open_ade(path, name))
    if has("JPEGImages", "SegmentationClass") and not _has_xml(path / "Annotations"):
        lists = (path / "ImageSets" / "Segmentation").glob("*.txt")
        name = _split_of(split, path, "Pascal VOC", sorted(file.stem for file in lists))
        return Recognition(("voc", "--root", str(path), "--split", name), open_voc(path, name))
    if has("Annotations", "JPEGImages"):
        return _voc_boxes(path / "Annotations", path / "JPEGImages", path, split)
    return None


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def _has_xml(path: Path) -> bool:
    return path.is_dir() and any(entry.suffix.lower() == ".xml" for entry in path.iterdir())


def _split_of(split: str | None, path: Path, noun: str, names: list[str]) -> str:
    """The split that the user names, or the only one."""
    if split is not None:
        return split
    if len(names) == 1:
        return names[0]
    number = "several splits" if names else "no split"
    hint = f"give --split, one of {', '.join(names)}" if names else "check that it is complete"
    raise InputError(f"is a folder of {noun} with {number}", file=path, hint=hint)


def _reject_split(split: str | None, path: Path) -> None:
    if split is not None:
        message = f"has no splits, but --split is {split!r}"
        raise InputError(message, file=path, hint="omit --split")


def _yolo_folder(path: Path, split: str | None) -> Recognition | None:
    """A folder with a data.yaml, or with label files and a list of names."""
    yamls = [entry for entry in sorted(path.iterdir()) if entry.suffix in (".yaml", ".yml")]
    described = [entry for entry in yamls if file_format(entry) is not None]
    if described:
        names = [entry.name for entry in described]
        file = described[names.index("data.yaml") if "data.yaml" in names else 0]
        return _yolo(file, split)
    from segkit.sources.yolo_files import NAME_FILES

    if any((path / name).is_file() for name in NAME_FILES):
        return _yolo(path, split)
    return None


def _split_folder(path: Path, split: str | None) -> Recognition | None:
    """The data set in the folder of a split, as Roboflow exports them."""
    if split is None:
        return None
    names = SPLITS.get(split, (split,) if split in _SPLIT_FOLDERS else ())
    folders = [path / name for name in names if (path / name).is_dir()]
    return next(filter(None, (_folder(folder, None) for folder in folders)), None)


def _annotation_folder(path: Path, split: str | None) -> Recognition | None:
    """A folder in which the first XML or JSON file, or a folder of masks, gives the format away."""
    from segkit.sources.semantic_masks import open_semantic

    labels = next((path / name for name in _LABELS if (path / name).is_file()), None)
    if labels is not None and (path / "images").is_dir() and (path / "masks").is_dir():
        _reject_split(split, path)
        images, masks = path / "images", path / "masks"
        words = (
            "semantic",
            "--images",
            str(images),
            "--masks",
            str(masks),
            "--labels",
            str(labels),
        )
        return Recognition(words, open_semantic(images, masks, labels))
    formats: dict[str, list[Path]] = {}
    for file in _annotation_files(path):
        known = file_format(file)
        if known is not None:
            formats.setdefault(known.command, []).append(file)
        if known is not None and known.command in ("voc-boxes", "labelme"):
            break  # there are as many files as images
    if not formats:
        return None
    if len(formats) > 1 or (files := next(iter(formats.values())))[1:]:
        listed = ", ".join(str(file) for files in formats.values() for file in files[:3])
        missing = "" if split is None else f"no annotations in a folder {split!r}, but "
        message = f"has {missing}several annotation files ({listed})"
        is_split = any((path / name).is_dir() for name in _SPLIT_FOLDERS)
        hint = "give one of them, or --split train, val or test" if is_split else "give one of them"
        raise InputError(message, file=path, hint=hint)
    _reject_split(split, path)
    command, (file,) = next(iter(formats.items()))
    if command == "voc-boxes":
        return _voc_boxes(path, path)
    return _labelme(path) if command == "labelme" else _file(files[0], None)


def _annotation_files(path: Path) -> Iterator[Path]:
    names = islice(visible_files(path), _MAX_FILES)
    yield from (path / name for name in sorted(names) if name.lower().endswith((".xml", ".json")))


def _yolo(path: Path, split: str | None) -> Recognition:
    from segkit.sources.yolo_labels import open_yolo

    words = ("yolo", "--data", str(path), *(("--split", split) if split else ()))
    return Recognition(words, open_yolo(path, split))


def _labelme(path: Path) -> Recognition:
    from segkit.sources.labelme_json import open_labelme

    source, options = _numbered(open_labelme(path), path)
    return Recognition(("labelme", "--annotations", str(path), *options), source)


def _voc_boxes(
    annotations: Path, images: Path, root: Path | None = None, split: str | None = None
) -> Recognition:
    from segkit.sources.voc_boxes import open_voc_boxes

    words: tuple[str, ...]
    words = ("voc-boxes", "--annotations", str(annotations), "--images", str(images))
    listed = None
    if root is not None and split is not None:
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        words += ("--list", str(listed))
    source = open_voc_boxes(annotations, images, listed=listed)
    numbered, options = _numbered(source, root or annotations)
    return Recognition((*words, *options), numbered)
