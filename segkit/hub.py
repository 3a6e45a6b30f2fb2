"""Files of public models: a local folder, or a model of the Hugging Face hub, in its own cache.

Of a model's files only those named are read, weights only as safetensors: nothing is unpickled, and
no code of a model's runs. `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honored.
"""

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.errors import InputError, SegkitError, first_line
from segkit.file_names import expand_home
from segkit.parse import read_json


@dataclass(frozen=True)
class PublicKind:
    """A kind of public model; a source is its prefix and FOLDER or OWNER/NAME."""

    prefix: str
    name: str
    """In messages."""
    model_types: tuple[str, ...]
    """`model_type` in its config.json."""
    model_class: str
    """Its class in transformers."""
    processor_class: str
    """Its image processor's class in transformers."""
    command: str = "`segkit pseudolabel --teacher`"
    """Where it is given, in messages."""


HF_PREFIX = "hf:"
"""Prefix of a Hugging Face Mask2Former: `hf:FOLDER` or `hf:OWNER/NAME`."""
KINDS = {
    kind.prefix: kind
    for kind in (
        PublicKind(
            HF_PREFIX,
            "Mask2Former",
            ("mask2former",),
            "Mask2FormerForUniversalSegmentation",
            "AutoImageProcessor",
            "`--checkpoint`, --teacher or `segkit import`",
        ),
        PublicKind("sam:", "SAM", ("sam",), "SamModel", "SamProcessor"),
        # Meta's files of SAM 2 hold the video model, which contains the image model.
        PublicKind("sam2:", "SAM 2", ("sam2", "sam2_video"), "Sam2Model", "Sam2Processor"),
        PublicKind("samhq:", "SAM-HQ", ("sam_hq",), "SamHQModel", "SamHQProcessor"),
    )
}
CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
PICKLE = "pytorch_model.bin"
_PART = r"\w(?:[\w.-]{0,94}\w)?"
_PUBLIC_NAME = re.compile(rf"(?!.*(?:--|\.\.|\.git$)){_PART}/{_PART}", re.ASCII)
"""OWNER/NAME as the hub allows it."""
_PATIENCE = 8.0
"""Seconds for the first answer of the hub; a resolver alone may take longer to give up."""


def is_hugging_face(source: object) -> bool:
    """Whether a source names a model of Hugging Face."""
    return isinstance(source, str) and source.startswith(HF_PREFIX)


def require_run(source: str) -> None:
    """Raise InputError for a public model that is only a teacher, where a run is needed."""
    kind = KINDS.get("".join(source.partition(":")[:2]))
    if kind is None or kind.prefix == HF_PREFIX or Path(source.partition("@")[0]).exists():
        return
    hint = f"give it to {kind.command}, which makes masks of boxes, and give a segkit run here"
    raise InputError(f"a {kind.name} is not a run", file=source, hint=hint)


def model_kind(source: str) -> PublicKind:
    """The kind of model that a source names; it has the prefix of one."""
    return KINDS[source.partition(":")[0] + ":"]


def model_name(source: str) -> str:
    """FOLDER or OWNER/NAME of a source such as `hf:OWNER/NAME`, with `~` expanded.

    InputError for anything else.
    """
    prefix = model_kind(source).prefix
    name = expand_home(source.removeprefix(prefix))
    if not name:
        hint = f"write {prefix}FOLDER or {prefix}NAME"
        raise InputError(f"unknown source {source!r}", hint=hint)
    if not Path(name).is_dir() and not _PUBLIC_NAME.fullmatch(name):
        hint = "give a folder or a public NAME"
        raise InputError("no such folder", file=name, hint=hint)
    return name


def check_source(source: str) -> None:
    """Refuse what can be refused without the network: a name, the files and type of a folder.

    Raises:
        InputError: as of `fetch_model` and `check_model_type`.
    """
    folder = Path(model_name(source))
    if folder.is_dir():
        check_model_type(source, fetch_model(source))


def check_model_type(source: str, folder: Path) -> None:
    """Compare the folder of a model with the kind that its source states.

    Raises:
        InputError: config.json is not that of a model, or that of another kind.
    """
    kind, file = model_kind(source), folder / CONFIG
    hint = f"give the folder of a {kind.name}"
    config = read_json(file, hint=hint)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type in kind.model_types:
        return
    if not isinstance(model_type, str):
        raise InputError("does not say its model_type", file=file, hint=hint)
    for other in KINDS.values():
        if model_type in other.model_types:
            hint = f"give {other.prefix}{model_name(source)} to {other.command}"
    raise InputError(f"a {model_type} model, not a {kind.name}", file=file, hint=hint)


def fetch_model(
    source: str,
    required: Sequence[str] = (CONFIG, WEIGHTS),
    optional: Sequence[str] = (PROCESSOR,),
) -> Path:
    """The local folder with a model's files; a public model is downloaded where it is not cached.

    What the hub's cache holds is used without asking the network, which is only asked for optional
    files where the cache has none and does not know whether there are any; without a network, the
    model is used without them.

    Raises:
        InputError: no such source, or a folder without a required file.
        SegkitError: a public model that cannot be fetched; says which files to fetch by hand.
    """
    name, kind = model_name(source), model_kind(source)
    if Path(name).is_dir():
        _check_files(Path(name), required, kind)
        return Path(name)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = [try_to_load_from_cache(name, file) for file in required]
    if all(isinstance(path, str) for path in cached):
        folder = Path(str(cached[0])).parent
        extra = [try_to_load_from_cache(name, file) for file in optional]
        if None in extra and not any(isinstance(path, str) for path in extra):
            with suppress(Exception):  # of the hub's client, of httpx or of the system
                _probe(name, optional[0])
                for file in optional:
                    _download(hf_hub_download, name, file, kind, True, folder.name)
        return folder
    try:
        _probe(name, required[0])
        for file in (*optional, *required):
            folder = _download(hf_hub_download, name, file, kind, file in optional) or Path()
        return folder
    except InputError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        raise _unreachable(name, error, (*required, *optional), kind) from error


def is_cached(name: str, files: Sequence[str]) -> bool:
    """Whether the hub's cache holds these files of a public model."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(name, file), str) for file in files)


def _check_files(folder: Path, required: Sequence[str], kind: PublicKind) -> None:
    """Raise InputError where a folder lacks a file."""
    for name in required:
        if (folder / name).is_file():
            continue
        if name == WEIGHTS and (folder / PICKLE).is_file():
            raise _only_pickle(str(folder), folder, kind)
        raise InputError(f"has no {name}", file=folder, hint=f"needed are {' and '.join(required)}")


def _only_pickle(name: str, place: object, kind: PublicKind) -> InputError:
    message = f"has no {WEIGHTS}; {PICKLE} is never read, since unpickling can run code"
    convert = " and ".join(
        f"{part}.from_pretrained({name!r}).save_pretrained('FOLDER')"
        for part in (kind.model_class, kind.processor_class)
    )
    hint = (
        f"write a folder with safetensors once, by transformers' {convert}, and give "
        f"{kind.prefix}FOLDER"
    )
    return InputError(message, file=place, hint=hint)


def _probe(name: str, file: str) -> None:
    """Ask the hub for a file once, with a limit on time that covers name resolution as well."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, file), timeout=_PATIENCE)
            outcome.append(None)
        except BaseException as error:  # raised again in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not outcome:
        raise TimeoutError(f"no answer within {_PATIENCE:g} s")
    if outcome[0] is not None:
        raise outcome[0]


def _download(
    download: Any,
    name: str,
    file: str,
    kind: PublicKind,
    optional: bool,
    revision: str | None = None,
) -> Path | None:
    """The folder of a file in the hub's cache; None for an optional file that does not exist."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = download(name, file, revision=revision, etag_timeout=_PATIENCE)
        return Path(path).parent
    except EntryNotFoundError as error:
        if optional:
            return None
        if file == WEIGHTS:
            raise _only_pickle(name, name, kind) from error
        raise InputError(f"has no {file}", file=name, hint=f"give a {kind.name}") from error


def _unreachable(
    name: str, error: Exception, files: Sequence[str], kind: PublicKind
) -> SegkitError:
    """The one line on a model that cannot be fetched: why, and what to do by hand."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{name}"
    by_hand = f"fetch {', '.join(files)} from {page} into a folder and give {kind.prefix}FOLDER"
    if isinstance(error, GatedRepoError):
        return SegkitError(
            f"{name} is gated: accept its terms at {page} and set HF_TOKEN (or run `hf auth "
            f"login`); or {by_hand}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return SegkitError(
            f"{name} is not a public model of {constants.ENDPOINT}: check the name, which may "
            "have changed, or set HF_TOKEN for a private one"
        )
    reason = first_line(error)
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason
    return SegkitError(
        f"{name} is not a local folder and could not be fetched ({reason}); {by_hand}"
    )
