"""Box-conditioned queries: a box and a label in, the mask of that object out (OpenSeeD, section
3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from segkit.model.box_mask_head import BoxMaskHead
from segkit.model.layers import MLP, sine_features

CONTEXT = 1.2
"""Side of the region that a conditioned query attends to, relative to its box: the outline needs
its surroundings."""


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes to segment, with what is known of their class; one entry an image."""

    boxes: list[Tensor]
    """(Q_b, 4) x0, y0, x1, y1 in pixels."""
    labels: list[Tensor]
    """(Q_b,) int64: row of the class embeddings, or -1 where the class is not known."""
    targets: list[Tensor] = field(default_factory=list)
    """(Q_b,) int64, on the CPU: the target of each box in training; empty in inference."""

    @classmethod
    def without_labels(cls, boxes: list[Tensor]) -> "BoxPrompts":
        """Prompts whose classes are not known."""
        return cls(boxes, [torch.full_like(each[:, 0], -1).long() for each in boxes])

    def __len__(self) -> int:
        return sum(len(each) for each in self.boxes)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "BoxPrompts":
        """The same prompts with boxes and labels on another device."""
        boxes = [each.to(device, non_blocking=non_blocking) for each in self.boxes]
        labels = [each.to(device, non_blocking=non_blocking) for each in self.labels]
        return replace(self, boxes=boxes, labels=labels)


@dataclass(frozen=True)
class BoxPromptQueries:
    """Inputs of the query decoder for given boxes (Q = most boxes of an image in the batch)."""

    boxes: Tensor
    """(B, Q, 4) x0, y0, x1, y1 in pixels."""
    content: Tensor
    """(B, Q, hidden_dim)."""
    position: Tensor
    """(B, Q, hidden_dim)."""
    region: Tensor
    """(B, Q, h, w) bool: box enlarged by CONTEXT."""
    basis: Tensor
    """(B, Q, 6, h, w): 1, u, v, u^2, v^2, uv, with u and v -1..1 across the box."""


class BoxPromptEncoder(nn.Module):
    """Encodes boxes and labels as queries, and gives their masks a prior in the box's own
    coordinates.

    Mask logits are <mask embedding, F> plus a quadratic form in box-relative coordinates whose six
    coefficients each query predicts: a dot product alone would have to find the object's place in
    F. It starts as the inscribed ellipse.
    """

    def __init__(self, *, hidden_dim: int, mask_dim: int, text_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.box_encoder = MLP(2 * hidden_dim, hidden_dim, hidden_dim)
        self.label_encoder = nn.Linear(text_dim, hidden_dim)
        self.no_label = nn.Parameter(torch.zeros(text_dim))
        self.content = nn.Parameter(torch.zeros(hidden_dim))
        self.coefficients = nn.Linear(hidden_dim, 6)
        self.mask_head = BoxMaskHead(hidden_dim=hidden_dim, mask_dim=mask_dim)
        with torch.no_grad():
            self.coefficients.weight.mul_(0.1)
            self.coefficients.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -2.0, -2.0, 0.0]))

    def queries(
        self,
        prompts: BoxPrompts,
        text: Tensor,
        image_size: Sequence[int],
        stride: int,
    ) -> BoxPromptQueries:
        """Queries of given boxes.

        Args:
            prompts: boxes and labels, on the device of `text`.
            text: (K, text_dim).
            image_size: height and width in pixels.
            stride: of the mask logits.
        """
        height, width = image_size
        padded = pad_sequence(prompts.boxes, batch_first=True)
        label = pad_sequence(prompts.labels, batch_first=True, padding_value=-1)
        center_size = torch.cat(
            ((padded[..., :2] + padded[..., 2:]) / 2, padded[..., 2:] - padded[..., :2]), -1
        )
        extent = torch.tensor([width, height, width, height]).to(padded.device, non_blocking=True)
        relative = center_size / extent
        encoded = self.box_encoder(sine_features(relative, self.hidden_dim // 2).flatten(-2))
        rows = torch.cat((text, self.no_label[None]))  # -1 picks the last row
        content = self.content + self.label_encoder(rows[label])
        u, v = box_coordinates(padded, (height // stride, width // stride), stride)
        region = (u.abs() <= CONTEXT) & (v.abs() <= CONTEXT)
        basis = torch.stack((torch.ones_like(u), u, v, u * u, v * v, u * v), dim=2)
        return BoxPromptQueries(padded, content, encoded, region, basis.clamp(-4, 4))

    def mask_bias(self, queries: Tensor, basis: Tensor) -> Tensor:
        """The quadratic form: normalized queries (B, Q, hidden_dim), basis (B, Q, 6, h, w) -> (B,
        Q, h, w)."""
        return torch.einsum("bqk,bqkhw->bqhw", self.coefficients(queries), basis)

    def refine(
        self, queries: Tensor, masks: Tensor, pixels: Tensor, encoded: BoxPromptQueries, stride: int
    ) -> Tensor:
        """The decoder's last masks (B, Q, h, w), refined in each box's frame (`BoxMaskHead`)."""
        coordinates = encoded.basis[:, :, 1:3].movedim(2, -1) / CONTEXT
        regions = enlarged(encoded.boxes, CONTEXT)
        refined: Tensor = self.mask_head(queries, masks, pixels, regions, coordinates, stride)
        return refined


def enlarged(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (..., 4) x0, y0, x1, y1 with sides `factor` times as long, about the same centers."""
    center, half = (
        (boxes[..., :2] + boxes[..., 2:]) / 2,
        (boxes[..., 2:] - boxes[..., :2]) / 2 * factor,
    )
    return torch.cat((center - half, center + half), dim=-1)


def box_coordinates(boxes: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Coordinates of a map's cell centers relative to boxes, -1..1 across each box.

    Args:
        boxes: (B, Q, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the map.
        stride: pixels a cell.

    Returns:
        u and v, each (B, Q, height, width). A side counts as one pixel at least.
    """
    height, width = size
    x = (torch.arange(width, device=boxes.device) + 0.5) * stride
    y = (torch.arange(height, device=boxes.device) + 0.5) * stride
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    u = (2 * x - (x0 + x1)) / (x1 - x0).clamp(min=1.0)
    v = (2 * y - (y0 + y1)) / (y1 - y0).clamp(min=1.0)
    shape = (*boxes.shape[:2], height, width)
    return u[:, :, None, :].expand(shape), v[:, :, :, None].expand(shape)
