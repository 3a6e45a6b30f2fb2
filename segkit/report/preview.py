"""Draw images of a set with their segments: one, a grid, or ground truth beside predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.file_names import known_form
from segkit.images.draw import Picture, enlarged_overlay, save_png
from segkit.images.picture_grid import Tile, fit_tile, picture_grid
from segkit.metrics.prediction_ids import images_of_set
from segkit.metrics.sides import require_image_size
from segkit.sample import MIN_DRAWN_SCORE, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet

GRAY = 205
"""Background of a picture whose set has no images."""
PREVIEW_IMAGES = 9
"""Images in the preview that `convert`, `predict` and `pseudolabel` write."""
SCORED: frozenset[SetKind] = frozenset({"instance", "boxes"})
"""Kinds of sets whose segments are left out where their score is low."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture and the numbers of its segments."""

    picture: Picture
    segments: int
    """All segments of the images, drawn or not; those of the predictions, if there are any."""
    drawn: int
    """Segments with the least score or more, or without a score."""
    min_score: float

    def __str__(self) -> str:
        """The numbers in words, such as `330 segments, 0 with a score of 0.3 or more`."""
        words = f"{self.segments} segment{'' if self.segments == 1 else 's'}"
        if self.drawn == self.segments:
            return words
        return f"{words}, {self.drawn} with a score of {self.min_score:g} or more (drawn)"


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spread over 0 to `total` - 1."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def predicted_images(shards: ShardSet, predictions: ShardSet) -> list[int]:
    """Return the indices of the images of a set that have a prediction; InputError if none has."""
    predicted = set(images_of_set(predictions, shards))
    indices = [index for index, image in enumerate(shards.image_ids()) if image in predicted]
    if not indices:
        hint = f"give predictions of the images of {shards.path}"
        raise InputError("has none of the images", file=predictions.path, hint=hint)
    return indices


def index_of(shards: ShardSet, sample_id: str) -> int:
    """Return the index of the sample with this id; InputError if the set has none."""
    ids = list(shards.image_ids())
    if (known := known_form(sample_id, ids)) is not None:
        return ids.index(known)
    hint = f"ids are such as {ids[0]!r}"
    raise InputError(f"no image has the id {sample_id!r}", file=shards.path, hint=hint)


def background(shards: ShardSet, sample: Sample) -> Picture:
    """Return the image, or plain gray if the set has none."""
    try:
        return shards.image(sample)
    except SegkitError:
        return np.full((sample.height, sample.width, 3), GRAY, np.uint8)


def draw_samples(
    shards: ShardSet,
    indices: Sequence[int],
    *,
    min_score: float = MIN_DRAWN_SCORE,
    predictions: ShardSet | None = None,
    captions: Sequence[str] = (),
) -> Drawing:
    """Draw images of a set, small ones enlarged, each with a caption.

    A single image without a given caption keeps its size; pictures of a grid have the grid's width.

    Args:
        shards: the set.
        indices: of the images, at least one.
        min_score: instances with a lower score are left out.
        predictions: a prediction set of the same images, drawn on the right of each image.
        captions: a line for each image; by default its id and its number of segments.

    Raises:
        InputError: a prediction differs in size from its image.
    """
    predicted = () if predictions is None else images_of_set(predictions, shards)
    rows = {image: index for index, image in enumerate(predicted)}
    width = 360 if predictions is None else 640
    single = len(indices) == 1 and not captions
    max_size = None if single else (2 * width, 2 * width)  # smooth when it is scaled down to half
    segments = drawn = 0
    tiles = []
    for number, index in enumerate(indices):
        sample = shards.sample(index, check_masks=True)
        image = background(shards, sample)
        confident = _confident(shards, sample.segments, min_score)
        pictures = [enlarged_overlay(image, confident, shards.taxonomy, max_size=max_size)]
        counted = sample.segments
        if predictions is not None:
            row = rows.get(sample.id)
            counted = ()
            if row is not None:
                prediction = predictions.sample(row, check_masks=True)
                require_image_size(prediction, sample, predictions.path)
                counted = prediction.segments
            confident = _confident(predictions, counted, min_score)
            taxonomy = predictions.taxonomy
            pictures.append(enlarged_overlay(image, confident, taxonomy, max_size=max_size))
        segments += len(counted)
        drawn += len(confident)
        caption = captions[number] if captions else f"{sample.id}: {len(counted)}"
        picture = _side_by_side(pictures)
        tiles.append(Tile(picture if single else fit_tile(picture, width), caption))
    picture = tiles[0].picture if single else picture_grid(tiles, width=width)
    return Drawing(picture, segments, drawn, min_score)


def _confident(
    shards: ShardSet, segments: Sequence[Segment], min_score: float
) -> Sequence[Segment]:
    if shards.manifest.kind not in SCORED:
        return segments  # they cover the image: none stands for a second guess
    return [s for s in segments if s.score is None or s.score >= min_score]


def write_preview(
    shards: ShardSet, *, min_score: float = MIN_DRAWN_SCORE
) -> tuple[Path, Drawing] | None:
    """Draw `PREVIEW_IMAGES` of a version, and write the picture beside it as `v1.png`.

    Returns:
        The file and what it shows; None for a set that is remote or has no images.
    """
    if not len(shards) or storage.is_remote(shards.path):
        return None
    drawing = draw_samples(shards, spread(len(shards), PREVIEW_IMAGES), min_score=min_score)
    file = shards.path.with_name(f"{shards.path.name}.png")
    save_png(drawing.picture, file)
    return file, drawing


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    """The pictures in one row, with a white line between them."""
    if len(pictures) == 1:
        return pictures[0]
    line = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([pictures[0], line, *pictures[1:]], axis=1)
