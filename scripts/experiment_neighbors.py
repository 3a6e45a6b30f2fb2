"""Measure which share of the wrong pixels of masks for boxes belongs to other objects.

    segkit pseudolabel --checkpoint work/run --data real-out/sets/standin-val --min-score 0 \\
        --out work/masks
    python scripts/experiment_neighbors.py --truth real-out/sets/standin-truth --masks work/masks

Areas are relative to that of each true mask, and means over all objects except crowds: an excess of
0.4 is 40 % of the true area that the mask wrongly covers.
"""

import argparse

import numpy as np
from experiments import markdown, run_script
from numpy.typing import NDArray
from rich.console import Console

from segkit.commands.common import table
from segkit.masks import rle
from segkit.masks.boxes import filled_box
from segkit.sample import Sample, is_object
from segkit.shards.reader import ShardSet

FIGURES = (
    "excess",
    "in true masks of neighbors",
    "in boxes of neighbors",
    "missing",
    "in boxes of neighbors",
)


def errors_of(truth: Sample, predicted: Sample) -> list[list[float]]:
    """Excess, its parts in masks and in boxes of neighbors, missing, its part in their boxes."""
    size = truth.height, truth.width
    objects = [segment for segment in truth.segments if is_object(segment)]
    by_id = {segment.source_id: segment.mask for segment in predicted.segments}
    masks = [rle.decode(segment.mask or b"", *size) for segment in objects]
    boxes = [filled_box(segment.box, *size) for segment in objects]
    rows = []
    for segment, mask, box in zip(objects, masks, boxes, strict=True):
        counts = by_id[segment.source_id]
        prediction = np.zeros(size, bool) if counts is None else rle.decode(counts, *size)
        excess, missing = prediction & ~mask, mask & ~prediction
        near_masks, near_boxes = covered(masks, mask), covered(boxes, box)
        parts = (excess, excess & near_masks, excess & near_boxes, missing, missing & near_boxes)
        rows.append([float(part.sum() / mask.sum()) for part in parts])
    return rows


def covered(regions: list[NDArray[np.bool_]], left_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that a region covers besides the one that is left out, which may overlap it."""
    count = np.sum(regions, axis=0) - left_out
    return np.asarray(count > 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", required=True, help="the true masks")
    parser.add_argument("--masks", required=True, nargs="+", help="layers of pseudolabel")
    arguments = parser.parse_args()
    truth = ShardSet.open(arguments.truth)
    rows = []
    for spec in arguments.masks:
        predicted = {sample.id: sample for sample in ShardSet.open(spec).samples()}
        errors = [row for s in truth.samples() for row in errors_of(s, predicted[s.id])]
        excess, masks, boxes, missing, missing_boxes = np.mean(errors, axis=0)
        shares = masks / excess, boxes / excess
        cells = (excess, *shares, missing, missing_boxes / missing)
        rows.append([spec, *(f"{value:.2f}" for value in cells)])
    print(markdown(("masks", *FIGURES), rows))
    Console().print(table("Wrong pixels of masks for boxes", ("masks", *FIGURES), rows))


if __name__ == "__main__":
    run_script(main)
