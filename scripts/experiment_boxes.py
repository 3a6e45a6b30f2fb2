"""Masks for boxes, by strategy: mean IoU with hidden masks, by size, and how large the masks are.

    python scripts/experiment_boxes.py --checkpoint real-out/run \\
        --data real-out/sets/standin-val --truth real-out/sets/standin-truth

Every box of --data that is no crowd is asked for, with its label and without; no score threshold is
applied, an empty mask counts 0. The true masks are those of the same annotation ids in --truth.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segkit.commands.common import table
from segkit.inference.boxes import Question
from segkit.inference.pseudolabel import STRATEGIES
from segkit.masks import rle
from segkit.masks.boxes import filled_box, inscribed_ellipse, pixels_of_box
from segkit.masks.iou import mask_iou
from segkit.recipes.schema import Strategy
from segkit.runs.run import Run, load_run
from segkit.sample import Box, Sample, Segment
from segkit.shards.reader import ShardSet

Image = NDArray[np.uint8]
Answer = Callable[[Image, Sequence[Box], Sequence[int]], Sequence[NDArray[np.bool_] | None]]
SIDES = (32.0, 96.0)
"""COCO's bounds of small, medium and large: square root of the box's area, pixels."""


def answers(run: Run, data: ShardSet) -> dict[str, Answer]:
    """Name -> masks of the boxes of an image."""
    table_of = run.class_embeddings(data.taxonomy)

    def strategy(name: Strategy, *, labeled: bool = True) -> Answer:
        def masks(
            image: Image, boxes: Sequence[Box], labels: Sequence[int]
        ) -> Sequence[NDArray[np.bool_] | None]:
            asked = Question(image, boxes, labels if labeled else [-1] * len(labels))
            (found,) = STRATEGIES[name](run, table_of, [asked])
            return [None if answer is None else answer.mask for answer in found]

        return masks

    return {
        "filled box": lambda image, boxes, labels: [
            filled_box(box, *image.shape[:2]) for box in boxes
        ],
        "inscribed ellipse": lambda image, boxes, labels: [
            inscribed_ellipse(box, *image.shape[:2]) for box in boxes
        ],
        "proposals": strategy("proposals"),
        "box prompts": strategy("box-prompts"),
        "box prompts, no label": strategy("box-prompts", labeled=False),
    }


def true_masks(truth: ShardSet) -> dict[tuple[str, str | None], NDArray[np.bool_]]:
    """Mask of each (image id, annotation id)."""
    return {
        (sample.id, segment.source_id): rle.decode(segment.mask, sample.height, sample.width)
        for sample in truth.samples()
        for segment in sample.segments
        if segment.mask is not None
    }


def objects(sample: Sample) -> list[Segment]:
    return [segment for segment in sample.segments if not (segment.is_crowd or segment.ignore)]


def measure(
    data: ShardSet, hidden: dict[tuple[str, str | None], NDArray[np.bool_]], answer: Answer
) -> list[float]:
    """Mean IoU of all, small, medium and large boxes; median of area over true area; share of boxes
    over 95 % full."""
    rows: list[tuple[float, float, float, float]] = []
    for sample in data.samples():
        wanted = objects(sample)
        boxes = [segment.box for segment in wanted]
        labels = [data.taxonomy.index[segment.class_id] for segment in wanted]
        for segment, mask in zip(
            wanted, answer(data.image(sample), boxes, labels) if wanted else [], strict=True
        ):
            truth = hidden[sample.id, segment.source_id]
            made = np.zeros_like(truth) if mask is None else mask
            pixels = made[pixels_of_box(segment.box, *truth.shape)]
            side = float(np.sqrt(segment.box[2] * segment.box[3]))
            full = float(pixels.mean() > 0.95) if pixels.size else 0.0
            rows.append((mask_iou(made, truth), side, made.sum() / max(1, truth.sum()), full))
    score, side, ratio, full = np.array(rows).T
    groups = (side >= 0, side < SIDES[0], (side >= SIDES[0]) & (side < SIDES[1]), side >= SIDES[1])
    return [
        *(float(score[group].mean()) for group in groups),
        float(np.median(ratio)),
        float(full.mean()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("checkpoint", "data", "truth"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    data, hidden = ShardSet.open(arguments.data), true_masks(ShardSet.open(arguments.truth))
    methods = answers(load_run(arguments.checkpoint, arguments.device), data)
    rows = [
        (name, *(f"{value:.3f}" for value in measure(data, hidden, answer)))
        for name, answer in methods.items()
    ]
    columns = ("masks", "IoU", "small", "medium", "large", "area / true", "over 95 % full")
    Console().print(table("Masks for boxes", columns, rows))


if __name__ == "__main__":
    main()
