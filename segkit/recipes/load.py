"""Read, extend, override and write recipes."""

import difflib
import json
import tomllib
import typing
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from segkit import parse
from segkit.errors import InputError
from segkit.recipes.old_names import (
    SETTLED,
    OldNameWarning,
    current_key,
    update_keys,
)
from segkit.recipes.schema import Recipe


def known_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("segkit.recipes")
    return tuple(
        sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    )


def load_recipe(
    name_or_file: str | Path, overrides: Sequence[str] = (), *, warn: bool = True
) -> Recipe:
    """Load a shipped recipe by name, or a TOML file, with overrides.

    A file with `extends = "NAME"` holds only the keys that differ from that shipped recipe.

    Args:
        name_or_file: name of a shipped recipe, or a TOML file.
        overrides: `section.key=value`; a value that is not TOML is taken as text.
        warn: whether an old key name warns with OldNameWarning.

    Raises:
        InputError: an unknown recipe (the message lists the known ones), an unknown key (it names
            the nearest valid one), or a value of the wrong type or range.
    """
    table, source = _read_table(str(name_or_file), warn=warn)
    overridden = {_apply_override(table, override) for override in overrides}
    _read_classes_as_trained(table, overridden)
    return _validate(table, source, overridden)


def _read_classes_as_trained(table: dict[str, Any], overridden: Collection[str]) -> None:
    """Set `inference.classes` to `loss.classes` unless it is set.

    The recipe of a run sets both; an override of how classes are trained holds for both as well.
    """
    loss, inference = table.get("loss"), table.setdefault("inference", {})
    if isinstance(loss, dict) and isinstance(inference, dict) and "classes" in loss:
        if "loss.classes" in overridden and "inference.classes" not in overridden:
            inference["classes"] = loss["classes"]
        inference.setdefault("classes", loss["classes"])


def _read_table(name_or_file: str, *, warn: bool) -> tuple[dict[str, Any], str]:
    """A recipe's keys, those of the extended recipe included, and its name for messages."""
    text, source = _read_text(name_or_file)
    table = parse.parse_toml(text, file=source, hint="see segkit/recipes for examples")
    table.setdefault("name", Path(source).stem)
    base = table.pop("extends", None)
    for old, new in update_keys(table, source):
        if warn:
            _warn_old_name(old, new, source)
    _check_keys(table, source)
    if base is None:
        return table, source
    if base not in known_recipes():
        hint = f"give one of: {', '.join(known_recipes())}"
        raise InputError(f"extends the unknown recipe {base!r}", file=source, hint=hint)
    return _merge(_read_table(base, warn=warn)[0], table), source


def _read_text(name_or_file: str) -> tuple[str, str]:
    """Text of a recipe, and its name for messages."""
    if name_or_file in known_recipes():
        file = resources.files("segkit.recipes") / f"{name_or_file}.toml"
        return file.read_text("utf-8"), name_or_file
    if parse.exists(name_or_file):
        return parse.read_text(Path(name_or_file)), name_or_file
    hint = f"give a TOML file or one of: {', '.join(known_recipes())}"
    raise InputError(f"unknown recipe {name_or_file!r}", hint=hint)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` applied, section by section."""
    sections = {
        key
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | changes | {key: _merge(base[key], changes[key]) for key in sections}


def _apply_override(table: dict[str, Any], override: str) -> str:
    """Set `section.key=value` in `table`, and return the key."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals:
        hint = "write it as section.key=value"
        raise InputError(f"no '=' in {override!r}", record="--set", hint=hint)
    if key in SETTLED:
        hint = f"{SETTLED[key]!r} is built in; leave it out"
        raise InputError(f"{key!r} is no longer a key", record="--set", hint=hint)
    if (new := current_key(key)) != key:
        _warn_old_name(key, new, "--set")
        key = new
    if key not in _keys(Recipe) and key.rpartition(".")[0] not in _keys(Recipe, mappings_only=True):
        raise _unknown_key(key, "--set")
    value = override_value(text)
    *sections, name = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    table[name] = value
    return key


def override_value(text: str) -> Any:
    """The TOML value of an override; text that is not TOML stands for itself."""
    try:
        tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parse.parse_toml(f"value = {text}", file="--set")["value"]


def _warn_old_name(old: str, new: str, source: str) -> None:
    text = f"{source}: {old} is now called {new}; the old name still works"
    warnings.warn(text, OldNameWarning, stacklevel=4)


def _validate(table: dict[str, Any], source: str, overridden: Collection[str]) -> Recipe:
    try:
        # In strict mode, only JSON input accepts an array for a tuple; text never passes as a
        # number.
        return Recipe.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # The input of an error that concerns several keys is their whole section.
        value = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
        file = "--set" if key in overridden else source
        raise InputError(
            f"{message[0].lower()}{message[1:]}{value}", file=file, record=key or None
        ) from error


def _check_keys(table: dict[str, Any], source: str) -> None:
    """Raise InputError for an unknown key, and for a value in the place of a section."""
    valid = set(_keys(Recipe))
    sections = {key.rpartition(".")[0] for key in valid} - {""}
    for key, value in _leaves(table, stop=valid):
        if key in sections:
            message = f"{key!r} is a section, not the value {value!r}"
            raise InputError(message, file=source, hint=f"write [{key}]")
        if key not in valid:
            raise _unknown_key(key, source)


def _unknown_key(key: str, source: str) -> InputError:
    """The error for an unknown key, with a suggestion.

    It suggests a key of the same last name in another section, else the most similar key.
    """
    valid = list(_keys(Recipe))
    last = key.rpartition(".")[2]
    same_name = [candidate for candidate in valid if candidate.rpartition(".")[2] == last]
    nearest = difflib.get_close_matches(key, same_name or valid, n=1, cutoff=0.0)[0]
    hint = f"the nearest valid key is {nearest!r}"
    return InputError(f"unknown key {key!r}", file=source, hint=hint)


def _leaves(table: dict[str, Any], stop: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a nested table with its value; keys in `stop` are leaves."""
    for key, value in table.items():
        if isinstance(value, dict) and value and prefix + key not in stop:
            yield from _leaves(value, stop, f"{prefix}{key}.")
        elif value != {}:
            yield prefix + key, value


def _keys(
    section: type[BaseModel], prefix: str = "", *, mappings_only: bool = False
) -> Iterator[str]:
    """Every dotted key of a section and its subsections.

    Or only those that hold a mapping with free keys.
    """
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.", mappings_only=mappings_only)
        elif not mappings_only or typing.get_origin(kind) is Mapping:
            yield prefix + name


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every default written out; `load_recipe` reads an equal object."""
    table = recipe.model_dump(mode="json")
    sections = {name: value for name, value in table.items() if isinstance(value, dict)}
    lines = _lines({name: value for name, value in table.items() if name not in sections})
    for name, section in sections.items():
        lines += ["", f"[{name}]", *_lines(section)]
    return "\n".join(lines) + "\n"


def _lines(table: dict[str, Any]) -> list[str]:
    """`key = value` lines; without the keys that are None, which TOML cannot express."""
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    """A value in TOML: JSON text, except for tables."""
    if isinstance(value, dict):
        items = (f"{_value(key)} = {_value(inner)}" for key, inner in value.items())
        return "{" + ", ".join(items) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")  # as TOML wants it
