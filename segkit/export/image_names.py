"""File names of the images of an export: each has its own, also where those of the set clash."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import PurePosixPath

from segkit.errors import InputError, short
from segkit.file_names import is_unsafe, safe_name
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.images.decode import open_image
from segkit.sample import Sample
from segkit.shards.label_columns import read_images
from segkit.shards.reader import ShardSet

Layout = Callable[[PurePosixPath], Iterable[PurePosixPath]]
"""File name of an image -> the files that an export writes for it, relative to one folder."""
_EXTENSIONS = {
    "BMP": ".bmp",
    "PNG": ".png",
    "PPM": ".ppm",
    "GIF": ".gif",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "JPEG2000": ".jp2",
}
"""Pillow's name of a format -> its extension; other images are JPEG."""
_MAX_PART, _MAX_NAME = 240, 2000
"""Bytes of a part of a name, and of all of it; file systems allow 255 and 4096."""
_LONG_PART = 200
_LONG_SUFFIX = 8
_RENAME_HINT = "export with --images, which gives each image a distinct name"
_CONVERT_HINT = "convert it without --images-by none, and export with --images"
"""For a set without images, which --images refuses."""


class ImageNames:
    """The file name of each image in an export.

    Args:
        base: the name of a sample; by default its file name.
        renamed: sample id -> another name.
    """

    def __init__(
        self,
        base: Callable[[Sample], str] = lambda sample: sample.file_name,
        renamed: dict[str, str] | None = None,
    ) -> None:
        self._base, self.renamed = base, renamed or {}

    def __getitem__(self, sample: Sample) -> str:
        """The name of a sample's image, with its folders."""
        return self.renamed.get(sample.id) or self._base(sample)

    def path(self, sample: Sample) -> PurePosixPath:
        """The name as a path."""
        return PurePosixPath(self[sample])


def plan_names(
    data: ShardSet,
    layout: Layout,
    *,
    rename: bool,
    shared: bool = False,
    listed: bool = False,
    reserved: Iterable[str] = (),
    base: Callable[[Sample], str] = lambda sample: sample.file_name,
) -> ImageNames:
    """Choose the file names of a set's images, before anything is written.

    Args:
        data: the set.
        layout: the files that the export writes for an image.
        rename: give an image another name if its files clash with those of others, or if a part of
            its name is too long; otherwise InputError.
        shared: images of equal bytes and equal name share their files.
        listed: readers list the folder of the images, and pass over hidden files and those
            without the extension of an image: such names get another one.
        reserved: other files of the export in the folder of the layout.
        base: as of `ImageNames`.

    Raises:
        InputError: a name leads out of the export, or names clash and `rename` is false.
    """
    claims, renamed = _Claims(layout, shared, reserved), dict[str, str]()
    waiting: list[tuple[str, object, PurePosixPath]] = []
    for sample in read_images(data):
        name = _checked(base(sample), sample, data)
        wanted = _listable(name, sample, data) if listed else name
        content = _content(sample)
        clash = claims.claim(sample.id, content, wanted)
        if clash is None:
            if wanted != name:
                renamed[sample.id] = str(wanted)
        elif rename:
            waiting.append((sample.id, content, wanted))
        else:
            record = f"image {sample.id}"
            hint = _CONVERT_HINT if data.manifest.images_by == "none" else _RENAME_HINT
            raise InputError(clash, file=data.path, record=record, hint=hint)
    first: Counter[PurePosixPath] = Counter()
    for sample_id, content, wanted in waiting:
        for number, name in _alternatives(wanted, first[wanted]):
            if claims.claim(sample_id, content, name) is None:
                renamed[sample_id] = str(name)
                first[wanted] = 0 if shared else number
                break
    return ImageNames(base, renamed)


def count_same_names(data: ShardSet) -> int:
    """Return the number of images that have the file name of an earlier one, and other bytes."""
    contents: dict[str, object] = {}
    pairs = ((sample.file_name, _content(sample)) for sample in read_images(data))
    return sum(contents.setdefault(name, content) != content for name, content in pairs)


class _Claims:
    """The files and folders of an export, each with the id of the image that it belongs to."""

    def __init__(self, layout: Layout, shared: bool, reserved: Iterable[str]) -> None:
        self._layout, self._shared = layout, shared
        self._files: dict[str, tuple[str, object]] = dict.fromkeys(reserved, ("", None))
        self._folders: dict[str, str] = {}

    def claim(self, sample_id: str, content: object, name: PurePosixPath) -> str | None:
        """Claim the files of a name for an image; or return why that is not possible."""
        paths = list(self._layout(name))
        for path in paths:
            clash = self._clash(sample_id, content, path)
            if clash is not None:
                return clash
        for path in paths:
            self._files.setdefault(str(path), (sample_id, content))
            for parent in path.parents:
                self._folders.setdefault(str(parent), sample_id)
        return None

    def _clash(self, sample_id: str, content: object, path: PurePosixPath) -> str | None:
        text = str(path)
        if len(text.encode()) > _MAX_NAME or max(len(p.encode()) for p in path.parts) > _MAX_PART:
            return f"the file name {short(repr(text))} is too long"
        if text in self._files:
            owner, other = self._files[text]
            if self._shared and content == other:
                return None
            return f"images {owner} and {sample_id} would both be written to {text}"
        if text in self._folders:
            return f"{text} would be a file, and a folder of image {self._folders[text]}"
        owned = [str(parent) for parent in path.parents if str(parent) in self._files]
        if owned:
            return f"{owned[0]} would be a folder, and a file of image {self._files[owned[0]][0]}"
        return None


def _checked(text: str, sample: Sample, data: ShardSet) -> PurePosixPath:
    name = PurePosixPath(text)
    if is_unsafe(text) or not name.name:
        message = f"the file name {text!r} leads out of the export"
        hint = "convert from a source with plain names"
        raise InputError(message, file=data.path, record=f"image {sample.id}", hint=hint)
    return name


def _listable(name: PurePosixPath, sample: Sample, data: ShardSet) -> PurePosixPath:
    """The name with an underscore before leading dots, and with the extension of its format."""
    name = PurePosixPath(*(f"_{p}" if p.startswith(".") else p for p in name.parts))
    if name.suffix.lower() in IMAGE_EXTENSIONS:
        return name
    image_format = None
    with suppress(OSError):  # Pillow does not know it
        image_format = open_image(data.image_bytes(sample)).format
    return name.with_name(name.name + _EXTENSIONS.get(str(image_format), ".jpg"))


def _content(sample: Sample) -> object:
    """A key that is equal for images of the same bytes; None for a set that holds labels only."""
    image = sample.image
    return image.sha256 or image.path or (image.tar and (image.tar, image.offset)) or None


def _alternatives(name: PurePosixPath, first: int) -> Iterator[tuple[int, PurePosixPath]]:
    """Other names for an image, each with its number.

    The last part is numbered (`a-2.jpg`); where a file is in the place of a folder, the first
    folder is.
    """
    name = _shortened(name)
    if not first:
        yield 0, name
    for number in count(max(first, 2)):
        yield number, name.with_name(f"{name.stem}-{number}{name.suffix}")
        if len(name.parts) > 1:
            yield number, PurePosixPath(f"{name.parts[0]}-{number}", *name.parts[1:])


def _shortened(name: PurePosixPath) -> PurePosixPath:
    """The name with long parts cut, and a hash of each in place of what is cut."""
    suffix = name.suffix if len(name.suffix.encode()) <= _LONG_SUFFIX else ""
    stem = name.name[: len(name.name) - len(suffix)]
    if len(str(name).encode()) > _MAX_NAME - _LONG_PART:
        return PurePosixPath(safe_name(str(name.with_name(stem))) + suffix)
    folders, last = [_short_part(part) for part in name.parts[:-1]], _short_part(stem)
    return PurePosixPath(*folders, last + suffix)


def _short_part(part: str) -> str:
    return safe_name(part) if len(part.encode()) > _LONG_PART else part
