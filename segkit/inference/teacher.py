"""The interface of a teacher: boxes of an image in, a mask and a score for each out.

Imports no torch, nor do the teachers without a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.masks.boxes import pixels_of_box, with_margin
from segkit.runs.calibration import Calibration
from segkit.sample import Box
from segkit.shards.manifest import Parent
from segkit.storage import StrPath
from segkit.taxonomy import Taxonomy
from segkit.workers.devices import Workers


class Teacher(ABC):
    """A source of masks for boxes."""

    name: str
    """As on the command line, such as `grabcut` or `sam:facebook/sam-vit-base`."""
    min_score: float
    """Lowest raw score of a mask; a box whose mask scores less stays a box."""
    score_name: str = "score"
    """What the score of a mask means, in a word or two."""
    calibration: Calibration | None = None
    """Of calibrated runs, whose scores are expected IoU."""
    min_iou: float | None = None
    """Lowest expected IoU of a mask; only of calibrated runs."""

    def keeps(self, mask: BoxMask) -> bool:
        """Whether a mask has a pixel, and a raw score and an expected IoU that are not too low."""
        raw = mask.score if mask.raw_score is None else mask.raw_score
        confident = raw >= self.min_score and (self.min_iou is None or mask.score >= self.min_iou)
        return confident and bool(mask.inside.any())

    def prepare(self, taxonomy: Taxonomy) -> None:  # noqa: B027  # most teachers need no classes
        """Get ready for boxes of these classes; called once, before `predict`.

        Raises:
            InputError: classes that the teacher cannot serve.
        """

    @abstractmethod
    def predict(self, prompts: Iterable[ImagePrompts]) -> Iterator[Sequence[BoxMask | None]]:
        """Segment the boxes of a stream of images.

        Args:
            prompts: images with their boxes, at least one each; read slightly ahead of the results.

        Yields:
            The masks of each image, in order: one for each box, or None.
        """

    def as_arguments(self) -> dict[str, Any]:
        """The teacher and its settings, for a manifest's arguments (JSON values)."""
        limits = {"min_score": self.min_score}
        if self.min_iou is not None:
            limits["min_iou"] = self.min_iou
        return {"teacher": self.name, **limits}

    def worker_arguments(self, workers: Workers) -> dict[str, Any]:
        """As `as_arguments`, of the same teacher where each of several workers opens it."""
        return self.as_arguments()

    def parents(self, destination: StrPath) -> tuple[Parent, ...]:
        """The versions that the teacher consists of, as parents of one under `destination`."""
        return ()


def mask_place(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels of an image of (height, width) that a mask for the box may
    cover: the box enlarged by the margin."""
    return pixels_of_box(with_margin(box), *size)
