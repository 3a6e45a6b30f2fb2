"""Compare ways to turn boxes into masks: IoU with hidden masks, by size of the box.

    python scripts/experiment_boxes.py --checkpoint real-out/run \\
        --data real-out/sets/standin-val --truth real-out/sets/standin-truth

Every box of --data, except crowds, gets a mask, with its label and without. No score threshold is
applied; an empty mask counts as IoU 0. The true masks are those of the same annotation ids in
--truth.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from experiments import run_script
from numpy.typing import NDArray
from rich.console import Console

from segkit.commands.common import table
from segkit.inference.box_masks import ImagePrompts
from segkit.inference.run_teacher import STRATEGIES
from segkit.masks import rle
from segkit.masks.boxes import filled_box, inscribed_ellipse, pixels_of_box
from segkit.masks.iou import mask_iou
from segkit.recipes.schema import Strategy
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Box, Sample, Segment
from segkit.shards.reader import ShardSet

Image = NDArray[np.uint8]
Method = Callable[[Image, Sequence[Box], Sequence[int]], Sequence[NDArray[np.bool_] | None]]
"""Image, boxes and their labels -> a mask for each box, or None."""
SIDES = (32.0, 96.0)
"""COCO's bounds of small, medium and large: square root of the box's area, pixels."""


def methods(run: Run, data: ShardSet) -> dict[str, Method]:
    """The compared ways to turn boxes into masks, by name."""
    class_embeddings = run.class_embeddings(data.taxonomy)

    def by_strategy(name: Strategy, *, labeled: bool = True) -> Method:
        def predict(
            image: Image, boxes: Sequence[Box], labels: Sequence[int]
        ) -> Sequence[NDArray[np.bool_] | None]:
            prompts = ImagePrompts(image, boxes, labels if labeled else [-1] * len(labels))
            (masks,) = STRATEGIES[name](run, class_embeddings, [prompts])
            return [None if mask is None else mask.mask for mask in masks]

        return predict

    def by_shape(draw: Callable[[Box, int, int], NDArray[np.bool_]]) -> Method:
        return lambda image, boxes, labels: [draw(box, *image.shape[:2]) for box in boxes]

    return {
        "filled box": by_shape(filled_box),
        "inscribed ellipse": by_shape(inscribed_ellipse),
        "proposals": by_strategy("proposals"),
        "box prompts": by_strategy("box-prompts"),
        "box prompts, no label": by_strategy("box-prompts", labeled=False),
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
    """The segments that count: no crowds, no ignored ones."""
    return [segment for segment in sample.segments if not (segment.is_crowd or segment.ignore)]


def score(
    data: ShardSet, hidden: dict[tuple[str, str | None], NDArray[np.bool_]], method: Method
) -> list[float]:
    """Score predicted masks for boxes.

    Mean IoU of all, small, medium and large boxes, median of area / true area, and the fraction of
    boxes that are over 95 % full.
    """
    rows: list[tuple[float, float, float, float]] = []
    for sample in data.samples():
        segments = objects(sample)
        if not segments:
            continue
        boxes = [segment.box for segment in segments]
        labels = [data.taxonomy.index[segment.class_id] for segment in segments]
        masks = method(data.image(sample), boxes, labels)
        for segment, prediction in zip(segments, masks, strict=True):
            truth = hidden[sample.id, segment.source_id]
            mask = np.zeros_like(truth) if prediction is None else prediction
            inside = mask[pixels_of_box(segment.box, *truth.shape)]
            side = float(np.sqrt(segment.box[2] * segment.box[3]))
            full = float(inside.mean() > 0.95) if inside.size else 0.0
            rows.append((mask_iou(mask, truth), side, mask.sum() / max(1, truth.sum()), full))
    iou, side, ratio, full = np.array(rows).T
    groups = (side >= 0, side < SIDES[0], (side >= SIDES[0]) & (side < SIDES[1]), side >= SIDES[1])
    return [
        *(float(iou[group].mean()) for group in groups),
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
    run = load_run(arguments.checkpoint, arguments.device)
    rows = [
        (name, *(f"{value:.3f}" for value in score(data, hidden, method)))
        for name, method in methods(run, data).items()
    ]
    columns = ("masks", "IoU", "small", "medium", "large", "area / true", "over 95 % full")
    Console().print(table("Masks for boxes", columns, rows))


if __name__ == "__main__":
    run_script(main)
