"""Crops and color changes, as pure functions of explicit parameters and a generator.

One `Crop` holds the scale, the cut, the padding and the mirroring, so image, masks and boxes cannot
disagree. torchvision's transforms (v2) change images and colors. They do not change masks, which
they would need dense at the size of the source, nor boxes, which they clip. Tests compare both with
torchvision's.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torchvision.transforms.v2 import functional

from segkit.masks.boxes import Corners, Mask
from segkit.masks.run_lengths import Ints
from segkit.sample import Box

Image = NDArray[np.uint8]

PAD_VALUE = 128
"""Gray of the padding: close to ImageNet's mean, so normalized padding is close to zero."""
ZOOM_FACTORS = (1.2, 2.5)
"""Range of the side of a zoomed crop over the longer side of its segment's box."""
CROP_FACTOR = 1.6
"""Side of a crop over the longer side of its box at inference, within that range."""
MAX_ZOOM = 8.0
"""Crop pixels for one image pixel, at most: a box of three pixels shows nothing at any size."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of the source image, resized, optionally mirrored, and padded."""

    source: tuple[int, int, int, int]
    """x, y, width, height in pixels of the source image, inside it."""
    content: tuple[int, int, int, int]
    """x, y, width, height of the resized rectangle in the padded result, inside it."""
    padded_size: tuple[int, int]
    """Height and width of the result."""
    mirrored: bool = False

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the source image, where the crop holds all of it."""
        return self.source[3], self.source[2]

    def rows(self) -> NDArray[np.intp]:
        """(content height,) source row under the center of each row of the content."""
        return _centers(self.source[1], self.source[3], self.content[3])

    def columns(self) -> NDArray[np.intp]:
        """(content width,) source column under the center of each content column.

        They decrease if the crop is mirrored.
        """
        columns = _centers(self.source[0], self.source[2], self.content[2])
        return columns[::-1] if self.mirrored else columns

    def content_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the content in the result."""
        x, y, width, height = self.content
        return slice(y, y + height), slice(x, x + width)

    def padding(self) -> Mask:
        """The pixels of the result beyond the image, (padded height, padded width)."""
        padding = np.ones(self.padded_size, bool)
        padding[self.content_slices()] = False
        return padding

    def image(self, image: Image) -> Image:
        """Crop an (H, W, 3) image, resized bilinearly with antialiasing."""
        x, y, width, height = self.source
        left, top, content_w, content_h = self.content
        pixels = torch.from_numpy(image).permute(2, 0, 1)  # (3, H, W)
        pixels = functional.resized_crop(
            pixels, y, x, height, width, [content_h, content_w], antialias=True
        )
        if self.mirrored:
            pixels = functional.horizontal_flip(pixels)
        right = self.padded_size[1] - left - content_w
        bottom = self.padded_size[0] - top - content_h
        padded = functional.pad(pixels, [left, top, right, bottom], fill=PAD_VALUE).numpy()
        return np.asarray(cv2.merge(list(padded)), np.uint8)

    def mask(self, runs: Ints, height: int, width: int) -> Mask:
        """Crop a mask by nearest pixel; False in the padding.

        No dense (N, H, W) stack of full-size masks ever exists: only the columns that both the crop
        and the mask reach are decoded, and sampled at the centers of the crop's pixels.

        Args:
            runs: run lengths over (height, width), from `segkit.masks.run_lengths.decode_counts`.

        Returns:
            (padded height, padded width).

        Raises:
            ValueError: the run lengths do not fill height x width.
        """
        mask = np.zeros(self.padded_size, bool)
        ends = np.cumsum(runs)
        if (ends[-1] if ends.size else 0) != height * width:
            raise ValueError(f"an RLE that does not fill {width} x {height} pixels")
        if len(ends) < 2:
            return mask
        columns = self.columns()
        # the columns that both the crop and the mask (first run of ones to the last) reach
        low, high = sorted((int(columns[0]), int(columns[-1])))
        low = max(int(ends[0]) // height, low)
        high = min((int(ends[len(ends) // 2 * 2 - 1]) - 1) // height, high)
        reached = np.flatnonzero((columns >= low) & (columns <= high))
        if not reached.size:
            return mask
        strip = _decode_pixels(ends, low * height, (high + 1) * height)
        strip = strip.reshape(-1, height)  # (high - low + 1, H)
        content = strip[columns[reached] - low].take(self.rows(), axis=1)  # (reached, content h)
        rows, _ = self.content_slices()
        left = self.content[0] + int(reached[0])
        # OpenCV transposes ten times faster than numpy, which would take most of the time
        transposed = cv2.transpose(content.view(np.uint8)).view(np.bool_)
        mask[rows, left : left + reached.size] = transposed
        return mask

    def filled_box(self, corners: Corners) -> Mask:
        """The pixels of the result whose centers are inside a box, which is clipped to the content:
        (padded height, padded width)."""
        mask = np.zeros(self.padded_size, bool)
        mask[self.box_slices(corners)] = True
        return mask

    def box_slices(self, corners: Corners) -> tuple[slice, slice]:
        """Rows and columns of the pixels of `filled_box`."""
        x0, y0, x1, y1 = np.ceil(np.asarray(self.clip(corners)) - 0.5).astype(int).tolist()
        return slice(y0, y1), slice(x0, x1)

    def box(self, box: Box) -> Corners:
        """Map a box of the source image to corners in the result, without clipping."""
        x, y, width, height = self.source
        scale_x, scale_y = self.content[2] / width, self.content[3] / height
        left, right = (box[0] - x) * scale_x, (box[0] + box[2] - x) * scale_x
        top, bottom = (box[1] - y) * scale_y, (box[1] + box[3] - y) * scale_y
        if self.mirrored:
            left, right = self.content[2] - right, self.content[2] - left
        x0, y0 = self.content[:2]
        return left + x0, top + y0, right + x0, bottom + y0

    def to_source(self, corners: Corners) -> Corners:
        """Map corners in the result to corners in the source image, without clipping."""
        x, y, width, height = self.source
        x0, y0, content_w, content_h = self.content
        left, right = corners[0] - x0, corners[2] - x0
        if self.mirrored:
            left, right = content_w - right, content_w - left
        left, right = left * width / content_w + x, right * width / content_w + x
        top, bottom = ((y1 - y0) * height / content_h + y for y1 in (corners[1], corners[3]))
        return left, top, right, bottom

    def clip(self, corners: Corners) -> Corners:
        """Clip corners in the result to the content; without extent where they are outside it."""
        x, y, width, height = self.content
        x0, x1 = (min(max(value, x), x + width) for value in (corners[0], corners[2]))
        y0, y1 = (min(max(value, y), y + height) for value in (corners[1], corners[3]))
        return float(x0), float(y0), float(x1), float(y1)


def _centers(start: int, length: int, count: int) -> NDArray[np.intp]:
    """The source pixels under the centers of `count` pixels that `length` pixels are resized to."""
    return start + ((np.arange(count) * 2 + 1) * length) // (2 * count)


def _decode_pixels(ends: Ints, start: int, stop: int) -> Mask:
    """Pixels start..stop of the runs that end at `ends`; the first run is of zeros."""
    low, high = np.searchsorted(ends, (start, stop - 1), side="right")
    bounds = np.clip(np.concatenate(([start], ends[low : high + 1])), start, stop)
    return np.repeat(np.arange(low, high + 1) % 2 == 1, np.diff(bounds))


def jitter_crop(
    height: int,
    width: int,
    *,
    size: int,
    scale: float,
    rng: np.random.Generator,
    flip: bool = False,
) -> Crop:
    """Large-scale jitter: scale the longer side to size x scale, then crop or pad.

    The position of the crop is random; padding is on the right and below.

    As in "Simple Copy-Paste" (arXiv 2012.07177) and Mask2Former. The source is cut before it is
    resized, so that a large scale costs no more than its crop.
    """
    side = max(1, round(max(height, width) / scale))
    source_w, source_h = min(side, width), min(side, height)
    x, y = int(rng.integers(width - source_w + 1)), int(rng.integers(height - source_h + 1))
    mirrored = flip and bool(rng.random() < 0.5)
    content_w = max(1, round(source_w * size / side))
    content_h = max(1, round(source_h * size / side))
    return Crop((x, y, source_w, source_h), (0, 0, content_w, content_h), (size, size), mirrored)


def zoom_crop(
    height: int, width: int, box: Box, *, size: int, rng: np.random.Generator, flip: bool = False
) -> Crop:
    """A square around a box, 1.2 to 2.5 times its longer side: small objects appear large.

    The square is no larger than the image's longer side. It is shifted by up to half of the room
    around the box, so that its center says nothing, and padded where it reaches beyond the image.
    """
    longest = max(box[2], box[3])
    factor = float(np.exp(rng.uniform(*np.log(ZOOM_FACTORS))))
    side = max(2, round(min(max(longest * factor, size / MAX_ZOOM), max(height, width))))
    shift = rng.uniform(-0.25, 0.25, 2) * max(side - longest, 0)
    x = round(min(max(box[0] + box[2] / 2, 0), width) + shift[0] - side / 2)
    y = round(min(max(box[1] + box[3] / 2, 0), height) + shift[1] - side / 2)
    crop = square_crop(height, width, x, y, side, size)
    if not (flip and rng.random() < 0.5):
        return crop
    left, top, content_w, content_h = crop.content
    mirrored_left = size - left - content_w
    return replace(crop, content=(mirrored_left, top, content_w, content_h), mirrored=True)


def square_crop(height: int, width: int, x: int, y: int, side: int, size: int) -> Crop:
    """The crop of a square of the source, which may reach beyond the image, resized to `size`."""
    x0, y0 = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    x1, y1 = max(min(x + side, width), x0 + 1), max(min(y + side, height), y0 + 1)
    left, top = (min(max(round(gap * size / side), 0), size - 1) for gap in (x0 - x, y0 - y))
    right, bottom = (round(gap * size / side) for gap in (x1 - x, y1 - y))
    right, bottom = min(max(right, left + 1), size), min(max(bottom, top + 1), size)
    return Crop((x0, y0, x1 - x0, y1 - y0), (left, top, right - left, bottom - top), (size, size))


def full_image_crop(height: int, width: int, *, size: int, multiple: int = 32) -> Crop:
    """The full image, its longer side resized to `size`.

    It is padded on the right and below to a multiple of `multiple`.
    """
    scale = size / max(height, width)
    content_h, content_w = max(1, round(height * scale)), max(1, round(width * scale))
    padded_size = (-(-content_h // multiple) * multiple, -(-content_w // multiple) * multiple)
    return Crop((0, 0, width, height), (0, 0, content_w, content_h), padded_size)


def color_jitter(image: Image, *, strength: float, rng: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and hue at random.

    Factors are within 1 +- strength, the hue within +- strength / 5 of the circle.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    hue = rng.uniform(-strength, strength) / 5
    return adjust_colors(
        image, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
    )


def adjust_colors(
    image: Image, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Image:
    """Change brightness, contrast, saturation and hue of an (H, W, 3) RGB image, in this order.

    Factors of 1 and a hue of 0 (-0.5 to 0.5 of the circle) change nothing.

    Defined as torchvision's functions for PIL images: the mean gray of those for tensors depends on
    the number of threads.
    """
    picture = PillowImage.fromarray(image)
    picture = functional.adjust_brightness(picture, brightness)
    picture = functional.adjust_contrast(picture, contrast)
    picture = functional.adjust_saturation(picture, saturation)
    return _shift_hue(np.array(picture), hue)


def _shift_hue(image: Image, hue: float) -> Image:
    """Shift the hue as torchvision's `adjust_hue` does for PIL images, 15 times as fast.

    torchvision's takes twice as long as decoding a JPEG.
    """
    shift = round(hue * 256)
    if shift == 0:
        return image
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    table[:, 0] += np.uint8(shift % 256)  # wraps around, as the color circle does
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), table[None])
    shifted: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return shifted
