"""How a public Mask2Former sees images: transformers' image processor, as keys of a recipe."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from segkit import parse
from segkit.errors import InputError
from segkit.hub import PROCESSOR

_Side = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_Mean = tuple[float, float, float]


class _Size(msgspec.Struct):
    """The forms in which transformers says how large an image becomes."""

    shortest_edge: _Side | None = None
    longest_edge: _Side | None = None
    height: _Side | None = None
    width: _Side | None = None
    max_height: _Side | None = None
    max_width: _Side | None = None


class _Processor(msgspec.Struct):
    """The fields of an image processor's configuration; transformers' defaults."""

    image_mean: _Mean = (0.485, 0.456, 0.406)
    image_std: _Mean = (0.229, 0.224, 0.225)
    size: _Side | _Size = msgspec.field(
        default_factory=lambda: _Size(shortest_edge=800, longest_edge=1333)
    )
    do_normalize: bool = True
    do_rescale: bool = True
    rescale_factor: Annotated[float, msgspec.Meta(gt=0)] = 1 / 255
    do_resize: bool = True
    size_divisor: int = 32


def pixel_statistics(folder: Path) -> dict[str, tuple[float, ...]]:
    """`pixel_mean` and `pixel_std` of `ModelConfig`, for images in 0-1.

    Some published files have them in float32; six decimals undo that.
    """
    processor = _read(folder)
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    return {
        "pixel_mean": tuple(round(value / factor, 6) for value in mean),
        "pixel_std": tuple(round(value / factor, 6) for value in std),
    }


def image_sizes(folder: Path) -> dict[str, Any]:
    """`resize`, `image_size` and `max_size` of `InferenceConfig`.

    Raises:
        InputError: sizes that inference does not have, or of a form that transformers' Mask2Former
            processor does not have.
    """
    processor = _read(folder)
    if not processor.do_resize:
        message = "do_resize is false; images of their own sizes are not supported"
        raise InputError(message, file=folder / PROCESSOR, hint="give a size, as for training")
    if processor.size_divisor != 32:
        message = f"size_divisor is {processor.size_divisor}, only 32 is supported"
        raise InputError(message, file=folder / PROCESSOR)
    size = processor.size
    if isinstance(size, int):
        size = _Size(shortest_edge=size, longest_edge=1333)
    if size.shortest_edge:
        longest = size.longest_edge or 100_000  # no limit
        return {"resize": "shorter", "image_size": size.shortest_edge, "max_size": longest}
    height = size.height or size.max_height
    width = size.width or size.max_width
    if not height or not width:
        hint = "give height and width, or shortest_edge and longest_edge"
        raise InputError("unknown form of size", file=folder / PROCESSOR, hint=hint)
    if height != width:
        message = f"height {height} and width {width} differ; only square sizes are supported"
        raise InputError(message, file=folder / PROCESSOR)
    return {"resize": "stretch" if size.height else "fit", "image_size": height}


def _read(folder: Path) -> _Processor:
    file = folder / PROCESSOR
    if not parse.exists(file):
        return _Processor()
    content = parse.read_json(file)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if value is not None}
    processor = parse.convert(content, _Processor, file=file, noun="an image processor")
    if 0 in processor.image_std:
        raise InputError("image_std is 0, by which no image can be divided", file=file)
    return processor
