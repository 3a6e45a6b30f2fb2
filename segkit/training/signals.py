"""SIGTERM and Ctrl-C as a wish that the loop grants at the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from segkit.errors import SegkitError


class StoppedError(SegkitError):
    """The run was asked to stop and has saved a checkpoint; the exit code is the shell's for that
    signal."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}; the same command with --resume goes on from there"
        )
        self.exit_code = 128 + number


class StopSignal:
    """The signal that asks to stop, once one has come."""

    signal: int = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; a second one acts at once."""
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT; outside of the main thread, which alone can, the wish never
    comes."""
    wish = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {
        number: signal.signal(number, wish.receive) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
