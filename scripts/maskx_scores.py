"""Score the masks of a run by class group: for true boxes, or of learned queries without a box."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.outputs import predict_samples
from segkit.inference.predict_boxes import predict_box_masks
from segkit.masks import rle
from segkit.masks.boxes import tight_box
from segkit.masks.iou import box_iou, mask_iou
from segkit.metrics.evaluate import evaluate
from segkit.runs.run import Run
from segkit.sample import Sample, Segment, is_object
from segkit.shards.reader import ShardSet

OVERLAP = 0.3
"""IoU of two boxes above which they count as overlapping."""


def objects(sample: Sample) -> list[Segment]:
    """The things that count and have a mask: no crowds, no ignored ones."""
    return [s for s in sample.segments if is_object(s) and s.mask is not None]


def overlapping(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Whether each box overlaps another by more than OVERLAP, (N,)."""
    boxes = [segment.box for segment in segments]
    ious = box_iou(boxes, boxes)
    np.fill_diagonal(ious, 0.0)
    return np.asarray((ious > OVERLAP).any(axis=1))


def box_masks(
    run: Run, data: ShardSet, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, list[Segment], list[BoxMask]]]:
    """Masks for the true boxes of images, with their labels."""
    samples = [sample for sample in samples if objects(sample)]
    prompts = (
        ImagePrompts(
            data.image(sample),
            [segment.box for segment in objects(sample)],
            [data.taxonomy.index[segment.class_id] for segment in objects(sample)],
        )
        for sample in samples
    )
    config = run.recipe.inference.model_copy(update={"batch_size": 32})
    embeddings, size = run.class_embeddings(data.taxonomy), run.recipe.data.image_size
    masks = predict_box_masks(run.model, embeddings, prompts, config, crop_size=size)
    for sample, predicted in zip(samples, masks, strict=True):
        yield sample, objects(sample), predicted


def as_prediction(segment: Segment, mask: BoxMask) -> Segment | None:
    """A predicted segment of a box's class; None for an empty mask."""
    full_mask = mask.mask
    if not full_mask.any():
        return None
    return replace(
        segment,
        mask=rle.encode(full_mask),
        box=tight_box(full_mask),
        area=float(full_mask.sum()),
        mask_from="prediction",
        score=mask.score,
        source_id=None,
        source_polygon=None,
    )


def score_boxes(run: Run, data: ShardSet) -> dict[str, Any]:
    """IoU, class and overlap of every object, and AP by class, of masks for true boxes."""
    rows: list[tuple[int, float, bool]] = []
    predictions: dict[str, Sample] = {s.id: replace(s, segments=()) for s in data.samples()}
    for sample, segments, masks in box_masks(run, data, list(data.samples())):
        flags = overlapping(segments)
        predicted = [as_prediction(*pair) for pair in zip(segments, masks, strict=True)]
        for segment, mask, flag in zip(segments, masks, flags, strict=True):
            truth = rle.decode(segment.mask or b"", sample.height, sample.width)
            rows.append((segment.class_id, mask_iou(mask.mask, truth), bool(flag)))
        kept = tuple(segment for segment in predicted if segment is not None)
        predictions[sample.id] = replace(sample, segments=kept)
    ap = evaluate(data, predictions.values(), "instance").metrics["per_class"]
    return {"objects": rows, "ap": ap}


def score_queries(run: Run, data: ShardSet) -> dict[str, Any]:
    """As `score_boxes`, without boxes; the IoU is that with the best proposal, of any class."""
    embeddings, config = run.class_embeddings(data.taxonomy), run.recipe.inference
    samples = list(predict_samples(run.model, embeddings, data.taxonomy, data, "instance", config))
    proposals = {sample.id: sample for sample in samples}
    rows: list[tuple[int, float, bool]] = []
    for sample in data.samples():
        size = sample.height, sample.width
        segments = objects(sample)
        masks = {s.mask for s in proposals[sample.id].segments if s.mask is not None}
        decoded = [rle.decode(mask, *size) for mask in masks]
        for segment, flag in zip(segments, overlapping(segments) if segments else (), strict=True):
            truth = rle.decode(segment.mask or b"", *size)
            best = max((mask_iou(mask, truth) for mask in decoded), default=0.0)
            rows.append((segment.class_id, best, bool(flag)))
    return {"objects": rows, "ap": evaluate(data, samples, "instance").metrics["per_class"]}


def summarize(
    measured: Mapping[str, Any], data: ShardSet, policies: Mapping[int, str]
) -> dict[str, float | None]:
    """Means over the objects and the classes of A and of B; None where there are none."""
    class_ids, ious, flags = (np.array(column) for column in zip(*measured["objects"], strict=True))
    in_a = np.array([policies[int(class_id)] == "mask" for class_id in class_ids])
    figures: dict[str, float | None] = {}
    for group, chosen in (("A", in_a), ("B", ~in_a)):
        crowded = chosen & flags.astype(bool)
        figures[f"IoU {group}"], figures[f"boxes {group}"] = mean(ious[chosen]), int(chosen.sum())
        figures[f"IoU {group}, overlapping"] = mean(ious[crowded])
        figures[f"boxes {group}, overlapping"] = int(crowded.sum())
        wanted = "mask" if group == "A" else "box"
        names = [data.taxonomy.unique_names[i] for i, value in policies.items() if value == wanted]
        aps = [measured["ap"][name] for name in names if measured["ap"].get(name) is not None]
        figures[f"AP {group}"] = mean(aps)
    return figures


def mean(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Mean, if there is any value."""
    return float(np.mean(values)) if len(values) else None
