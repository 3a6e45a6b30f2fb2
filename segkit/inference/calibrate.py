"""Calibrate a run: fit maps from its raw mask scores to expected IoU, and check them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from segkit.inference import calibration_set
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.calibration_set import (
    SEED,
    in_half,
    require_boxes,
    require_objects,
    scored_things,
    things_in_image,
)
from segkit.inference.predict_boxes import predict_box_masks
from segkit.inference.streams import prefetch, unbatch
from segkit.masks import rle
from segkit.masks.boxes import AREAS, in_size
from segkit.masks.iou import mask_iou
from segkit.runs.calibration import (
    Calibration,
    CalibrationCheck,
    Floats,
    ScoreMap,
    calibration_error,
    expected_iou,
    reliability,
)
from segkit.runs.run import Run
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

_DECODED_AHEAD = 8
"""Images decoded ahead of the model."""


@dataclass(frozen=True)
class ScoredBoxes:
    """Boxes whose true masks are known, with the masks that a run predicts for them."""

    image: NDArray[np.int64]
    """(Q,) number of the image in the set."""
    area: Floats
    """(Q,) of the box in pixels, as are the true masks' boxes."""
    score: Floats
    """(Q,) raw score, 0-1."""
    iou: Floats
    """(Q,) IoU of predicted and true mask, 0-1."""

    def select(self, chosen: NDArray[np.bool_]) -> "ScoredBoxes":
        """Some of the boxes: those where `chosen` (Q,) is True."""
        return ScoredBoxes(*(values[chosen] for values in vars(self).values()))

    def in_half(self, seed: int) -> NDArray[np.bool_]:
        """(Q,) whether a box is of the half of the images that a seed draws."""
        return in_half(self.image, seed)


@dataclass(frozen=True)
class _LabeledImage:
    index: int
    """In the set."""
    size: tuple[int, int]
    """Height and width."""
    segments: list[Segment]
    prompts: list[ImagePrompts]
    """The boxes of the segments: one entry, or none where there is no segment."""


def calibrate(
    run: Run,
    data: ShardSet,
    *,
    seed: int = SEED,
    tta: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> Calibration:
    """Fit a run's maps from raw score to expected IoU on half of a set's images.

    The other half checks them. The set should be one that the run was not trained with, with
    objects like those whose boxes are to be labeled.

    Args:
        run: a run with box prompts.
        data: a panoptic or instance set with true masks of things; see `score_boxes`.
        seed: decides which half of the images is fitted.
        tta: predict the masks with test-time augmentation.
        on_image: called after each image.

    Raises:
        InputError: a set of another kind, a class without an embedding, or fewer than `MIN_BOXES`
            boxes in either half.
    """
    require_objects(data)
    boxes = score_boxes(run, data, tta=tta, on_image=on_image)
    return fit_calibration(boxes, data, seed=seed, tta=tta)


def score_boxes(
    run: Run,
    data: ShardSet,
    *,
    tta: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> ScoredBoxes:
    """Predict a mask for the box of each thing with a true mask, and compare the two.

    Crowds and ignored things are left out.
    """
    embeddings = run.class_embeddings(data.taxonomy)

    def load(item: tuple[int, Sample]) -> _LabeledImage:
        index, sample = item
        size = sample.height, sample.width
        segments = scored_things(sample)
        if not segments:
            return _LabeledImage(index, size, [], [])
        boxes = [segment.box for segment in segments]
        labels = [data.taxonomy.index[segment.class_id] for segment in segments]
        things = things_in_image(sample)
        neighbors = [segment.box for segment in things if not segment.has_true_mask]
        prompts = ImagePrompts(data.image(sample), boxes, labels, neighbors)
        return _LabeledImage(index, size, segments, [prompts])

    def predict(prompts: Iterable[ImagePrompts]) -> Iterator[Sequence[BoxMask]]:
        config, crop_size = run.recipe.inference, run.recipe.data.image_size
        return predict_box_masks(
            run.model, embeddings, prompts, config, crop_size=crop_size, tta=tta
        )

    rows: list[tuple[int, float, float, float]] = []
    samples = data.read_ahead(
        data.samples(check_masks=True), lambda sample: bool(scored_things(sample))
    )
    images = prefetch(load, enumerate(samples), ahead=_DECODED_AHEAD)
    for image, predictions in unbatch(images, lambda image: image.prompts, predict):
        for masks in predictions:
            for segment, mask in zip(image.segments, masks, strict=True):
                iou = mask_iou(mask.mask, rle.decode(segment.mask or b"", *image.size))
                rows.append((image.index, segment.box[2] * segment.box[3], mask.score, iou))
        on_image()
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return ScoredBoxes(columns[0].astype(np.int64), *columns[1:])


def fit_calibration(
    boxes: ScoredBoxes, data: ShardSet, *, seed: int = SEED, tta: bool = False
) -> Calibration:
    """Fit the maps on half of the images with boxes, and check them on the others.

    `tta` is recorded: whether the masks were predicted with test-time augmentation.

    Raises:
        InputError: fewer than `MIN_BOXES` boxes in either half.
    """
    require_boxes(data, boxes.image, seed)
    is_fitted = boxes.in_half(seed)
    fitted, held_out = boxes.select(is_fitted), boxes.select(~is_fitted)
    maps = {}
    for size in AREAS:
        group = fitted.select(in_size(fitted.area, size))
        if size == "all" or len(group.iou) >= calibration_set.MIN_BOXES:
            maps[size] = fit_map(group.score, group.iou)
    expected = expected_iou(maps, held_out.score, held_out.area)
    return Calibration(
        schema="segkit.calibration/1",
        seed=seed,
        min_boxes=calibration_set.MIN_BOXES,
        images=len(np.unique(fitted.image)),
        tta=tta,
        maps=maps,
        check=check(held_out, expected),
    )


def fit_map(score: Floats, iou: Floats) -> ScoreMap:
    """Fit the map that never falls and has the least squared error (isotonic regression).

    Boxes of equal score count as one with their mean IoU and their number as weight.

    Args:
        score: (Q,) raw scores, 0-1, of at least one box.
        iou: (Q,) IoU of predicted and true masks, 0-1.
    """
    scores, at, counts = np.unique(score, return_inverse=True, return_counts=True)  # (P,)
    means = np.bincount(at, weights=iou) / counts  # (P,)
    fitted = np.clip(isotonic_regression(means, weights=counts).x, 0, 1)
    # within a flat stretch, only its ends are needed
    flat = np.zeros(len(scores), bool)
    flat[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    knots = scores[~flat].tolist(), fitted[~flat].tolist()
    return ScoreMap(scores=tuple(knots[0]), ious=tuple(knots[1]), boxes=len(score))


def check(held_out: ScoredBoxes, expected: Floats) -> CalibrationCheck:
    """Compare the expected IoU (Q,) of held-out boxes, and their raw score, with their IoU."""
    bins = reliability(expected, held_out.iou)
    return CalibrationCheck(
        images=len(np.unique(held_out.image)),
        boxes=len(expected),
        error=calibration_error(bins),
        raw_error=calibration_error(reliability(held_out.score, held_out.iou)),
        box_error=float(np.abs(expected - held_out.iou).mean()),
        spearman=_rank_correlation(expected, held_out.iou),
        raw_spearman=_rank_correlation(held_out.score, held_out.iou),
        bins=bins,
    )


def _rank_correlation(first: Floats, second: Floats) -> float | None:
    """Spearman's rank correlation; None where one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
