"""Language-guided query selection: the cells most similar to names of things (OpenSeeD, 3.2).

Nothing waits for the device, and names are compared in chunks: a map of 21,504 cells (1024 px) and
1,200 names would take 100 MB per image, several times.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SCORES = 2**25
"""Scores of cells and names of a chunk: 128 MiB in float32. At the peak, logits, margins, and the
maxima of their windows with indices exist together: five times that."""
Classify = Callable[[Tensor, Tensor], Tensor]
"""Cells (..., dim) and text rows (K, D_T) -> class logits (..., K + 1), background last."""


@torch.no_grad()
def select_cells(
    scales: Sequence[Tensor],
    names: Tensor,
    classify: Classify,
    count: int,
    padding: Tensor | None = None,
) -> Tensor:
    """Select the cells that most resemble their best name; local maxima before all others.

    A cell's score is the logit of its best name less that of background. It is a local maximum
    where no neighbor in the 3x3 window of its scale has a higher score for the same name: the cells
    beside the best one of an object show the same object.

    Args:
        scales: maps (B, dim, h, w).
        names: (T, D_T), text rows of things, T at least 1.
        classify: the text classifier of cells.
        count: cells to select; all of them where there are fewer.
        padding: (B, H, W) bool, pixels beyond the image, at any size. Cells whose center is one
            come after all others, and are no neighbors.

    Returns:
        (B, k) int64, best first: indices into the cells of all maps, map after map, row by row.
    """
    outside = [_cells_in(padding, scale) for scale in scales]
    # detached, since torch's counter of operations hooks inputs that require a gradient
    pairs = [
        _best_names(scale.detach(), names, classify, beyond)
        for scale, beyond in zip(scales, outside, strict=True)
    ]
    score = torch.cat([score for score, _ in pairs], dim=1)  # (B, S)
    is_peak = torch.cat([peak for _, peak in pairs], dim=1)
    spread = score.amax(1, keepdim=True) - score.amin(1, keepdim=True)
    order = torch.where(is_peak, score, score - spread - 1)
    order = order.masked_fill(torch.cat([cells.flatten(1) for cells in outside], 1), -torch.inf)
    return order.topk(min(count, order.shape[1]), dim=1).indices


def _cells_in(padding: Tensor | None, scale: Tensor) -> Tensor:
    """The cells of a map (B, dim, h, w) whose centers are in the padding, (B, h, w) bool."""
    batch, _, *size = scale.shape
    if padding is None:
        return torch.zeros(batch, *size, dtype=torch.bool, device=scale.device)
    centers = F.interpolate(padding[:, None].float(), size=size, mode="nearest-exact")
    return centers[:, 0] > 0


def _best_names(
    scale: Tensor, names: Tensor, classify: Classify, outside: Tensor
) -> tuple[Tensor, Tensor]:
    """Score of each cell's best name, and whether it is a local maximum among the cells that are
    not outside (B, h, w): (B, h * w) both."""
    cells = scale.permute(0, 2, 3, 1)  # (B, h, w, dim)
    chunk = max(1, MAX_SCORES // cells[..., 0].numel())
    best = highest = None
    for rows in torch.split(names, chunk):
        logits = classify(cells, rows)
        scores = (logits[..., :-1] - logits[..., -1:]).permute(0, 3, 1, 2)  # (B, t, h, w)
        score, name = scores.max(1, keepdim=True)  # (B, 1, h, w)
        scores.masked_fill_(outside[:, None], -torch.inf)  # in place: a copy would be as large
        around = F.max_pool2d(scores, 3, stride=1, padding=1).gather(1, name)
        if best is None or highest is None:
            best, highest = score, around
        else:
            highest = torch.where(score > best, around, highest)
            best = torch.maximum(score, best)
    assert best is not None and highest is not None
    return best.flatten(1), (best >= highest).flatten(1)
