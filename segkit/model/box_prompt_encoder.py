"""Box prompt encoder: boxes and labels become queries for the masks in the boxes.

Such conditioned queries are those of OpenSeeD (Zhang et al. 2023, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from segkit.model.box_mask_head import BoxMaskHead
from segkit.model.layers import MLP, sine_features

CONTEXT = 1.2
"""Side of the region that a box prompt's query attends to, relative to its box: telling an object's
outline takes its surroundings."""


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes to segment, with their classes where they are known; one entry per image."""

    boxes: list[Tensor]
    """(Q_b, 4) x0, y0, x1, y1 in pixels."""
    labels: list[Tensor]
    """(Q_b,) int64: row of the class embeddings, or -1 where the class is unknown."""
    targets: list[Tensor] = field(default_factory=list)
    """(Q_b,) int64, on the CPU: the target of each box in training, -1 for none; empty at
    inference."""
    neighbors: list[Tensor] = field(default_factory=list)
    """(M_b, 4) x0, y0, x1, y1 of the other objects, for `model.prompt_maps`; empty for none."""

    @classmethod
    def without_labels(cls, boxes: list[Tensor]) -> "BoxPrompts":
        """Prompts of unknown classes."""
        return cls(boxes, [torch.full_like(b[:, 0], -1).long() for b in boxes])

    def __len__(self) -> int:
        return sum(len(b) for b in self.boxes)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "BoxPrompts":
        """The same prompts with all but their targets on another device."""
        boxes = [b.to(device, non_blocking=non_blocking) for b in self.boxes]
        labels = [label.to(device, non_blocking=non_blocking) for label in self.labels]
        neighbors = [b.to(device, non_blocking=non_blocking) for b in self.neighbors]
        return replace(self, boxes=boxes, labels=labels, neighbors=neighbors)


@dataclass(frozen=True)
class BoxPromptQueries:
    """Inputs of the transformer decoder for box prompts (Q = most boxes of an image)."""

    boxes: Tensor
    """(B, Q, 4) x0, y0, x1, y1 in pixels."""
    labels: Tensor
    """(B, Q) int64, -1 for an unknown class."""
    content: Tensor
    """(B, Q, hidden_dim)."""
    position: Tensor
    """(B, Q, hidden_dim)."""
    region: Tensor
    """(B, Q, h, w) bool: the box, enlarged by CONTEXT."""
    basis: Tensor
    """(B, Q, 6, h, w): 1, u, v, u^2, v^2, uv, with u and v in -1..1 across the box."""


class BoxPromptEncoder(nn.Module):
    """Encodes boxes and labels as queries, and adds a prior in box coordinates to their masks.

    Mask logits are <mask embedding, F> plus a quadratic form in box-relative coordinates, whose six
    coefficients each query predicts: a dot product could place the object only by what F encodes of
    positions. The initial form is the inscribed ellipse.

    Args:
        hidden_dim: width of queries.
        mask_dim: width of F.
        text_dim: width of the text embeddings.
        label_content: encode labels in the content; without it, all prompts have the content of an
            unknown label.
        mlp: as of `BoxMaskHead`.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        mask_dim: int,
        text_dim: int,
        label_content: bool = True,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_dim, self.label_content = hidden_dim, label_content
        self.box_encoder = MLP(2 * hidden_dim, hidden_dim, hidden_dim)
        self.label_encoder = nn.Linear(text_dim, hidden_dim)
        self.no_label = nn.Parameter(torch.zeros(text_dim))
        self.content = nn.Parameter(torch.zeros(hidden_dim))
        self.coefficients = nn.Linear(hidden_dim, 6)
        self.mask_head = BoxMaskHead(hidden_dim=hidden_dim, mask_dim=mask_dim, mlp=mlp)
        with torch.no_grad():
            self.coefficients.weight.mul_(0.1)
            self.coefficients.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -2.0, -2.0, 0.0]))

    def forward(
        self,
        prompts: BoxPrompts,
        text: Tensor,
        image_size: Sequence[int],
        stride: int,
    ) -> BoxPromptQueries:
        """Encode prompts.

        Args:
            prompts: boxes and labels, on the device of `text`.
            text: (K, text_dim).
            image_size: height and width in pixels.
            stride: of the mask logits.
        """
        height, width = image_size
        boxes = pad_sequence(prompts.boxes, batch_first=True)  # (B, Q, 4)
        labels = pad_sequence(prompts.labels, batch_first=True, padding_value=-1)  # (B, Q)
        content, position = self.embed(boxes, labels, text, image_size)
        u, v = box_coordinates(boxes, (height // stride, width // stride), stride)
        region = (u.abs() <= CONTEXT) & (v.abs() <= CONTEXT)
        basis = torch.stack((torch.ones_like(u), u, v, u * u, v * v, u * v), dim=2)
        return BoxPromptQueries(boxes, labels, content, position, region, basis.clamp(-4, 4))

    def embed(
        self, boxes: Tensor, labels: Tensor, text: Tensor, image_size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Content and position of queries for boxes, each (B, Q, hidden_dim).

        Args:
            boxes: (B, Q, 4) x0, y0, x1, y1 in pixels.
            labels: (B, Q) int64, row of `text`, or -1 where the class is unknown.
            text: (K, text_dim).
            image_size: height and width in pixels.
        """
        height, width = image_size
        center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        extent = torch.tensor([width, height, width, height]).to(boxes.device, non_blocking=True)
        relative = torch.cat((center, size), -1) / extent
        position = self.box_encoder(sine_features(relative, self.hidden_dim // 2).flatten(-2))
        rows = torch.cat((text, self.no_label[None]))  # label -1 selects the last row
        if not self.label_content:
            rows = self.no_label[None].expand_as(rows)
        content = self.content + self.label_encoder(rows[labels])
        return content, position

    def mask_bias(self, queries: Tensor, basis: Tensor) -> Tensor:
        """Evaluate the quadratic forms of queries.

        Args:
            queries: (B, Q, hidden_dim), normalized.
            basis: (B, Q, 6, h, w), as in `BoxPromptQueries`.

        Returns:
            (B, Q, h, w).
        """
        return torch.einsum("bqk,bqkhw->bqhw", self.coefficients(queries), basis)

    def mask_prior(
        self, queries: Tensor, boxes: Tensor, image_size: Sequence[int], stride: int
    ) -> Tensor:
        """Evaluate the quadratic forms of queries without a basis in memory, for many boxes.

        Equal to `mask_bias` up to two half sides from the center of a box; beyond, u and v count as
        two, in place of the limit on their products.

        Args:
            queries: (B, Q, hidden_dim), normalized.
            boxes: (B, Q, 4) x0, y0, x1, y1 in pixels.
            image_size: height and width in pixels.
            stride: of the mask logits.

        Returns:
            (B, Q, h, w).
        """
        height, width = image_size
        u, v = box_coordinates(boxes, (height // stride, width // stride), stride)
        across, down = u[:, :, 0].clamp(-2, 2), v[..., 0].clamp(-2, 2)  # (B, Q, w), (B, Q, h)
        constant, x, y, xx, yy, xy = self.coefficients(queries)[..., None].unbind(2)  # (B, Q, 1)
        columns = constant + x * across + xx * across * across  # (B, Q, w)
        rows = y * down + yy * down * down  # (B, Q, h)
        mixed = (xy * down)[..., None] * across[:, :, None]  # (B, Q, h, w)
        prior: Tensor = mixed + columns[:, :, None] + rows[..., None]
        return prior

    def refine(
        self, queries: Tensor, masks: Tensor, pixels: Tensor, encoded: BoxPromptQueries, stride: int
    ) -> Tensor:
        """Refine the decoder's last masks (B, Q, h, w) in each box's frame, by `BoxMaskHead`."""
        coordinates = encoded.basis[:, :, 1:3].movedim(2, -1) / CONTEXT
        regions = enlarge(encoded.boxes, CONTEXT)
        refined: Tensor = self.mask_head(queries, masks, pixels, regions, coordinates, stride)
        return refined


def enlarge(boxes: Tensor, factor: float) -> Tensor:
    """Scale the sides of boxes (..., 4) x0, y0, x1, y1 about their centers."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2 * factor
    return torch.cat((center - half, center + half), dim=-1)


def box_coordinates(boxes: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Coordinates of a map's cell centers relative to boxes, -1..1 across each box.

    Args:
        boxes: (B, Q, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the map.
        stride: pixels per cell.

    Returns:
        u and v, each (B, Q, height, width). Box sides shorter than a pixel count as one pixel.
    """
    height, width = size
    x = (torch.arange(width, device=boxes.device) + 0.5) * stride
    y = (torch.arange(height, device=boxes.device) + 0.5) * stride
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    u = (2 * x - (x0 + x1)) / (x1 - x0).clamp(min=1.0)
    v = (2 * y - (y0 + y1)) / (y1 - y0).clamp(min=1.0)
    shape = (*boxes.shape[:2], height, width)
    return u[:, :, None, :].expand(shape), v[:, :, :, None].expand(shape)
