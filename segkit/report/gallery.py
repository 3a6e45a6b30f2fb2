"""The worst and the best images of an evaluation, labels beside predictions, as pictures inside the
page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError
from segkit.images.draw import Picture, overlay
from segkit.metrics.predictions import Predictions
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

WIDTH = 480
"""Pixels that a picture is scaled to; 16 images then stay below 2 MB."""


@dataclass(frozen=True)
class Shown:
    """One image of the gallery."""

    caption: str
    truth: str
    prediction: str
    """JPEGs as data URIs."""


def ends(scores: NDArray[np.float64], count: int) -> tuple[list[int], list[int]]:
    """Indices of the `count` worst (worst first) and best (best first) images; images without a
    score do not count."""
    order = np.argsort(scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    half = min(count, (len(order) + 1) // 2)
    best = order[half:][::-1][:count]
    return order[:half].tolist(), best.tolist()


def shown(
    truth: ShardSet,
    source: Predictions,
    index: int,
    caption: str,
    *,
    chosen: frozenset[int],
    least_score: float,
) -> Shown:
    """The picture of one image.

    Args:
        truth: ground truth.
        source: predictions.
        index: number of the image in the set.
        caption: what to write below.
        chosen: class ids that were scored; others are not drawn.
        least_score: predictions below it are not drawn.
    """
    sample = truth.sample(index)
    answer = source.of(sample)
    found = (
        []
        if answer is None
        else [s for s in answer.segments if (s.score is None or s.score >= least_score)]
    )
    ground = _ground(truth, sample)
    pictures = (
        overlay(ground, [s for s in segments if s.class_id in chosen], truth.taxonomy)
        for segments in (sample.segments, found)
    )
    return Shown(caption, *(data_uri(picture) for picture in pictures))


def _ground(truth: ShardSet, sample: Sample) -> Picture:
    """The image, or plain grey where the set has none."""
    try:
        return truth.image(sample)
    except SegkitError:
        return np.full((sample.height, sample.width, 3), 205, np.uint8)


def data_uri(picture: Picture) -> str:
    """A JPEG of at most `WIDTH` pixels across, as text for `src`."""
    import cv2

    if picture.shape[1] > WIDTH:
        size = (WIDTH, max(1, round(picture.shape[0] * WIDTH / picture.shape[1])))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def gallery(images: Sequence[Shown]) -> str:
    """The images as HTML: ground truth left, prediction right."""
    figures = []
    for image in images:
        name = escape(image.caption)
        pair = "".join(
            f'<img src="{uri}" alt="{what} of {name}" loading="lazy">'
            for what, uri in (("ground truth", image.truth), ("prediction", image.prediction))
        )
        figures.append(
            f'<figure><div class="pair">{pair}</div><figcaption>{name}</figcaption></figure>'
        )
    return f'<div class="gallery">{"".join(figures)}</div>'
