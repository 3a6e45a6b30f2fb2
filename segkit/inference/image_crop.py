"""The canvas on which inference lays an image, by `inference.resize`."""

from segkit.data.augment import Crop, full_image_crop
from segkit.recipes.schema import InferenceConfig

_MULTIPLE = 32


def image_crop(height: int, width: int, config: InferenceConfig) -> Crop:
    """How an image of this size is resized and padded: `image_size`, `resize` and `max_size`."""
    size, max_size = config.image_size, config.max_size
    if config.resize == "fit":
        return full_image_crop(height, width, size=size)
    sides = size, size
    if config.resize == "shorter":
        sides = _shorter_side(height, width, size, max_size)
    padded_h, padded_w = (-(-side // _MULTIPLE) * _MULTIPLE for side in sides)
    return Crop((0, 0, width, height), (0, 0, padded_w, padded_h), (padded_h, padded_w))


def _shorter_side(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """Height and width after resizing, rounded as by transformers' get_size_with_aspect_ratio."""
    shorter, longer = min(height, width), max(height, width)
    exact = float(size)
    if longer / shorter * size > max_size:
        exact = max_size * shorter / longer
        size = round(exact)
    if shorter == size:
        return height, width
    other = int(exact * longer / shorter)
    return (size, other) if height <= width else (other, size)
