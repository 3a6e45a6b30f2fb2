"""Pool the targets of an image to the stride of the mask logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segkit.data.batch import PackedMasks, Targets
from segkit.model.dataseg import MASK_STRIDE


@dataclass(frozen=True)
class CellBoxes:
    """Boxes on a map of h x w cells: the cover of a cell is the product of two shares."""

    across: Tensor
    """(T, w): share of each column that the box covers."""
    down: Tensor
    """(T, h): share of each row that the box covers."""

    @classmethod
    def from_corners(cls, boxes: Tensor, size: tuple[int, int], stride: int) -> "CellBoxes":
        """Boxes (T, 4) x0, y0, x1, y1 in pixels, on a map of `size` cells of `stride` pixels."""
        x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (T, 1)
        height, width = size
        x, y = (torch.arange(n, device=boxes.device) * stride for n in (width, height))
        across = ((x + stride).minimum(x1) - x.maximum(x0)).clamp(min=0) / stride  # (T, w)
        down = ((y + stride).minimum(y1) - y.maximum(y0)).clamp(min=0) / stride  # (T, h)
        return cls(across, down)

    def __getitem__(self, rows: Tensor) -> "CellBoxes":
        """The boxes of some rows, (R,) int64 on the same device."""
        return CellBoxes(self.across[rows], self.down[rows])

    @classmethod
    def cat(cls, boxes: Sequence["CellBoxes"]) -> "CellBoxes":
        """The boxes of several images, on maps of one size."""
        return cls(torch.cat([b.across for b in boxes]), torch.cat([b.down for b in boxes]))

    @property
    def profiles(self) -> tuple[Tensor, Tensor]:
        """Maximum of the cover over rows (T, w), and over columns (T, h)."""
        height, width = self.down.amax(1, keepdim=True), self.across.amax(1, keepdim=True)
        return height * self.across, self.down * width

    @property
    def cover(self) -> Tensor:
        """Share of each cell that the box covers, (T, h, w) in 0-1."""
        return self.down[:, :, None] * self.across[:, None, :]


@dataclass(frozen=True)
class AssistMasks:
    """Masks that a model predicts for the boxes of one image, without a gradient."""

    masks: Tensor
    """(T, h, w): share of each cell that mask and box cover; zero outside the box, and for targets
    without a predicted mask."""
    weight: Tensor
    """(T,): quality of each mask, 0-1; 0 for targets without one."""

    def select(self, rows: Tensor) -> "AssistMasks":
        """The masks of some rows, (R,) int64 on the same device."""
        return AssistMasks(self.masks[rows], self.weight[rows])


@dataclass(frozen=True)
class PooledTargets:
    """The targets of one image, pooled from H x W pixels to h x w cells of MASK_STRIDE pixels."""

    labels: Tensor
    """(T,) int64."""
    has_mask: Tensor
    """(T,) bool, on the CPU."""
    trust: Tensor
    """(T,) float32 in 0-1, on the CPU: weight of the losses of the mask; those of the box get the
    rest."""
    masks: Tensor
    """(T, h, w): share of each cell's labeled pixels that the mask covers; 0 without a mask."""
    boxes: CellBoxes
    """The boxes on the cells."""
    corners: Tensor
    """(T, 4) x0, y0, x1, y1 in pixels, on the CPU."""
    weight: Tensor
    """(h, w): share of each cell that is labeled."""
    void: Tensor
    """(h, w): share of each cell that is void within the image; the rest is padding."""
    full_masks: PackedMasks
    """T masks of H x W pixels, before pooling, for losses at points."""
    labeled: Tensor
    """(H, W) bool: pixels that are not void."""
    assist: AssistMasks | None = None
    """Predicted masks of the boxes, where they assist the training."""

    @classmethod
    def from_targets(cls, targets: Targets) -> "PooledTargets":
        """Pool the targets of an image."""
        labeled = ~targets.void
        weight = pool_flags(labeled)  # (h, w)
        masks = _pool_masks(targets, weight)
        corners = targets.boxes.to(weight.device, non_blocking=True)
        size = (weight.shape[0], weight.shape[1])
        boxes = CellBoxes.from_corners(corners, size, MASK_STRIDE)
        void = targets.void if targets.padding is None else targets.void & ~targets.padding
        void = pool_flags(void)
        labels = targets.labels.to(weight.device, non_blocking=True)
        trust = targets.has_mask.float() if targets.trust is None else targets.trust
        return cls(
            labels=labels,
            has_mask=targets.has_mask,
            trust=trust,
            masks=masks,
            boxes=boxes,
            corners=targets.boxes,
            weight=weight,
            void=void,
            full_masks=targets.masks,
            labeled=labeled,
        )

    def select(self, rows: Tensor) -> "PooledTargets":
        """The targets of some rows, (R,) int64 on the CPU."""
        on_device = rows.to(self.labels.device, non_blocking=True)
        if bool(self.has_mask.any()):
            masks, full_masks = self.masks[on_device], self.full_masks[on_device]
        else:  # they take no memory
            masks = self.masks[:1].expand(len(rows), -1, -1)
            full_masks = PackedMasks.zeros(len(rows), self.labeled.shape, self.labeled.device)
        return replace(
            self,
            labels=self.labels[on_device],
            has_mask=self.has_mask[rows],
            trust=self.trust[rows],
            masks=masks,
            boxes=self.boxes[on_device],
            corners=self.corners[rows],
            full_masks=full_masks,
            assist=None if self.assist is None else self.assist.select(on_device),
        )


def _pool_masks(targets: Targets, weight: Tensor) -> Tensor:
    """Share of each cell's labeled pixels (h, w) that each mask covers, (T, h, w)."""
    shape = (len(targets), *weight.shape)
    if not bool(targets.has_mask.any()):
        return weight.new_zeros(1, 1, 1).expand(shape)  # takes no memory
    if bool(targets.has_mask.all()):
        return _share_of_labeled(targets.masks, weight)
    rows = true_rows(targets.has_mask, weight.device)
    masks = _share_of_labeled(targets.masks[rows], weight)  # (M, h, w)
    return weight.new_zeros(shape).index_copy(0, rows, masks)


def _share_of_labeled(masks: PackedMasks, weight: Tensor) -> Tensor:
    return (pool_masks(masks) / weight.clamp(min=1e-6)).clamp(max=1.0)


def pool_flags(flags: Tensor) -> Tensor:
    """Share of each cell's pixels that are set, exact: (..., H, W) bool -> (..., h, w) float32.

    Counted in bytes, which take a quarter of the memory of floats on the way.
    """
    height, width = flags.shape[-2] // MASK_STRIDE, flags.shape[-1] // MASK_STRIDE
    cells = (*flags.shape[:-2], height, MASK_STRIDE, width, MASK_STRIDE)
    down = flags.view(torch.uint8).reshape(cells).sum(-3, dtype=torch.uint8)  # (..., h, w, stride)
    return down.sum(-1, dtype=torch.uint8).float() / MASK_STRIDE**2


def pool_masks(masks: PackedMasks) -> Tensor:
    """Share of each cell's pixels that a mask covers, exact: (T, h, w) float32.

    Equals `pool_flags` of the dense masks. A byte holds one row of two cells, each MASK_STRIDE = 4
    pixels wide, and counts its pixels in the bits themselves.
    """
    assert masks.width % MASK_STRIDE == 0
    count, height, row_bytes = masks.bits.shape
    bits = masks.bits.reshape(count, height // MASK_STRIDE, MASK_STRIDE, row_bytes)
    twos = bits - (bits >> 1 & 0x55)  # pixels in each two bits
    fours = (twos & 0x33) + (twos >> 2 & 0x33)  # in each half of a byte
    first, second = (fours[:, :, row] + fours[:, :, row + 1] for row in (0, 2))  # of two rows
    left, right = (first & 0xF) + (second & 0xF), (first >> 4) + (second >> 4)  # of the cells
    counts = torch.stack((left, right), dim=-1).flatten(2)  # (T, h, W / 4)
    return counts[..., : masks.width // MASK_STRIDE].float() / MASK_STRIDE**2


def box_cover(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Share of each cell that a box covers.

    Args:
        boxes: (T, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the map, in cells.
        stride: pixels per cell.

    Returns:
        (T, height, width) in 0-1.
    """
    return CellBoxes.from_corners(boxes, size, stride).cover


def true_rows(flags: Tensor, device: torch.device) -> Tensor:
    """Rows in which a flag on the CPU is set, as an index on a device: (N,) bool -> (n,) int64."""
    return torch.nonzero(flags)[:, 0].to(device, non_blocking=True)
