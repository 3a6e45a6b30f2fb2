"""The checks of `check_cuda.py`: each measures one thing on a device, as rows of its table."""

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.data.mix import DataMix
from segkit.demo.layouts import write_native_sets
from segkit.distributed import autocast
from segkit.inference.outputs import predict_set
from segkit.inference.pipeline import image_crop
from segkit.inference.pseudolabel import pseudolabel
from segkit.model.dataseg import DataSeg
from segkit.model.deformable import DeformableAttention
from segkit.model.sampling import Scales
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import open_objects365
from segkit.training import sharding
from segkit.training.logging import StepRecord
from segkit.training.setup import TrainingSetup
from segkit.training.train import train
from segkit.training.trainer import Callbacks

SHIPPED = ("text.encoder=minilm", "model.text_dim=384")
"""Text embeddings that are part of segkit: nothing is downloaded."""
MINI = "dataseg-mini"


@dataclass(frozen=True)
class Row:
    """A measured value, with the largest one that passes."""

    check: str
    quantity: str
    value: float
    limit: float | None = None
    """None where the value is only recorded."""

    @property
    def passed(self) -> bool:
        """Whether the value is finite and within its limit."""
        return math.isfinite(self.value) and (self.limit is None or self.value <= self.limit)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    scenes: int
    crop: int
    """Side of the crops of checks of correctness, in pixels."""
    large: int
    """Side of the crops of checks of speed."""
    batch: int
    steps: int
    """Of the long run."""
    bench: tuple[str, ...]
    """Options of bench_train.py."""
    recipe: str
    """Of the long run."""
    compiler: str


FULL = Sizes(
    scenes=160,
    crop=256,
    large=1024,
    batch=2,
    steps=50,
    bench=("--size", "512", "--size", "1024", "--precision", "bf16"),
    recipe="dataseg-r50",
    compiler="inductor",
)
TINY = Sizes(
    scenes=6,
    crop=64,
    large=64,
    batch=2,
    steps=2,
    bench=("--size", "64", "--batch", "1", "--repeats", "1", "--threads", "1"),
    recipe=MINI,
    compiler="aot_eager",
)


class Bench:
    """The device, the sizes and the generated sets that all checks share."""

    def __init__(self, device: torch.device, sizes: Sizes, out: Path) -> None:
        self.device, self.sizes, self.out = device, sizes, out

    @cached_property
    def panoptic(self) -> ShardSet:
        """Panoptic scenes."""
        native = self._native
        source = open_coco_panoptic(native.coco_panoptic("train"), native.coco_images("train"))
        convert(source, self.out / "panoptic", ConvertOptions(workers=1, force=True))
        return ShardSet.open(self.out / "panoptic")

    @cached_property
    def boxes(self) -> ShardSet:
        """Scenes with boxes only."""
        native = self._native
        source = open_objects365(native.objects365_boxes("train"), native.objects365_images)
        convert(source, self.out / "boxes", ConvertOptions(workers=1, force=True))
        return ShardSet.open(self.out / "boxes")

    @cached_property
    def run(self) -> Path:
        """A run of a few steps, for inference."""
        return self.train("inference", steps=2)

    def setup(self, data: ShardSet, *overrides: str, recipe: str = MINI) -> TrainingSetup:
        """A recipe on one set, with crops of `sizes.crop` unless overridden."""
        return TrainingSetup.open(
            recipe,
            [(str(data.path), 1.0)],
            eval_data=(),
            steps=None,
            device=str(self.device),
            overrides=(*self._common, *overrides),
        )

    def train(
        self,
        name: str,
        *overrides: str,
        steps: int,
        recipe: str = MINI,
        resume: bool = False,
        on_step: Callable[[StepRecord], None] = lambda record: None,
    ) -> Path:
        """Train on both sets; returns the published run."""
        return train(
            recipe,
            [(str(self.panoptic.path), 1.0), (str(self.boxes.path), 1.0)],
            self.out / name,
            steps=steps,
            device=str(self.device),
            overrides=(*self._common, *overrides),
            resume=resume,
            restart=not resume,
            callbacks=Callbacks(on_step=on_step),
        )

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Least seconds of a call, after one that is not counted."""
        durations = []
        for _ in range(repeats + 1):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            durations.append(time.perf_counter() - started)
        return min(durations[1:])

    @cached_property
    def _native(self):  # type: ignore[no-untyped-def]
        return write_native_sets(self.out / "native", train=self.sizes.scenes, val=1, seed=0)

    @property
    def _common(self) -> tuple[str, ...]:
        sizes = self.sizes
        return (
            *SHIPPED,
            f"data.image_size={sizes.crop}",
            f"data.batch_size={sizes.batch}",
            f"inference.image_size={sizes.crop}",
        )


# --- correctness ---


def losses_and_gradients(bench: Bench) -> Iterator[Row]:
    """Losses and gradients of one batch on the device, against the CPU in float32."""
    for data in (bench.panoptic, bench.boxes):
        setup = bench.setup(data)
        (_, batch), *_ = _batches(setup, 1)
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
    (_, batch), *_ = _batches(setup, 1)
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
    (_, batch), *_ = _batches(setup, 1)
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


# --- speed ---


def against_mask2former(bench: Bench) -> Iterator[Row]:
    """A training step beside Hugging Face's Mask2Former: the table of bench_train.py."""
    script, table = Path(__file__).with_name("bench_train.py"), bench.out / "bench_train.md"
    command = [sys.executable, str(script), "--device", str(bench.device), *bench.sizes.bench]
    subprocess.run([*command, "--markdown", str(table)], check=True, stdout=sys.stderr)
    for line in table.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdecimal():
            yield Row(f"{cells[0]} px {cells[1]}", "times as fast as Mask2Former", float(cells[4]))
            yield Row(f"{cells[0]} px {cells[1]}", "times less memory", float(cells[7]))


def deformable_attention(bench: Bench) -> Iterator[Row]:
    """One layer of deformable attention, forward and backward, at strides 8, 16 and 32."""
    side = bench.sizes.large
    shapes = tuple((side // stride, side // stride) for stride in (32, 16, 8))
    scales = Scales.from_sizes(shapes, bench.device)
    cells = sum(height * width for height, width in shapes)
    layer = DeformableAttention(256, heads=8, levels=3).to(bench.device)
    memory = torch.randn(bench.sizes.batch, cells, 256, device=bench.device, requires_grad=True)
    reference = torch.rand(cells, 2, device=bench.device)
    for precision in ("fp32", "bf16"):

        def forward(precision: str = precision) -> Tensor:
            with autocast(precision, bench.device):
                attended: Tensor = layer(memory, memory, reference, scales)
            return attended.float().sum()

        with torch.no_grad():
            yield Row(f"attention {precision}", "forward, ms", 1e3 * bench.seconds(forward))
        both = bench.seconds(lambda forward=forward: forward().backward())
        yield Row(f"attention {precision}", "forward and backward, ms", 1e3 * both)
        yield Row(f"attention {precision}", "peak, MiB", _peak(bench, lambda: forward().backward()))


def inference(bench: Bench) -> Iterator[Row]:
    """Images and boxes a second of `predict` and `pseudolabel`, against the bare forward pass."""
    precision = "bf16" if bench.device.type == "cuda" else "fp32"
    run = load_run(bench.run, str(bench.device), [f"inference.precision={precision}"])
    config = run.recipe.inference
    data, text = bench.panoptic, run.class_embeddings(bench.panoptic.taxonomy).text
    sample = data.sample(0)
    height, width = image_crop(sample.height, sample.width, config).padded_size
    images = torch.rand(config.batch_size, 3, height, width, device=bench.device)

    @torch.no_grad()
    def bare() -> None:
        with autocast(precision, bench.device):
            run.model(images, text, aux_outputs=False)

    rate = config.batch_size / bench.seconds(bare)
    predicted = bench.seconds(
        lambda: predict_set(run, data, "panoptic", bench.out / "predicted"), 1
    )
    yield Row("predict", "images/s of the bare forward pass", rate)
    yield Row("predict", "images/s", len(data) / predicted)
    _, transfer = pseudolabel(run, bench.boxes, bench.out / "masks")
    labeled = bench.seconds(lambda: pseudolabel(run, bench.boxes, bench.out / "masks"), 1)
    yield Row("pseudolabel", "boxes/s", transfer.boxes / labeled)
    yield Row("pseudolabel", "images/s", len(bench.boxes) / labeled)


def loader(bench: Bench) -> Iterator[Row]:
    """Crops a second of the loader, beside what the long run's steps need."""
    setup = bench.setup(bench.panoptic, f"data.image_size={bench.sizes.large}", "data.workers=4")
    started = time.perf_counter()
    batches = _batches(setup, bench.sizes.steps)
    seconds = time.perf_counter() - started
    yield Row("loader", "crops/s of 4 workers", len(batches) * bench.sizes.batch / seconds)


def long_run(bench: Bench) -> Iterator[Row]:
    """Steps of a large model at a large size: speed after the first steps, and memory."""
    records: list[StepRecord] = []
    settings = [f"data.image_size={bench.sizes.large}", *_random_backbone(bench)]
    if bench.device.type == "cuda":
        settings.append("training.precision=bf16")
    bench.train(
        "long",
        *settings,
        steps=bench.sizes.steps,
        recipe=bench.sizes.recipe,
        on_step=records.append,
    )
    rates = sorted(record.samples_per_second for record in records[len(records) // 5 :])
    yield Row(bench.sizes.recipe, "crops/s, median", rates[len(rates) // 2])
    yield Row(bench.sizes.recipe, "memory, MiB", records[-1].memory_mib)
    yield Row(bench.sizes.recipe, "loss of the last step", records[-1].loss)


CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "losses": losses_and_gradients,
    "precision": precisions,
    "compile": compiled,
    "parallel": parallel,
    "resume": resumed,
    "inference": inference,
    "attention": deformable_attention,
    "loader": loader,
    "long": long_run,
    "peer": against_mask2former,
}


# --- parts of checks ---


def _random_backbone(bench: Bench) -> list[str]:
    """Settings of random weights for the backbone of the long run, whose own are downloaded."""
    name = load_recipe(bench.sizes.recipe, ()).model.backbone
    file = bench.out / "backbone.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    return [f'model.backbone_weights="{file.resolve()}"']


def _batches(setup: TrainingSetup, count: int) -> list[tuple[int, Batch]]:
    sets = [(data.name, data.shards, data.weight) for data in setup.datasets]
    mix = DataMix(sets, setup.recipe.data, seed=0)
    with closing(mix.batches(0, count)) as batches:
        return list(itertools.islice(batches, count))


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


def _peak(bench: Bench, work: Callable[[], object]) -> float:
    """MiB that a call allocates on a GPU; 0 on a CPU."""
    if bench.device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(bench.device)
    before = torch.cuda.memory_allocated(bench.device)
    work()
    return (torch.cuda.max_memory_allocated(bench.device) - before) / 2**20


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
