"""The checks of correctness of `check_cuda.py`; each yields rows of its table."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import patch

import torch
import torch.distributed as dist
from cuda_bench import MASK2FORMER, Bench, Row, read_batches
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from segkit.criterion import matcher, point_sampling
from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.point_sampling import random_points
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.distributed import autocast, data_parallel
from segkit.model.dataseg import DataSeg
from segkit.model.deformable import DeformableAttention
from segkit.runs.open_run import load_run
from segkit.training import sharding
from segkit.training.logging import StepRecord
from segkit.training.setup import TrainingSetup
from segkit.training.trainer import model_arguments

CONFIGURATIONS = {"fpn": (), "deformable": MASK2FORMER}
"""Changes to the recipe with which losses and gradients are compared."""


def losses_and_gradients(bench: Bench) -> Iterator[Row]:
    """Losses and gradients of one batch on the device, against the CPU in float32."""
    for parts, overrides in CONFIGURATIONS.items():
        for data in (bench.panoptic, bench.boxes):
            setup = bench.setup(data, *overrides)
            (_, batch), *_ = read_batches(setup, 1)
            expected = _gradients(setup, batch, torch.device("cpu"))
            losses, gradients = _gradients(setup, batch, bench.device)
            name = f"{data.manifest.kind}, {parts}"
            difference = _relative(losses, expected[0])
            yield Row(name, "largest relative difference of a loss", difference, 1e-3)
            difference = _distance(gradients, expected[1])
            yield Row(name, "relative difference of the gradient", difference, 1e-2)


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
    """A forward pass with the compiled parts, against the same model as it is; then the gradients
    of a training step of the deformable decoder."""
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
    setup = bench.setup(bench.panoptic, *MASK2FORMER, "model.encoder_layers=1")
    (_, batch), *_ = read_batches(setup, 1)
    plain = _gradients(setup, batch, bench.device)[1]
    gradients = _gradients(setup, batch, bench.device, compiler=bench.sizes.compiler)[1]
    difference = _distance(gradients, plain)
    yield Row("compile", "deformable: relative difference of the gradient", difference, 1e-2)


def parallel(bench: Bench) -> Iterator[Row]:
    """Gradients under DDP and FSDP2 with one process, against those of the model as it is."""
    for parts, overrides in CONFIGURATIONS.items():
        setup = bench.setup(bench.panoptic, *overrides)
        (_, batch), *_ = read_batches(setup, 1)
        expected = _gradients(setup, batch, bench.device)[1]
        with _one_process(bench):
            for name in ("ddp", "fsdp"):
                gradients = _parallel_gradients(name, setup, batch, bench.device)
                difference = _distance(gradients, expected)
                yield Row(
                    f"{name}, {parts}", "relative difference of the gradient", difference, 1e-3
                )


def _parallel_gradients(
    name: str, setup: TrainingSetup, batch: Batch, device: torch.device
) -> dict[str, Tensor]:
    """Gradients of a fresh model on a batch, under `ddp` or `fsdp`."""
    model = _model(setup, device)
    if name == "ddp":
        wrapped = data_parallel(model, device)
        with wrapped.exchange():
            _backward(setup, wrapped, batch, device)
    else:
        sharding.shard(model, device)
        _backward(setup, model, batch, device)
    gradients = {key: value.grad for key, value in model.named_parameters()}
    return {
        key: value.full_tensor() if isinstance(value, DTensor) else value
        for key, value in gradients.items()
        if value is not None
    }


def resumed(bench: Bench) -> Iterator[Row]:
    """Weights of a run that was interrupted and resumed, against one in one go.

    Backward passes on a GPU add in an order that changes from run to run, and AdamW turns gradients
    near zero into steps of full length, whatever their sign. So two runs in one go show how much
    repeats, and the resumed run may differ from one of them a few times as much.
    """
    settings = ("training.checkpoint_every=2", "data.workers=0")

    def stop(record: StepRecord) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        bench.train("resumed", *settings, steps=4, on_step=stop)
    runs = [
        bench.train("resumed", *settings, steps=4, resume=True),
        bench.train("in-one-go", *settings, steps=4),
        bench.train("again", *settings, steps=4),
    ]
    continued, expected, again = (load_run(run).model.state_dict() for run in runs)
    repeated = _distance(again, expected)
    yield Row("repeat", "relative difference of the weights", repeated)
    limit = min(0.1, max(1e-3, 3 * repeated))
    yield Row("resume", "relative difference of the weights", _distance(continued, expected), limit)


def _model(setup: TrainingSetup, device: torch.device) -> DataSeg:
    torch.manual_seed(0)
    model = DataSeg(setup.recipe.model).to(device)
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            # new layers sample at centers of cells, where rounding decides on the gradient
            nn.init.uniform_(module.offsets.bias, -2.5, 2.5)
    if setup.recipe.training.activation_checkpointing:
        model.recompute_activations()
    return model


def _text(model: DataSeg, device: torch.device) -> Tensor:
    rows = torch.randn(20, model.config.text_dim, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(rows, dim=1).to(device)


def _gradients(
    setup: TrainingSetup,
    batch: Batch,
    device: torch.device,
    precision: str = "fp32",
    compiler: str | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a fresh model on a batch."""
    model = _model(setup, device)
    if compiler is not None:
        model.compile_parts(compiler)
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
    recipe, config = setup.recipe, setup.recipe.loss
    embeddings = setup.datasets[0].embeddings.to(device)
    criterion = SetCriterion(config, {batch.dataset: embeddings.is_thing})
    torch.manual_seed(1)
    batch = batch.to(device)
    prompts = sample_box_prompts(batch, config, torch.default_generator)
    model.train()
    with autocast(precision, device), _points_of_cpu():
        arguments = model_arguments(batch, recipe, embeddings.things)
        outputs = model(batch.images, embeddings.text, prompts, **arguments)
        noised = arguments.get("noised")
        losses = criterion(outputs, batch, prompts, step=0, noised=noised)
    torch.stack(list(losses.values())).sum().backward()
    return {name: float(value.detach()) for name, value in losses.items()}


@contextmanager
def _points_of_cpu() -> Iterator[None]:
    """Draw the points of the losses on the CPU, so that every device compares the same ones."""

    def draw(maps: int, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        points = random_points(maps, count, size, torch.default_generator)
        return points.to(generator.device)

    with ExitStack() as stack:
        for module in (matcher, point_sampling):
            stack.enter_context(patch.object(module, "random_points", draw))
        yield


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
