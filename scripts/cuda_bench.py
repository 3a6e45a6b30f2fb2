"""The device, sizes and generated sets of the checks of `check_cuda.py`."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from segkit.data.batch import Batch
from segkit.data.mix import DataMix
from segkit.demo.layouts import write_native_sets
from segkit.shards.reader import ShardSet
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import open_objects365
from segkit.training.logging import StepRecord
from segkit.training.options import TrainOptions
from segkit.training.setup import TrainingSetup
from segkit.training.train import train
from segkit.training.trainer import Callbacks

SHIPPED = ("text.encoder=minilm", "model.text_dim=384")
"""Text embeddings that are part of segkit: nothing is downloaded."""
MINI = "dataseg-mini"
MASK2FORMER = (
    *("model.pixel_decoder=deformable", "model.encoder_layers=2", "model.foreground=8"),
    *("loss.points=64", "loss.denoising=1", "training.activation_checkpointing=true"),
)
"""Changes to `MINI`, by which it runs the parts that it leaves out."""


@dataclass(frozen=True)
class Row:
    """A measured value, with the largest one that passes."""

    check: str
    quantity: str
    value: float | None
    """None where nothing was measured, which does not pass."""
    limit: float | None = None
    """None where the value is only recorded."""

    @property
    def passed(self) -> bool:
        """Whether there is a value, finite and within its limit."""
        if self.value is None or not math.isfinite(self.value):
            return False
        return self.limit is None or self.value <= self.limit


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
    model: tuple[str, ...] = ()
    """Changes to the model of every recipe."""


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
    bench=("--size", "64", "--batch", "1", "--repeats", "1", "--threads", "1", "--targets", "3"),
    recipe=MINI,
    compiler="aot_eager",
    model=(
        *("model.backbone=test_efficientnet", "model.hidden_dim=16", "model.mask_dim=8"),
        *("model.heads=2", "model.feedforward_dim=16", "model.queries=4"),
    ),
)


class Bench:
    """The device, the sizes and the generated sets that all checks share.

    Args:
        device: what is checked.
        sizes: how much is measured.
        out: folder of everything that is written.
        limit: seconds from now on in which the checks are to end.
    """

    layer: tuple[float, float] | None = None
    """Seconds and peak MiB of a layer of deformable attention, once they have been measured."""
    loaded: float | None = None
    """Crops a second of the loader, once they have been measured."""

    def __init__(
        self, device: torch.device, sizes: Sizes, out: Path, limit: float = math.inf
    ) -> None:
        self.device, self.sizes, self.out = device, sizes, out
        self._end = time.monotonic() + limit

    def seconds_left(self) -> float | None:
        """Seconds until the limit, at least 0; None without one."""
        return max(0.0, self._end - time.monotonic()) if math.isfinite(self._end) else None

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
            TrainOptions(device=str(self.device), overrides=(*self._common, *overrides)),
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
            *sizes.model,
            f"data.image_size={sizes.crop}",
            f"data.batch_size={sizes.batch}",
            f"inference.image_size={sizes.crop}",
        )


def read_batches(setup: TrainingSetup, count: int) -> list[tuple[int, Batch]]:
    """The first batches of a setup."""
    with load_batches(setup, count) as batches:
        return list(batches)


@contextmanager
def load_batches(setup: TrainingSetup, count: int) -> Iterator[Iterator[tuple[int, Batch]]]:
    """The first batches of a setup, as its workers load them."""
    mix = DataMix(setup.datasets, setup.recipe.data, seed=0)
    with closing(mix.batches(0, count)) as batches:
        yield batches
