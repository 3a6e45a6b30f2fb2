"""Write and read checkpoints, from which an interrupted run resumes exactly.

A checkpoint is a directory `step-00000500`: torch.distributed.checkpoint's files, to which every
process writes its share, and `values.json` with the values that are not tensors. It takes its name
when it is complete; training continues while it is written. Its tensors do not depend on the number
of processes that write or read them.
"""

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from segkit import distributed
from segkit.atomic import existing_folder, sync
from segkit.errors import InputError, SegkitError, first_line
from segkit.runs.checkpoint_digests import DIGESTS, damaged_files, has_digests, write_digests

_NAME = re.compile(r"step-(\d{8})")
_OLD_NAME = re.compile(r"step-\d{8}\.pt")
_VALUES = "values.json"
_METADATA = ".metadata"  # torch's name
_RECORDS = (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
    _StorageInfo,
)
"""The types whose fields are read from the metadata of tensors. BytesStorageMetadata is missing,
since torch would unpickle such entries."""
_METADATA_TYPES = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    *((record.__module__, record.__name__) for record in _RECORDS),
}
"""Modules and names of the types in the metadata of tensors."""


class CheckpointWriter:
    """Writes checkpoints beside the training, one at a time.

    `start` copies the tensors to the CPU, and a thread writes the copies. The threads of several
    processes have a process group for themselves, so that training exchanges gradients meanwhile.
    """

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: futures.Future[None] | None = None
        self._group: dist.ProcessGroup | None = None
        self.has_failed = False
        """Whether the last checkpoint could not be written in this process, as far as is known."""

    def start(
        self,
        folder: Path,
        step: int,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        newest: int,
        best: int | None,
    ) -> Path:
        """Start to write the checkpoint after `step` steps; the old ones are deleted afterwards.

        Every process must call it with its own share, on a disk that all processes share. Tensors
        and values may change once it has returned. The files are flushed to the disk before the
        checkpoint takes its name.

        Args:
            folder: of the run's checkpoints; created if missing.
            step: names the checkpoint, and is added to `values`.
            tensors: by name. DTensors are written in shards; other tensors must be equal in all
                processes.
            values: JSON values.
            newest: number of the newest checkpoints to keep.
            best: the step of one more checkpoint to keep.

        Returns:
            The path that the checkpoint gets.

        Raises:
            SegkitError: the checkpoint before it could not be written.
        """
        self.wait()
        if self._group is None and distributed.world_size() > 1:
            group = dist.new_group(timeout=distributed.TIMEOUT, backend="gloo")
            self._group = cast(dist.ProcessGroup, group)
        path = of_step(folder, step)
        if distributed.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
            if path.exists():
                _delete(path)
        distributed.barrier()
        # torch warns of a single process; `catch_warnings` would act on all threads
        warnings.filterwarnings("ignore", module=r"torch\.distributed\.checkpoint")
        # not torch's async_save: its thread ends before the checkpoint has its digests and name
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        text = json.dumps({"step": step, **values})
        self._writing = self._thread.submit(self._write, path, copies, text, newest, best)
        return path

    def wait(self) -> None:
        """Wait until the last checkpoint is complete; every process must call it.

        Raises:
            SegkitError: it could not be written.
        """
        writing, self._writing = self._writing, None
        error = None if writing is None else writing.exception()
        self.has_failed = False
        messages = distributed.all_gather_object([] if error is None else [str(error)])
        if error is not None:
            raise error
        if messages:
            raise SegkitError(messages[0])

    def close(self) -> None:
        """Wait for this process's share of the last checkpoint, and ignore whether it failed.

        For a process that ends by another error, of which the others may not know.
        """
        if self._writing is not None:
            futures.wait([self._writing])

    def _write(
        self, path: Path, tensors: dict[str, Tensor], values: str, newest: int, best: int | None
    ) -> None:
        try:
            _write(path, tensors, values, self._group)
            if distributed.rank() == 0:
                _delete_old(path.parent, newest, best)
        except BaseException:
            self.has_failed = True
            raise


def _write(
    path: Path, tensors: dict[str, Tensor], values: str, group: dist.ProcessGroup | None
) -> None:
    """Write this process's share of a checkpoint; the first process then makes it visible."""
    partial, folder = path.with_suffix(".partial"), path.parent
    try:
        # The tensors are on the CPU. A copy ahead would open a context on GPU 0 in each process.
        storage = FileSystemWriter(partial, per_thread_copy_ahead=0)
        state_dict_saver.save(tensors, storage_writer=storage, process_group=group)
        # it returns in the first process when all others have written their files
        if distributed.rank() == 0:
            (partial / _VALUES).write_text(values, "utf-8")
            sync(partial / _VALUES)
            write_digests(partial)
            sync(partial)
            partial.rename(path)
            sync(folder)
    except (OSError, CheckpointException) as error:
        if distributed.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a full disk, it takes the last space
        free = shutil.disk_usage(folder).free >> 20
        message = f"{path}: the checkpoint cannot be written ({_cause(error)})"
        raise SegkitError(message, hint=f"its disk has {free} MiB free") from error


def require_space(folder: Path, weights: Sequence[Tensor]) -> None:
    """Raise InputError where the disk of a folder cannot hold one checkpoint of AdamW.

    Args:
        folder: of the run; may not exist yet.
        weights: the parameters. A checkpoint has their average as well, and two moments of each
            that is trained.
    """
    needed = sum(weight.nbytes * (4 if weight.requires_grad else 2) for weight in weights)
    free = shutil.disk_usage(existing_folder(folder)).free
    if needed > free:
        message = f"a checkpoint takes about {needed >> 20} MiB, its disk has {free >> 20} MiB free"
        raise InputError(message, file=folder, hint="free some space, or give --out elsewhere")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of `folder`; None if there is none yet.

    Raises:
        InputError: all are files of an earlier segkit.
    """
    checkpoints = _all(folder)
    if not checkpoints and folder.is_dir():
        old = sorted(path for path in folder.iterdir() if _OLD_NAME.fullmatch(path.name))
        if old:
            message = "a checkpoint of an earlier segkit, which cannot be resumed"
            raise InputError(message, file=old[-1], hint="give --restart to start anew")
    return checkpoints[-1] if checkpoints else None


def steps(folder: Path) -> set[int]:
    """The steps of the checkpoints in `folder`."""
    return {int(path.name.removeprefix("step-")) for path in _all(folder)}


def of_step(folder: Path, step: int) -> Path:
    """The path of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def sizes(path: Path) -> dict[str, torch.Size]:
    """Names and sizes of the tensors of a checkpoint.

    Raises:
        InputError: it cannot be read, or holds entries that are not tensors.
    """
    with _name_in_errors(path):
        _verify(path)
        entries = _Reader(path).metadata.state_dict_metadata.items()
        return {
            name: entry.size for name, entry in entries if isinstance(entry, TensorStorageMetadata)
        }


def load(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fill `tensors`, in each process its shards, from a checkpoint; return its values and step.

    Nothing in a checkpoint is executed: its metadata may only name the types of `_METADATA_TYPES`
    and set fields of `_RECORDS`, and tensors are read with `weights_only`. The first process
    verifies the digests of all files.

    Raises:
        InputError: it cannot be read, is damaged, or lacks one of the tensors in this size.
    """
    with _name_in_errors(path), _quiet():
        _verify(path)
        state_dict_loader.load(dict(tensors), storage_reader=_Reader(path))
        values: dict[str, Any] = json.loads((path / _VALUES).read_text("utf-8"))
    return values


class _Reader(FileSystemReader):
    """Reads tensors through metadata that cannot execute anything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with (path / _METADATA).open("rb") as file:
            self.metadata: Metadata = _Unpickler(file).load()
        for place in self.metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"{place.relative_path} is outside the checkpoint")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the constructor's metadata, since torch's own method unpickles anything."""
        return self.metadata


class _Unpickler(pickle._Unpickler):
    """Builds the records of metadata, and changes nothing else.

    Python's own implementation is used, not the one in C, because its opcodes can be replaced.
    """

    stack: list[Any]

    def load_build(self) -> None:
        """Set the state of a record; the opcode could otherwise set attributes of a class."""
        if not isinstance(self.stack[-2], _RECORDS):
            message = f"{type(self.stack[-2]).__name__} has no state in a checkpoint"
            raise pickle.UnpicklingError(message)
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every name that is neither a type of metadata nor a dtype."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _METADATA_TYPES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a checkpoint")


def _verify(path: Path) -> None:
    """Raise ValueError in every process if a file differs from the one that was written."""
    message = None
    if distributed.rank() == 0 and has_digests(path) and (damaged := damaged_files(path)):
        message = f"{damaged[0]} is missing, new or damaged: its SHA-256 is not in {DIGESTS}"
    if message := distributed.broadcast_object(message):
        raise ValueError(message)


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Turn any error in reading `path` into one line that names it."""
    try:
        yield
    except (Exception, CheckpointException) as error:
        message = f"not a checkpoint of this run ({_cause(error)})"
        hint = "delete it to resume from the one before"
        raise InputError(message, file=path, hint=hint) from error


def _cause(error: BaseException) -> str:
    """The first line of an error, of any process."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return first_line(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warnings about a single process and its own deprecated interfaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _delete_old(folder: Path, newest: int, best: int | None) -> None:
    kept = _all(folder)[-newest:]
    if best is not None:
        kept.append(of_step(folder, best))
    for path in _all(folder):
        if path not in kept:
            _delete(path)


def _delete(path: Path) -> None:
    """Delete a checkpoint as far as the system lets it; the next start deletes what is left.

    It loses its name first: half a checkpoint must not count as one.
    """
    partial = path.with_suffix(".partial")
    with suppress(OSError):  # it stays complete
        path.rename(partial)
        sync(path.parent)
        shutil.rmtree(partial, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """Checkpoints of `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
