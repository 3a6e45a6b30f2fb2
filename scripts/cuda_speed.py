"""The checks of speed and memory of `check_cuda.py`; each yields rows of its table."""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import timm
import torch
from cuda_bench import Bench, Row, load_batches
from forward_passes import record_inputs, replay
from safetensors.torch import save_file
from torch import Tensor

from segkit.distributed import autocast
from segkit.inference.outputs import predict_set
from segkit.inference.pseudolabel import pseudolabel
from segkit.model.deformable import DeformableAttention
from segkit.model.sampling import Scales
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.training.logging import StepRecord


def against_mask2former(bench: Bench) -> Iterator[Row]:
    """A training step beside Hugging Face's Mask2Former: the table of bench_train.py."""
    script, table = Path(__file__).with_name("bench_train.py"), bench.out / "bench_train.md"
    command = [sys.executable, str(script), "--device", str(bench.device), *bench.sizes.bench]
    command += ["--markdown", str(table)]
    try:
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=bench.seconds_left())
    except subprocess.TimeoutExpired:
        yield Row("peer", "stopped: the time is over", None)
        return
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
        peak = _peak(bench, lambda: forward().backward())
        yield Row(f"attention {precision}", "forward and backward, ms", 1e3 * both)
        yield Row(f"attention {precision}", "peak, MiB", peak)
        bench.layer = both, peak  # of bf16, in the end, as the long run has it


def inference(bench: Bench) -> Iterator[Row]:
    """Images and boxes a second of `predict` and `pseudolabel`, against their forward passes."""
    precision = "bf16" if bench.device.type == "cuda" else "fp32"
    run = load_run(bench.run, str(bench.device), [f"inference.precision={precision}"])
    scenes, boxes = bench.panoptic, bench.boxes

    def predict() -> None:
        predict_set(run, scenes, "panoptic", bench.out / "predicted")

    def label() -> None:
        pseudolabel(run, boxes, bench.out / "masks")

    images, prompts = len(scenes), boxes.manifest.statistics.boxes_only
    for name, unit, count, work in (
        ("predict", "images/s", images, predict),
        ("pseudolabel", "boxes/s", prompts, label),
    ):
        inputs = record_inputs(run.model, work)
        bare = bench.seconds(lambda inputs=inputs: replay(run, inputs))
        yield Row(name, f"{unit} of the bare forward pass", count / bare)
        yield Row(name, unit, count / bench.seconds(work, 1))


_EARLY = 12
"""Batches that four workers may have loaded while the last of them starts."""


def loader(bench: Bench) -> Iterator[Row]:
    """Crops a second of the loader, once its workers have started."""
    setup = bench.setup(bench.panoptic, f"data.image_size={bench.sizes.large}", "data.workers=4")
    with load_batches(setup, bench.sizes.steps + _EARLY) as batches:
        deque(islice(batches, _EARLY), maxlen=0)
        started = time.perf_counter()
        count = sum(1 for _ in batches)
        seconds = time.perf_counter() - started
    bench.loaded = count * bench.sizes.batch / seconds
    yield Row("loader", "crops/s of 4 workers", bench.loaded)


def long_run(bench: Bench) -> Iterator[Row]:
    """Steps of a large model at a large size: speed after the first steps, and memory; beside them
    the loader, and the layers of deformable attention by themselves, where these are measured."""
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
    rate, memory = rates[len(rates) // 2], records[-1].memory_mib
    yield Row(bench.sizes.recipe, "crops/s, median", rate)
    yield Row(bench.sizes.recipe, "memory, MiB", memory)
    yield Row(bench.sizes.recipe, "loss of the last step", records[-1].loss)
    if bench.loaded is not None:
        yield Row("loader", "times as fast as the steps", bench.loaded / rate)
    model = load_recipe(bench.sizes.recipe, bench.sizes.model).model
    if bench.layer is not None and model.pixel_decoder == "deformable":
        seconds, peak = (model.encoder_layers * value for value in bench.layer)
        share = seconds * rate / bench.sizes.batch
        yield Row("attention", "share of the time of a step", share)
        yield Row("attention", "share of the memory of a step", peak / memory)


def _peak(bench: Bench, work: Callable[[], object]) -> float:
    """MiB that a call allocates on a GPU; 0 on a CPU."""
    if bench.device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(bench.device)
    before = torch.cuda.memory_allocated(bench.device)
    work()
    return (torch.cuda.max_memory_allocated(bench.device) - before) / 2**20


def _random_backbone(bench: Bench) -> list[str]:
    """Settings of random weights for the backbone of the long run, whose own are downloaded."""
    name = load_recipe(bench.sizes.recipe, bench.sizes.model).model.backbone
    file = bench.out / "backbone.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    return [f'model.backbone_weights="{file.resolve()}"']
