"""Which device a name means on this machine."""

import torch

from segkit.errors import InputError
from segkit.training import distributed


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` and `cuda` take this process's GPU, `auto` the CPU where there is none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        device = torch.device("cuda", distributed.local_rank()) if name in ("auto", "cuda") else torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}", record="--device", mend="give auto, cpu, cuda or cuda:N") from None
    if device.type != "cuda" or not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise InputError(f"no device {name!r} here ({found} GPUs)", record="--device", mend="give auto or cpu")
    return device
