"""The precision of a forward pass."""

import torch

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a forward pass computes in fp32, bf16 or fp16; weights stay as they are."""
    dtype = _TYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
