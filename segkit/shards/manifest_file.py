"""The file of a manifest, of a set or a run: its text carries a digest of everything in it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

from segkit import parse
from segkit.errors import InputError
from segkit.shards.versions import MANIFEST

DIGEST = "manifest_digest"
"""Key of the digest in the file."""
_HINT = "copy the version again from where it is intact; `segkit validate` lists the damage"
_Manifest = TypeVar("_Manifest", bound=BaseModel)


def manifest_text(manifest: BaseModel) -> str:
    """The text of a manifest's file, with the digest of its content."""
    import msgspec

    content = json.loads(manifest.model_dump_json(by_alias=True))
    content[DIGEST] = manifest_digest(content)
    # what `json.dumps` writes with `indent=1`, which takes it four times as long
    return msgspec.json.format(json.dumps(content, ensure_ascii=False), indent=1) + "\n"


def manifest_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's JSON object without the digest itself, in canonical form.

    The form is that of `json.dumps` with sorted keys and no blanks, in ASCII.
    """
    rest = {key: value for key, value in content.items() if key != DIGEST}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_content(file: Path) -> dict[str, Any]:
    """The JSON object in the file of any manifest, whether its digest fits or not.

    Raises:
        InputError: the file cannot be read, or holds something else than a JSON object.
    """
    content = parse.read_json(file)
    if not isinstance(content, dict):
        raise InputError("not a manifest", file=file, hint="give a set or a run of segkit")
    return content


def read_typed(
    model: type[_Manifest],
    folder: Path,
    *,
    noun: str,
    hint: str,
    other_types: Mapping[str, str] = MappingProxyType({}),
    verify: bool = True,
) -> _Manifest:
    """The manifest in the directory of a version.

    Args:
        model: the manifest of such versions.
        folder: the directory.
        noun: what the file should hold, such as "the manifest of a run".
        hint: of the errors of something else.
        other_types: `type` of another manifest -> the message of its error.
        verify: check the digest of the manifest, where it carries one.

    Raises:
        InputError: there is none, or that of something else, of a newer version of segkit, or a
            damaged one.
    """
    file = folder / MANIFEST
    data = parse.read_bytes(file)
    content = parse.parse_json(data, file=file, hint=hint)
    kind = str(content.get("type")) if isinstance(content, dict) else ""
    if message := other_types.get(kind):
        raise InputError(message, file=folder, hint=hint)
    try:
        manifest = parse.checked(model, data, file=file, noun=noun, hint=hint, parsed=True)
    except InputError as error:
        if error.record != "schema_version":
            raise
        hint = "a newer version of segkit may read it"
        raise InputError(error.message, file=file, record=error.record, hint=hint) from error
    if verify:
        verify_content(content, file)
    return manifest


def is_intact(content: dict[str, Any]) -> bool:
    """Whether the digest that a manifest carries is that of its content; True without one."""
    return DIGEST not in content or content[DIGEST] == manifest_digest(content)


def verify_content(content: dict[str, Any], file: Path) -> None:
    """Raise InputError where a manifest carries a digest that is not that of its content."""
    if not is_intact(content):
        message = "the manifest is damaged: its digest is not that of its content"
        raise InputError(message, file=file, hint=_HINT)
