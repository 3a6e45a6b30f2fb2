"""Runs commands and functions in this process, and checks how they end."""

import contextlib
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from segkit.commands.app import main
from segkit.errors import InputError

MAX_SECONDS = 20
"""Of one command. Most take milliseconds; a busy machine may be twenty times slower."""
MAX_MEMORY = 3 << 30
"""Bytes of address space that a command may take."""
MAX_LINE = 1000
"""Characters of an error, paths apart."""
_PREFIXES = ("error: ", "note: ", "next: ")
_DEFECT = re.compile(r" \[[a-z-]+\]$")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    command: str
    arguments: tuple[str, ...]
    """Of a command; none of a function."""
    code: int
    output: str
    errors: str
    seconds: float

    def fault(self, *, may_fail: bool = False) -> str | None:
        """What is wrong about the outcome; None if it is one that a user may see.

        Args:
            may_fail: exit code 1 is right too, as of `segkit validate` with violations.
        """
        lines = self.errors.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        others = [line for line in lines if not line.startswith(_PREFIXES)]
        if self.code in (0, 2):  # each defect of an image or annotation has its own line
            others = [line for line in others if not _DEFECT.search(line)]
        if self.seconds > MAX_SECONDS:
            return f"took {self.seconds:.1f} s"
        if "bug in segkit" in self.errors or "Traceback" in self.errors:
            return "a bug"
        if others and not (self.code == 0 and all(line.startswith("warning: ") for line in others)):
            return f"other lines on stderr: {others[0][:200]!r}"
        if self.arguments and (match := _CONTROL.search(self.errors + self.output)):
            return f"a control character reaches the terminal: {match[0]!r}"
        if self.code == 2:
            if len(errors) != 1:
                return f"{len(errors)} errors"
            return f"an error of {len(errors[0])} characters" if len(errors[0]) > MAX_LINE else None
        if self.code == 1 and may_fail:
            return None
        if self.code != 0:
            return f"exit code {self.code}"
        return "an error, and exit code 0" if errors else _json_fault(self.arguments, self.output)


def run(*arguments: object) -> Outcome:
    """Run the command line."""

    def call() -> None:
        with _argv("segkit", *arguments):
            main()

    return _run(" ".join(map(str, arguments)), call, tuple(map(str, arguments)))


def call(function: Callable[[], Any]) -> Outcome:
    """Call a function of the library; its InputError counts as the error of a command."""

    def call_function() -> None:
        try:
            function()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return _run(function.__name__, call_function)


def _run(command: str, function: Callable[[], None], arguments: tuple[str, ...] = ()) -> Outcome:
    code, started = 0, time.monotonic()
    with _captured() as (output, errors), _limits():
        try:
            function()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:
            import traceback

            last = traceback.format_exc()
            print(f"Traceback of {type(error).__name__}: {last}", file=sys.stderr)
            code = 1
    seconds = time.monotonic() - started
    return Outcome(command, arguments, code, _text(output), _text(errors), seconds)


def _json_fault(arguments: tuple[str, ...], output: str) -> str | None:
    """What is wrong about the one JSON object that `--json` prints."""
    if "--json" not in arguments:
        return None

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(output, parse_constant=refuse).items()
    except (ValueError, AttributeError) as error:
        return f"stdout is not one JSON object ({error})"
    return None


@contextlib.contextmanager
def _argv(*arguments: object) -> Iterator[None]:
    before = sys.argv
    sys.argv = [str(argument) for argument in arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _captured() -> Iterator[tuple[TextIO, TextIO]]:
    """Both streams in files, with what libraries in C print there."""
    with contextlib.ExitStack() as stack:
        files = []
        for name in ("stdout", "stderr"):
            file = stack.enter_context(tempfile.TemporaryFile("w+", errors="surrogateescape"))
            stream = getattr(sys, f"__{name}__")
            stream.flush()
            number = {"stdout": 1, "stderr": 2}[name]
            saved = os.dup(number)
            os.dup2(file.fileno(), number)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, number)
            before = getattr(sys, name)
            setattr(sys, name, file)
            stack.callback(setattr, sys, name, before)
            stack.callback(file.flush)
            files.append(file)
        output, errors = (
            os.fdopen(os.dup(file.fileno()), "r", errors="surrogateescape") for file in files
        )
        yield output, errors


def _text(file: TextIO) -> str:
    with file:
        file.seek(0)
        return file.read()


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Bound the time and the memory of a command."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"took more than {MAX_SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MAX_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
