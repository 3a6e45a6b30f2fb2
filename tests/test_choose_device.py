"""The device that each process of torchrun gets."""

import pytest
import torch

from segkit.distributed import choose_device
from segkit.errors import InputError


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_or_the_number_of_processes_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(name) == torch.device("cuda", rank)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(InputError, match="8 processes on this machine, 4 GPUs") as raised:
        choose_device(name)
    assert str(raised.value.hint).startswith("give --nproc-per-node 4")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.usefixtures("four_gpus")
def test_a_gpu_that_is_not_there_is_named() -> None:
    assert choose_device("cuda:3") == torch.device("cuda", 3)
    with pytest.raises(InputError, match="no device 'cuda:4' on this machine"):
        choose_device("cuda:4")
