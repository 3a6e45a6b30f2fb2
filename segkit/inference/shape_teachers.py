"""Teachers that draw a shape into each box: the box itself, or its ellipse. Import no torch."""

from collections.abc import Callable, Iterable, Iterator

from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.teacher import Teacher, mask_place
from segkit.masks.boxes import (
    Mask,
    filled_box,
    inscribed_ellipse,
    pixels_of_box,
    tightness,
    touches_image,
)
from segkit.sample import Box


class ShapeTeacher(Teacher):
    """Fills a shape in each box. Baselines: what a teacher with weights has to surpass.

    Score: `tightness` in the box, which is 1 but for rounding.

    Args:
        name: `box` or `ellipse`.
    """

    min_score = 0.0
    score_name = "tightness"

    def __init__(self, name: str) -> None:
        self.name = name
        self._draw = SHAPES[name]

    def predict(self, prompts: Iterable[ImagePrompts]) -> Iterator[list[BoxMask | None]]:
        """As of `Teacher`; None only for boxes outside the image."""
        for image in prompts:
            size = image.image.shape[:2]
            yield [
                shape_mask(self._draw, box, label, size)
                for box, label in zip(image.boxes, image.labels, strict=True)
            ]


SHAPES: dict[str, Callable[[Box, int, int], Mask]] = {
    "box": filled_box,
    "ellipse": inscribed_ellipse,
}


def shape_mask(
    draw: Callable[[Box, int, int], Mask], box: Box, label: int, size: tuple[int, int]
) -> BoxMask | None:
    """The shape of a box in an image of (height, width); None where the box is outside of it."""
    if not touches_image(box, *size):
        return None
    mask, place = draw(box, *size), mask_place(box, size)
    score = min(1.0, tightness(mask[pixels_of_box(box, *size)]))
    return BoxMask(size, place, mask[place].copy(), score, label)  # a view keeps the full mask
