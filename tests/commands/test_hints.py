"""Messages name only options that exist, and that the commands which print them have."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import segkit
from segkit import commands
from segkit.commands.app import app

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"\bsegkit (?=[a-z])([^`\n]*)")
LEAF = tuple[str, ...]
"""The words of a command, such as `("convert", "auto")`."""
PRINTED_BY: dict[str, list[LEAF]] = {
    "sources": [("convert", "auto")],
    "metrics": [("eval",), ("benchmark", "coco-panoptic")],
}
"""Commands that print the messages of a room: all must have the options that these name alone."""
FOREIGN = {"--no-deps", "--upgrade", "--notest", "--shm-size", "--measure", "--real", "--scale"}
FOREIGN |= {"--nproc-per-node"}
"""Options of pip, convmv, docker, torchrun and scripts."""
PASSED = {
    "--background",
    "--evaluator",
    "--first-label",
    "--instances",
    "--max-dets",
    "--prediction-masks",
}
"""Options that a message names to those who gave them."""


def _leaves(command: Any, words: LEAF = ()) -> Iterator[tuple[LEAF, set[str]]]:
    """Every command with its options."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _leaves(child, (*words, name))
    else:
        yield words, {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


LEAVES = dict(_leaves(typer.main.get_command(app)))
ALL = set().union(*LEAVES.values())


def _texts(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string with words in it; {} of an f-string becomes X."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
            parts = (v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
            yield node.lineno, "".join(map(str, parts))
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [(node.lineno, node.value)] if id(node) not in skipped else []


def _named_options(line: str) -> tuple[set[str], set[str]]:
    """The options in a command line after `segkit`, and those that its command has."""
    words: LEAF = ()
    for word in re.split(r"[\s,;:)]+", line):
        deeper = (*words, word)
        if not any(leaf[: len(deeper)] == deeper for leaf in LEAVES):
            break
        words = deeper
    known = [options for leaf, options in LEAVES.items() if leaf[: len(words)] == words]
    return set(OPTION.findall(line)), set().union(*known)


FILES = [
    file
    for root in (Path(segkit.__file__).parent, Path(commands.__path__[0]))
    for file in sorted(root.rglob("*.py"))
]


def _own_options(file: Path) -> set[str]:
    """The options that a message of a file may name without the command that has them."""
    own = PRINTED_BY.get(file.parent.name)
    if own is not None:
        return set.intersection(*(LEAVES[leaf] for leaf in own)) | PASSED
    name = file.stem if file.parent.name == "commands" else ""
    return set().union(*(opts for leaf, opts in LEAVES.items() if leaf[0] == name)) or ALL


@pytest.mark.parametrize("room", sorted({file.parent.name for file in FILES}))
def test_messages_name_options_that_their_commands_have(room: str) -> None:
    wrong = []
    for file in FILES:
        for number, text in _texts(file) if file.parent.name == room else ():
            if not re.search(r"\s", text):  # a name, not a sentence
                continue
            bad = set(OPTION.findall(COMMAND.sub("", text))) - _own_options(file)
            for line in COMMAND.findall(text):
                named, known = _named_options(line)
                bad |= named - known
            if bad := bad - FOREIGN:
                wrong.append(f"{file}:{number}: {sorted(bad)} in {text!r}")
    assert not wrong, "\n".join(wrong)
