"""Recipes: the whole configuration of a training as one typed, frozen object, read from TOML."""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from segkit.errors import InputError
from segkit.recipes.schema import Recipe

SETTLED = {
    "loss.merge_masks": "max",
    "loss.merge_scores": "mean",
    "inference.merge_masks": "max",
    "inference.merge_scores": "max",
    "inference.merge_semantic": "sum",
}
"""Keys of earlier versions whose choice is now fixed, with the only value that still works."""


def known_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("segkit.recipes")
    return tuple(
        sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    )


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or one from a TOML file, with `section.key=value` overrides.

    A file that says `extends = "NAME"` changes a shipped recipe and holds only what differs.

    Raises InputError for an unknown recipe (the known ones are listed), an unknown key (the nearest
    valid one is named), or a value of the wrong type or range.
    """
    table, source = _table(str(name_or_file))
    for override in overrides:
        _apply(table, override)
    return _validate(table, source)


def _table(name_or_file: str) -> tuple[dict[str, Any], str]:
    """A recipe's keys, those of the shipped one that it extends included, and the name by which
    messages call it."""
    text, source = _read(name_or_file)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"not TOML ({error})", file=source, hint="see segkit/recipes for examples"
        ) from error
    table.setdefault("name", Path(source).stem)
    base = table.pop("extends", None)
    _drop_settled(table, source)
    _refuse_unknown(table, source)
    if base is None:
        return table, source
    if base not in known_recipes():
        message, known = f"extends the unknown recipe {base!r}", ", ".join(known_recipes())
        raise InputError(message, file=source, hint=f"give one of: {known}")
    return _over(_table(base)[0], table), source


def _drop_settled(table: dict[str, Any], source: str) -> None:
    """Remove the keys of `SETTLED`; InputError where one has a value that no longer works."""
    for key, value in SETTLED.items():
        section, name = key.split(".")
        keys = table.get(section)
        if isinstance(keys, dict) and name in keys and (other := keys.pop(name)) != value:
            message = f"{other!r} is no longer supported"
            hint = f"leave the key out: {value!r} is built in"
            raise InputError(message, file=source, record=key, hint=hint)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one, section by section; where they differ, `above` counts."""
    sections = {
        key
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | {key: _over(below[key], above[key]) for key in sections}


def _read(name_or_file: str) -> tuple[str, str]:
    """Text of a recipe, and the name by which messages call it."""
    if name_or_file in known_recipes():
        return (resources.files("segkit.recipes") / f"{name_or_file}.toml").read_text(
            "utf-8"
        ), name_or_file
    if Path(name_or_file).is_file():
        return Path(name_or_file).read_text("utf-8"), name_or_file
    known = ", ".join(known_recipes())
    raise InputError(
        f"unknown recipe {name_or_file!r}", hint=f"give a TOML file or one of: {known}"
    )


def _apply(table: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into `table`; what is no TOML value is taken as text."""
    key, equals, value = (part.strip() for part in override.partition("="))
    if not equals:
        raise InputError(
            f"no '=' in {override!r}", record="--set", hint="write it as section.key=value"
        )
    if key not in _keys(Recipe) and key.rpartition(".")[0] not in _keys(Recipe, mappings_only=True):
        raise _unknown(key, "--set")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    table[last] = parsed


def _validate(table: dict[str, Any], source: str) -> Recipe:
    try:
        # By way of JSON, whose strict mode takes an array for a tuple but no text for a number.
        return TypeAdapter(Recipe).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # where keys do not go together, what was given is their whole section
        given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
        raise InputError(
            f"{message[0].lower()}{message[1:]}{given}", file=source, record=key or None
        ) from error


def _refuse_unknown(table: dict[str, Any], source: str) -> None:
    valid = set(_keys(Recipe))
    sections = {key.rpartition(".")[0] for key in valid} - {""}
    for key, value in _leaves(table, stop=valid):
        if key in sections:
            raise InputError(
                f"{key!r} is a section, not the value {value!r}", file=source, hint=f"write [{key}]"
            )
        if key not in valid:
            raise _unknown(key, source)


def _unknown(key: str, source: str) -> InputError:
    """The error for `key`: nearest is a key of the same last name in another section, else the most
    alike."""
    valid = list(_keys(Recipe))
    same_name = [other for other in valid if other.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = difflib.get_close_matches(key, same_name or valid, n=1, cutoff=0.0)[0]
    return InputError(
        f"unknown key {key!r}", file=source, hint=f"the nearest valid key is {nearest!r}"
    )


def _leaves(table: dict[str, Any], stop: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a nested table with its value; a key of `stop` is not entered."""
    for key, value in table.items():
        if isinstance(value, dict) and value and prefix + key not in stop:
            yield from _leaves(value, stop, f"{prefix}{key}.")
        elif value != {}:
            yield prefix + key, value


def _keys(kind: type, prefix: str = "", *, mappings_only: bool = False) -> Iterator[str]:
    """Every dotted key that a configuration type accepts, or those alone whose value is a mapping
    of free keys."""
    for name, annotation in _fields(kind).items():
        if isinstance(annotation, type) and _fields(annotation):
            yield from _keys(annotation, f"{prefix}{name}.", mappings_only=mappings_only)
        elif not mappings_only or typing.get_origin(annotation) is Mapping:
            yield prefix + name


def _fields(kind: type) -> dict[str, Any]:
    """Fields and their types of a pydantic model or a dataclass; nothing for any other type."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def to_toml(recipe: Recipe) -> str:
    """The recipe with every default written out; `load_recipe` reads it back to an equal object."""
    table = recipe.model_dump(mode="json")
    sections = {name: value for name, value in table.items() if isinstance(value, dict)}
    lines = _lines({name: value for name, value in table.items() if name not in sections})
    for name, section in sections.items():
        lines += ["", f"[{name}]", *_lines(section)]
    return "\n".join(lines) + "\n"


def _lines(table: dict[str, Any]) -> list[str]:
    """`key = value` lines; a key without a value (None) is left out, for TOML has no such thing."""
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    """A value in TOML: JSON's text, numbers, booleans and arrays are TOML's as well."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items())
            + "}"
        )
    return json.dumps(value, ensure_ascii=False)
