"""`segkit recipes`: the shipped recipes, and every key with its documentation."""

from typing import Any

import typer

from segkit.errors import InputError

from .common import emit, table
from .shared_options import complete_recipe


def recipes(
    name: str | None = typer.Argument(
        None,
        metavar="[NAME|FILE]",
        help="A shipped recipe or a TOML file: print its keys.",
        autocompletion=complete_recipe,
    ),
    key: str | None = typer.Option(
        None, "--key", metavar="TEXT", help="Print only the keys that contain this text."
    ),
) -> None:
    """List the shipped recipes, or the keys of one with their values and documentation.

    Each key can be changed in a TOML file (`extends = "dataseg-mini"` and the keys that differ) or
    with `--set section.key=value`.

    Example: segkit recipes

    Example: segkit recipes dataseg-mini --key optimizer
    """
    from segkit.recipes.load import known_recipes
    from segkit.recipes.reference import recipe_head, recipe_heads, recipe_keys, recipe_values

    if name is None:
        if key is not None:
            raise InputError("--key prints the keys of a recipe", hint="name the recipe")
        heads = recipe_heads()
        rows = [(head.name, head.summary) for head in heads]
        emit(
            {"recipes": {head.name: head.text for head in heads}},
            schema="segkit.recipes/1",
            tables=[
                table("Recipes", ("name", "for"), rows),
                "`segkit recipes NAME` prints a recipe's keys and how it was measured",
            ],
        )
        return
    values = recipe_values(name)
    keys = [entry for entry in recipe_keys() if key is None or key in entry.key]
    if not keys:
        raise InputError(f"no key contains {key!r}", hint="give a part of a key, such as optimizer")
    head = recipe_head(name).text if name in known_recipes() else ""
    result: dict[str, Any] = {
        "name": name,
        "head": head,
        "keys": {
            entry.key: {
                "value": values[entry.key],
                "default": entry.default,
                "type": entry.type,
                "text": entry.text,
            }
            for entry in keys
        },
    }
    lines = [
        f"{entry.key} = {values[entry.key]!r}"
        f"{'' if values[entry.key] == entry.default else f' (default {entry.default!r})'}\n"
        f"    {entry.type}. {entry.text}"
        for entry in keys
    ]
    texts = [head, *lines] if key is None else lines
    printed = [line for text in texts for line in text.splitlines()]
    emit(result, schema="segkit.recipes/1", tables=printed)
