"""A GPU that a machine without one pretends to have, to find what would wait for it.

Its tensors compute on the CPU. Operations for whose result the host of a real GPU would have to
wait raise, or are counted; those that mix tensors of both devices raise.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("meta")
"""The one device beside the CPU on which torch needs no driver."""
WAITING = {
    aten._local_scalar_dense.default: "reads a number",
    aten.is_nonzero.default: "reads a flag",
    aten.equal.default: "reads a flag",
    aten.nonzero.default: "has as many rows as there are true values",
    aten.masked_select.default: "has as many values as there are true ones",
    aten.bincount.default: "has as many bins as the largest value",
    aten.repeat_interleave.Tensor: "has as many values as the counts add up to",
    aten._unique2.default: "has as many values as differ",
    aten.unique_consecutive.default: "has as many values as differ",
    aten.unique_dim.default: "has as many values as differ",
    aten.allclose.default: "reads a flag",
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class WaitError(AssertionError):
    """The host would wait for the GPU."""


class GpuTensor(Tensor):
    """A tensor that claims to be on the GPU; its values are on the CPU."""

    values: Tensor

    is_cuda = True  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> "GpuTensor":
        tensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=GPU
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError("outside of pretend_gpu(), or in another thread")

    def __setitem__(self, index: Any, value: Any) -> None:
        """CUDA copies a number from the host, unless it fills a view that has dimensions."""
        if not isinstance(value, Tensor):
            parts = index if isinstance(index, tuple) else (index,)
            if self[index].dim() == 0 or any(isinstance(part, Tensor) for part in parts):
                _wait("a number that is assigned is a blocking copy")
        super().__setitem__(index, value)

    def tolist(self) -> Any:
        """The values, which the host waits for."""
        return self.cpu().tolist()


class _Gpu(TorchDispatchMode):
    """Runs operations on the CPU; its tensors are those with an input on the GPU."""

    waits: list[str] | None = None
    """What the host has waited for; None to raise instead."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs_on_gpu = any(isinstance(tensor, GpuTensor) for tensor in tensors)
        device = kwargs.get("device")
        on_gpu = inputs_on_gpu if device is None else torch.device(device) == GPU
        _check(function, args, kwargs, tensors, inputs_on_gpu, on_gpu)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        if function is aten.copy_.default:
            _values(args[0]).copy_(_values(args[1]))
            return args[0]
        result = function(*tree_map(_values, args), **tree_map(_values, kwargs))
        if not on_gpu:
            return result
        known = {id(tensor.values): tensor for tensor in tensors if isinstance(tensor, GpuTensor)}
        return tree_map(lambda leaf: _on_gpu(leaf, known), result)


def _wait(reason: str) -> None:
    """Count a wait of the host, or raise."""
    if _Gpu.waits is None:
        raise WaitError(reason)
    _Gpu.waits.append(reason)


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, GpuTensor) else leaf


def _on_gpu(leaf: Any, known: dict[int, GpuTensor]) -> Any:
    return known.get(id(leaf), GpuTensor(leaf)) if isinstance(leaf, Tensor) else leaf


def _check(
    function: Any,
    args: Any,
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    inputs_on_gpu: bool,
    on_gpu: bool,
) -> None:
    """Count or raise where the host would wait; raise where tensors of both devices meet."""
    if any(tensor.is_meta and not isinstance(tensor, GpuTensor) for tensor in tensors):
        raise WaitError(f"{function}: torch.tensor(..., device=) is a blocking copy")
    if function in (aten._to_copy.default, aten.copy_.default):
        devices = {isinstance(tensor, GpuTensor) for tensor in tensors}
        if function is aten._to_copy.default:
            devices.add(on_gpu)
        blocking = args[2:3] != (True,) and not kwargs.get("non_blocking")
        if len(devices) > 1 and blocking:
            _wait(f"{function}: a blocking copy between host and GPU")
        return
    if not inputs_on_gpu:
        if on_gpu and tensors:
            raise WaitError(f"{function}: makes a tensor of the GPU from one of the host")
        return
    if function in WAITING and kwargs.get("output_size") is None:
        _wait(f"{function} {WAITING[function]}")
    if function in INDEXING:
        if any(index is not None and index.dtype == torch.bool for index in args[1]):
            _wait(f"{function}: a boolean index has as many rows as true values")
    elif all(tensor.dim() == 0 for tensor in tensors if not isinstance(tensor, GpuTensor)):
        return  # numbers of the host go along with the kernel
    if any(not isinstance(tensor, GpuTensor) for tensor in tensors):
        raise WaitError(f"{function}: a tensor of the host meets one of the GPU")


class Event:
    """Stands in for `torch.cuda.Event`: counts the events that the host waits for."""

    waits = 0
    reached = False

    def record(self, stream: object) -> None:
        """The work so far."""

    def synchronize(self) -> None:
        """Wait for it; once it is reached, nothing waits again."""
        Event.waits += not self.reached
        self.reached = True


class Generator(torch.Generator):
    """A generator that claims to be on the GPU."""

    def __new__(cls, device: torch.device) -> "Generator":
        return super().__new__(cls)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The GPU."""
        return GPU


@contextmanager
def pretend_gpu(waits: list[str] | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function that moves a tensor to the GPU, without gradients.

    Args:
        waits: gets the reason of each wait of the host; None to raise at the first.
    """
    Event.waits = 0
    replaced: Any = [
        mock.patch.object(_Gpu, "waits", waits),
        mock.patch.object(torch.cuda, "current_stream", lambda device=None: None),
        mock.patch.object(torch.cuda, "Event", Event),
        mock.patch.object(torch, "Generator", Generator),
        mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext()),
    ]
    with ExitStack() as stack:
        for context in (torch.no_grad(), *replaced, _Gpu()):
            stack.enter_context(context)
        yield GpuTensor
