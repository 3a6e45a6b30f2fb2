"""Reads data.yaml, Ultralytics' description of a YOLO data set: class names and splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import parse, storage
from segkit.errors import InputError, plural, short
from segkit.sources.categories import NativeCategory

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Name of each split -> the keys under which files have it."""
_MAX_BYTES = 8 << 20
_MAX_CLASS = 2**31
_HINT = "give the data.yaml of the data set, with names and train, val or test"


@dataclass(frozen=True)
class DataYaml:
    """The description of a YOLO data set."""

    file: Path
    categories: tuple[NativeCategory, ...]
    splits: Mapping[str, tuple[str, ...]]
    """train, val or test -> folders or list files of images, as they are written."""
    root: Path
    """The folder to which they are relative."""
    has_keypoints: bool
    notes: tuple[str, ...]


def read_data_yaml(path: Path) -> DataYaml:
    """Read a data.yaml.

    Names are the text of the file: `no` and `1` stay "no" and "1".

    Raises:
        InputError: the file cannot be read, is not a mapping, or has no list of names.
    """
    data = _load(path)
    categories = _categories(data.get("names"), path)
    notes = []
    count = data.get("nc")
    if isinstance(count, str) and count.strip() != str(len(categories)):
        notes.append(
            f"{path.name} says nc: {count} but has {plural(len(categories), 'name')}; "
            "names are used"
        )
    root, note = _root(data.get("path"), path)
    if note:
        notes.append(note)
    splits = {}
    for split, keys in SPLITS.items():
        values = [_sources(data[key], key, path) for key in keys if data.get(key)]
        named = tuple(value for value in (values[0] if values else ()) if value)
        if named:
            splits[split] = named
    keypoints = "kpt_shape" in data
    return DataYaml(path, categories, splits, root, keypoints, tuple(notes))


def split_path(data: DataYaml, value: str) -> Path:
    """Return the folder or list file of a split.

    As Ultralytics does, `../train/images` is also tried without the leading `../`, because
    Roboflow writes it so.

    Raises:
        InputError: there is none, or it is in another store than the file; that store is not
            requested.
    """
    if storage.is_absolute(value):
        candidates = [_absolute(value, data.file)]
    else:
        shorter = value[3:] if value.startswith("../") else value
        bases = dict.fromkeys((data.root, data.file.parent))
        candidates = [base / name for base in bases for name in dict.fromkeys((value, shorter))]
    for candidate in candidates:
        if path_exists(candidate):
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    message = f"its images {value!r} are not there (tried {tried})"
    raise InputError(message, file=data.file, hint="fix `path` or the split in the file")


def path_exists(path: Path) -> bool:
    """Whether there is a file or folder; False for a name that no file system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_names(path: Path) -> tuple[NativeCategory, ...]:
    """Read names, one a line, as in classes.txt of labelImg or obj.names of Darknet.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    text = _read_text(path)
    lines = [line.strip() for line in parse.LINE_END.split(text)]
    while lines and not lines[-1]:
        lines.pop()
    return _categories(lines, path)


def _load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, all scalars as text."""
    import yaml

    text = _read_text(path)
    try:
        # a safe loader that leaves scalars as text: with YAML 1.1's types, `no` would be False
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"is not YAML that can be read ({reason})"
        raise InputError(message, file=path, hint=_HINT) from None
    if not isinstance(data, dict):
        raise InputError("is not a mapping of keys to values", file=path, hint=_HINT)
    joined: dict[str, Any] = _joined(data, path, {})
    return joined


def _joined(value: Any, path: Path, done: dict[int, Any]) -> Any:
    """The value with one character in place of two escapes, as JSON writes those beyond 16 bits.

    Args:
        value: text, a list or a mapping.
        path: the file, for errors.
        done: id -> result of lists and mappings, which aliases name many times.

    Raises:
        InputError: half of such a character.
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            message = f"holds text that is not Unicode: {short(ascii(value))}"
            raise InputError(message, file=path, hint=_HINT) from None
    if id(value) in done:
        return done[id(value)]
    result: Any = {} if isinstance(value, dict) else []
    done[id(value)] = result
    if isinstance(value, dict):
        for key, entry in value.items():
            result[_joined(key, path, done)] = _joined(entry, path, done)
    else:
        result.extend(_joined(entry, path, done) for entry in value)
    return result


def _read_text(path: Path) -> str:
    data = parse.read_bytes(path, hint=_HINT, max_bytes=_MAX_BYTES)
    return parse.decode_text(data, file=path, hint="save it as UTF-8")


def _categories(names: Any, path: Path) -> tuple[NativeCategory, ...]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(names, list):
        pairs = list(enumerate(names))
    elif isinstance(names, dict):
        pairs = list(names.items())
    if not pairs:
        raise InputError("has no names of classes", file=path, hint="give `names`, one per class")
    categories = []
    for key, name in pairs:
        digits = str(key).strip() if isinstance(key, str | int) else ""
        if not (digits.isascii() and digits.isdigit() and int(digits[:12]) < _MAX_CLASS):
            record = f"names: {str(key)[:40]!r}" if isinstance(key, str) else "names"
            message = "its index is not a number from 0"
            raise InputError(message, file=path, record=record, hint="give `index: name`")
        if not isinstance(name, str):
            hint = "give each class a name, in quotes if it has special characters"
            raise InputError("is not a name", file=path, record=f"names: {digits}", hint=hint)
        categories.append(NativeCategory(int(digits), name))
    return tuple(categories)


def _sources(value: Any, key: str, path: Path) -> list[str]:
    """The folders or list files of a split."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in values):
        hint = "give a folder, a list file, or a list of them"
        raise InputError("is not a path", file=path, record=key, hint=hint)
    return [entry.strip().replace("\\", "/") for entry in values]


def _root(value: Any, path: Path) -> tuple[Path, str | None]:
    """The folder of `path` in the file, and a note if it does not exist."""
    if not isinstance(value, str) or not value.strip():
        return path.parent, None
    text = value.strip().replace("\\", "/")
    if storage.is_absolute(text):
        # a store knows nothing of the machine on which its file was written
        elsewhere = storage.is_remote(path) and _store(text) is None
        candidates = [] if elsewhere else [_absolute(text, path)]
    else:
        candidates = [path.parent / text, path.parent.parent / text]
        if not storage.is_remote(path):
            candidates.insert(1, Path(text))
    for candidate in candidates:
        if path_exists(candidate) and candidate.is_dir():
            return candidate, None
    return path.parent, f"`path: {text}` of {path.name} does not exist; its own folder is used"


def _absolute(name: str, path: Path) -> Path:
    """The location of an absolute path or a URL in a data.yaml.

    Raises:
        InputError: it is in another store than the file, or only one of them is on this machine.
    """
    if _store(name) != _store(str(path)):
        hint = "download the images and name their folder, or keep the file in their store"
        raise InputError(f"names {short(name)}, which is elsewhere", file=path, hint=hint)
    return storage.location(name)


def _store(location: str) -> tuple[str, str] | None:
    """The protocol and the bucket or host of a URL; None for a path on this machine."""
    protocol, separator, rest = location.partition("://")
    if not separator or protocol.lower() == "file":
        return None
    return protocol.lower(), rest.lstrip("/").partition("/")[0]
