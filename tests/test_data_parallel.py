"""What processes exchange in DDP."""

import pytest
import torch
from torch import nn

from segkit import distributed


def test_tensors_are_broadcast_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        sent.append(tensor.clone())
        tensor += 1  # rank 0 has other values

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "broadcast", broadcast)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(2))
    counts = [tensor.clone() for tensor in module.buffers()]
    distributed.broadcast_tensors(module.buffers())
    assert [len(tensor) for tensor in sent] == [10, 2], "statistics, and the numbers of batches"
    for before, after in zip(counts, module.buffers(), strict=True):
        assert torch.equal(after, before + 1)


def test_ddp_broadcasts_only_the_statistics_that_change() -> None:
    frozen = nn.BatchNorm2d(2)
    module = nn.Sequential(nn.Sequential(frozen), nn.BatchNorm2d(2)).train()
    frozen.eval()
    module.register_buffer("mean", torch.zeros(3))
    constant = distributed._constant_buffers(module)
    assert set(constant) == {
        "mean",
        "0.0.running_mean",
        "0.0.running_var",
        "0.0.num_batches_tracked",
    }


def test_gradients_get_the_strides_of_their_parameters() -> None:
    convolution = nn.Conv2d(4, 4, 3, groups=4)  # weights (4, 1, 3, 3)
    weight = convolution.weight
    images = torch.rand(1, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(convolution(images).sum(), weight)
    assert gradient.stride() != weight.stride(), "sides of 1 have another stride"
    same = distributed._restride(weight.stride(), gradient)
    assert same.stride() == weight.stride() and torch.equal(same, gradient)
