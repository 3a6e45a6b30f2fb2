"""Replace the boxes of a set by masks of a trained model, as a label layer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segkit.data.augment import Crop
from segkit.inference.pipeline import Image, ModelOutput, infer
from segkit.inference.predict_boxes import BoxMask, ImagePrompts, predict_box_masks
from segkit.inference.streams import prefetch, unbatch
from segkit.inference.upscale import bands, image_size, to_image
from segkit.masks.boxes import box_of_projections, pixels_of_box
from segkit.masks.iou import box_iou
from segkit.masks.rle import encode
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, Strategy
from segkit.runs.open_run import no_box_prompts
from segkit.runs.run import Run
from segkit.sample import Box, Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer

_CHUNK = 256
"""Images whose boxes share batches; an image without boxes waits for at most this many others."""
_DECODED_AHEAD = 8
"""Images decoded ahead of the model."""


@dataclass(frozen=True)
class Transfer:
    """Counts of a set's segments: `boxes`, `already_masked` and `left_alone` are all of them."""

    boxes: int
    """Segments that the model was prompted with, `masked` or `kept_as_boxes`."""
    masked: int
    kept_as_boxes: int
    already_masked: int
    left_alone: int
    """Crowds and ignored segments without a mask."""


@dataclass(frozen=True)
class _PromptedSample:
    sample: Sample
    indices: list[int]
    """The segments that need a mask."""
    prompts: list[ImagePrompts]
    """Their boxes: one entry, or none where no segment needs a mask."""


def pseudolabel(
    run: Run,
    data: ShardSet,
    out: str | Path,
    *,
    strategy: Strategy = "box-prompts",
    on_image: Callable[[], None] = lambda: None,
) -> tuple[ShardSet, Transfer]:
    """Write a label layer over a set in which boxes have become masks.

    Boxes without a confident mask stay boxes. Segments that have a mask, crowds and ignored ones
    stay as they are.

    Args:
        run: a trained model; its text classifier takes the set's taxonomy.
        data: any set.
        out: shard set to publish the new version in.
        strategy: `box-prompts`: the model segments each box by itself; `proposals`: the model's own
            proposals are matched to the boxes by class and overlap.
        on_image: called after each image.

    Returns:
        The published version, and the counts.
    """
    if strategy == "box-prompts" and run.manifest.command == "import":
        raise no_box_prompts(run.path)
    class_embeddings = run.class_embeddings(data.taxonomy)
    predict = STRATEGIES[strategy]
    min_score = run.recipe.inference.pseudo_score
    boxes = masked = already_masked = left_alone = 0

    def labeled_samples() -> Iterator[Sample]:
        nonlocal boxes, masked, already_masked, left_alone
        for prompted, masks in _predict_samples(
            data, lambda prompts: predict(run, class_embeddings, prompts)
        ):
            sample, indices = prompted.sample, prompted.indices
            segments = list(sample.segments)
            for index, mask in zip(indices, masks, strict=True):
                if mask is not None and mask.score >= min_score:
                    segments[index] = _with_mask(segments[index], mask)
            without_mask = sum(segment.mask is None for segment in sample.segments)
            boxes += len(indices)
            masked += sum(segments[index].mask is not None for index in indices)
            already_masked += len(segments) - without_mask
            left_alone += without_mask - len(indices)
            yield replace(sample, segments=tuple(segments))
            on_image()

    arguments = {**run.as_arguments(), "data": str(data.path), "strategy": strategy}
    header = replace(
        Header.from_set(data, "pseudolabel", arguments),
        kind="instance" if data.manifest.kind == "boxes" else data.manifest.kind,
        parents=(run.as_parent(out),),
    )
    layer = write_layer(out, data, labeled_samples(), header)
    return layer, Transfer(boxes, masked, boxes - masked, already_masked, left_alone)


def _predict_samples(
    data: ShardSet,
    predict: Callable[[Iterable[ImagePrompts]], Iterator[Sequence[BoxMask | None]]],
) -> Iterator[tuple[_PromptedSample, Sequence[BoxMask | None]]]:
    """Yield each sample with the predictions for its prompted segments."""

    def prompt(sample: Sample) -> _PromptedSample:
        indices = [
            index
            for index, segment in enumerate(sample.segments)
            if segment.mask is None and not (segment.is_crowd or segment.ignore)
        ]
        if not indices:
            return _PromptedSample(sample, [], [])
        segments = [sample.segments[index] for index in indices]
        boxes = [segment.box for segment in segments]
        labels = [data.taxonomy.index[segment.class_id] for segment in segments]
        return _PromptedSample(sample, indices, [ImagePrompts(data.image(sample), boxes, labels)])

    samples = data.samples()
    while chunk := list(islice(samples, _CHUNK)):
        prompted = prefetch(prompt, chunk, ahead=_DECODED_AHEAD)
        for item, masks in unbatch(prompted, lambda item: item.prompts, predict):
            yield item, masks[0] if masks else []


def _with_mask(segment: Segment, mask: BoxMask) -> Segment:
    """The segment with a pseudo-mask; its class, box and source stay."""
    return replace(
        segment,
        mask=encode(mask.mask),
        area=float(mask.inside.sum()),
        mask_from="pseudo",
        score=min(1.0, mask.score),
    )


def segment_prompts(
    run: Run, class_embeddings: ClassEmbeddings, prompts: Iterable[ImagePrompts]
) -> Iterator[Sequence[BoxMask]]:
    """Strategy `box-prompts`: `predict_box_masks` with the settings of the run."""
    config, crop_size = run.recipe.inference, run.recipe.data.image_size
    return predict_box_masks(run.model, class_embeddings, prompts, config, crop_size=crop_size)


def assign_proposals(
    run: Run, class_embeddings: ClassEmbeddings, prompts: Iterable[ImagePrompts]
) -> Iterator[Sequence[BoxMask | None]]:
    """Strategy `proposals`: `match_proposals` of the run's proposals to the boxes of each image."""
    config = run.recipe.inference

    def read(image: ImagePrompts) -> tuple[ImagePrompts, Image]:
        return image, image.image

    def match(output: ModelOutput[ImagePrompts]) -> Sequence[BoxMask | None]:
        boxes, labels = output.record.boxes, list(output.record.labels)
        probability = output.class_logits.softmax(-1)[:, labels].cpu().numpy()  # (N, Q)
        return match_proposals(output.mask_logits, output.crop, probability, boxes, labels, config)

    return infer(run.model, class_embeddings.text, prompts, read, match, config)


STRATEGIES: dict[
    Strategy,
    Callable[[Run, ClassEmbeddings, Iterable[ImagePrompts]], Iterator[Sequence[BoxMask | None]]],
] = {"box-prompts": segment_prompts, "proposals": assign_proposals}
"""How each strategy predicts the masks of a stream of images with boxes: one per box, or None."""


def match_proposals(
    mask_logits: Tensor,
    crop: Crop,
    class_probability: NDArray[np.float32],
    boxes: Sequence[Box],
    labels: Sequence[int],
    config: InferenceConfig,
) -> list[BoxMask | None]:
    """Assign proposals to the boxes that they agree with in class and place, one to one.

    Args:
        mask_logits: (N, h, w) of the proposals, padding included.
        crop: how the image was resized and padded.
        class_probability: (N, Q), of each proposal for the class of each box.
        boxes: (Q,) x, y, width, height in pixels.
        labels: (Q,) row of the class embeddings.
        config: lowest overlap and class probability of a match.

    Returns:
        (Q,) masks, clipped to their boxes; None where no proposal matches. Score: IoU of the
        proposal's tight box with the box, times the mean probability within the mask.
    """
    size = image_size(crop)
    overlap = box_iou(_tight_boxes(mask_logits, crop), boxes)  # (N, Q)
    allowed = overlap >= config.pseudo_overlap
    allowed &= class_probability >= config.pseudo_class
    gain = np.where(allowed, overlap + class_probability, 0.0)
    matches: list[BoxMask | None] = [None] * len(boxes)
    pairs = np.stack(linear_sum_assignment(-gain), axis=1)
    for proposal, index in pairs.tolist():
        if not allowed[proposal, index]:
            continue
        rows, columns = place = pixels_of_box(boxes[index], *size)
        logits = to_image(mask_logits[proposal, None], crop, rows)[0, :, columns]
        probability = logits.sigmoid().cpu().numpy()
        inside = probability >= 0.5
        if inside.any():
            score = float(overlap[proposal, index] * probability[inside].mean())
            matches[index] = BoxMask(size, place, inside, score, labels[index])
    return matches


def _tight_boxes(mask_logits: Tensor, crop: Crop) -> list[Box]:
    """The tight box of each mask (N, h, w) in the image."""
    height, width = image_size(crop)
    rows = np.zeros((len(mask_logits), height), bool)
    columns = np.zeros((len(mask_logits), width), bool)
    for band, logits in bands(mask_logits, crop):
        masks = (logits.sigmoid() >= 0.5).cpu().numpy()  # (N, band, W)
        rows[:, band] = masks.any(2)
        columns |= masks.any(1)
    return [box_of_projections(*sides) for sides in zip(rows, columns, strict=True)]
