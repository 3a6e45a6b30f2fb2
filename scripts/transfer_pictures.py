"""Draw where masks of the same boxes are wrong: beside the box, one column for each label layer.

    python scripts/transfer_pictures.py --truth sets/standin-truth --images sets/standin-val \\
        --masks recipe=labeler-masks --masks self-training=round-2-masks --out masks.png

Green: covered by the mask and by the true mask. Red: by the mask only. Blue: by the true mask only.
The objects are drawn at random, one an image, and framed with half a box around them. Above each
mask is its IoU.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from experiments import run_script
from maskx_pictures import gray
from numpy.typing import NDArray

from segkit.images.draw import Picture, save_png
from segkit.images.picture_grid import Tile, picture_grid
from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box
from segkit.sample import Sample, Segment, is_object
from segkit.shards.reader import ShardSet

RIGHT, EXCESS, MISSING, BOX = (40, 190, 70), (220, 50, 50), (50, 110, 230), (250, 200, 40)
MIN_SIDE = 24
"""Pixels of the shorter side of the smallest box that is drawn."""
Mask = NDArray[np.bool_]


def draw_objects(
    data: ShardSet, truth: ShardSet, layers: Mapping[str, ShardSet], count: int, seed: int
) -> Picture:
    """A row for each of at most `count` objects: box, and the mask of each layer.

    Args:
        data: the set that holds the images.
        truth: the same images with true masks.
        layers: title -> label layer of the same boxes.
        count: rows.
        seed: of images and objects.
    """
    rng = np.random.default_rng(seed)
    masks = {title: {s.id: s for s in layer.samples()} for title, layer in layers.items()}
    true = {sample.id: sample for sample in truth.samples()}
    tiles: list[Tile] = []
    samples = list(data.samples())
    for index in rng.permutation(len(samples)):
        sample = samples[index]
        chosen = [i for i, s in enumerate(true[sample.id].segments) if is_drawn(s)]
        if not chosen or len(tiles) >= count * (1 + len(layers)):
            continue
        row = int(rng.choice(chosen))
        image, target = data.image(sample), true[sample.id].segments[row]
        view = pixels_of_box(widened(target), sample.height, sample.width)
        outline = pixels_of_box(target.box, sample.height, sample.width)
        tiles.append(Tile(framed(gray(image), outline)[view], "box"))
        reference = rle.decode(target.mask or b"", sample.height, sample.width)
        for title, by_id in masks.items():
            mask = mask_of(by_id[sample.id], target)
            union = float((mask | reference).sum())
            iou = float((mask & reference).sum()) / max(1.0, union)
            tiles.append(Tile(compared(image, mask, reference)[view], f"{title}: {iou:.2f}"))
    return picture_grid(tiles, width=220, columns=1 + len(layers))


def is_drawn(segment: Segment) -> bool:
    """Whether a segment is an object, no crowd, and large enough to see."""
    return is_object(segment) and segment.mask is not None and min(segment.box[2:]) >= MIN_SIDE


def widened(segment: Segment) -> tuple[float, float, float, float]:
    """The box of a segment with a quarter of its width and height more on each side."""
    x, y, width, height = segment.box
    return x - width / 4, y - height / 4, 1.5 * width, 1.5 * height


def mask_of(sample: Sample, target: Segment) -> Mask:
    """The mask of the segment whose box is nearest to that of the target; empty without a mask."""

    def distance(segment: Segment) -> float:
        return float(np.abs(np.subtract(segment.box, target.box)).sum())

    nearest = min(sample.segments, key=distance)
    if nearest.mask is None:
        return np.zeros((sample.height, sample.width), bool)
    return rle.decode(nearest.mask, sample.height, sample.width)


def framed(canvas: NDArray[np.float32], place: tuple[slice, slice]) -> Picture:
    """The canvas with a box, two pixels wide."""
    inside = np.zeros(canvas.shape[:2], bool)
    inside[place] = True
    inner = np.zeros_like(inside)
    rows, columns = place
    inner[rows.start + 2 : rows.stop - 2, columns.start + 2 : columns.stop - 2] = True
    canvas[inside & ~inner] = BOX
    return canvas.astype(np.uint8)


def compared(image: Picture, mask: Mask, reference: Mask) -> Picture:
    """The image in gray, tinted by agreement of the two masks."""
    canvas = gray(image)
    for where, color in (
        (mask & reference, RIGHT),
        (mask & ~reference, EXCESS),
        (reference & ~mask, MISSING),
    ):
        canvas[where] = 0.4 * canvas[where] + 0.6 * np.array(color, np.float32)
    return canvas.astype(np.uint8)


def layer(text: str) -> tuple[str, str]:
    """Split TITLE=PATH."""
    title, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not TITLE=LAYER")
    return title, path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="the set that was labeled")
    parser.add_argument("--truth", type=Path, required=True, help="its images with true masks")
    parser.add_argument("--masks", type=layer, action="append", required=True)
    parser.add_argument("--count", type=int, default=8, help="objects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("masks.png"))
    options = parser.parse_args()
    layers = {title: ShardSet.open(path) for title, path in options.masks}
    data, truth = ShardSet.open(options.images), ShardSet.open(options.truth)
    save_png(draw_objects(data, truth, layers, options.count, options.seed), options.out)
    print(options.out)


if __name__ == "__main__":
    run_script(main)
