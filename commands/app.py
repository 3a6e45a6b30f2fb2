"""The `segkit` command: one thin module per verb; errors become one line and an exit code."""

import inspect as introspection
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from textwrap import shorten
from typing import Any

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo

from segkit import __version__
from segkit.errors import InputError, Notice, SegkitError, UnchangedWarning
from segkit.extras import as_missing_extra
from segkit.file_names import require_utf8
from segkit.parse import MAX_INT
from segkit.text.printable import escape_streams, printable

from . import (
    benchmark,
    browse,
    calibrate,
    convert_formats,
    demo,
    diff,
    doctor,
    export,
    import_model,
    inspect,
    leakage,
    merge,
    predict,
    prune,
    pseudolabel,
    recipes,
    relabel,
    selftrain,
    show,
    split,
    train,
    validate,
    vocabulary,
    zeroshot,
)
from . import eval as eval_
from .common import note, print_line, print_next_step
from .next_steps import FIRST_STEPS
from .shared_options import has_force_option, with_output_options

_ORDER = (
    *(
        "convert",
        "validate",
        "inspect",
        "show",
        "merge",
        "split",
        "relabel",
        "diff",
        "leakage",
        "prune",
    ),
    *(
        "vocabulary",
        "recipes",
        "import",
        "train",
        "calibrate",
        "predict",
        "pseudolabel",
        "selftrain",
        "zeroshot",
        "eval",
        "benchmark",
        "browse",
        "export",
    ),
    "demo",
    "doctor",
)
"""The commands in the order of the work: data, models, results."""


class _Workflow(TyperGroup):
    """Lists the commands in `_ORDER`, and escapes control characters in errors of usage.

    typer lists those with subcommands last.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _printable_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    """Escape the arguments that the message of a usage error quotes; typer prints it."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        # click's errors, which later versions of typer define themselves
        if isinstance(message, str) and hasattr(error, "format_message"):
            error.__dict__["message"] = printable(message)
        raise


app = typer.Typer(
    name="segkit",
    cls=_Workflow,
    help="One segmentation model from every kind of annotation.\n\n"
    "Example: segkit demo --out demo-out",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(browse.browse)
app.command()(calibrate.calibrate)
app.command("eval")(eval_.evaluate)
app.command()(demo.demo)
app.command("import")(import_model.import_model)
app.command()(inspect.inspect)
app.command()(predict.predict)
app.command()(prune.prune)
app.command()(pseudolabel.pseudolabel)
app.command()(selftrain.selftrain)
app.command()(train.train)
app.command()(validate.validate)
app.add_typer(benchmark.app, name="benchmark")
app.command()(diff.diff)
app.command()(doctor.doctor)
app.command()(leakage.leakage)
app.command()(merge.merge)
app.command()(recipes.recipes)
app.command()(relabel.relabel)
app.command()(show.show)
app.command()(split.split)
app.add_typer(export.app, name="export")
app.add_typer(convert_formats.app, name="convert")
app.add_typer(vocabulary.app, name="vocabulary")
app.add_typer(zeroshot.app, name="zeroshot")


def _registered(group: typer.Typer) -> Iterator[CommandInfo]:
    """The commands of a group and of its subgroups."""
    yield from group.registered_commands
    for subgroup in group.registered_groups:
        if subgroup.typer_instance is not None:
            yield from _registered(subgroup.typer_instance)


def _with_64_bits(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, which refuses integers that no NumPy array and no manifest holds.

    typer accepts any integer.
    """

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        for name, value in options.items():
            for entry in value if isinstance(value, list) else [value]:
                if isinstance(entry, int) and abs(entry) > MAX_INT:
                    message = f"an integer beyond 64 bits for --{name.replace('_', '-')}"
                    raise InputError(message, hint="give a smaller number")
        return command(*arguments, **options)

    return run


for _command in _registered(app):
    # typer keeps single line breaks: join the lines of each paragraph, so that it wraps anew
    _paragraphs = (_command.help or introspection.getdoc(_command.callback) or "").split("\n\n")
    _command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in _paragraphs)
    if _command.callback is not None:
        _command.callback = with_output_options(_with_64_bits(_command.callback))


def _version(show: bool) -> None:
    if show:
        print(f"segkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    if context.invoked_subcommand is None:
        print(FIRST_STEPS)
    context.call_on_close(print_next_step)


def main() -> None:
    """Run the command line; a failure is one line on stderr and an exit code.

    A SegkitError has its own exit code. Errors of the system (a full disk, a folder without
    permission) and bugs exit with 1; typer handles Ctrl-C, which exits with 130. SEGKIT_DEBUG=1
    shows the traceback instead.
    """
    escape_streams()
    _print_notices_as_notes()
    try:
        _require_utf8_paths()
        app()
    except Exception as error:
        if os.environ.get("SEGKIT_DEBUG") == "1":
            raise
        if isinstance(error, ImportError):
            error = as_missing_extra(error, "this command") or error
        print_line(f"error: {_one_line(error)}", style="red")
        sys.exit(error.exit_code if isinstance(error, SegkitError) else 1)


def _require_utf8_paths() -> None:
    """Refuse arguments and a working directory that no JSON and no row could hold."""
    for argument in sys.argv[1:]:
        require_utf8(argument)
    with suppress(OSError):  # a deleted working directory
        require_utf8(Path.cwd())


def _print_notices_as_notes() -> None:
    """Print each Notice once, as a note without Python's file and line."""
    warnings.simplefilter("always", Notice)
    show, printed = warnings.showwarning, set[str]()

    def show_note(message: Warning | str, category: type[Warning], *arguments: Any) -> None:
        if not issubclass(category, Notice):
            show(category(printable(message)), category, *arguments)
        elif str(message) not in printed:
            printed.add(str(message))
            is_forcible = issubclass(category, UnchangedWarning) and has_force_option()
            note(f"{message}; --force publishes one" if is_forcible else str(message))

    warnings.showwarning = show_note  # type: ignore[assignment]


def _one_line(error: Exception) -> str:
    if isinstance(error, SegkitError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = shorten(str(error), 500, placeholder=" ...")  # a compiler may print megabytes
        bug = "this is a bug in segkit; SEGKIT_DEBUG=1 shows the traceback"
        text = f"{type(error).__name__}: {message} ({bug})"
    return " ".join(text.splitlines())
