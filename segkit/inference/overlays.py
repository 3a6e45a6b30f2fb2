"""Pictures of a prediction set, one an image."""

from collections.abc import Callable
from pathlib import Path

import cv2

from segkit.errors import SegkitError
from segkit.images.draw import overlay
from segkit.inference.streams import THREADS, ahead
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

MIN_SCORE = 0.3
"""Instances below it are not drawn: average precision wants them, a person does not."""


def write_overlays(
    predictions: ShardSet, folder: Path, on_image: Callable[[], None] = lambda: None
) -> Path:
    """Write `folder`/<sample id>.jpg for every image of a prediction set; returns the folder.

    Raises:
        SegkitError: a picture cannot be written.
    """
    instances = predictions.manifest.kind == "instance"

    def draw(sample: Sample) -> None:
        shown = [s for s in sample.segments if not instances or (s.score or 0.0) >= MIN_SCORE]
        picture = overlay(predictions.image(sample), shown, predictions.taxonomy)
        file = folder / f"{sample.id}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(file), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90]):
            raise SegkitError(f"{file}: could not be written")

    for _ in ahead(draw, predictions.samples(), waiting=2 * THREADS):
        on_image()
    return folder
