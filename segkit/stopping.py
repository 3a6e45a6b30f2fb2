"""Stop signals: Ctrl-C and SIGTERM end a command at any moment, without a traceback.

A command calls `exit_on_signals` first. From then on a signal ends the process at once, with the
shell's exit code (130 or 143) and with its child processes. Two kinds of blocks are different:

- `cleanup_on_stop`: the signal raises KeyboardInterrupt, the block removes what it has begun to
  write, and the process ends with the block.
- `stop_on_signal`: a graceful shutdown. The signal only sets a flag that a loop checks.

A library call changes no signal handlers outside of `stop_on_signal`.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ClassVar

from segkit.errors import SegkitError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0
"""Seconds after which a process ends even if its main thread does not react."""
_SHOW_CURSOR = "\x1b[?25h\n"
_CATCH_UP = b"\0"
"""Follows the numbers of signals in the pipe."""


class StoppedError(SegkitError):
    """A signal has stopped the run after a checkpoint; the exit code is the shell's for it.

    Args:
        number: of the signal.
        step: of the checkpoint.
        advice: what continues the run, for commands without --resume.
    """

    def __init__(
        self, number: int, step: int, advice: str = "the same command with --resume continues"
    ) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; {advice}")
        self.number, self.step = number, step
        self.exit_code = 128 + number

    def with_advice(self, advice: str) -> "StoppedError":
        """The same error with another advice."""
        return StoppedError(self.number, self.step, advice)


class StopSignal:
    """The number of the stop signal that has arrived, or 0."""

    signal: int = 0
    _checkpoint: int | None = None
    """The step whose checkpoint holds all work so far, in a block of `raised_at_once`."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; a second one interrupts at once."""
        if self.signal:
            _state.stop(number)
            raise KeyboardInterrupt
        self.signal = number
        self._raise_at_once()

    @contextmanager
    def raised_at_once(self, step: int) -> Iterator[None]:
        """A block in which a signal raises StoppedError: the checkpoint of `step` is complete."""
        self._checkpoint = step
        try:
            self._raise_at_once()  # a signal that came just before
            yield
        finally:
            self._checkpoint = None

    def _raise_at_once(self) -> None:
        if self.signal and self._checkpoint is not None:
            raise StoppedError(self.signal, self._checkpoint)


class _State:
    """What a signal does to this process."""

    installed = False
    blocks = 0
    """Blocks of `cleanup_on_stop` that are running."""
    signal = 0
    """The signal that has interrupted them."""
    arrived = 0
    """The signal that the watching thread has read, whoever handles it."""
    pipe = -1
    """Where the interpreter writes the number of each signal for the watching thread."""
    watcher: threading.Thread | None = None
    """The watching thread; not alive in a forked child."""
    caught_up = threading.Event()
    """The watching thread has read a signal, or all that was in the pipe when it was cleared."""
    files: ClassVar[list[str]] = []
    """Files that are removed when a signal ends the process."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """End the process, or interrupt the blocks that have something to remove."""
        if self.signal or not self.blocks:
            self.stop(number)
        self.signal = number
        raise KeyboardInterrupt

    def arrived_by_now(self) -> int:
        """The signal that has arrived, whoever handled it, or 0."""
        self.caught_up.clear()
        if not self.arrived and self.watcher is not None and self.watcher.is_alive():
            os.write(self.pipe, _CATCH_UP)
            self.caught_up.wait(GRACE)
        return self.arrived

    def stop(self, number: int) -> None:
        """End the process, unless it is not a command's."""
        if self.installed:
            _exit(number)


_state = _State()


def exit_on_signals() -> None:
    """Let SIGINT and SIGTERM end this process from now on; an ignored signal stays ignored."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _state.pipe = write_end
    _state.watcher = threading.Thread(target=_watch, args=(read_end,), daemon=True)
    _state.watcher.start()
    _state.installed = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _state.receive)


def exit_code(code: object) -> object:
    """The exit code of a command that ends with `code`: the shell's if a signal has arrived."""
    failed = code not in (None, 0)
    return 128 + number if failed and (number := _state.arrived_by_now()) else code


@contextmanager
def cleanup_on_stop() -> Iterator[None]:
    """A block that a signal interrupts by KeyboardInterrupt, and after which the process ends.

    Signals reach the main thread only: in another thread, the block has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.blocks += 1
    try:
        yield
    finally:
        _state.blocks -= 1
        number = _state.signal
        if sys.exc_info()[0] is not None:
            number = number or _state.arrived_by_now()  # by the handler of a library, such as Ray's
        if number and not _state.blocks:
            _state.stop(number)


@contextmanager
def removed_on_stop(file: str) -> Iterator[None]:
    """A block in which a signal that ends the process removes a file, such as a lock."""
    _state.files.append(file)
    try:
        yield
    finally:
        _state.files.remove(file)


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT; only the main thread can, others never receive one."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.receive) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Delay stop signals, or these, while child processes start, which inherit the blocked ones.

    A child calls `set_child_signals` once it is set up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """A block in which a library sets no handlers of stop signals, as Ray does of SIGTERM."""
    set_handler = signal.signal

    def keep(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in SIGNALS else set_handler(number, handler)

    signal.signal = keep  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler


def set_child_signals(*ignored: signal.Signals) -> None:
    """Set up a child process: ignore these stop signals, and let the others end it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _watch(descriptor: int) -> None:
    """End the process where its main thread does not: it may be deep in a library's own code.

    The first signal of a graceful shutdown is left to its loop.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are for the main thread
    graceful = False
    while number := os.read(descriptor, 1):
        if number == _CATCH_UP:
            _state.caught_up.set()
        if number[0] not in SIGNALS:
            continue
        _state.arrived = number[0]
        _state.caught_up.set()
        if signal.getsignal(number[0]) == _state.receive or graceful:
            time.sleep(GRACE)
            _exit(number[0])
        graceful = True


def _exit(number: int) -> None:
    """End this process and its children at once, without the interpreter's own shutdown."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        children = multiprocessing.active_children()
        for child in children:
            child.kill()
        for child in children:
            child.join(1.0)
    for file in list(_state.files):
        with suppress(OSError):
            os.unlink(file)  # noqa: PTH108 - pathlib takes long to import
    with suppress(Exception):  # the signal may have come while Python was writing
        sys.stdout.flush()
    with suppress(OSError):
        cursor = _SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{cursor}stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)
