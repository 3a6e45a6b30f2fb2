"""Every help has a worked example, and the command lines of help texts and pages are valid."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segkit.arguments import parse_size
from segkit.commands import app as program
from segkit.sample import MIN_DRAWN_SCORE
from segkit.shards.leakage import MAX_DISTANCE
from segkit.shards.writer import SHARD_BYTES
from segkit.sources.visual_genome import CLASSES
from segkit.training.selftrain import selftrain
from tests.test_docs import PAGES, ROOT


def commands(command: typer.core.TyperCommand, words: str) -> Iterator[tuple[str, object]]:
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{words} {name}")


COMMANDS = dict(commands(typer.main.get_command(program.app), "segkit"))


def check_line(line: str) -> None:
    """Check that the command of a line exists and has the options of the line.

    A synopsis may be a line, too: `segkit inspect (SET | RUN)`, `segkit convert ade|voc`.
    """
    words = [word.strip("[]()") for word in shlex.split(re.split(r" [|>] [^-]", line)[0])]
    words = [words[0], *(word if "=" in word else word.split("|")[0] for word in words[1:])]
    count = next(n for n in (3, 2, 1) if " ".join(words[:n]) in COMMANDS)
    command, rest = COMMANDS[" ".join(words[:count])], words[count:]
    is_group = hasattr(command, "commands")
    assert not is_group or rest[0].startswith("-"), f"{line}: no such command"
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in options | {"--help"}, f"{line}: {word}"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_a_valid_example_and_unbroken_paragraphs(name: str) -> None:
    summary, *paragraphs = (COMMANDS[name].help or "").split("\n\n")
    assert summary and not any("\n" in paragraph for paragraph in (summary, *paragraphs))
    examples = [text for text in paragraphs if text.startswith("Example: ")]
    assert examples
    for example in examples:
        line = example.removeprefix("Example: ")
        assert line.startswith(name)
        check_line(line)


@pytest.mark.parametrize(
    ("name", "option", "default"),
    [
        ("leakage", "--near", MAX_DISTANCE),
        ("show", "--min-score", MIN_DRAWN_SCORE),
        ("browse", "--min-score", MIN_DRAWN_SCORE),
        ("convert coco", "--shard-size", SHARD_BYTES),
        ("convert visual-genome", "--classes", CLASSES),
        ("selftrain", "--rounds", inspect.signature(selftrain).parameters["rounds"].default),
    ],
)
def test_the_default_in_a_help_is_that_of_the_library(
    name: str, option: str, default: float
) -> None:
    text = CliRunner().invoke(program.app, [*name.split(), "--help"]).stdout
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    match = re.search(rf" {option} (?:(?! --).)*?\[default: ([^\]]+)\]", words)
    assert match is not None
    assert default == (float(match[1]) if match[1][-1].isdigit() else parse_size(match[1], option))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_lines_of_a_page_are_valid(page: Path) -> None:
    text = page.read_text("utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^(?:\$ )?(segkit .*?)(?: +#.*)?$", block, re.MULTILINE):
            check_line(line)


@pytest.mark.parametrize("line", ["segkit convert nothing", "segkit inspect --nothing work/a"])
def test_a_line_with_an_unknown_word_is_not_valid(line: str) -> None:
    with pytest.raises(AssertionError):
        check_line(line)
