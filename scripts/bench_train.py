"""Benchmark a training step against Hugging Face's Mask2Former, with the same weights and images.

    python scripts/bench_train.py [--backbone resnet50] [--size 512 --size 1024] [--batch 2]
    [--device cpu]

A Mask2Former of random weights is loaded into segkit's model by `segkit.model.hf`, so both compute
the same proposals; their largest difference is printed. Each trains on panoptic targets with its
own losses (segkit's without box prompts, which Mask2Former lacks) and the same fused AdamW. The two
take turns in one process; a figure is the median of `--repeats`. Memory is the peak of a phase
beyond weights and optimizer state.

`--kinds` measures segkit only, by kind of batch: `dataseg-mini`'s model on masks, on the same
targets as boxes only, and `openseed-mini`'s on boxes, whose queries are then foreground queries.
"""

import argparse
import ctypes
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from experiments import run_script
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.criterion.query_groups import runs_learned_queries
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch, PackedMasks, Targets
from segkit.distributed import choose_device
from segkit.model.dataseg import DataSeg
from segkit.model.hf import load_checkpoint, read_config
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import LossConfig, ModelConfig

CLASSES, TARGETS = 133, 12
"""COCO panoptic's classes, and roughly its targets per image."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PHASES = ("inference", "forward + loss", "backward", "AdamW", "full step")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50", choices=["resnet50", "swin_tiny"])
    parser.add_argument(
        "--size",
        type=int,
        action="append",
        help="side of the images (default: 512; on CUDA 512 and 1024)",
    )
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), help="fp32, or bf16 autocast (default on CUDA)"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--targets", type=int, default=TARGETS, help="per image")
    parser.add_argument("--kinds", action="store_true", help="compare kinds of batches")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch on a CPU (default: all cores)")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table to FILE"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    options.device, on_gpu = str(device), device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # whose memory and name are read
    precision = options.precision or ("bf16" if on_gpu else "fp32")
    rows: list[list[str]] = []
    for size in options.size or ([512, 1024] if on_gpu else [512]):
        rows += (bench_kinds if options.kinds else bench)(options, size, PRECISIONS[precision])
    title = f"{options.backbone}, batch {options.batch}, {precision}, {hardware(options.device)}"
    if options.kinds:
        title = f"dataseg-mini, {options.targets} targets, {title.partition(', ')[2]}"
    report(title, KIND_HEADS if options.kinds else HEADS, rows, options.markdown)


def bench(options: argparse.Namespace, size: int, precision: torch.dtype) -> list[list[str]]:
    """Rows of the table for one image size."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    batch = scene(options.batch, size, options.targets).to(device)
    peer = mask2former(options.backbone)
    model = load_weights(peer)
    difference = largest_difference(model, peer, batch.images.cpu())
    print(f"{size} px: mask logits differ by {difference:.1e} at most (fp32, CPU)")
    candidates = [
        segkit(model.to(device), batch, precision),
        hugging_face(peer.to(device), batch, precision),
    ]
    # The first turn is a warm-up: allocations, choice of kernels, AdamW's state.
    for _ in range(options.repeats + 1):
        for candidate in candidates:
            candidate.turn()
    return [
        [str(size), phase, *(f"{value:.3g}" for value in compare(candidates, phase, options.batch))]
        for phase in PHASES
    ]


def bench_kinds(options: argparse.Namespace, size: int, precision: torch.dtype) -> list[list[str]]:
    """Rows of the table of kinds for one image size."""
    torch.manual_seed(0)
    masks = scene(options.batch, size, options.targets)
    boxes = replace(masks, task="instance", targets=tuple(map(without_masks, masks.targets)))
    candidates = {
        kind: segkit(DataSeg(config).to(options.device), batch.to(options.device), precision)
        for kind, config, batch in (
            ("masks", load_recipe("dataseg-mini").model, masks),
            ("boxes", load_recipe("dataseg-mini").model, boxes),
            ("boxes, query groups", load_recipe("openseed-mini").model, boxes),
        )
    }
    for _ in range(options.repeats + 1):
        for candidate in candidates.values():
            candidate.turn()
    return [
        [str(size), kind]
        + [f"{statistics.median(candidate.seconds[phase][1:]):.3g}" for phase in PHASES[1:3]]
        + [f"{max(candidate.mebibytes['full step'][1:]):.3g}"]
        for kind, candidate in candidates.items()
    ]


def without_masks(target: Targets) -> Targets:
    """The same targets as boxes of things only."""
    count = len(target)
    return replace(
        target,
        is_thing=torch.ones(count, dtype=torch.bool),
        has_mask=torch.zeros(count, dtype=torch.bool),
        masks=PackedMasks.zeros(count, target.void.shape),
    )


def compare(candidates: "list[Candidate]", phase: str, images: int) -> tuple[float, ...]:
    """Images per second of both and their ratio; peak memory of both in MiB and its ratio."""
    rates = [images / statistics.median(candidate.seconds[phase][1:]) for candidate in candidates]
    peaks = [max(candidate.mebibytes[phase][1:]) for candidate in candidates]
    return (*rates, rates[0] / rates[1], *peaks, peaks[1] / peaks[0] if peaks[0] else math.nan)


# --- candidates ---


@dataclass
class Candidate:
    """A model with its losses and measurements."""

    model: nn.Module
    infer: Callable[[], object]
    """Inference on the images."""
    loss: Callable[[], Tensor]
    """Forward pass and loss of the batch."""
    device: torch.device
    precision: torch.dtype
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    mebibytes: dict[str, list[float]] = field(
        default_factory=lambda: {phase: [] for phase in PHASES}
    )

    def __post_init__(self) -> None:
        self.meter = Meter(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    def turn(self) -> None:
        """Measure one inference and one training step."""
        self.model.eval()
        with torch.inference_mode(), self._phase("inference"), self._autocast():
            self.infer()
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self._phase("forward + loss"), self._autocast():
            loss = self.loss()
        with self._phase("backward"):
            loss.backward()
        with self._phase("AdamW"):
            self.optimizer.step()
        parts = PHASES[1:-1]
        self.seconds["full step"].append(sum(self.seconds[part][-1] for part in parts))
        self.mebibytes["full step"].append(max(self.mebibytes[part][-1] for part in parts))
        self.optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        # The memory that the forward pass leaves for the backward pass counts there as well.
        self.meter.start(reset=name in ("inference", "forward + loss"))
        start = time.perf_counter()
        yield
        self.meter.wait()
        self.seconds[name].append(time.perf_counter() - start)
        self.mebibytes[name].append(self.meter.peak())


def segkit(model: DataSeg, batch: Batch, precision: torch.dtype) -> Candidate:
    """segkit's model and losses."""
    text = F.normalize(torch.randn(CLASSES, model.config.text_dim), dim=1)
    table = ClassEmbeddings(text, torch.arange(CLASSES) < 80).to(batch.images.device)
    criterion = SetCriterion(LossConfig(box_prompts=0), {batch.dataset: table.is_thing})
    groups: dict[str, Any] = {}
    if model.config.foreground:
        learned_queries = runs_learned_queries(batch.task)
        groups = {"learned_queries": learned_queries, "things": table.things}

    def loss() -> Tensor:
        outputs = model(batch.images, table.text, **groups)
        losses = criterion(outputs, batch, None, step=0)
        return torch.stack(list(losses.values())).sum()

    return Candidate(
        model,
        lambda: model(batch.images, table.text, aux_outputs=False, **groups),
        loss,
        batch.images.device,
        precision,
    )


def hugging_face(model: nn.Module, batch: Batch, precision: torch.dtype) -> Candidate:
    """transformers' Mask2FormerForUniversalSegmentation."""
    masks = [target.masks.dense().float() for target in batch.targets]
    classes = [target.labels.to(batch.images.device) for target in batch.targets]

    def loss() -> Tensor:
        value: Tensor = model(batch.images, mask_labels=masks, class_labels=classes).loss
        return value

    return Candidate(model, lambda: model(batch.images), loss, batch.images.device, precision)


def mask2former(backbone: str) -> nn.Module:
    """A Hugging Face model of random weights."""
    import transformers

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbones: dict[str, Callable[..., Any]] = {
        "resnet50": transformers.ResNetConfig,
        "swin_tiny": transformers.SwinConfig,
    }
    config = transformers.Mask2FormerConfig(
        backbone_config=backbones[backbone](out_features=stages), num_labels=CLASSES
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def load_weights(peer: Any) -> DataSeg:
    """Return segkit's model with the weights of a Hugging Face model."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        # No normalization: Hugging Face leaves it to the image processor.
        plain = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
        model = DataSeg(ModelConfig(**read_config(Path(folder)), **plain))
        load_checkpoint(model, Path(folder))
    return model


@torch.inference_mode()
def largest_difference(model: DataSeg, peer: nn.Module, images: Tensor) -> float:
    """Largest difference of the mask logits of the two models."""
    text = torch.eye(CLASSES, model.config.text_dim)
    ours = model.eval()(images, text).queries.mask_logits[:, -1]
    theirs = peer.eval()(images).masks_queries_logits
    return float((ours - theirs).abs().max())


def scene(images: int, size: int, count: int) -> Batch:
    """A batch of noise, with rectangles as masks."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        corner = torch.rand(count, 2, generator=generator) * size * 0.6
        boxes = torch.cat(
            (corner, corner + size * (0.1 + 0.3 * torch.rand(count, 2, generator=generator))), 1
        )
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        cells = torch.arange(size)
        across = (cells >= boxes[:, :1]) & (cells < boxes[:, 2:3])
        down = (cells >= boxes[:, 1:2]) & (cells < boxes[:, 3:])
        masks, known = down[:, :, None] & across[:, None], torch.ones(count, dtype=torch.bool)
        targets.append(
            Targets(
                labels,
                labels < 80,
                known,
                PackedMasks.from_dense(masks),
                boxes,
                ~known,
                torch.zeros(size, size).bool(),
            )
        )
    pixels = torch.rand(images, 3, size, size, generator=generator)
    return Batch(pixels, tuple(targets), "scenes", "panoptic", tuple(map(str, range(images))))


# --- measurement ---


class Meter:
    """Peak memory of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, 0.0

    def start(self, *, reset: bool) -> None:
        """Start a measurement; `reset` makes the memory in use now the zero."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            now = torch.cuda.memory_allocated() / 2**20
        else:
            # Return freed memory to the system, or the next peak would hide in it.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak
            now = _resident("VmRSS")
        self.before = now if reset else self.before

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """MiB above the zero since the start."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20 - self.before
        return _resident("VmHWM") - self.before


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 2**10


def hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{torch.get_num_threads()} threads on {names[0].partition(': ')[2] if names else 'a CPU'}"
    )


HEADS = ("px", "phase", "segkit img/s", "HF img/s", "faster", "segkit MiB", "HF MiB", "smaller")
KIND_HEADS = ("px", "batch of", "forward + loss, s", "backward, s", "MiB")


def report(
    title: str, heads: tuple[str, ...], rows: list[list[str]], markdown: Path | None
) -> None:
    """Print the table."""
    table = Table(title=title)
    for head in heads:
        table.add_column(
            head, justify="left" if head in ("phase", "batch of") else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    if markdown:
        lines = [" | ".join(row) for row in (heads, ["---"] * len(heads), *rows)]
        markdown.write_text(f"{title}\n\n" + "".join(f"| {line} |\n" for line in lines))


if __name__ == "__main__":
    run_script(main)
