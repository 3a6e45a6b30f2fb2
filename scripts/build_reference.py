"""Write docs/reference: the commands and the recipes, from their own documentation.

python scripts/build_reference.py          write the pages
python scripts/build_reference.py --check  fail if they are out of date
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import typer

from segkit.commands.app import app
from segkit.recipes.reference import recipe_heads, recipe_keys, recipe_values

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)[^)]*\)")
_NOTE = "<!-- written by scripts/build_reference.py -->"


def commands_page() -> str:
    """All commands with their options, in the order of `segkit --help`."""
    root = typer.main.get_command(app)
    lines = ["# Commands", "", _NOTE, "", "`segkit COMMAND --help` prints the same.", ""]
    for name, command in _commands(root, "segkit"):
        lines += [f"## {name}", "", *_paragraphs(command.help or ""), *_options(command)]
    return "\n".join(lines).rstrip() + "\n"


def recipes_page() -> str:
    """The shipped recipes and every key."""
    lines = [
        "# Recipes",
        "",
        _NOTE,
        "",
        "`segkit recipes` lists the recipes, `segkit recipes NAME` their keys. A recipe of your own"
        ' is a TOML file with `extends = "dataseg-mini"` and the keys that differ;',
        "`--set section.key=value` changes one key.",
        "",
    ]
    defaults = {entry.key: entry.default for entry in recipe_keys()}
    for head in recipe_heads():
        values = recipe_values(head.name)
        changed = {key: value for key, value in values.items() if value != defaults[key]}
        keys = ", ".join(f"`{key} = {value}`" for key, value in changed.items() if key != "name")
        lines += [f"## {head.name}", "", "```text", head.text, "```", "", f"Sets {keys}.", ""]
    lines += ["## Keys", "", "| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for entry in recipe_keys():
        cells = (f"`{entry.key}`", f"`{entry.type}`", f"`{entry.default}`", entry.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.commands[name]
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        example = words.removeprefix("Example: ")
        yield from (words, "") if example == words else ("```bash", example, "```", "")


def _options(command: Any) -> Iterator[str]:
    yield from ("| option | | meaning |", "| --- | --- | --- |")
    for parameter in command.params:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        text = " ".join((getattr(parameter, "help", "") or "").split())
        cells = (names, _value(parameter), text)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _value(parameter: Any) -> str:
    """The form of an option's value, and its default."""
    is_flag = getattr(parameter, "is_flag", False)
    form = "" if is_flag or not parameter.metavar else f"`{parameter.metavar}`"
    if parameter.required:
        return f"{form} required"
    has_default = parameter.default not in (None, False, "", [], ())
    return f"{form} `{parameter.default}`".strip() if has_default and not is_flag else form


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace links that lead out of docs/; `page.file.src_uri` tells how deep the page is."""
    depth = len(PurePosixPath(page.file.src_uri).parts)

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        climbs = len(re.match(r"(?:\.\./)+", target)[0]) // 3  # type: ignore[index]
        return match[0] if climbs < depth else text

    return _OUTSIDE.sub(replace, markdown)


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, text in (("commands.md", commands_page()), ("recipes.md", recipes_page())):
        file = FOLDER / name
        if not check:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
        elif not file.is_file() or file.read_text("utf-8") != text:
            sys.exit(f"{file}: out of date; run python scripts/build_reference.py")


if __name__ == "__main__":
    main()
