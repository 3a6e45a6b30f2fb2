"""Devices that a command accepts."""

import pytest

from segkit.errors import InputError
from segkit.workers.devices import check_device


def test_processes_of_torchrun_share_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes of torchrun would share cuda:1") as raised:
        check_device("cuda:1")
    assert str(raised.value.hint).startswith("give --device cuda or auto")
    for device in ("auto", "cpu", "cuda"):
        check_device(device)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # one on each of several machines
    check_device("cuda:1")


def test_an_unknown_device_is_refused() -> None:
    for device in ("gpu", "cuda:", "cuda:x", "mps"):
        with pytest.raises(InputError, match="unknown device"):
            check_device(device)
