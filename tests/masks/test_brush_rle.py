"""Label Studio's run lengths, beside a reader that takes bit after bit, and its own package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from segkit.masks import brush_rle

REFERENCE = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 254, 27, 0, 0]
"""Of a 4 x 6 mask with rows 1-2 and columns 2-4, by `mask2rle` of label-studio-sdk 2.1.2."""


def bit_by_bit(numbers: list[int]) -> list[int]:
    """All values of a stream, as the format is described: the slow way."""
    bits = "".join(f"{number:08b}" for number in numbers)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    total, size = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, length = read(1), 0
        length = read(sizes[read(2)]) + 1
        values += [read(size)] * length if repeated else [read(size) for _ in range(length)]
    return values


def reference() -> ModuleType:
    """The module of label-studio-sdk, without the packages that the rest of it needs."""
    spec = importlib.util.find_spec("label_studio_sdk")
    if spec is None or spec.origin is None:
        pytest.skip("label-studio-sdk is not installed")
    path = Path(spec.origin).parent / "converter" / "brush.py"
    module_spec = importlib.util.spec_from_file_location("brush", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    random = [rng.random(rng.integers(1, 50, 2)) > rng.random() for _ in range(30)]
    return [*random, np.zeros((7, 5), bool), np.ones((300, 300), bool), np.ones((1, 1), bool)]


def test_a_published_example() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    assert np.array_equal(brush_rle.decode(REFERENCE, 4, 6), mask)
    assert bit_by_bit(REFERENCE) == np.repeat(mask.reshape(-1) * 255, 4).tolist()


def test_masks_come_back() -> None:
    for mask in masks():
        numbers = brush_rle.encode(mask)
        assert np.array_equal(brush_rle.decode(numbers, *mask.shape), mask)
        values = np.array(bit_by_bit(numbers)).reshape(*mask.shape, 4)
        assert np.array_equal(values, np.repeat(mask[..., None] * 255, 4, axis=2))


def test_label_studio_reads_and_writes_the_same() -> None:
    theirs = reference()
    rng = np.random.default_rng(1)
    for mask in masks():
        values = theirs.decode_rle(brush_rle.encode(mask)).reshape(*mask.shape, 4)
        assert np.array_equal(values[..., 3] > 0, mask)
        rgba = rng.integers(0, 256, (*mask.shape, 4)).astype(np.uint8)
        rgba[mask] = 255
        read = brush_rle.decode(theirs.encode_rle(rgba.reshape(-1)), *mask.shape)
        assert np.array_equal(read, rgba[..., 3] >= 128)


def test_values_that_are_written_one_by_one() -> None:
    """A block of single values, which Label Studio writes where an edge is smooth."""
    rgba = [0, 0, 0, 127, 9, 9, 9, 128, 1, 1, 1, 255]
    bits = f"{len(rgba):032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += f"001{len(rgba) - 1:04b}" + "".join(f"{value:08b}" for value in rgba)
    bits += "0" * (-len(bits) % 8)
    numbers = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert brush_rle.decode(numbers, 1, 3).tolist() == [[False, True, True]]


@pytest.mark.parametrize("change", ["short", "header", "size", "number", "width", "empty", "long"])
def test_damaged_run_lengths(change: str) -> None:
    mask = np.eye(9, dtype=bool)
    numbers = brush_rle.encode(mask)
    height, width = mask.shape
    match change:
        case "short":
            numbers = numbers[:-6]
        case "header":
            numbers = numbers[:5]
        case "size":
            width = 8
        case "number":
            numbers[9] = 256
        case "width":
            numbers[4] ^= 0b11000000
        case "empty":
            numbers = []
        case "long":
            numbers[7:] = [0xFF] * 30
    with pytest.raises(ValueError):
        brush_rle.decode(numbers, height, width)
