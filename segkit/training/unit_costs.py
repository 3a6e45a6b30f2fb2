"""Unit costs of plans: what a crop, a box or an image costs, and where each figure comes from.

`segkit train --plan` and `scripts/scaling.py` compute with them. Nothing here was measured on CUDA:
hours of GPUs follow from counted operations and one published training time.
"""

from dataclasses import dataclass
from typing import Literal

Origin = Literal["measured", "counted", "published", "assumed"]
MEASURED: Origin = "measured"
COUNTED: Origin = "counted"
PUBLISHED: Origin = "published"
ASSUMED: Origin = "assumed"


@dataclass(frozen=True)
class Cost:
    """A figure and its origin."""

    value: float
    unit: str
    origin: Origin
    source: str
    """The command that prints it, its publication, or why it is assumed."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    name: str
    peak_tflops: float
    """Dense half precision, from NVIDIA's data sheet."""
    dollars_per_hour: float
    """Assumed: an order of magnitude of rented GPUs."""


V100 = Gpu("V100", 125, 1.0)
GPUS = (V100, Gpu("A100", 312, 2.0), Gpu("H100", 989, 3.0))

TRAINING_HOURS = Cost(
    8 * 72,
    "V100-hours",
    PUBLISHED,
    "Mask2Former R50, 50 epochs of COCO in mixed precision: about 3 days on 8 V100 "
    "(its author, github.com/facebookresearch/Mask2Former/issues/9)",
)
TRAINING_CROPS = Cost(
    368_750 * 16, "crops of 1024 pixels", PUBLISHED, "Mask2Former's COCO configuration"
)
_COUNT = "forward pass on a training crop of 1024 pixels: segkit train --plan --json"
FORWARD_GFLOPS = {
    "dataseg-r50": Cost(518.7, "GFLOP", COUNTED, _COUNT),
    "dataseg-vitdet-b": Cost(1_217.5, "GFLOP", COUNTED, _COUNT),
    "dataseg-vitdet-l": Cost(3_128.2, "GFLOP", COUNTED, _COUNT),
}
BACKWARD = Cost(2.0, "forward passes", ASSUMED, "the backward pass of matrix products")
BOX_GFLOPS = Cost(
    119.9,
    "GFLOP",
    COUNTED,
    "dataseg-r50 on the crop of a box at 512 pixels: scripts/scaling.py --measure",
)
IMAGE_GFLOPS = Cost(
    487.6, "GFLOP", COUNTED, "dataseg-r50 on an image at 1024 pixels: scripts/scaling.py --measure"
)
BOX_CPU = Cost(
    0.0021,
    "CPU-seconds per box",
    MEASURED,
    "crop, paste and RLE of a box: scripts/scaling.py --measure",
)
CONVERT_MASKS = Cost(
    116, "images per CPU-second", MEASURED, "scripts/bench_convert.py --real panoptic_val2017.json"
)
CONVERT_BOXES = Cost(
    3_277, "images per CPU-second", MEASURED, "labels only: scripts/bench_objects365.py --scale 1"
)
COPY_IMAGE = Cost(
    0.00045, "CPU-seconds per image", MEASURED, "tar, Parquet, SHA-256: docs/benchmarks.md"
)
LOADER = Cost(0.0272, "CPU-seconds per crop", MEASURED, "COCO, 1024 pixels: scripts/bench_data.py")
BOX_BYTES = Cost(48.5, "bytes per box", MEASURED, "scripts/bench_objects365.py --scale 1")
MASK_BYTES = Cost(
    305, "bytes per mask", MEASURED, "labels of 105 images of COCO instances val, 871 segments"
)
PANOPTIC_BYTES = Cost(
    5_410, "bytes per image", MEASURED, "labels of 100 images of COCO panoptic val"
)
COCO_IMAGE_BYTES = Cost(
    19e9 / 123_287, "bytes per image", PUBLISHED, "cocodataset.org: train2017 18 GB, val2017 1 GB"
)
IMAGE_BYTES = Cost(200e3, "bytes per image", ASSUMED, "images of Objects365 and ADE20K")
CPU_DOLLARS = Cost(0.05, "dollars per CPU-hour", ASSUMED, "an order of magnitude of rented CPUs")
CHECKPOINT_BYTES = Cost(
    16, "bytes per weight", COUNTED, "weights, average and two moments, float32"
)


def utilization() -> float:
    """Share of a V100's peak that the published training reached: 0-1.

    Assumed of every GPU and every model here, for training and for inference.
    """
    crops_per_second = TRAINING_CROPS.value / (TRAINING_HOURS.value * 3600)
    flops = crop_flops(FORWARD_GFLOPS["dataseg-r50"].value * 1e9)
    return crops_per_second * flops / (V100.peak_tflops * 1e12)


def crop_flops(forward_flops: float, *, recomputed: bool = False) -> float:
    """Operations of a training crop: forward and backward pass.

    Args:
        forward_flops: of the forward pass.
        recomputed: whether activation checkpointing runs the forward pass twice.
    """
    return forward_flops * (1 + recomputed + BACKWARD.value)


def gpu_hours(flops: float, gpu: Gpu) -> float:
    """Expected hours of one GPU for a number of operations."""
    return flops / (gpu.peak_tflops * 1e12 * utilization()) / 3600
