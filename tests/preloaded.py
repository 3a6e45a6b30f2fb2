"""Processes that begin with torch and segkit imported: a server imports both once, and forks.

In a new interpreter, the two take five seconds of CPU time.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "segkit.training.train", "segkit.inference.pseudolabel"])


def preloaded() -> ForkServerContext:
    """The context of `multiprocessing` whose processes fork from the server, which it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # read by torch's import
        ensure_running()
    return _CONTEXT


class Process:
    """A process that runs a function; it leads a process group, as a command of a shell does.

    Args:
        function: what it runs; picklable.
        arguments: of the function.
        environment: variables in addition to those of this process.
    """

    def __init__(
        self, function: Callable[..., object], *arguments: Any, environment: Mapping[str, str] = {}
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        variables = {**os.environ, **environment}
        started = (variables, self._outputs, function, arguments)
        self._process = preloaded().Process(target=_run, args=started)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number, which is that of its group too."""
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, but not to its group."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240) -> tuple[int, str, str]:
        """Exit code, stdout and stderr once it has ended; after a kill, the code is negative."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
        out, err = (file.read_text() for file in self._outputs)
        assert code is not None, f"still running after {seconds} s\n{err}"
        return code, out, err


def _run(
    variables: Mapping[str, str],
    outputs: list[Path],
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, file in enumerate(outputs, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    function(*arguments)


def run_command(arguments: list[str]) -> None:
    """Run a command line of `segkit`, as its entry point does."""
    from segkit.commands.entry import main

    sys.argv = ["segkit", *arguments]
    main()
