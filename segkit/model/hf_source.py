"""Where a Mask2Former of Hugging Face lies: a folder, or a public name; nothing here needs
torch."""

import re
from pathlib import Path

from segkit.errors import InputError, SegkitError

PREFIX = "hf:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def name_of(source: str) -> str:
    """FOLDER or OWNER/NAME of `hf:FOLDER` or `hf:OWNER/NAME`.

    Raises:
        InputError: it is neither a folder that is there nor the name of a public model.
    """
    name = source.removeprefix(PREFIX)
    if name == source or not name:
        raise InputError(
            f"unknown source {source!r}",
            record="model.init_from",
            hint="write hf:FOLDER or hf:NAME",
        )
    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(
            "no such folder",
            file=name,
            record="model.init_from",
            hint="give a folder or a public NAME",
        )
    return name


def folder_of(source: str) -> Path:
    """The local folder of `hf:FOLDER`, or of the public model `hf:OWNER/NAME` once it is fetched.

    Raises:
        InputError: no such source.
        SegkitError: a public model that could not be fetched.
    """
    name = name_of(source)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        message = f"{name} is no local folder and could not be fetched ({reason})"
        raise SegkitError(message) from error
