"""The checks of correctness of `check_cuda.py`; each yields rows of its table."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from cuda_bench import Bench, Row, read_batches
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.distributed import autocast
from segkit.model.dataseg import DataSeg
from segkit.runs.open_run import load_run
from segkit.training import sharding
from segkit.training.logging import StepRecord
from segkit.training.setup import TrainingSetup


def losses_and_gradients(bench: Bench) -> Iterator[Row]:
    """Losses and gradients of one batch on the device, against the CPU in float32."""
    for data in (bench.panoptic, bench.boxes):
        setup = bench.setup(data)
        (_, batch), *_ = read_batches(setup, 1)
        expected = _gradients(setup, batch, torch.device("cpu"))
        losses, gradients = _gradients(setup, batch, bench.device)
        name = data.manifest.kind
        yield Row(
            name, "largest relative difference of a loss", _relative(losses, expected[0]), 1e-3
        )
        yield Row(
            name, "relative difference of the gradient", _distance(gradients, expected[1]), 1e-2
        )


def precisions(bench: Bench) -> Iterator[Row]:
    """The loss of one batch in bf16 and fp16, against float32."""
    setup = bench.setup(bench.panoptic)
    (_, batch), *_ = read_batches(setup, 1)
    expected = sum(_gradients(setup, batch, bench.device)[0].values())
    for precision in ("bf16", "fp16"):
        losses, gradients = _gradients(setup, batch, bench.device, precision)
        finite = all(bool(value.isfinite().all()) for value in gradients.values())
        difference = abs(sum(losses.values()) - expected) / expected
        yield Row(precision, "relative difference of the loss", difference, 0.1)
        yield Row(precision, "gradients that are not finite", float(not finite), 0)


def compiled(bench: Bench) -> Iterator[Row]:
    """A forward pass with the compiled parts, against the same model as it is."""
    model = _model(bench.setup(bench.panoptic), bench.device).eval()
    images = torch.rand(1, 3, bench.sizes.crop, bench.sizes.crop, device=bench.device)
    text = _text(model, bench.device)
    with torch.no_grad():
        expected = model(images, text, aux_outputs=False).queries.mask_logits
        model.compile_parts(bench.sizes.compiler)
        logits = model(images, text, aux_outputs=False).queries.mask_logits
    scale = float(expected.abs().max())
    yield Row(
        "compile", "mask logits: difference", float((logits - expected).abs().max()) / scale, 1e-2
    )


def parallel(bench: Bench) -> Iterator[Row]:
    """Gradients under DDP and FSDP2 with one process, against those of the model as it is."""
    setup = bench.setup(bench.panoptic)
    (_, batch), *_ = read_batches(setup, 1)
    expected = _gradients(setup, batch, bench.device)[1]
    with _one_process(bench):
        for name in ("ddp", "fsdp"):
            model: nn.Module = _model(setup, bench.device)
            if name == "ddp":
                wrapped: nn.Module = DistributedDataParallel(model, find_unused_parameters=True)
            else:
                sharding.shard(model, bench.device)
                wrapped = model
            _backward(setup, wrapped, batch, bench.device)
            gradients = {
                key: value.grad.full_tensor() if hasattr(value.grad, "full_tensor") else value.grad
                for key, value in model.named_parameters()
                if value.grad is not None
            }
            yield Row(
                name, "relative difference of the gradient", _distance(gradients, expected), 1e-3
            )


def resumed(bench: Bench) -> Iterator[Row]:
    """Weights of a run that was interrupted and resumed, against one in one go."""
    settings = ("training.checkpoint_every=2", "data.workers=0")

    def stop(record: StepRecord) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        bench.train("resumed", *settings, steps=4, on_step=stop)
    runs = [
        bench.train("resumed", *settings, steps=4, resume=True),
        bench.train("in-one-go", *settings, steps=4),
    ]
    first, second = (load_run(run).model.state_dict() for run in runs)
    yield Row("resume", "relative difference of the weights", _distance(first, second), 1e-3)


def _model(setup: TrainingSetup, device: torch.device) -> DataSeg:
    torch.manual_seed(0)
    return DataSeg(setup.recipe.model).to(device)


def _text(model: DataSeg, device: torch.device) -> Tensor:
    rows = torch.randn(20, model.config.text_dim, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(rows, dim=1).to(device)


def _gradients(
    setup: TrainingSetup, batch: Batch, device: torch.device, precision: str = "fp32"
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a fresh model on a batch."""
    model = _model(setup, device)
    losses = _backward(setup, model, batch, device, precision)
    weights = model.named_parameters()
    return losses, {name: value.grad for name, value in weights if value.grad is not None}


def _backward(
    setup: TrainingSetup,
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    precision: str = "fp32",
) -> dict[str, float]:
    """Take the steps of `Trainer.train_step` up to the gradients; returns the losses."""
    config = setup.recipe.loss
    embeddings = setup.datasets[0].embeddings.to(device)
    criterion = SetCriterion(config, {batch.dataset: embeddings.is_thing})
    torch.manual_seed(1)
    batch = batch.to(device)
    prompts = sample_box_prompts(batch, config, torch.default_generator)
    model.train()
    with autocast(precision, device):
        outputs = model(batch.images, embeddings.text, prompts)
        losses = criterion(outputs, batch, prompts, step=0)
    torch.stack(list(losses.values())).sum().backward()
    return {name: float(value.detach()) for name, value in losses.items()}


def _relative(values: dict[str, float], expected: dict[str, float]) -> float:
    return max(abs(values[key] - expected[key]) / max(abs(expected[key]), 1e-6) for key in expected)


def _distance(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all tensors, over the norm of the expected ones."""
    keys = [key for key in expected if expected[key].is_floating_point()]
    difference = sum(float((tensors[k].cpu() - expected[k].cpu()).square().sum()) for k in keys)
    return math.sqrt(difference / sum(float(expected[k].square().sum()) for k in keys))


@contextmanager
def _one_process(bench: Bench) -> Iterator[None]:
    """A process group of this process only."""
    backend = "cpu:gloo,cuda:nccl" if bench.device.type == "cuda" else "gloo"
    store = dist.HashStore()
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
