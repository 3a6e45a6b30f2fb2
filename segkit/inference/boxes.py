"""Boxes in, masks out: box-conditioned queries, each on an enlarged crop around its box."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Window, square_window
from segkit.inference.postprocess import LabelledMask, Mask
from segkit.masks.extent import extent
from segkit.model.class_table import ClassTable
from segkit.model.dataseg import DataSeg
from segkit.sample import Box
from segkit.taxonomy import Category, Taxonomy
from segkit.training.run_reader import Run

FACTOR = 2.0
"""Side of a crop over the longer side of its box, the middle of what training zooms show (1.5 to 4)."""
ENLARGE = 8.0
"""No crop enlarges pixels more than this."""
BATCH = 16


@torch.no_grad()
def masks_of_boxes(
    model: DataSeg,
    table: ClassTable,
    image: NDArray[np.uint8],
    boxes: Sequence[Box],
    labels: Sequence[int],
    *,
    crop: int,
) -> Iterator[LabelledMask]:
    """The mask of each box, in order; the mask of one box does not depend on the other boxes.

    Args:
        model: in evaluation mode.
        table: vocabulary of the labels, on the model's device.
        image: (H, W, 3) RGB.
        boxes: x, y, width, height in pixels.
        labels: row of the table for each box, or -1 where its class is not known (the answer then names it, where the
            table has rows).
        crop: side of the crops in pixels, a multiple of 32: that of the training crops, in which the model has seen
            objects at this scale.

    Yields:
        Masks that are False outside their box and may be empty. Score: mean probability within the mask, times the IoU
        of the mask's own box with the given one (a mask that does not touch the sides of its box is doubtful).
    """
    for start in range(0, len(boxes), BATCH):
        some, known = boxes[start : start + BATCH], labels[start : start + BATCH]
        windows = [_window(image.shape[0], image.shape[1], box, crop) for box in some]
        device = table.text.device
        crops = torch.from_numpy(np.stack([window.image(image) for window in windows])).to(device)
        inputs = crops.permute(0, 3, 1, 2).float() / 255
        placed = [torch.tensor([w.box(box)], device=device) for w, box in zip(windows, some, strict=True)]
        asked = [torch.tensor([label], device=device) for label in known]
        answer = model(inputs, table.text, placed, asked, match=False).conditioned[-1]
        named = answer.class_logits[:, 0, :-1].argmax(-1).tolist() if len(table.text) else [-1] * len(some)
        for i, (window, box) in enumerate(zip(windows, some, strict=True)):
            index = known[i] if known[i] >= 0 else named[i]
            mask, score = _paste(answer.mask_logits[i, 0], window, box, (image.shape[0], image.shape[1]))
            yield LabelledMask(index, mask, score)


def _window(height: int, width: int, box: Box, crop: int) -> Window:
    """The crop in which a box is segmented: FACTOR times its longer side, no larger than the image's."""
    longest = max(box[2], box[3])
    side = max(2, round(min(max(longest * FACTOR, crop / ENLARGE), max(height, width, longest))))
    x, y = (round(start + extent / 2 - side / 2) for start, extent in ((box[0], box[2]), (box[1], box[3])))
    return square_window(height, width, x, y, side, crop)


def pixels_of_box(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches, within the image."""
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[0] + box[2]))), min(height, int(np.ceil(box[1] + box[3])))
    return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))


def _paste(logits: Tensor, window: Window, box: Box, size: tuple[int, int]) -> tuple[Mask, float]:
    """Read crop logits (h, w) at the pixels of the box: mask (H, W) and score."""
    rows, columns = pixels_of_box(box, *size)
    mask = np.zeros(size, bool)
    if rows.start == rows.stop or columns.start == columns.stop:
        return mask, 0.0
    probability = _read(logits, window, rows, columns).sigmoid().cpu().numpy()
    inside = probability >= 0.5
    mask[rows, columns] = inside
    if not inside.any():
        return mask, 0.0
    return mask, float(probability[inside].mean()) * tightness(inside)


def _read(logits: Tensor, window: Window, rows: slice, columns: slice) -> Tensor:
    """Bilinear values of a crop's logits (h, w) at the centres of image pixels: (rows, columns)."""
    (x, y, width, height), (left, top, patch_w, patch_h) = window.source, window.patch
    across = (torch.arange(columns.start, columns.stop, device=logits.device) + 0.5 - x) * patch_w / width + left
    down = (torch.arange(rows.start, rows.stop, device=logits.device) + 0.5 - y) * patch_h / height + top
    u, v = across / window.canvas[1] * 2 - 1, down / window.canvas[0] * 2 - 1
    grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], dim=-1)[None].to(logits.dtype)
    return F.grid_sample(logits[None, None], grid, align_corners=False, padding_mode="border")[0, 0]


def tightness(mask: Mask) -> float:
    """IoU of the box around a mask with the whole array (h, w): 1 where the mask touches all four sides."""
    _, _, width, height = extent(mask)
    return width * height / mask.size


def segment_boxes(
    run: Run, image: NDArray[np.uint8], boxes: Sequence[Box], labels: Sequence[str] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks of given boxes.

    Args:
        run: a trained model, from `segkit.load_run`.
        image: (H, W, 3) uint8 RGB.
        boxes: x, y, width, height in pixels.
        labels: a class name for each box, of any vocabulary that has text embeddings; None where no class is known.

    Returns:
        (Q, H, W) bool, False outside each box, and (Q,) scores in 0-1.

    Raises:
        InputError: a name has no text embedding.
    """
    names = sorted(set(labels or ()))
    taxonomy = Taxonomy("asked", tuple(Category(i, name, "thing") for i, name in enumerate(names)))
    rows = [-1] * len(boxes) if labels is None else [names.index(label) for label in labels]
    found = list(masks_of_boxes(run.model, run.table(taxonomy), image, boxes, rows, crop=run.recipe.data.image_size))
    masks = np.stack([item.mask for item in found]) if found else np.zeros((0, *image.shape[:2]), bool)
    return masks, np.array([item.score for item in found], np.float32)
