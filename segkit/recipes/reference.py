"""The documentation of recipes and their keys, read from where it is written."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from segkit.recipes import inference_section, schema, training_sections
from segkit.recipes.load import known_recipes, load_recipe
from segkit.recipes.schema import Recipe


@dataclass(frozen=True, slots=True)
class RecipeKey:
    """One key of a recipe."""

    key: str
    """`section.key`, as `--set` takes it."""
    type: str
    default: Any
    """As JSON has it."""
    text: str
    """Its documentation, in one paragraph."""


@dataclass(frozen=True, slots=True)
class RecipeHead:
    """What the comment at the head of a shipped recipe says."""

    name: str
    summary: str
    """The first sentence."""
    text: str
    """All of it, as written."""


def recipe_keys() -> list[RecipeKey]:
    """List every key with its documentation, in the order of the schema."""
    return list(_keys(Recipe, ""))


def recipe_values(name_or_file: str) -> dict[str, Any]:
    """Return the value of every key in a recipe, `section.key` -> value."""
    values: dict[str, Any] = {}
    dump = load_recipe(name_or_file).model_dump(mode="json")
    for key in recipe_keys():
        value: Any = dump
        for part in key.key.split("."):
            value = value[part]
        values[key.key] = value
    return values


def recipe_heads() -> list[RecipeHead]:
    """List the shipped recipes with the comments at their heads."""
    return [recipe_head(name) for name in known_recipes()]


def recipe_head(name: str) -> RecipeHead:
    """Return the comment at the head of a shipped recipe."""
    text = (resources.files("segkit.recipes") / f"{name}.toml").read_text("utf-8")
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    words = " ".join(lines)
    summary = re.split(r"(?<!\bal\.)(?<=\.)\s", words, maxsplit=1)[0]
    return RecipeHead(name, summary, "\n".join(lines).strip())


def _keys(section: type[BaseModel], prefix: str) -> Iterator[RecipeKey]:
    """The keys of a section and of its subsections."""
    texts = _attribute_texts()
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            yield from _keys(annotation, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        yield RecipeKey(
            key=prefix + name,
            type=_type_name(annotation),
            default=None if default is PydanticUndefined else to_jsonable_python(default),
            text=texts.get((section.__name__, name), ""),
        )


def _type_name(annotation: Any) -> str:
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    text = re.sub(r"typing\.|collections\.abc\.|segkit\.\w+\.\w+\.", "", text)
    return re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace(", ", " | "), text)


@cache
def _attribute_texts() -> dict[tuple[str, str], str]:
    """The strings below the attributes of the sections: (class, attribute) -> text."""
    texts = {}
    sources = (
        inspect.getsource(module) for module in (training_sections, inference_section, schema)
    )
    for node in (node for source in sources for node in ast.parse(source).body):
        if not isinstance(node, ast.ClassDef):
            continue
        for statement, following in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                text = " ".join(str(following.value.value).split())
                texts[node.name, statement.target.id] = text
    return texts
