"""Draw segments with every mask decoded at its full size, all at once: the plain way."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segkit.images.draw import MIN_HALO_SIDE, load_font
from segkit.images.palette import class_color
from segkit.masks import rle
from segkit.sample import Segment
from segkit.taxonomy import Taxonomy

Mask = NDArray[np.bool_]


def overlay_of_full_masks(
    image: NDArray[np.uint8], segments: Sequence[Segment], taxonomy: Taxonomy, scale: int
) -> NDArray[np.uint8]:
    """Draw segments that all have a mask, as `segkit.images.draw.overlay` must."""
    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    order = sorted(segments, key=lambda s: (s.kind == "thing", -s.area, s.score or 0.0))
    masks = []
    for segment in order:
        mask = rle.decode(segment.mask or b"", height, width).astype(np.float32)
        masks.append(cv2.resize(mask, size, interpolation=cv2.INTER_CUBIC) >= 0.5)
    for segment, mask in zip(order, masks, strict=True):
        color = class_color(taxonomy.by_id[segment.class_id].name)
        brightness = canvas[mask] @ np.array([[0.299], [0.587], [0.114]], np.float32)
        canvas[mask] = 0.4 * brightness + 0.6 * np.array(color, np.float32)
        if segment.kind == "thing":
            _outline(canvas, mask, tuple(0.35 * channel for channel in color))
    names = [taxonomy.by_id[segment.class_id].name for segment in order]
    page = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    _write(page, masks, names, [segment.area for segment in order])
    return np.asarray(page)


def _outline(canvas: NDArray[np.float32], mask: Mask, dark: tuple[float, ...]) -> None:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    small, line = min(mask.shape) < MIN_HALO_SIDE, max(1, min(mask.shape) // 320)
    cv2.drawContours(canvas, outlines, -1, dark, 1 if small else line + 2, cv2.LINE_AA)
    if not small:
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), line, cv2.LINE_AA)


def _write(
    page: Image.Image, masks: Sequence[Mask], names: Sequence[str], areas: Sequence[float]
) -> None:
    """Names at the deepest pixel of what is visible, clear of each other by two pixels each."""
    draw, font = ImageDraw.Draw(page), load_font(max(11, min(page.size) // 24))
    occupied = np.zeros((page.height, page.width), bool)
    for number in sorted(range(len(names)), key=lambda number: -areas[number]):
        left, top, right, bottom = draw.textbbox((0, 0), names[number], font=font)
        wide, tall = int(np.ceil(right - left)), int(np.ceil(bottom - top))
        visible = masks[number].copy()
        for later in masks[number + 1 :]:
            visible &= ~later
        if visible.sum() < 0.8 * wide * tall:
            continue
        depth = cv2.distanceTransform(np.pad(visible, 1).astype(np.uint8), cv2.DIST_L2, 3)
        depth = np.where(_free_centers(occupied, wide, tall), depth[1:-1, 1:-1], 0)
        if depth.max() < 0.55 * tall:
            continue
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        x, y = int(column) - wide // 2, int(row) - tall // 2
        occupied[y - 2 : y + tall + 2, x - 2 : x + wide + 2] = True
        ink, dark = (255, 255, 255), (20, 22, 26)
        place = (x - left, y - top)
        draw.text(place, names[number], font=font, fill=ink, stroke_width=2, stroke_fill=dark)


def _free_centers(occupied: Mask, wide: int, tall: int) -> Mask:
    """Where the center of a name may be: its frame of two pixels within the picture, and free."""
    free = np.zeros(occupied.shape, bool)
    frame = (tall + 4, wide + 4)
    if frame[0] <= occupied.shape[0] and frame[1] <= occupied.shape[1]:
        windows = np.lib.stride_tricks.sliding_window_view(occupied, frame)
        corners = ~windows.any(axis=(2, 3))
        rows, columns = corners.shape
        y, x = 2 + tall // 2, 2 + wide // 2
        free[y : y + rows, x : x + columns] = corners
    return free
