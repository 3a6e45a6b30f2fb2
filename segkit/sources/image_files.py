"""Images as they are: found without leaving their folder, read once, decoded far enough to know
that they are whole."""

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segkit import storage
from segkit.sources.ledger import ImageError

PIXEL_LIMIT = 178_956_970
"""Most pixels that an image may claim: Pillow's own limit. A header that says more is refused
before decoding."""
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
"""Files that are taken for images where a folder is listed."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
}
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file that was read and found whole."""

    path: Path
    data: bytes
    width: int
    height: int
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def inside(root: Path, name: str, *, record: str) -> Path:
    """The path of `name` under `root`, existing or not.

    Raises:
        ImageError: `name` is absolute, climbs with `..`, or a symbolic link leads out of `root`
            (`unsafe-path`).
    """
    if is_unsafe(name) or not _stays(root, name):
        raise ImageError(
            "unsafe-path", f"the path {name!r} leads out of {root}", file=root, record=record
        )
    return root / name


def is_unsafe(name: str) -> bool:
    """Whether a file name, read as text alone, may leave the folder it belongs to."""
    foreign = "\\" in name or name[1:2] == ":" or "://" in name
    return not name or "\0" in name or name.startswith("/") or ".." in name.split("/") or foreign


def _stays(root: Path, name: str) -> bool:
    """Whether no symbolic link on the way from `root` to `name` leads out of `root`."""
    folder = name.rpartition("/")[0]
    try:
        return _folder_stays(root, folder) and (
            not (root / name).is_symlink() or _resolves_inside(root, name)
        )
    except (OSError, RuntimeError):  # a name too long for the file system, a loop of links
        return False


@lru_cache(maxsize=4096)
def _folder_stays(root: Path, name: str) -> bool:
    return not name or _resolves_inside(root, name)


def _resolves_inside(root: Path, name: str) -> bool:
    return (root / name).resolve().is_relative_to(root.resolve())


def find(root: Path, candidates: tuple[str, ...], *, record: str) -> Path:
    """The first candidate under `root` that is a file.

    Raises:
        ImageError: there is none (`missing-image`), or it lies outside of `root` (`unsafe-path`).
    """
    for name in candidates:
        path = inside(root, name, record=record)
        if (
            len(candidates) == 1 and storage.is_remote(root)
        ) or path.is_file():  # reading it tells as well
            return path
    tried = f" (tried {', '.join(candidates)})" if len(candidates) > 1 else ""
    raise ImageError(
        "missing-image", f"there is no such image{tried}", file=root / candidates[0], record=record
    )


def measure(root: Path) -> Callable[[tuple[str, ...]], int]:
    """A function from candidates to the bytes of the first one that is there, 0 where none is; for
    planning shards."""
    size = storage.sizer(root)
    return lambda candidates: next(
        (found for name in candidates if (found := size(name)) is not None), 0
    )


def read_picture(path: Path, *, record: str) -> Picture:
    """Read an image once: bytes, size as stored and warnings; pixels are decoded only to know that
    they are whole.

    A JPEG is decoded at one eighth of its size: the entropy-coded stream is read to its end all the
    same, which is where truncation and damage show, and the inverse transforms at full size are
    saved (640x480: 0.43 ms of CPU instead of 0.72 ms). Other formats have no such short cut and are
    decoded in full.

    Raises:
        ImageError: `missing-image`, or it cannot be read or decoded (`unreadable-image`).
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise ImageError(
            "missing-image", "there is no such image", file=path, record=record
        ) from None
    except OSError as error:
        raise ImageError(
            "unreadable-image", f"cannot be read ({error.strerror})", file=path, record=record
        ) from error
    try:
        width, height, found = _decode(data, path.suffix.lower())
    except Exception as error:  # decoders raise many types on damaged input, SyntaxError and struct.error among them
        raise ImageError("unreadable-image", _reason(error), file=path, record=record) from error
    return Picture(path, data, width, height, found)


def _decode(data: bytes, extension: str) -> tuple[int, int, tuple[str, ...]]:
    from PIL import Image

    if not data:
        raise ValueError("the file is empty")
    if data.startswith(_SIGNATURE):
        check_png(data)
    with warnings.catch_warnings(action="ignore"):  # Pillow warns from half of its limit on
        image = Image.open(io.BytesIO(data))
    width, height = image.size
    found = []
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        found.append("exif-orientation")
    if extension not in _EXTENSIONS.get(str(image.format), (extension,)):
        found.append("wrong-extension")
    if image.format in ("JPEG", "MPO"):
        image.draft(
            "L" if image.mode in ("L", "RGB") else image.mode,
            (max(1, width // 8), max(1, height // 8)),
        )
    image.load()
    return width, height, tuple(found)


def check_png(data: bytes) -> tuple[int, int, int, int]:
    """Walk the chunks of a PNG; returns width, height, bit depth and color type.

    Decoders differ in what damage they notice and print; checksums settle it beforehand, for
    microseconds.

    Raises:
        ValueError: not a PNG, cut short, a checksum that fails, or more than `PIXEL_LIMIT` pixels.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG file")
    header, place, kind = (0, 0, 0, 0), len(_SIGNATURE), b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise ValueError("the PNG file is cut short")
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        end = place + 8 + length
        if end + 4 > len(data):
            raise ValueError("the PNG file is cut short")
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"a checksum of the PNG file fails (chunk {kind!r})")
        if kind == b"IHDR":
            header = struct.unpack_from(">IIBB", data, place + 8)
        place = end + 4
    if not 0 < header[0] * header[1] <= PIXEL_LIMIT:
        raise ValueError(f"the PNG header claims {header[0]} x {header[1]} pixels")
    return header


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in text:
        return "not an image in any known format"
    return f"cannot be decoded ({text})"
