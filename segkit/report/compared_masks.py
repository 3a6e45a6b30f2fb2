"""Compare the masks of a label layer with those of simpler teachers, and of other layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.errors import InputError
from segkit.inference.box_masks import ImagePrompts
from segkit.inference.grabcut import GrabCutTeacher
from segkit.inference.shape_teachers import SHAPES, ShapeTeacher
from segkit.inference.teacher import Teacher
from segkit.masks import rle
from segkit.masks.boxes import Mask
from segkit.masks.iou import mask_iou
from segkit.metrics.sides import require_image_size
from segkit.report.labeled_boxes import Floats, HiddenTruth, Ints, LabeledBoxes
from segkit.report.preview import spread
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

THESE = "these masks"
"""Name of the layer whose masks are compared with others."""
MAX_BOXES = 300
"""Boxes that are compared at most: GrabCut takes a third of a second for each."""


@dataclass(frozen=True)
class Comparison:
    """IoU of the masks of several teachers with the true masks of the same boxes."""

    rows: LabeledBoxes
    """The compared boxes; each has a mask in the layer and a true mask."""
    iou: dict[str, Floats]
    """Teacher -> (B,) IoU, 0 where it has no mask for a box."""


def check_compared(layers: Mapping[str, ShardSet], boxes: ShardSet) -> None:
    """Raise InputError for a layer that cannot be compared on these boxes.

    Args:
        layers: the layers, by name.
        boxes: the set that is labeled.
    """
    taken, images = {THESE, GrabCutTeacher.name, *SHAPES}, set(boxes.image_ids())
    for name, layer in layers.items():
        if name in taken:
            hint = f"give ./{name}"
            raise InputError(f"{name} is compared anyway", record="--compare", hint=hint)
        if images.isdisjoint(layer.image_ids()):
            hint = f"give a layer of the images of {boxes.path}"
            raise InputError("has none of the images", file=layer.path, hint=hint)


def compare_masks(
    layer: ShardSet,
    boxes: LabeledBoxes,
    truth: HiddenTruth,
    layers: Mapping[str, ShardSet],
    *,
    on_image: Callable[[], None] = lambda: None,
) -> Comparison | None:
    """Compare the masks of a layer with the box, its ellipse, GrabCut and other layers.

    Args:
        layer: with images.
        boxes: its boxes.
        truth: their true masks.
        layers: layers over the same boxes, by the name of their teacher.
        on_image: called after each of the images that hold the compared boxes.

    Returns:
        The IoU on `MAX_BOXES` of the masks whose truth is known, spread evenly over the set; None
        where there is no such mask.

    Raises:
        InputError: a layer has an image in another size.
    """
    chosen = _chosen_rows(boxes)
    if not len(chosen):
        return None
    rows = LabeledBoxes(*(values[chosen] for values in vars(boxes).values()))
    teachers: list[Teacher] = [*map(ShapeTeacher, SHAPES), GrabCutTeacher(0.0)]
    columns: dict[str, list[float]] = {THESE: rows.iou.tolist()}
    columns |= {name: [] for name in (*(teacher.name for teacher in teachers), *layers)}
    numbers = {
        name: {image_id: row for row, image_id in enumerate(compared.image_ids())}
        for name, compared in layers.items()
    }
    for image in np.unique(rows.image).tolist():
        sample = layer.sample(image, check_masks=True)
        segments = [sample.segments[n] for n in rows.segment[rows.image == image].tolist()]
        objects = truth.objects(sample)
        true = [_decoded(objects[segment.source_id or ""], sample) for segment in segments]
        labels = [layer.taxonomy.index[segment.class_id] for segment in segments]
        prompts = ImagePrompts(layer.image(sample), [s.box for s in segments], labels)
        for teacher in teachers:
            (masks,) = teacher.predict([prompts])
            columns[teacher.name] += [
                0.0 if mask is None else mask_iou(mask.mask, true_mask)
                for mask, true_mask in zip(masks, true, strict=True)
            ]
        for name, compared in layers.items():
            row = numbers[name].get(sample.id)
            candidates: tuple[Segment, ...] = ()
            if row is not None:
                labeled = compared.sample(row, check_masks=True)
                require_image_size(labeled, sample, compared.path)
                candidates = labeled.segments
            columns[name] += _iou_by_id(candidates, segments, true, sample)
        on_image()
    return Comparison(rows, {name: np.array(column) for name, column in columns.items()})


def compared_images(boxes: LabeledBoxes) -> int:
    """Number of the images that `compare_masks` looks at."""
    return len(np.unique(boxes.image[_chosen_rows(boxes)]))


def _chosen_rows(boxes: LabeledBoxes) -> Ints:
    """The rows that are compared: masks whose truth is known, spread evenly over the set."""
    known = np.flatnonzero(boxes.is_known & boxes.is_masked)
    return known[spread(len(known), MAX_BOXES)]


def _iou_by_id(
    candidates: Sequence[Segment],
    segments: Sequence[Segment],
    true: Sequence[Mask],
    sample: Sample,
) -> Iterator[float]:
    """IoU of the masks with the annotation ids of the segments; 0 where there is none."""
    masks = {segment.source_id: segment for segment in candidates if segment.mask is not None}
    for segment, true_mask in zip(segments, true, strict=True):
        match = masks.get(segment.source_id)
        yield 0.0 if match is None else mask_iou(_decoded(match, sample), true_mask)


def _decoded(segment: Segment, sample: Sample) -> Mask:
    return rle.decode(segment.mask or b"", sample.height, sample.width)
