"""Foreground queries: box prompts at boxes that the model predicts itself (OpenSeeD, section 3.2).

Cells that resemble names of things predict a box each; or, to measure what that selection is worth,
the boxes are learned and the same for all images. Each query starts as the box prompt of its box,
without a label: that is how half of the box prompts are trained, to name what is in their box, and
a cell's guess cannot mislead it. Unlike prompts of a user, these queries attend to all of the image
and to each other, so that two of them can share out what they see.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.model.box_coding import box_head, decode_boxes, to_pixels
from segkit.model.box_prompt_encoder import BoxPromptEncoder


class ForegroundHead(nn.Module):
    """Box heads of cells and of queries, or the boxes themselves where they are learned.

    Args:
        hidden_dim: width of cells and queries.
        learned: number of learned boxes in place of those of cells; 0 for cells.
        refine: let each decoder layer start from the box of the layer before, in place of the
            cell's box (iterative refinement, Deformable DETR).
    """

    def __init__(self, hidden_dim: int, *, learned: int, refine: bool) -> None:
        super().__init__()
        self.refine = refine
        self.query_head = box_head(hidden_dim)
        self.cell_head = None if learned else box_head(hidden_dim)
        self.boxes = nn.Embedding(learned, 4) if learned else None
        if self.boxes is not None:
            # Centers anywhere in the image; sides of 0.1 to 0.5 of it.
            boxes = torch.rand(learned, 4) * torch.tensor([1.0, 1.0, 0.4, 0.4])
            boxes = boxes + torch.tensor([0.0, 0.0, 0.1, 0.1])
            with torch.no_grad():
                self.boxes.weight.copy_(boxes.logit(eps=1e-3))

    def cell_boxes(self, features: Tensor, references: Tensor) -> Tensor:
        """Boxes of cells.

        Args:
            features: (B, k, hidden_dim), normalized.
            references: (B, k, 4), from `cell_references`.

        Returns:
            (B, k, 4) cx, cy, w, h in 0-1.
        """
        assert self.cell_head is not None
        return decode_boxes(self.cell_head(features), references)

    def learned_boxes(self, batch: int) -> Tensor:
        """The learned boxes, for each image: (batch, k, 4) cx, cy, w, h in 0-1."""
        assert self.boxes is not None
        return self.boxes.weight.sigmoid().expand(batch, -1, -1)


class BoxTrack:
    """The boxes of queries, from one decoder layer to the next.

    Their gradient ends where they become the position or the reference of a query: each layer
    learns to correct the box that it is given.

    Args:
        head: of the boxes.
        encoder: of the queries and of their masks' prior.
        boxes: (B, k, 4) cx, cy, w, h in 0-1, before the first layer.
        text: (K, text_dim), for the content of an unknown label.
        image_size: height and width in pixels.
        stride: of the mask logits.
    """

    def __init__(
        self,
        head: ForegroundHead,
        encoder: BoxPromptEncoder,
        boxes: Tensor,
        text: Tensor,
        image_size: Sequence[int],
        stride: int,
    ) -> None:
        self._head, self._encoder = head, encoder
        self._text, self._image_size, self._stride = text, image_size, stride
        self._layers = [boxes]
        self._started = False
        self.content = self._move(boxes)
        """(B, k, hidden_dim), of the queries before the first layer."""

    def position(self) -> Tensor:
        """(B, k, hidden_dim), of the queries in the next layer."""
        return self._position

    def mask_bias(self, queries: Tensor) -> Tensor:
        """Update the boxes by normalized queries (B, k, hidden_dim), and get the masks' prior.

        The first call is for the queries before the first layer, whose boxes are those of the
        start.
        """
        if self._started:
            boxes = decode_boxes(self._head.query_head(queries), self._reference)
            self._layers.append(boxes)
            if self._head.refine:
                self._move(boxes)
        self._started = True
        return self._encoder.mask_prior(queries, self._pixels, self._image_size, self._stride)

    def boxes(self) -> Tensor:
        """(B, L, k, 4) cx, cy, w, h in 0-1: before the first layer and after each."""
        return torch.stack(self._layers, dim=1)

    def _move(self, boxes: Tensor) -> Tensor:
        """Move the queries to boxes (B, k, 4), and get their content."""
        self._reference = boxes.detach()
        self._pixels = to_pixels(self._reference, self._image_size)
        unknown = torch.full_like(self._pixels[..., 0], -1, dtype=torch.int64)
        content, self._position = self._encoder.embed(
            self._pixels, unknown, self._text, self._image_size
        )
        return content
