"""Measure targets at training size: packed masks and analytic boxes, beside dense maps.

    python scripts/bench_targets.py [--size 1024] [--targets 100 400] [--device cpu]

One crop with random ellipses as masks, or their boxes only. Milliseconds, the best of the repeats:
build (segments to targets), collate (as a worker does before it sends them), pool (to the stride of
the masks), and points (values at points, for each target in ten layers). The dense maps are
bool tensors (T, H, W): a box is filled, pooling averages floats, points index the maps, as common
implementations do it. The script checks that both give the same values.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from experiments import markdown, run_script
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.pooled_targets import PooledTargets
from segkit.data.augment import Crop
from segkit.data.batch import Batch, Targets, collate
from segkit.data.targets import build_targets
from segkit.distributed import choose_device
from segkit.masks import rle
from segkit.model.dataseg import MASK_STRIDE
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy("ellipses", (Category(1, "ellipse", "thing"),))
POINTS, LAYERS = 12_544, 10
"""Points of a mask and layers with losses, as in Mask2Former."""
COLUMNS = ("targets", "MiB", "build, ms", "collate, ms", "pool, ms", "points, ms")
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--targets", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.set_num_threads(1)
    rows = []
    for masked in (True, False):
        for count in options.targets:
            sample = make_sample(options.size, count, masked=masked)
            rows += compare(sample, device, options.repeats, masked=masked)
    print(markdown(COLUMNS, rows))


def make_sample(size: int, count: int, *, masked: bool) -> Sample:
    rng = np.random.default_rng(count)
    segments = []
    for _ in range(count):
        mask = np.zeros((size, size), np.uint8)
        center, axes = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.02, 0.2, 2) * size
        cv2.ellipse(mask, (center, 2 * axes, rng.uniform(0, 180)), 1, cv2.FILLED)
        counts = rle.encode(mask.view(bool))
        segment = Segment(1, "thing", rle.box(counts, size, size), None, float(mask.sum()))
        segments.append(replace(segment, mask=counts, mask_from="human") if masked else segment)
    return Sample("ellipses", "ellipses.jpg", size, size, tuple(segments))


def compare(sample: Sample, device: torch.device, repeats: int, *, masked: bool) -> list[list[str]]:
    """One row for segkit and one for dense maps."""
    size = sample.height
    crop = Crop((0, 0, size, size), (0, 0, size, size), (size, size))
    clock = Clock(device, repeats)
    targets, build = clock.measure(
        lambda: build_targets(sample, crop, taxonomy=TAXONOMY, task="instance", policies={})
    )
    dense = targets.masks.dense() if masked else fill_boxes(targets)
    batch = Batch(torch.zeros(1, 3, 8, 8), (targets,), "ellipses", "instance", ("ellipses",))
    _, collated = clock.measure(lambda: collate(batch))
    _, collated_dense = clock.measure(lambda: torch.cat([dense]))

    targets, dense = targets.to(device), dense.to(device)
    count = len(targets)
    target = torch.arange(count, device=device).repeat_interleave(LAYERS)[:, None]
    points = torch.randint(size * size, (len(target), POINTS), device=device)
    pooled, pool = clock.measure(lambda: PooledTargets.from_targets(targets))
    pooled_dense, pool_dense = clock.measure(lambda: pool_floats(dense))
    ours = pooled.masks if masked else pooled.boxes.cover
    torch.testing.assert_close(ours, pooled_dense)
    name = f"{count} {'masks' if masked else 'boxes'}"
    values, at = clock.measure(lambda: pooled.full_masks.at(target, points))
    values_dense, at_dense = clock.measure(lambda: dense.flatten(1)[target, points])
    if masked:
        assert torch.equal(values, values_dense)
    memory = targets.masks.bits.untyped_storage().nbytes()
    return [
        [name, *cells(memory, build, collated, pool, at if masked else None)],
        [f"{name}, dense", *cells(dense.nbytes, None, collated_dense, pool_dense, at_dense)],
    ]


def fill_boxes(targets: Targets) -> Tensor:
    """Filled boxes, (T, H, W) bool."""
    height, width = targets.void.shape
    x0, y0, x1, y1 = targets.boxes.to(targets.void.device)[:, :, None].unbind(1)  # (T, 1)
    x, y = (torch.arange(n, device=targets.void.device) + 0.5 for n in (width, height))
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]


def pool_floats(dense: Tensor) -> Tensor:
    """Share of each cell that is covered, (T, h, w)."""
    return F.avg_pool2d(dense[:, None].float(), MASK_STRIDE)[:, 0]


def cells(memory: int, *seconds: float | None) -> list[str]:
    times = ["-" if value is None else f"{1e3 * value:.0f}" for value in seconds]
    return [f"{memory / 2**20:.0f}", *times]


class Clock:
    """Times calls; on a GPU, until it has finished."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def measure(self, call: Callable[[], T]) -> tuple[T, float]:
        """Result and seconds of the fastest call."""
        seconds = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            result = call()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return result, min(seconds)


if __name__ == "__main__":
    run_script(main)
