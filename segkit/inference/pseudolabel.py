"""Transfer: a box-only set comes back with a mask for each box, or with the box where no good mask
was found."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segkit.data.augment import Crop
from segkit.inference.boxes import BoxMask, Question, conditioned
from segkit.inference.forward_pass import Proposed, propose
from segkit.inference.streams import ahead, by_parts
from segkit.inference.upscale import bands, image_size, to_image
from segkit.masks.boxes import box_of_projections, pixels_of_box
from segkit.masks.iou import box_iou
from segkit.masks.rle import encode
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, Strategy
from segkit.runs.run import Run
from segkit.sample import Box, Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer

Answers = Sequence[BoxMask | None]
_TOGETHER = 256
"""Images whose boxes share batches; images without boxes are held back that long at most."""
_AHEAD = 8
"""Images decoded ahead."""


@dataclass(frozen=True)
class Transfer:
    """What came of the segments of a set: `boxes`, `already_masked` and `left_alone` are all of
    them."""

    boxes: int
    """Box-only segments that were asked for, `masked` or `kept_as_boxes`: no crowds, no ignored
    ones."""
    masked: int
    kept_as_boxes: int
    already_masked: int
    left_alone: int
    """Crowds and ignored ones without a mask."""


def pseudolabel_set(
    run: Run,
    data: ShardSet,
    out: Path,
    *,
    strategy: Strategy = "box-prompts",
    on_image: Callable[[], None] = lambda: None,
) -> tuple[ShardSet, Transfer]:
    """Write a label layer over `data` in which boxes have become masks.

    Args:
        run: a trained model; its class table covers the set's taxonomy by text.
        data: any set; segments that have a mask, crowds and ignored ones stay as they are.
        out: shard set to publish the new version in.
        strategy: `box-prompts`: box-conditioned queries, each box by itself; `proposals`: the
            model's own proposals matched to the boxes by class and overlap.
        on_image: called after each image.

    Returns:
        The published version and the counts.
    """
    table = run.class_embeddings(data.taxonomy)
    min_score = run.recipe.inference.pseudo_score
    boxes = masked = already_masked = left_alone = 0

    def labeled() -> Iterator[Sample]:
        nonlocal boxes, masked, already_masked, left_alone
        for sample, asked, found in _answered(
            data, lambda questions: STRATEGIES[strategy](run, table, questions)
        ):
            bare = sum(s.mask is None for s in sample.segments)
            boxes, left_alone = boxes + len(asked), left_alone + bare - len(asked)
            already_masked += len(sample.segments) - bare
            made = _with_masks(sample, dict(zip(asked, found, strict=True)), min_score)
            masked += sum(made.segments[i].mask is not None for i in asked)
            yield made
            on_image()

    layer = write_layer(
        out,
        data,
        labeled(),
        command="pseudolabel",
        arguments={**run.as_arguments(), "data": str(data.path), "strategy": strategy},
        kind="instance" if data.manifest.kind == "boxes" else data.manifest.kind,
        extra_parents=(run.as_parent(out),),
    )
    return layer, Transfer(boxes, masked, boxes - masked, already_masked, left_alone)


def _answered(
    data: ShardSet, ask: Callable[[Iterable[Question]], Iterator[Answers]]
) -> Iterator[tuple[Sample, list[int], Answers]]:
    """Each sample with the places of the segments that want a mask, and the answers for these."""

    def question(sample: Sample) -> tuple[Sample, list[int], list[Question]]:
        asked = [
            i
            for i, s in enumerate(sample.segments)
            if s.mask is None and not (s.is_crowd or s.ignore)
        ]
        boxes = [sample.segments[i].box for i in asked]
        labels = [data.taxonomy.index[sample.segments[i].class_id] for i in asked]
        return sample, asked, [Question(data.image(sample), boxes, labels)] if asked else []

    samples = data.samples()
    while chunk := list(islice(samples, _TOGETHER)):
        opened = ahead(question, chunk, waiting=_AHEAD)
        for (sample, asked, _), answers in by_parts(opened, lambda item: item[2], ask):
            yield sample, asked, answers[0] if answers else []


def _with_masks(sample: Sample, found: dict[int, BoxMask | None], min_score: float) -> Sample:
    segments = list(sample.segments)
    for i, item in found.items():
        if item is not None and item.score >= min_score:
            segments[i] = _masked(segments[i], item)
    return replace(sample, segments=tuple(segments))


def _masked(segment: Segment, found: BoxMask) -> Segment:
    """The segment with its pseudo-mask: class, box and provenance of the box stay."""
    area = float(found.inside.sum())
    return replace(
        segment, mask=encode(found.mask), area=area, mask_from="pseudo", score=min(1.0, found.score)
    )


def proposals(run: Run, table: ClassEmbeddings, questions: Iterable[Question]) -> Iterator[Answers]:
    """The model's own proposals, given to the boxes of each image by `match_proposals`."""

    def match(found: Proposed[Question]) -> Answers:
        labels = list(found.record.labels)
        probability = found.class_logits.softmax(-1)[:, labels].cpu().numpy()
        return match_proposals(
            found.mask_logits, found.crop, probability, found.record.boxes, labels, config
        )

    config = run.recipe.inference
    return propose(
        run.model, table.text, questions, lambda question: (question, question.image), match, config
    )


def match_proposals(
    mask_logits: Tensor,
    crop: Crop,
    class_probability: NDArray[np.float32],
    boxes: Sequence[Box],
    labels: Sequence[int],
    config: InferenceConfig,
) -> Answers:
    """Give boxes the proposals that agree with them in class and place, one to one, clipped to the
    box.

    Args:
        mask_logits: (N, h, w) of the proposals, of the whole canvas.
        crop: how the image lies on the canvas.
        class_probability: (N, Q), of each proposal for each box's class.
        boxes: Q of them, x, y, width, height in pixels.
        labels: (Q,) the class of each.
        config: lowest overlap and class probability of a match.

    Returns:
        For each box a mask whose score is the IoU of the two boxes times the mean probability
        within the mask; None where no proposal reaches `pseudo_overlap` and `pseudo_class`.
    """
    extents, size = _extents(mask_logits, crop), image_size(crop)
    overlap = box_iou(extents, boxes)
    fits = (overlap >= config.pseudo_overlap) & (class_probability >= config.pseudo_class)
    proposals, owners = linear_sum_assignment(-np.where(fits, overlap + class_probability, 0.0))
    found: list[BoxMask | None] = [None] * len(boxes)
    for proposal, owner in zip(proposals.tolist(), owners.tolist(), strict=True):
        if not fits[proposal, owner]:
            continue
        rows, columns = place = pixels_of_box(boxes[owner], *size)
        soft = (
            to_image(mask_logits[proposal, None], crop, rows)[0, :, columns].sigmoid().cpu().numpy()
        )
        inside = soft >= 0.5
        if inside.any():
            score = float(overlap[proposal, owner] * soft[inside].mean())
            found[owner] = BoxMask(size, place, inside, score, labels[owner])
    return found


def _extents(mask_logits: Tensor, crop: Crop) -> list[Box]:
    """The tight box of each mask (N, h, w) in the image."""
    height, width = image_size(crop)
    rows, columns = (
        np.zeros((len(mask_logits), height), bool),
        np.zeros((len(mask_logits), width), bool),
    )
    for band, logits in bands(mask_logits, crop):
        masks = (logits.sigmoid() >= 0.5).cpu().numpy()
        rows[:, band] = masks.any(2)
        columns |= masks.any(1)
    return [box_of_projections(down, across) for down, across in zip(rows, columns, strict=True)]


STRATEGIES: dict[
    Strategy, Callable[[Run, ClassEmbeddings, Iterable[Question]], Iterator[Answers]]
] = {
    "box-prompts": conditioned,
    "proposals": proposals,
}
"""Run, class table and a stream of images with boxes -> for each image a mask a box, or None."""
