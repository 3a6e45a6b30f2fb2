import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from segkit.recipes.load import known_recipes, load_recipe
from segkit.recipes.reference import recipe_head, recipe_keys, recipe_values


def test_every_key_is_documented() -> None:
    undocumented = [entry.key for entry in recipe_keys() if len(entry.text) < 10]
    assert undocumented == []


def test_the_keys_are_those_that_set_accepts() -> None:
    for entry in recipe_keys():
        if entry.default is None or entry.key.startswith(("text.", "model.pixel", "model.text")):
            continue
        text = str(entry.default).lower() if isinstance(entry.default, bool) else entry.default
        if isinstance(entry.default, int | float | str):
            load_recipe("dataseg-mini", [f"{entry.key}={text}"])


@pytest.mark.parametrize("name", known_recipes())
def test_values_are_those_of_the_file(name: str) -> None:
    values = recipe_values(name)
    assert values.keys() == {entry.key for entry in recipe_keys()}
    table = tomllib.loads((resources.files("segkit.recipes") / f"{name}.toml").read_text("utf-8"))
    for section, content in table.items():
        for key, value in flat(content) if isinstance(content, dict) else ():
            assert values[f"{section}.{key}"] == value


def flat(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a section and of its subsections, such as `weight_transfer.input`."""
    for key, value in table.items():
        if isinstance(value, dict) and key == "weight_transfer":
            yield from ((f"{key}.{inner}", deep) for inner, deep in value.items())
        else:
            yield key, value


@pytest.mark.parametrize("name", known_recipes())
def test_a_head_begins_with_a_sentence_and_holds_the_command(name: str) -> None:
    head = recipe_head(name)
    assert head.summary.endswith(".") and len(head.summary) > 20
    assert f"--recipe {name}" in head.text and "#" not in head.text
