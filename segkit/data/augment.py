"""Where a crop lies and how its colors vary: pure functions of explicit parameters and a generator.

Scaling, cropping, padding and mirroring of one crop are one `Crop`, so image, masks and boxes
cannot disagree. Images and colors are changed by torchvision's transforms (v2). Masks are not:
those would need every mask dense at the size of the source, where `segkit.data.crop_masks` unrolls
what the crop shows of it. Nor are boxes, of which they keep only what is inside. Tests hold both
against torchvision's.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from torchvision.transforms.v2 import functional

from segkit.sample import Box

Image = NDArray[np.uint8]
Rectangle = tuple[float, float, float, float]

PAD_VALUE = 128
"""Grey of the padding: close to the mean of ImageNet, so that normalized padding is close to
zero."""
ZOOM_FACTORS = (1.2, 2.5)
"""Side of a zoomed window over the longer side of its segment's box."""
ZOOM_LARGEST = 8.0
"""No zoom enlarges pixels more than this: a box of three pixels shows nothing at any size."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A whole-pixel rectangle of the source, resized to a patch, mirrored or not, on a canvas of
    padding."""

    source: tuple[int, int, int, int]
    """x, y, width, height in the source image, wholly inside of it."""
    content: tuple[int, int, int, int]
    """x, y, width, height on the canvas, wholly inside of it."""
    padded_size: tuple[int, int]
    """Height and width of the result."""
    mirrored: bool = False

    def rows(self) -> NDArray[np.intp]:
        """Source row under the center of each row of the patch (patch height,)."""
        return _centers(self.source[1], self.source[3], self.content[3])

    def columns(self) -> NDArray[np.intp]:
        """Source column under the center of each column of the patch, right to left where mirrored
        (patch width,)."""
        columns = _centers(self.source[0], self.source[2], self.content[2])
        return columns[::-1] if self.mirrored else columns

    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the patch fills."""
        x, y, width, height = self.content
        return slice(y, y + height), slice(x, x + width)

    def image(self, image: Image) -> Image:
        """The crop of an (H, W, 3) image, resized bilinearly with antialiasing."""
        (x, y, width, height), (left, top, content_w, content_h) = self.source, self.content
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        pixels = functional.resized_crop(
            pixels, y, x, height, width, [content_h, content_w], antialias=True
        )
        if self.mirrored:
            pixels = functional.horizontal_flip(pixels)
        rest = [
            left,
            top,
            self.padded_size[1] - left - content_w,
            self.padded_size[0] - top - content_h,
        ]
        padded: Image = functional.pad(pixels, rest, fill=PAD_VALUE).numpy()
        return np.asarray(cv2.merge(list(padded)), np.uint8)

    def box(self, box: Box) -> Rectangle:
        """x, y, width, height in the source -> x0, y0, x1, y1 on the canvas, not clipped."""
        scale_x, scale_y = self.content[2] / self.source[2], self.content[3] / self.source[3]
        left, right = (
            (box[0] - self.source[0]) * scale_x,
            (box[0] + box[2] - self.source[0]) * scale_x,
        )
        top, bottom = (
            (box[1] - self.source[1]) * scale_y,
            (box[1] + box[3] - self.source[1]) * scale_y,
        )
        if self.mirrored:
            left, right = self.content[2] - right, self.content[2] - left
        return (
            left + self.content[0],
            top + self.content[1],
            right + self.content[0],
            bottom + self.content[1],
        )

    def clip(self, rectangle: Rectangle) -> Rectangle:
        """What of x0, y0, x1, y1 lies on the patch; of no extent where nothing does."""
        x, y, width, height = self.content
        x0, x1 = (min(max(value, x), x + width) for value in (rectangle[0], rectangle[2]))
        y0, y1 = (min(max(value, y), y + height) for value in (rectangle[1], rectangle[3]))
        return float(x0), float(y0), float(x1), float(y1)


def _centers(start: int, length: int, count: int) -> NDArray[np.intp]:
    return start + ((np.arange(count) * 2 + 1) * length) // (2 * count)


def jitter_crop(
    height: int,
    width: int,
    *,
    size: int,
    scale: float,
    rng: np.random.Generator,
    flip: bool = False,
) -> Crop:
    """Large-scale jitter: the longer side becomes size x scale, then a random crop, or padding
    right and below.

    As in "Simple Copy-Paste" (arXiv 2012.07177) and Mask2Former; the cut is made in the source,
    before resizing, so that a strong enlargement costs no more than its crop.
    """
    side = max(1, round(max(height, width) / scale))
    taken_w, taken_h = min(side, width), min(side, height)
    x, y = int(rng.integers(width - taken_w + 1)), int(rng.integers(height - taken_h + 1))
    mirrored = flip and bool(rng.random() < 0.5)
    content = (0, 0, max(1, round(taken_w * size / side)), max(1, round(taken_h * size / side)))
    return Crop((x, y, taken_w, taken_h), content, (size, size), mirrored)


def zoom_crop(
    height: int, width: int, box: Box, *, size: int, rng: np.random.Generator, flip: bool = False
) -> Crop:
    """A square around `box` with 1.2 to 2.5 times its longer side, resized to the crop: small
    objects are seen large.

    The square is no larger than the image's longer side, and moves by up to half of the room around
    the box, so that the center says nothing; what of it lies beyond the image is padding.
    """
    longest = max(box[2], box[3])
    factor = float(np.exp(rng.uniform(*np.log(ZOOM_FACTORS))))
    side = max(2, round(min(max(longest * factor, size / ZOOM_LARGEST), max(height, width))))
    shift = rng.uniform(-0.25, 0.25, 2) * max(side - longest, 0)
    x = round(min(max(box[0] + box[2] / 2, 0), width) + shift[0] - side / 2)
    y = round(min(max(box[1] + box[3] / 2, 0), height) + shift[1] - side / 2)
    crop = square_crop(height, width, x, y, side, size)
    if not (flip and rng.random() < 0.5):
        return crop
    left, top, content_w, content_h = crop.content
    return replace(
        crop, content=(size - left - content_w, top, content_w, content_h), mirrored=True
    )


def square_crop(height: int, width: int, x: int, y: int, side: int, size: int) -> Crop:
    """The window of a square of the source that may reach beyond the image."""
    x0, y0 = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    x1, y1 = max(min(x + side, width), x0 + 1), max(min(y + side, height), y0 + 1)
    left, top = (min(max(round(gap * size / side), 0), size - 1) for gap in (x0 - x, y0 - y))
    right, bottom = (round(gap * size / side) for gap in (x1 - x, y1 - y))
    right, bottom = min(max(right, left + 1), size), min(max(bottom, top + 1), size)
    return Crop((x0, y0, x1 - x0, y1 - y0), (left, top, right - left, bottom - top), (size, size))


def full_image_crop(height: int, width: int, *, size: int, multiple: int = 32) -> Crop:
    """The whole image with its longer side at `size`, padded right and below to a multiple of
    `multiple`."""
    scale = size / max(height, width)
    content_h, content_w = max(1, round(height * scale)), max(1, round(width * scale))
    padded_size = (-(-content_h // multiple) * multiple, -(-content_w // multiple) * multiple)
    return Crop((0, 0, width, height), (0, 0, content_w, content_h), padded_size)


def color_jitter(image: Image, *, strength: float, rng: np.random.Generator) -> Image:
    """Random brightness, contrast, saturation (each within 1 +- strength) and hue (+- strength / 5
    of the circle)."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    hue = rng.uniform(-strength, strength) / 5
    return adjust_colors(
        image, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
    )


def adjust_colors(
    image: Image, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Image:
    """Change an (H, W, 3) RGB image in this order; factors 1, 1, 1 and hue 0 (-0.5..0.5 of the
    circle) keep it.

    Definitions are torchvision's, on pictures of PIL: its tensors' mean grey depends on the number
    of threads.
    """
    picture = Picture.fromarray(image)
    picture = functional.adjust_brightness(picture, brightness)
    picture = functional.adjust_contrast(picture, contrast)
    return _turn_hue(np.array(functional.adjust_saturation(picture, saturation)), hue)


def _turn_hue(image: Image, hue: float) -> Image:
    """As torchvision's `adjust_hue` of pictures, which takes 15 times as long: twice the decoding
    of a JPEG."""
    turn = round(hue * 256)
    if turn == 0:
        return image
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    table[:, 0] += np.uint8(turn % 256)  # wraps round, as a circle does
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), table[None])
    turned: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return turned
