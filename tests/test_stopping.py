import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkit.stopping import (
    SIGNALS,
    StoppedError,
    cleanup_on_stop,
    handlers_kept,
    signals_blocked,
    stop_on_signal,
)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Python's own handler of Ctrl-C, whatever the libraries of earlier tests installed."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_the_second_interrupts(number: signal.Signals) -> None:
    handler = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert stop.signal == 0
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("early", [False, True])
def test_a_signal_is_raised_at_once_where_nothing_would_be_lost(early: bool) -> None:
    with pytest.raises(StoppedError, match="SIGTERM after step 7"), stop_on_signal() as stop:
        if early:
            signal.raise_signal(signal.SIGTERM)
        with stop.raised_at_once(7):
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the block went on")


def test_after_such_a_block_a_signal_sets_the_flag_again() -> None:
    with stop_on_signal() as stop:
        with stop.raised_at_once(7):
            pass
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


def test_other_threads_install_no_handler() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    flags: list[int] = []

    def enter() -> None:
        with stop_on_signal() as stop:
            assert signal.getsignal(signal.SIGTERM) is handler
            flags.append(stop.signal)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert flags == [0]


def test_the_error_names_the_signal_and_has_the_shells_exit_code() -> None:
    error = StoppedError(signal.SIGTERM, 7)
    assert str(error).startswith("stopped by SIGTERM after step 7")
    assert error.exit_code == 128 + signal.SIGTERM
    advised = error.with_advice("call again")
    assert str(advised) == "stopped by SIGTERM after step 7; call again"
    assert advised.exit_code == error.exit_code


COMMAND = """
import sys, time
from segkit import stopping
stopping.exit_on_signals()
{body}
"""
REMOVES_ITS_FILE = """
file = sys.argv[1]
with stopping.cleanup_on_stop():
    open(file, "w").close()
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException as error:
        import os
        os.unlink(file)
        raise ValueError("a library turns the interrupt into its error") from error
"""
HAS_A_CHILD = """
import multiprocessing
with stopping.signals_blocked():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
SWALLOWS = """
stopping.GRACE = 0.3
with stopping.cleanup_on_stop():
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def stopped(body: str, number: signal.Signals, *arguments: str) -> tuple[str, str, int]:
    """First line of stdout, stderr and exit code of a program that a signal stops."""
    program = [sys.executable, "-c", COMMAND.format(body=body), *arguments]
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default
    ) as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline().strip()
        process.send_signal(number)
        return line, process.stderr.read(), process.wait(30)


HAS_A_LIBRARYS_HANDLER = """
import signal
with stopping.cleanup_on_stop():
    for number in stopping.SIGNALS:
        signal.signal(number, lambda number, frame: sys.exit(number))  # as Ray does
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "body", ["print(flush=True); time.sleep(60)", SWALLOWS, HAS_A_LIBRARYS_HANDLER]
)
def test_a_command_ends_with_the_shells_exit_code_and_one_line(
    body: str, number: signal.Signals
) -> None:
    assert stopped(body, number)[1:] == (f"stopped by {number.name}\n", 128 + number)


def test_a_block_removes_its_files_whatever_becomes_of_the_interrupt(tmp_path: Path) -> None:
    file = tmp_path / "begun"
    line, errors, code = stopped(REMOVES_ITS_FILE, signal.SIGINT, str(file))
    assert (line, errors, code) == ("ready", "stopped by SIGINT\n", 130)
    assert not file.exists()


def test_children_end_with_the_command() -> None:
    line, errors, code = stopped(HAS_A_CHILD, signal.SIGTERM)
    assert (errors, code) == ("stopped by SIGTERM\n", 143)
    with pytest.raises(ProcessLookupError):
        os.kill(int(line), 0)


def test_blocked_signals_arrive_after_the_block() -> None:
    with pytest.raises(KeyboardInterrupt), signals_blocked():
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached


def test_a_block_that_no_command_runs_changes_no_handler() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with cleanup_on_stop():
        assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_a_library_sets_no_handler_of_a_stop_signal() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        assert signal.signal(signal.SIGTERM, signal.SIG_IGN) is handler
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.signal(signal.SIGTERM, handler) is handler
