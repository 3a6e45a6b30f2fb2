import signal
import threading

import pytest

from segkit.training.signals import StoppedError, stop_on_signal


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
