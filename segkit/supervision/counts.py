"""What losses are divided by when several processes share a batch."""

import torch.distributed as dist
from torch import Tensor


def is_shared() -> bool:
    """Whether several processes share a batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def joint(count: Tensor) -> Tensor:
    """Mean of a count, or of several in one tensor, over the processes of a training; itself where there is one.

    Gradients are averaged over processes: a sum divided by this mean becomes the joint batch's sum over the joint
    count, whereas means of means would weigh a target by how few others its process has. Never 0.

    Every process must call it, in the same order.
    """
    if is_shared():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1e-6)
