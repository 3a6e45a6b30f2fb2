"""Processes, devices, precision, and collective operations that work in a single process too."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkit import torchrun
from segkit.errors import InputError
from segkit.malloc import raise_malloc_threshold

T = TypeVar("T")
TIMEOUT = timedelta(hours=2)
"""Maximum wait of a collective operation: only rank 0 computes metrics and publishes."""
TENSORS = 1 << 30
"""Bytes: larger tensors on the CPU return to the system when they are freed."""
AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


# --- processes ---


def rank() -> int:
    """Rank of this process; rank 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started: NCCL for tensors on GPUs, gloo for the rest.

    In a single process, or in an existing process group, only select the GPU.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        # Events, pinned memory and NCCL use the current device, GPU 0 by default.
        torch.cuda.set_device(device)
    if not torchrun.is_distributed() or dist.is_initialized():
        yield
        return
    # Objects are exchanged in every step; NCCL would synchronize the GPU for each of them.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap_ddp(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` in DistributedDataParallel; the module itself in a single process."""
    return module if world_size() == 1 else data_parallel(module, device)


def data_parallel(module: nn.Module, device: torch.device) -> "_DataParallel":
    """`module` in DistributedDataParallel, also in a group of a single process.

    All processes must run the same parts of it. Gradients are views of the buffers that DDP
    reduces, not copies. Buffers are broadcast in each step only if some change, which are the
    statistics of batch norms that are not frozen.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            hook = partial(_restride, parameter.stride())
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    # DDP's setter for buffers that processes have in common; there is no public one
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(module, _constant_buffers(module.train()))  # type: ignore[no-untyped-call]
    device_ids = [device] if device.type == "cuda" else None
    return _DataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


class _DataParallel(DistributedDataParallel):
    """DDP of a model of which each step may leave parts unused, the same in all processes.

    A step without boxes leaves the box prompt encoder unused, a set of instances the learned
    queries. DDP waits for a gradient of every weight: those of unused weights are set to zero for
    the exchange and removed after it, so AdamW skips these weights as it does in one process. DDP's
    `find_unused_parameters` does the same, but warns of every model that uses all of them.
    """

    _without_gradient: tuple[nn.Parameter, ...] = ()
    """Weights whose gradients are removed after the backward pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; before the last backward pass of a step, complete the gradients."""
        outputs = super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.require_backward_grad_sync and torch.is_grad_enabled():
            used = _weights_of(outputs)
            trained = (weight for weight in self.module.parameters() if weight.requires_grad)
            unused = [weight for weight in trained if weight not in used]
            # by earlier batches of the step some may have a gradient, to which zero is added
            self._without_gradient = tuple(weight for weight in unused if weight.grad is None)
            torch.autograd.backward(unused, [torch.zeros_like(weight) for weight in unused])
        return outputs

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """The forward and backward pass of a step's last batch."""
        yield
        for weight in self._without_gradient:
            weight.grad = None


def _weights_of(outputs: Any) -> set[Tensor]:
    """The weights on which tensors, or tensors in tuples, depend."""
    queue, nodes, weights = [outputs], set(), set()
    while queue:
        item = queue.pop()
        if isinstance(item, tuple):
            queue += item
        elif (node := item.grad_fn if isinstance(item, Tensor) else item) and node not in nodes:
            nodes.add(node)
            weights |= {node.variable} if hasattr(node, "variable") else set()
            queue += [source for source, _ in node.next_functions]
    return weights


def _constant_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers that training does not change: all but statistics of batch norms."""
    norms = nn.modules.batchnorm._BatchNorm
    modules = dict(module.named_modules())
    return [
        name
        for name, _ in module.named_buffers()
        if not (isinstance(norm := modules[name.rpartition(".")[0]], norms) and norm.training)
    ]


def _restride(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    """A gradient with the strides of its parameter, which DDP compares with those of its buffer.

    Convolutions on channels-last images give sides of 1 another stride, of no effect.
    """
    return gradient.as_strided(gradient.shape, strides) if gradient.is_contiguous() else gradient


def gradient_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
    """Make DDP or FSDP2 average gradients over processes, or only accumulate them."""
    if world_size() == 1:
        return nullcontext()
    from torch.distributed.fsdp import FSDPModule  # a third of a second

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(enabled)
    if isinstance(model, _DataParallel):
        return model.exchange() if enabled else model.no_sync()
    return nullcontext()


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor, or one of pending sums (a norm), in one piece; any other unchanged."""
    if world_size() == 1:
        return tensor
    from torch.distributed.tensor import DTensor  # a third of a second

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def all_gather_object(values: list[T]) -> list[T]:
    """The lists of all processes, concatenated in rank order, on every process."""
    if world_size() == 1:
        return values
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, values)
    return [value for part in lists for value in part]


def gather_object(values: list[T]) -> list[T]:
    """The lists of all processes, concatenated in rank order, in the first process.

    Others get an empty list. Every process must call it.
    """
    if world_size() == 1:
        return values
    lists: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(values, lists, dst=0)
    return [value for part in lists or [] for value in part]


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must call it."""
    if world_size() == 1:
        return flag
    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count > 0)


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with rank 0's values, in one transfer for each dtype and device."""
    if world_size() == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.broadcast(flat, src=0)
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def barrier() -> None:
    """Wait until every process arrives."""
    if world_size() > 1:
        dist.barrier()


def mean_over_processes(count: Tensor) -> Tensor:
    """Mean of a count, or of a tensor of counts, over all processes; at least 1e-6.

    DDP averages gradients over processes. A loss summed over this process's targets and divided by
    the mean count becomes the joint batch's sum over the joint count; a mean of per-process means
    would weigh each target by how few its process holds.

    Every process must call it, in the same order.
    """
    if world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count = count / world_size()
    return count.clamp(min=1e-6)


# --- device and precision ---


def choose_device(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda or cuda:N.

    `cuda` is this process's GPU; `auto` is that GPU, or the CPU on a machine without GPUs. On the
    CPU the process keeps freed memory from now on (`raise_malloc_threshold`).

    Raises:
        InputError: an unknown name, a GPU that this machine does not have, or more processes than
            GPUs.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        raise_malloc_threshold(TENSORS)
        return torch.device("cpu")
    if name in ("auto", "cuda"):
        device = torch.device("cuda", torchrun.local_rank())
    else:
        try:
            device = torch.device(name)
        except RuntimeError:
            hint = "give auto, cpu, cuda or cuda:N"
            raise InputError(f"unknown device {name!r}", record="--device", hint=hint) from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in ("auto", "cuda") and 0 < gpus <= torchrun.local_rank():
        raise _too_many_processes(gpus)
    if device.type != "cuda" or (device.index or 0) >= gpus:
        raise InputError(
            f"no device {name!r} on this machine ({gpus} GPUs)",
            record="--device",
            hint="give auto or cpu",
        )
    return device


def _too_many_processes(gpus: int) -> InputError:
    processes = max(torchrun.local_world_size(), torchrun.local_rank() + 1)
    message = f"{processes} processes on this machine, {gpus} GPU{'s' * (gpus > 1)}"
    hint = f"give --nproc-per-node {gpus}, or --device cpu"
    return InputError(message, record="torchrun", hint=hint)


@dataclass(frozen=True)
class HostCopy:
    """Tensors on their way to the CPU; on a GPU, other work can be queued before they arrive."""

    tensors: tuple[Tensor, ...]
    arrived: torch.cuda.Event | None

    @classmethod
    def from_tensors(cls, *tensors: Tensor) -> "HostCopy":
        """Start the transfer of tensors of one device."""
        if not tensors[0].is_cuda:
            return cls(tensors, None)
        copies = tuple(
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                tensor, non_blocking=True
            )
            for tensor in tensors
        )
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(tensors[0].device))
        return cls(copies, arrived)

    def wait(self) -> tuple[Tensor, ...]:
        """The tensors on the CPU, once they are there; any thread may call it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensors


def native_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """bf16 on GPUs and x86 CPUs where steps in bf16 take less time, else fp32.

    Without AMX, which virtual machines may hide, Intel's processors multiply no more bf16 than
    fp32 numbers in a cycle, and lose the time of conversions.
    """
    if device.type == "cuda":
        native = gpu_computes_bf16()
    else:  # only x86 has these flags, and an older torch has no `get_capabilities`: fp32
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        avx512 = capabilities.get("avx512_bf16", False)
        is_intel = "Intel" in str(capabilities.get("cpu_name", ""))
        native = capabilities.get("amx_bf16", False) or (avx512 and not is_intel)
    return "bf16" if native else "fp32"


def gpu_computes_bf16() -> bool:
    """Whether the GPU multiplies bf16 numbers; a V100 or T4 only emulates it, slowly."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context that runs a forward pass in fp32, bf16 or fp16; weights keep their type."""
    dtype = AUTOCAST_DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
