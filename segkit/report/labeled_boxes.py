"""The boxes of a label layer as rows: their scores and, where the truth is known, their IoU."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.inference.mask_statistics import is_new_mask, masked_before
from segkit.masks.boxes import in_size
from segkit.metrics.box_prompt_iou import matched_iou
from segkit.metrics.sides import require_image_size
from segkit.sample import Sample, Segment, needs_mask
from segkit.shards.label_columns import read_segments
from segkit.shards.reader import ShardSet

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_ID_HINT = (
    "convert both from a format whose annotations have ids: COCO, Label Studio or Visual Genome"
)


@dataclass(frozen=True)
class LabeledBoxes:
    """The boxes that a teacher made pseudo-masks for, and those that stayed boxes."""

    image: Ints
    """(B,) index of the image in the layer."""
    segment: Ints
    """(B,) index of the segment in the image."""
    label: Ints
    """(B,) index of the class in the taxonomy."""
    area: Floats
    """(B,) of the box in pixels."""
    score: Floats
    """(B,) 0-1; NaN without a mask."""
    iou: Floats
    """(B,) IoU with the true mask, 0-1; NaN without a mask or without a true mask."""
    is_known: NDArray[np.bool_]
    """(B,) whether the true mask is known."""

    @property
    def is_masked(self) -> NDArray[np.bool_]:
        """(B,) whether the box has a mask."""
        return ~np.isnan(self.score)

    def in_size(self, size: str) -> NDArray[np.bool_]:
        """(B,) whether the box has one of COCO's sizes, or `all`."""
        return in_size(self.area, size)


class HiddenTruth:
    """The true masks of a set's boxes, by image id and annotation id.

    Args:
        shards: a set with masks, of images that the boxes are in. Pseudo-masks and predictions in
            it are not the truth, and passed over.

    Raises:
        InputError: no segment has a mask that a person drew or that was derived from such masks.
    """

    def __init__(self, shards: ShardSet) -> None:
        masked, hint = shards.manifest.statistics.masked, "give the set that holds the hidden masks"
        if not masked:
            raise InputError("no segment has a mask", file=shards.path, hint=hint)
        self.predicted = _count_predicted(shards)
        """Number of the masks that are pseudo-masks or predictions."""
        if self.predicted >= masked:
            message = f"none of its {masked} masks is true: they are pseudo-masks or predictions"
            raise InputError(message, file=shards.path, hint=hint)
        self.shards = shards
        self._rows = {image_id: row for row, image_id in enumerate(shards.image_ids())}

    def objects(self, sample: Sample) -> dict[str, Segment]:
        """The objects with a true mask in the image of a sample, by annotation id.

        Raises:
            InputError: the image has another size here.
        """
        row = self._rows.get(sample.id)
        if row is None:
            return {}
        true = self.shards.sample(row, check_masks=True)
        hint = "give the masks of these images"
        require_image_size(true, sample, self.shards.path, noun="the true mask", hint=hint)
        return {
            segment.source_id: segment
            for segment in true.segments
            if segment.source_id is not None and segment.has_true_mask and not segment.is_crowd
        }

    def check(self, data: ShardSet) -> None:
        """Raise InputError unless a box of the set has a true mask here."""
        for sample in data.samples():
            objects = self.objects(sample)
            if any(needs_mask(s) and s.source_id in objects for s in sample.segments):
                return
        for shards in (data, self.shards):
            if not any(_source_ids(shards)):
                message = "its annotations have no ids, by which boxes and true masks are matched"
                raise InputError(message, file=shards.path, hint=_ID_HINT)
        message = f"no object has the image id and the annotation id of a box of {data.path}"
        raise InputError(message, file=self.shards.path, hint="give the masks of the same objects")


def _count_predicted(shards: ShardSet) -> int:
    """Number of pseudo-masks and predictions; reads one column of the labels."""
    return sum(
        source in ("pseudo", "prediction")
        for sources in read_segments(shards, "mask_from")
        for source in sources
    )


def _source_ids(shards: ShardSet) -> Iterator[bool]:
    """Whether each annotation has an id in its source."""
    return (entry is not None for ids in read_segments(shards, "source_id") for entry in ids)


def read_boxes(
    layer: ShardSet, truth: HiddenTruth | None = None, data: ShardSet | None = None
) -> LabeledBoxes:
    """Read the boxes of a layer: every pseudo-mask, and every box without a mask.

    Crowds, ignored objects and masks of another origin are left out.

    Args:
        layer: the layer.
        truth: the true masks of the boxes.
        data: the set that was labeled, whose masks are left out: an earlier teacher made them. None
            for all pseudo-masks of the layer.
    """
    rows = array("d")  # 56 bytes a box; a set may have millions
    samples = zip(layer.samples(check_masks=True), masked_before(data), strict=data is not None)
    for image, (sample, had_mask) in enumerate(samples):
        chosen = list(prompted_segments(sample, had_mask))
        objects = truth.objects(sample) if truth else {}
        known = [(n, s) for n, s in chosen if s.source_id in objects]
        true = [objects[segment.source_id or ""] for _, segment in known]
        masks = [segment if segment.mask is not None else None for _, segment in known]
        iou = dict(zip((n for n, _ in known), matched_iou(true, masks).tolist(), strict=True))
        for number, segment in chosen:
            score = np.nan if segment.mask is None else segment.score
            rows.extend(
                (
                    image,
                    number,
                    layer.taxonomy.index[segment.class_id],
                    segment.box[2] * segment.box[3],
                    1.0 if score is None else score,
                    iou.get(number, np.nan),
                    number in iou,
                )
            )
    columns = np.frombuffer(rows).reshape(-1, 7).T
    image, number, label = columns[:3].astype(np.int64)
    area, score, iou, is_known = columns[3:]
    return LabeledBoxes(image, number, label, area, score, iou, is_known.astype(bool))


def prompted_segments(
    sample: Sample, had_mask: Sequence[bool] = ()
) -> Iterator[tuple[int, Segment]]:
    """The segments of `read_boxes`, each with its index in the sample.

    Args:
        sample: of the layer.
        had_mask: whether each of its segments had a mask before, see `masked_before`.
    """
    for number, segment in enumerate(sample.segments):
        if needs_mask(segment) or is_new_mask(segment, number, had_mask):
            yield number, segment
