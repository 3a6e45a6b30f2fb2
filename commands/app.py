"""The `segkit` command: one thin module per verb; errors become one line and an exit code."""

import os
import sys
import warnings
from textwrap import shorten
from typing import Any

import typer
from typer.core import TyperGroup

from segkit import __version__
from segkit.errors import SegkitError
from segkit.recipes.old_names import OldNameWarning

from . import (
    benchmark,
    browse,
    convert,
    demo,
    diff,
    export,
    inspect,
    leakage,
    merge,
    predict,
    pseudolabel,
    relabel,
    split,
    train,
    validate,
    vocabulary,
)
from . import eval as eval_
from .common import note, stderr

_ORDER = (
    *(
        "convert",
        "validate",
        "inspect",
        "merge",
        "split",
        "relabel",
        "diff",
        "leakage",
        "vocabulary",
    ),
    *("train", "predict", "pseudolabel", "eval", "benchmark", "browse", "export", "demo"),
)
"""The commands as a user comes to need them: data, models, what comes of both."""


class _Workflow(TyperGroup):
    """Lists the commands in this order; typer would put those with commands of their own last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="segkit",
    cls=_Workflow,
    help="One segmentation model from every kind of annotation: convert, train, pseudolabel, eval, browse.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(browse.browse)
app.command("eval")(eval_.evaluate)
app.command()(demo.demo)
app.command()(inspect.inspect)
app.command()(predict.predict)
app.command()(pseudolabel.pseudolabel)
app.command()(train.train)
app.command()(validate.validate)
app.add_typer(benchmark.app, name="benchmark")
app.command()(diff.diff)
app.command()(leakage.leakage)
app.command()(merge.merge)
app.command()(relabel.relabel)
app.command()(split.split)
app.add_typer(export.app, name="export")
app.add_typer(convert.app, name="convert")
app.add_typer(vocabulary.app, name="vocabulary")


def _version(show: bool) -> None:
    if show:
        print(f"segkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; every failure is one line on stderr, a traceback only with
    SEGKIT_DEBUG=1.

    A SegkitError has its own exit code; what the system refuses (a full disk, a folder without
    permission) and faults of segkit itself end with 1. Ctrl-C ends with 130, which typer sees to.
    """
    _print_old_names_as_notes()
    try:
        app()
    except Exception as error:
        if os.environ.get("SEGKIT_DEBUG") == "1":
            raise
        stderr.print(
            f"error: {_line(error)}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code if isinstance(error, SegkitError) else 1)


def _print_old_names_as_notes() -> None:
    """Print each OldNameWarning once, as a note without Python's file and line."""
    warnings.simplefilter("always", OldNameWarning)
    show, printed = warnings.showwarning, set[str]()

    def show_note(message: Warning | str, category: type[Warning], *arguments: Any) -> None:
        if not issubclass(category, OldNameWarning):
            show(message, category, *arguments)
        elif str(message) not in printed:
            printed.add(str(message))
            note(str(message))

    warnings.showwarning = show_note  # type: ignore[assignment]


def _line(error: Exception) -> str:
    """What a person reads of an error, on one line."""
    if isinstance(error, SegkitError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        told = shorten(
            str(error), 500, placeholder=" ..."
        )  # a compiler's may be a hundred thousand characters
        text = f"{type(error).__name__}: {told} (a fault of segkit; SEGKIT_DEBUG=1 shows where)"
    return " ".join(text.splitlines())
