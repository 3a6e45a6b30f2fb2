"""Checkpoints from which a killed run continues exactly, written so that a half-written one is
never seen.

One is a directory `step-00000500`: torch.distributed.checkpoint's files, to which every process
writes its share, and `values.json` with what is no tensor. Its tensors do not depend on how many
processes wrote them, or read them.
"""

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from segkit import distributed
from segkit.errors import InputError, SegkitError
from segkit.shards.publish import sync

_NAME = re.compile(r"step-(\d{8})")
_OLD_NAME = re.compile(r"step-\d{8}\.pt")
_VALUES = "values.json"
_METADATA = ".metadata"  # torch's name
_PLAIN = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            *(
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
            ),
            *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
        )
    ),
}
"""All that the metadata of tensors is made of. What is no tensor would be unpickled by torch: its
mark is left out."""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    *,
    newest: int,
    best: int | None,
) -> Path:
    """Write the checkpoint after `step` steps, then delete all but the `newest` ones and that of
    step `best`.

    Every process calls it with its own share and returns when all is done; `folder` is on a disk
    that all of them see. The files are complete on the disk before the checkpoint takes its name.

    Args:
        folder: of the run's checkpoints; made where it is missing.
        step: its name, and what `values` will hold as `step`.
        tensors: by name. Those that are DTensors are written in parts, the others must be the same
            in every process.
        values: what JSON can hold.
        newest: how many of the newest checkpoints to keep.
        best: the step of one more to keep.

    Raises:
        SegkitError: it cannot be written.
    """
    path = folder / f"step-{step:08d}"
    partial = path.with_suffix(".partial")
    first = distributed.rank() == 0
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in (path, *folder.glob("*.partial")):
            shutil.rmtree(left_over, ignore_errors=True)
    distributed.barrier()
    try:
        with _quiet():
            state_dict_saver.save(dict(tensors), storage_writer=FileSystemWriter(partial))
    except (OSError, CheckpointException) as error:
        raise SegkitError(f"{path}: the checkpoint cannot be written ({_cause(error)})") from error
    if first:
        (partial / _VALUES).write_text(json.dumps({"step": step, **values}), "utf-8")
        sync(partial / _VALUES)
        sync(partial)
        partial.rename(path)
        sync(folder)
        _delete_old(folder, newest, best)
    distributed.barrier()
    return path


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of `folder`; None where there is none yet.

    Raises:
        InputError: there is none but those of a segkit that wrote one file each.
    """
    found = _all(folder)
    if not found and folder.is_dir() and (old := sorted(filter(_is_old, folder.iterdir()))):
        hint = "leave --resume out to start anew"
        raise InputError(
            "a checkpoint of an earlier segkit, which cannot be continued", file=old[-1], hint=hint
        )
    return found[-1] if found else None


def of_step(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return folder / f"step-{step:08d}"


def sizes(path: Path) -> dict[str, torch.Size]:
    """The tensors of a checkpoint.

    Raises:
        InputError: it cannot be read, or holds anything but tensors.
    """
    with _naming(path):
        entries = _Reader(path).metadata.state_dict_metadata.items()
        return {
            name: entry.size for name, entry in entries if isinstance(entry, TensorStorageMetadata)
        }


def load(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fill `tensors`, each process its share, from a checkpoint; returns its `values` and its
    `step`.

    Nothing in a checkpoint is executed: its metadata may name the few types that it is made of and
    no others, not even that of entries that are no tensors, which torch would unpickle; tensors are
    read with `weights_only`.

    Raises:
        InputError: it cannot be read, or lacks one of the tensors in this size.
    """
    with _naming(path), _quiet():
        state_dict_loader.load(dict(tensors), storage_reader=_Reader(path))
        values: dict[str, Any] = json.loads((path / _VALUES).read_text("utf-8"))
    return values


class _Reader(FileSystemReader):
    """Reads tensors, by way of metadata that had no power to execute anything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with (path / _METADATA).open("rb") as file:
            self.metadata: Metadata = _Unpickler(file).load()
        for place in self.metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"{place.relative_path} leads out of it")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the constructor has read: torch's own way is to unpickle whatever is there."""
        return self.metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Refuse every name that is neither a part of metadata nor a dtype."""
        if (module, name) in _PLAIN or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in it")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading `path` into one line that names it."""
    try:
        yield
    except (Exception, CheckpointException) as error:
        hint = "delete it to go on from the one before"
        raise InputError(
            f"not a checkpoint of this run ({_cause(error)})", file=path, hint=hint
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of what went wrong, in whichever process."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on a single process and on its own old interfaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _delete_old(folder: Path, newest: int, best: int | None) -> None:
    kept: Collection[Path] = [
        *_all(folder)[-newest:],
        *([] if best is None else [of_step(folder, best)]),
    ]
    for path in _all(folder):
        if path not in kept:
            shutil.rmtree(path)


def _all(folder: Path) -> list[Path]:
    """Checkpoints of `folder`, oldest first."""
    return (
        sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        if folder.is_dir()
        else []
    )


def _is_old(path: Path) -> bool:
    return _OLD_NAME.fullmatch(path.name) is not None
