"""How a public Mask2Former sees images: transformers' image processor, as keys of a recipe."""

import json
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.hub import PROCESSOR

_DEFAULTS: dict[str, Any] = {
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
}
"""transformers' defaults for what a checkpoint does not say."""


def pixel_statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    """`pixel_mean` and `pixel_std` of `ModelConfig`, for images in 0-1.

    Some published files have them in float32; six decimals undo that.
    """
    processor = _read(folder)
    factor = 255 * (processor["rescale_factor"] if processor["do_rescale"] else 1)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor["do_normalize"]:
        mean, std = processor["image_mean"], processor["image_std"]
    return {
        "pixel_mean": tuple(round(value / factor, 6) for value in mean),
        "pixel_std": tuple(round(value / factor, 6) for value in std),
    }


def image_sizes(folder: Path) -> dict[str, Any]:
    """`resize`, `image_size` and `max_size` of `InferenceConfig`.

    Raises:
        InputError: sizes of a form that transformers' Mask2Former processor does not have.
    """
    size = _read(folder)["size"]
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": 1333}
    if size.get("shortest_edge"):
        longest = size.get("longest_edge") or 100_000  # no limit
        return {"resize": "shorter", "image_size": size["shortest_edge"], "max_size": longest}
    height = size.get("height") or size.get("max_height")
    width = size.get("width") or size.get("max_width")
    if not height or not width:
        hint = "give height and width, or shortest_edge and longest_edge"
        raise InputError(f"unknown size {size}", file=folder / PROCESSOR, hint=hint)
    square = height == width and "height" in size
    return {"resize": "stretch" if square else "fit", "image_size": max(height, width)}


def _read(folder: Path) -> dict[str, Any]:
    file = folder / PROCESSOR
    if not file.is_file():
        return _DEFAULTS
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the image processor ({error})", file=file) from error
    return _DEFAULTS | {key: value for key, value in values.items() if value is not None}
