"""Teacher `grabcut`: OpenCV's GrabCut from each box, without a model. Imports no torch."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.shape_teachers import shape_mask
from segkit.inference.streams import THREADS, prefetch
from segkit.inference.teacher import Teacher, mask_place
from segkit.masks.boxes import Mask, inscribed_ellipse, pixels_of_box, tightness, touches_image
from segkit.sample import Box

ITERATIONS = 3
MAX_SIDE = 1024
"""Longer side of the image that GrabCut gets, pixels: its time grows with their number. Larger
images are made smaller, and their masks larger again."""
MIN_AREA = 400
"""Boxes of at most this many pixels, in the image that GrabCut gets, get an ellipse."""
MIN_SHARE = 0.02
"""Share of its box below which a GrabCut mask counts as failed; an ellipse replaces it.

This choice decides GrabCut's figure: of the 864 boxes of the stand-in's validation set
(docs/results.md), 163 are small, three are the full image, and 192 others come back empty. Filled
boxes for small and empty ones give 0.551, ellipses 0.590; ellipses for all masks under 2 % give
0.633, which this teacher does.
"""


class GrabCutTeacher(Teacher):
    """GrabCut in each box: pixels outside are background, colors decide within.

    An ellipse replaces failed masks, and those of small boxes and of boxes without background
    around them. Score: `tightness` of a GrabCut mask in its box, 0 for an ellipse; so a minimum
    score above 0 leaves these boxes without a mask.
    """

    name = "grabcut"
    score_name = "tightness"

    def __init__(self, min_score: float) -> None:
        self.min_score = min_score

    def predict(self, prompts: Iterable[ImagePrompts]) -> Iterator[list[BoxMask | None]]:
        """As of `Teacher`; None only for boxes outside the image."""
        return prefetch(_segment, prompts, ahead=THREADS)


def _segment(prompts: ImagePrompts) -> list[BoxMask | None]:
    bgr = np.ascontiguousarray(prompts.image[..., ::-1])
    size = bgr.shape[:2]
    scale = min(1.0, MAX_SIDE / max(size))
    small = bgr if scale == 1 else _resized(bgr, (round(size[0] * scale), round(size[1] * scale)))
    masks: list[BoxMask | None] = []
    for box, label in zip(prompts.boxes, prompts.labels, strict=True):
        if not touches_image(box, *size):  # it may touch the image that is made smaller
            masks.append(None)
            continue
        x, y, width, height = (side * scale for side in box)
        foreground = grabcut(small, (x, y, width, height))
        if foreground is None:
            ellipse = shape_mask(inscribed_ellipse, box, label, size)
            masks.append(ellipse and BoxMask(size, ellipse.place, ellipse.inside, 0.0, label))
        else:
            if scale < 1:
                foreground = _resized(foreground.astype(np.uint8), size) > 0
            place = mask_place(box, size)
            score = tightness(foreground[pixels_of_box(box, *size)])
            masks.append(BoxMask(size, place, foreground[place].copy(), score, label))
    return masks


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image by areas, or a mask by its nearest pixels, at (height, width)."""
    import cv2

    mode = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST
    resized: NDArray[np.uint8] = cv2.resize(
        image, (max(1, size[1]), max(1, size[0])), None, 0, 0, mode
    )
    return resized


def grabcut(image: NDArray[np.uint8], box: Box) -> Mask | None:
    """The foreground (H, W) in a box of a BGR image (H, W, 3); None where GrabCut fails."""
    import cv2

    height, width = image.shape[:2]
    rows, columns = pixels_of_box(box, height, width)
    box_width, box_height = columns.stop - columns.start, rows.stop - rows.start
    inside = box_width * box_height
    area = box[2] * box[3]
    # GrabCut needs pixels of both kinds, background outside the box.
    if area <= MIN_AREA or not 0 < inside < height * width:
        return None
    labels = np.zeros((height, width), np.uint8)
    rectangle = columns.start, rows.start, box_width, box_height
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # OpenCV has a generator in each thread
    try:
        cv2.grabCut(image, labels, rectangle, *models, ITERATIONS, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return None
    foreground: Mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return foreground if foreground.sum() >= max(1.0, MIN_SHARE * area) else None
