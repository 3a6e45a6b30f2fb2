"""Files of labeling tools, as `segkit export` writes them."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ..training.toy import write_toy_set
from .commands import run
from .kinds import OUT, FileKind, Reader
from .mutate import Mutants, both, json_mutants, text_mutants

_COMMON = ("--workers", "1", "--no-preview", "--json", "--on-error", "skip")
_FORMATS: tuple[tuple[str, str, str, Mutants, str], ...] = (
    ("CVAT", "cvat", "annotations.xml", text_mutants, "cvat --annotations annotations.xml"),
    (
        "Label Studio",
        "labelstudio",
        "tasks.json",
        json_mutants,
        "labelstudio --predictions --annotations tasks.json",
    ),
    ("labelme", "labelme", "labeled/000.json", json_mutants, "labelme --annotations labeled"),
    ("data.yaml", "yolo", "data.yaml", text_mutants, "yolo --data data.yaml --split train"),
    (
        "YOLO",
        "yolo-seg",
        "labels/train/000.txt",
        text_mutants,
        "yolo --data data.yaml --split train",
    ),
    (
        "VOC boxes",
        "voc",
        "Annotations/000.xml",
        text_mutants,
        "voc-boxes --annotations Annotations",
    ),
)
"""Name, format of the export, the file to mutate, its mutants, and the conversion without its
folder of images."""


def _writer(name: str, file: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        write_toy_set(root / "set")
        data = root / "data"
        outcome = run("export", name, "--data", root / "set", "--out", data, "--images")
        assert outcome.code == 0, outcome
        shutil.rmtree(root / "set")
        if name == "labelme":
            data.rename(root / "labeled")
            data.mkdir()
            (root / "labeled").rename(data / "labeled")
        elif name == "labelstudio":
            (path,) = data.glob("*tasks*.json")
            path.rename(data / "tasks.json")
        return data / file

    return write


def _readers(arguments: str) -> Callable[[Path], list[Reader]]:
    def readers(root: Path) -> list[Reader]:
        data = root / "data"
        name, *options = arguments.split(" ")
        options = [str(data / part) if (data / part).exists() else part for part in options]
        images: tuple[object, ...] = ()
        if name in ("cvat", "labelstudio", "voc-boxes"):
            folder = data / ("JPEGImages" if name == "voc-boxes" else "images")
            images = ("--images", folder)
        convert = ("convert", name, *options, *images, *_COMMON)
        return [
            (*convert, "--out", root / OUT / "dry", "--dry-run"),
            (*convert, "--out", root / OUT / "set"),
            ("validate", root / OUT / "set", "--json"),
            ("inspect", root / OUT / "set"),
        ]

    return readers


def kinds() -> Sequence[FileKind]:
    """All kinds of this module."""
    return tuple(
        FileKind(f"file of {name}", _writer(export, file), both(mutants), _readers(arguments))
        for name, export, file, mutants, arguments in _FORMATS
    )
