"""Scores, calibration, test-time augmentation and overlaps of box prompts, on hidden masks.

    python scripts/experiment_calibration.py --checkpoint real-out/labeler \\
        --data real-out/sets/standin-val --truth real-out/sets/standin-truth \\
        --masks real-out/sets/coco-val real-out/sets/coco-train --out real-out/calibration

Every box of --data, except crowds, gets a mask; --truth holds the true masks of the same
annotations. --masks are sets with true masks to calibrate with; the truth itself is one, too, by
halves. Intervals are of 95 %, from draws of the images. Predictions are kept under --out, so that a
run that was killed resumes with the next arm.
"""

import argparse
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments import markdown, run_script
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr

from segkit.commands.progress import progress_bar
from segkit.inference import calibrate, calibration_set, predict_boxes
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.calibrate import ScoredBoxes, fit_map
from segkit.inference.overlaps import resolve_overlaps
from segkit.inference.predict_boxes import CROP_FACTOR, View, predict_box_masks
from segkit.masks import rle
from segkit.masks.boxes import AREAS, in_size, tightness
from segkit.masks.iou import mask_iou
from segkit.runs.calibration import ScoreMap, calibration_error, expected_iou, reliability
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import is_object
from segkit.shards.reader import ShardSet

Floats = NDArray[np.float64]
DRAWS = 2_000
"""Of the images, for intervals."""
SEEDS = range(5)
"""Of the halves that a calibration is fitted to and checked on."""
ARMS: dict[str, tuple[View, ...]] = {
    "plain": (View(CROP_FACTOR, False),),
    "flip": tuple(View(CROP_FACTOR, flip) for flip in (False, True)),
    "3 crops": tuple(View(factor, False) for factor in predict_boxes.TTA_FACTORS),
    "3 crops x flip (--tta)": predict_boxes.TTA_VIEWS,
    "narrow crops x flip": tuple(
        View(factor, flip) for factor in (1.4, 1.6, 1.8) for flip in (False, True)
    ),
}


@dataclass(frozen=True)
class Image:
    """The objects of one image and their predicted masks."""

    areas: list[float]
    """(Q,) of the boxes."""
    true: list[bytes]
    """(Q,) true masks."""
    masks: list[BoxMask]
    """(Q,) predicted masks."""


def predict(run: Run, data: ShardSet, truth: ShardSet, views: Sequence[View]) -> list[Image]:
    """Predict a mask for every box, from these views of it."""
    hidden = {
        (sample.id, segment.source_id): segment.mask
        for sample in truth.samples()
        for segment in sample.segments
        if segment.mask is not None
    }
    embeddings, images = run.class_embeddings(data.taxonomy), []
    predict_boxes.TTA_VIEWS = tuple(views)
    config, crop_size = run.recipe.inference, run.recipe.data.image_size
    with progress_bar("predict", len(data)) as advance:
        for sample in data.samples():
            objects = [segment for segment in sample.segments if is_object(segment)]
            boxes = [segment.box for segment in objects]
            labels = [data.taxonomy.index[segment.class_id] for segment in objects]
            if not objects:
                continue
            prompts = ImagePrompts(data.image(sample), boxes, labels)
            (masks,) = predict_box_masks(
                run.model, embeddings, [prompts], config, crop_size=crop_size, tta=True
            )
            areas = [width * height for _, _, width, height in boxes]
            true = [hidden[sample.id, segment.source_id] for segment in objects]
            images.append(Image(areas, true, masks))
            advance()
    return images


def scored(images: Sequence[Image]) -> ScoredBoxes:
    """The boxes of all images as rows."""
    rows = [
        (number, area, mask.score, mask_iou(mask.mask, rle.decode(true, *mask.size)))
        for number, image in enumerate(images)
        for area, true, mask in zip(image.areas, image.true, image.masks, strict=True)
    ]
    columns = np.array(rows, np.float64).T
    return ScoredBoxes(columns[0].astype(np.int64), *columns[1:])


def interval(boxes: ScoredBoxes, figure: Callable[[NDArray[np.int64]], float]) -> str:
    """A figure of rows with its interval; rows are drawn with their images."""
    rng = np.random.default_rng(0)
    images = np.unique(boxes.image)
    rows = {image: np.flatnonzero(boxes.image == image) for image in images.tolist()}
    draws = [
        figure(np.concatenate([rows[image] for image in rng.choice(images, len(images)).tolist()]))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{figure(np.arange(len(boxes.iou))):.4f} ({low:.4f} to {high:.4f})"


def score_table(images: Sequence[Image], boxes: ScoredBoxes) -> str:
    """Rank correlation of each score with the IoU."""
    tight = np.array([tightness(mask.inside) for image in images for mask in image.masks])
    scores = {
        "mean probability within the mask": boxes.score,
        "tightness": tight,
        "mean probability x tightness": boxes.score * tight,
    }
    rows = []
    for name, score in scores.items():

        def correlation(rows: NDArray[np.int64], score: Floats = score) -> float:
            return float(spearmanr(score[rows], boxes.iou[rows]).statistic)

        rows.append((name, interval(boxes, correlation)))
    return markdown(("score", "Spearman with the IoU"), rows)


def maps_of(boxes: ScoredBoxes, *, by_size: bool) -> dict[str, ScoreMap]:
    """The maps of `segkit calibrate`, or only that of all boxes."""
    maps = {}
    for size in AREAS:
        group = boxes.select(in_size(boxes.area, size))
        if size == "all" or (by_size and len(group.iou) >= calibration_set.MIN_BOXES):
            maps[size] = fit_map(group.score, group.iou)
    return maps


def errors(maps: dict[str, ScoreMap], boxes: ScoredBoxes) -> tuple[float, float, float]:
    """Calibration error, mean error of a box, and mean of expected IoU - IoU."""
    return errors_of(expected_iou(maps, boxes.score, boxes.area), boxes)


def errors_of(expected: Floats, boxes: ScoredBoxes) -> tuple[float, float, float]:
    """The errors of given expected IoU (Q,)."""
    difference = expected - boxes.iou
    error = calibration_error(reliability(expected, boxes.iou))
    return error, float(np.abs(difference).mean()), float(difference.mean())


def calibration_table(
    boxes: ScoredBoxes, augmented: ScoredBoxes, masked: dict[str, ScoredBoxes]
) -> str:
    """Errors of maps that are fitted to halves of the boxes, and to other sets."""
    rows: list[tuple[str, ...]] = []
    raw = errors_of(boxes.score, boxes)
    rows.append(("none: the raw score", *(f"{value:.4f}" for value in raw)))
    tables = {"by size": True, "one map": False}
    halves = {name: (by_size, boxes) for name, by_size in tables.items()}
    halves["by size; applied to masks of --tta"] = True, augmented
    for name, (by_size, checked) in halves.items():
        figures = []
        for seed in SEEDS:
            fitted = boxes.in_half(seed)
            maps = maps_of(boxes.select(fitted), by_size=by_size)
            figures.append(errors(maps, checked.select(~fitted)))
        label = f"half of these images, {len(SEEDS)} seeds, {name}"
        spread = [f"{np.mean(v):.4f} ± {np.std(v, ddof=1):.4f}" for v in zip(*figures, strict=True)]
        rows.append((label, *spread))
    for place, fitted_boxes in masked.items():
        for name, by_size in tables.items():
            maps = maps_of(fitted_boxes, by_size=by_size)
            mean = f"mean IoU {fitted_boxes.iou.mean():.3f}"
            label = f"{place} ({len(fitted_boxes.iou)} boxes, {mean}), {name}"
            rows.append((label, *(f"{value:.4f}" for value in errors(maps, boxes))))
        maps = maps_of(fitted_boxes, by_size=True)
        figures_tta = (f"{value:.4f}" for value in errors(maps, augmented))
        rows.append((f"{place}, by size; applied to masks of --tta", *figures_tta))
    return markdown(("fitted to", "calibration error", "mean error of a box", "bias"), rows)


def view_table(arms: dict[str, ScoredBoxes]) -> str:
    """Mean IoU of each arm, and its paired difference from one view."""
    plain, rows = arms["plain"], []
    for name, boxes in arms.items():

        def gain(rows: NDArray[np.int64], boxes: ScoredBoxes = boxes) -> float:
            return float((boxes.iou[rows] - plain.iou[rows]).mean())

        correlation = f"{spearmanr(boxes.score, boxes.iou).statistic:.3f}"
        difference = "-" if name == "plain" else interval(plain, gain)
        rows.append((name, len(ARMS[name]), f"{boxes.iou.mean():.4f}", difference, correlation))
    columns = ("views", "crops a box", "mean IoU", "difference", "Spearman of score and IoU")
    return markdown(columns, rows)


def overlap_table(images: Sequence[Image]) -> str:
    """Mean IoU when each pixel belongs to one mask, by the order in which masks take pixels."""

    def resolved(key: Callable[[BoxMask, float], float]) -> float:
        ious = []
        for image in images:
            order = np.argsort(
                [key(mask, area) for mask, area in zip(image.masks, image.areas, strict=True)],
                kind="stable",
            )
            claimed = np.zeros(image.masks[0].size, bool)
            for index in order.tolist():
                mask, true = image.masks[index].mask, image.true[index]
                ious.append(mask_iou(mask & ~claimed, rle.decode(true, *mask.shape)))
                claimed |= mask
        return float(np.mean(ious))

    def by_command() -> float:
        ious = []
        for image in images:
            masks = resolve_overlaps(image.masks, np.zeros(image.masks[0].size, bool))
            for mask, true in zip(masks, image.true, strict=True):
                assert mask is not None
                ious.append(mask_iou(mask.mask, rle.decode(true, *mask.size)))
        return float(np.mean(ious))

    counts = [np.sum([mask.mask for mask in image.masks], axis=0) for image in images]
    shared = sum(int((count > 1).sum()) for count in counts)
    covered = sum(int((count > 0).sum()) for count in counts)
    rows = [
        ("masks may overlap", scored(images).iou.mean()),
        ("smallest mask first (--resolve-overlaps)", by_command()),
        ("smallest box first", resolved(lambda mask, area: area)),
        ("highest score first", resolved(lambda mask, area: -mask.score)),
        ("largest mask first", resolved(lambda mask, area: -float(mask.inside.sum()))),
    ]
    table = markdown(("rule", "mean IoU"), [(name, f"{iou:.4f}") for name, iou in rows])
    return f"{shared / covered:.1%} of the covered pixels are in several masks.\n\n{table}"


def kept(file: Path, compute: Callable[[], object]) -> object:
    """The pickled result in a file, or a new one."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".partial")
        draft.write_bytes(pickle.dumps(compute()))
        draft.rename(file)
    return pickle.loads(file.read_bytes())  # written by this script


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("checkpoint", "data", "truth"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--masks", nargs="*", default=[], help="sets to calibrate with")
    parser.add_argument("--out", type=Path, default=Path("real-out/calibration"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    run = load_run(arguments.checkpoint, arguments.device)
    data, truth = ShardSet.open(arguments.data), ShardSet.open(arguments.truth)
    key = "-".join(item.manifest.digest[:12] for item in (run, data, truth))
    console, arms = Console(), {}
    for number, (name, views) in enumerate(ARMS.items()):
        file = arguments.out / f"{key}-{number}.pickle"
        arms[name] = kept(file, lambda views=views: predict(run, data, truth, views))
    boxes = {name: scored(images) for name, images in arms.items()}
    masked = {}
    for place in arguments.masks:
        shards = ShardSet.open(place)
        file = arguments.out / f"{run.manifest.digest[:12]}-{shards.manifest.digest[:12]}.pickle"
        score = lambda shards=shards: calibrate.score_boxes(run, shards)  # noqa: E731
        masked[shards.manifest.name] = kept(file, score)
    tta = boxes["3 crops x flip (--tta)"]
    for title, table in (
        ("Scores", score_table(arms["plain"], boxes["plain"])),
        ("Calibration", calibration_table(boxes["plain"], tta, masked)),
        ("Views", view_table(boxes)),
        ("Overlaps", overlap_table(arms["plain"])),
    ):
        console.print(f"\n{title}\n\n{table}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(main)
