"""Print the tables of docs/scaling.md from the unit costs; --measure repeats two of these costs.

Usage:
    python scripts/scaling.py
    python scripts/scaling.py --measure
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from segkit.training import unit_costs as costs
from segkit.training.unit_costs import FORWARD_GFLOPS, GPUS, Cost, Gpu, crop_flops, gpu_hours

CROPS = costs.TRAINING_CROPS.value
PARAMETERS = {"dataseg-r50": 44.8e6, "dataseg-vitdet-b": 111.9e6, "dataseg-vitdet-l": 331.6e6}
CHECKPOINTS = 4
"""The two newest, the best one, and one that is being written."""
RECOMPUTED = ("dataseg-vitdet-l",)
"""Recipes with activation checkpointing."""
O365_IMAGES, O365_BOXES = 1_742_289, 25_407_598
COCO_IMAGES, ADE_IMAGES = 123_287, 22_210
GB = 1e9


def training_flops(recipe: str) -> float:
    """Operations of a run of 368,750 steps of 16 crops."""
    forward = FORWARD_GFLOPS[recipe].value * 1e9
    return CROPS * crop_flops(forward, recomputed=recipe in RECOMPUTED)


def hours_and_dollars(flops: float) -> list[str]:
    """A cell for each kind of GPU."""
    return [f"{number(gpu_hours(flops, gpu))} h, ${number(dollars(flops, gpu))}" for gpu in GPUS]


def dollars(flops: float, gpu: Gpu) -> float:
    """Assumed price of the hours of a GPU."""
    return gpu_hours(flops, gpu) * gpu.dollars_per_hour


def training_rows() -> Iterator[list[str]]:
    """The three rows of DaTaSeg's table."""
    for recipe, forward in FORWARD_GFLOPS.items():
        flops = training_flops(recipe)
        loader = CROPS * costs.LOADER.value / 3600
        disk = CHECKPOINTS * PARAMETERS[recipe] * costs.CHECKPOINT_BYTES.value / GB
        cells = [f"{forward.value:,.0f}", *hours_and_dollars(flops)]
        yield [recipe, *cells, f"{number(loader)} h", f"{disk:.1f} GB"]


def labeling_rows() -> Iterator[list[str]]:
    """Masks for all boxes of Objects365."""
    cpu = f"{number(O365_BOXES * costs.BOX_CPU.value / 3600)} h"
    disk = O365_BOXES * costs.MASK_BYTES.value / GB
    ways = {
        "box prompts, crops of 512 pixels": O365_BOXES * costs.BOX_GFLOPS.value * 1e9,
        "box prompts, crops of 1024 pixels": O365_BOXES * 4 * costs.BOX_GFLOPS.value * 1e9,
        "proposals, images of 1024 pixels": O365_IMAGES * costs.IMAGE_GFLOPS.value * 1e9,
    }
    for way, flops in ways.items():
        of_cpu = cpu if way.startswith("box") else "not measured"
        yield [way, *hours_and_dollars(flops), of_cpu, f"{disk:.1f} GB"]


def conversion_rows() -> Iterator[list[str]]:
    """The three data sets, with their images."""
    masks, copy = 1 / costs.CONVERT_MASKS.value, costs.COPY_IMAGE.value
    boxes = 1 / costs.CONVERT_BOXES.value + copy
    of_boxes = O365_BOXES / O365_IMAGES * costs.BOX_BYTES.value
    image, coco_image = costs.IMAGE_BYTES.value, costs.COCO_IMAGE_BYTES.value
    panoptic = costs.PANOPTIC_BYTES.value
    for name, images, cpu, labels, pixels in (
        ("ADE20K", ADE_IMAGES, masks, panoptic, image),
        ("COCO panoptic", COCO_IMAGES, masks, panoptic, coco_image),
        ("Objects365, boxes", O365_IMAGES, boxes, of_boxes, image),
    ):
        hours = images * cpu / 3600
        sizes = [f"{images * size / GB:.2f} GB" for size in (labels, pixels)]
        yield [name, f"{images:,}", f"{hours:.2f} h", *sizes, f"${hours * price():.2f}"]


def price() -> float:
    """Assumed dollars of a CPU-hour."""
    return costs.CPU_DOLLARS.value


def cost_rows() -> Iterator[list[str]]:
    """Every unit cost, with its origin."""
    for name, value in vars(costs).items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, cost in items:
            if isinstance(cost, Cost):
                label = key or name.lower().replace("_", " ")
                yield [label, f"{cost.value:,.5g} {cost.unit}", cost.origin, cost.source]


def number(value: float) -> str:
    """A figure with two significant digits, as estimates deserve."""
    return f"{float(f'{value:.2g}'):,.10g}"


def markdown(columns: Sequence[str], rows: Iterator[list[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables() -> list[str]:
    """All tables of the page."""
    gpus = [f"one {gpu.name}" for gpu in GPUS]
    return [
        markdown(["cost", "value", "origin", "source"], cost_rows()),
        markdown(["recipe", "GFLOP forward", *gpus, "CPU of the loader", "disk"], training_rows()),
        markdown(["Objects365", *gpus, "CPU", "labels"], labeling_rows()),
        markdown(["set", "images", "CPU", "labels", "images on disk", "price"], conversion_rows()),
    ]


def measure() -> None:
    """Print the operations of a box and an image, and the CPU time of a box."""
    import cv2
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkit.data.augment import CROP_FACTOR
    from segkit.distributed import HostCopy
    from segkit.inference.predict_boxes import View, _BoxCrop, _BoxOutput, _paste_mask, crop_around
    from segkit.masks.rle import encode
    from segkit.model.box_prompt_encoder import BoxPrompts
    from segkit.model.dataseg import DataSeg
    from segkit.recipes.load import load_recipe

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    recipe = load_recipe("dataseg-r50").model.model_copy(update={"backbone_weights": None})
    model, text = DataSeg(recipe).eval().requires_grad_(False), torch.zeros(365, recipe.text_dim)
    prompt = BoxPrompts.without_labels([torch.tensor([[128.0, 128.0, 384.0, 384.0]])])
    for name, size, boxes in (("box", 512, prompt), ("image", 1024, None)):
        with FlopCounterMode(display=False) as counter:
            images = torch.zeros(1, 3, size, size)
            model(images, text, boxes, learned_queries=boxes is None, aux_outputs=False)
        print(f"{name}: {counter.get_total_flops() / 1e9:.1f} GFLOP")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:128, :128]
    disk = torch.from_numpy((30 - np.hypot(rows - 64, columns - 64)).astype(np.float32))
    copy = HostCopy((torch.zeros(1, dtype=torch.int64), disk[None]), None)
    started, boxes_seen = time.process_time(), 300
    for _ in range(boxes_seen):
        width, height = (float(side) for side in rng.integers(20, 200, 2))
        box = (float(rng.integers(0, 440)), float(rng.integers(0, 280)), width, height)
        crop = crop_around(box, 480, 640, 512, View(CROP_FACTOR, mirrored=False))
        box_crop = _BoxCrop((480, 640), box, 0, [], crop, crop.image(image))
        encode(_paste_mask([_BoxOutput(box_crop, copy, 0)]).mask)
    seconds = (time.process_time() - started) / boxes_seen
    print(f"box: {1000 * seconds:.1f} ms of CPU")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="repeat the costs of a box")
    if parser.parse_args().measure:
        measure()
    else:
        print("\n\n".join(tables()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
