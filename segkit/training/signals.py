"""Graceful shutdown: SIGTERM and Ctrl-C set a flag that the loop checks after each step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from segkit.errors import SegkitError


class StoppedError(SegkitError):
    """A signal has stopped the run after a checkpoint; the exit code is the shell's for it."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}; the same command with --resume continues"
        )
        self.exit_code = 128 + number


class StopSignal:
    """The number of the stop signal that has arrived, or 0."""

    signal: int = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; a second one interrupts at once."""
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT; only the main thread can, others never receive one."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {
        number: signal.signal(number, stop.receive) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
