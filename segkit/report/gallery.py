"""Embed the worst and the best images of an evaluation, ground truth beside prediction."""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.images.draw import Picture, overlay, shrink_factor
from segkit.metrics.predictions import Predictions
from segkit.report.preview import background
from segkit.sample import Segment
from segkit.shards.reader import ShardSet

MAX_SIZE = 480, 960
"""Width and height in pixels that a picture is scaled down to, so that 16 images take less than
2 MB."""
PAINTED_SIZE = 2 * MAX_SIZE[0], 2 * MAX_SIZE[1]
"""Size at which a large image is painted: contours are smooth when it is scaled down to half."""


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery."""

    caption: str
    truth: str
    """JPEG as a data URI, as `prediction`."""
    prediction: str


def draw_image(
    truth: ShardSet,
    source: Predictions,
    index: int,
    caption: str,
    *,
    class_ids: Collection[int],
    min_score: float,
) -> GalleryImage:
    """Draw the labels and the predictions of one image.

    Args:
        truth: ground truth.
        source: predictions.
        index: number of the image in the set.
        caption: text below the pictures.
        class_ids: classes to draw.
        min_score: lowest score of a prediction to draw.
    """
    sample = truth.sample(index, check_masks=True)
    prediction = source.get(sample)
    segments = () if prediction is None else prediction.segments
    image = background(truth, sample)
    scale = shrink_factor(image, PAINTED_SIZE)

    def picture(segments: Sequence[Segment]) -> str:
        drawn = [segment for segment in segments if segment.class_id in class_ids]
        return data_uri(overlay(image, drawn, truth.taxonomy, scale=scale))

    confident = [s for s in segments if s.score is None or s.score >= min_score]
    return GalleryImage(caption, picture(sample.segments), picture(confident))


def data_uri(picture: Picture) -> str:
    """Encode a picture as a JPEG of at most `MAX_SIZE`, as text for `src`."""
    import cv2

    if (factor := shrink_factor(picture, MAX_SIZE)) < 1:
        height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
        size = (width, height)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
