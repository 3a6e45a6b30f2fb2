"""DaTaSeg: one model whose output, for every task and data set, is N pairs of mask proposal and class prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkit.model.backbone import STRIDES, Backbone
from segkit.model.classifier import TextClassifier
from segkit.model.conditioned import BoxConditioner
from segkit.model.config import ModelConfig
from segkit.model.deformable_pixel_decoder import DeformablePixelDecoder
from segkit.model.layers import Stack, detr_position_grid, position_grid
from segkit.model.pixel_decoder import FPNPixelDecoder
from segkit.model.query_decoder import QueryDecoder

MASK_STRIDE = STRIDES[0]
"""Pixels a cell of mask logits."""


@dataclass(frozen=True)
class Proposals:
    """Mask proposals with their class predictions, of L layers of the decoder; the last are the answer."""

    class_logits: Tensor
    """(B, L, N, K + 1); the last column is background."""
    mask_logits: Tensor
    """(B, L, N, H/4, W/4)."""


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: proposals at the start and after each layer, or the answer alone."""

    matching: Proposals | None
    """Of the N learned queries; None where they were not asked for."""
    conditioned: Proposals | None
    """Of the given boxes, in their order, padded to the longest; the last are those of the last layer with their masks
    corrected in each box's frame. None where no box was given."""


class DataSeg(nn.Module):
    """The universal segmentation model.

    Nothing in it belongs to one data set: the vocabulary comes with the call as a table of text embeddings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            weights=config.backbone_weights,
            freeze_norm=config.freeze_norm,
            pixel_mean=config.pixel_mean,
            pixel_std=config.pixel_std,
        )
        self.pixel_decoder = _pixel_decoder(config, self.backbone.channels)
        self.query_decoder = QueryDecoder(
            hidden_dim=config.hidden_dim,
            mask_dim=config.mask_dim,
            rounds=config.rounds,
            heads=config.heads,
            feedforward_dim=config.feedforward_dim,
            positions=detr_position_grid if config.pixel_decoder == "deformable" else position_grid,
        )
        self.classifier = TextClassifier(config.hidden_dim, config.text_dim)
        self.query_content = nn.Embedding(config.queries, config.hidden_dim)
        self.query_position = nn.Embedding(config.queries, config.hidden_dim)
        # Small content: what a query attends to then outweighs what it started as from the first layer on.
        nn.init.normal_(self.query_content.weight, std=0.02)
        self.conditioner = BoxConditioner(
            hidden_dim=config.hidden_dim, mask_dim=config.mask_dim, text_dim=config.text_dim
        )

    def forward(
        self,
        images: Tensor,
        text: Tensor,
        boxes: Sequence[Tensor] | None = None,
        labels: Sequence[Tensor] | None = None,
        *,
        match: bool = True,
        every_layer: bool = True,
    ) -> Output:
        """Propose masks.

        Args:
            images: (B, 3, H, W), RGB in 0-1; H and W multiples of 32.
            text: (K, D_T), unit rows, one a class.
            boxes: an image each, (Q_b, 4) x0, y0, x1, y1 in pixels, to be segmented by conditioned queries.
            labels: an image each, (Q_b,) int64 row of `text`; -1, or None for all, where the class is not known.
            match: whether to run the learned queries. They never see the conditioned ones: with and without boxes their
                proposals are the same to the bit.
            every_layer: whether to tell the proposals of all layers, for deep supervision, or those of the last alone.
        """
        scales, pixels = self.pixel_decoder(self.backbone(images))
        matching = self._match(scales, pixels, text, every_layer) if match else None
        conditioned = None
        if boxes is not None and any(len(box) for box in boxes):
            known = labels if labels is not None else [torch.full_like(box[:, 0], -1).long() for box in boxes]
            conditioned = self._condition(scales, pixels, text, boxes, known, images.shape[-2:], every_layer)
        return Output(matching, conditioned)

    def recompute_activations(self) -> None:
        """Keep only the inputs of layers for the backward pass, and run these again there: memory for time.

        A backbone with batch norms that learn is left as it is: running it twice would count each batch twice.
        """
        self.backbone.recompute_activations()
        for module in self.modules():
            if isinstance(module, Stack):
                module.recompute = True

    def compile_parts(self, backend: str = "inductor") -> None:
        """Have `torch.compile` make kernels for the parts whose shapes stay the same: backbone and pixel decoder."""
        self.backbone.compile(backend=backend)
        self.pixel_decoder.compile(backend=backend)

    def _match(self, scales: list[Tensor], pixels: Tensor, text: Tensor, every_layer: bool) -> Proposals:
        content = self.query_content.weight.expand(len(pixels), -1, -1)
        position = self.query_position.weight.expand(len(pixels), -1, -1)
        queries, masks = self.query_decoder(content, position, scales, pixels, every_layer=every_layer)
        return Proposals(self.classifier(queries, text), masks)

    def _condition(
        self,
        scales: list[Tensor],
        pixels: Tensor,
        text: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_size: Sequence[int],
        every_layer: bool,
    ) -> Proposals:
        given = self.conditioner.queries(boxes, labels, text, image_size, MASK_STRIDE)
        queries, masks = self.query_decoder(
            given.content,
            given.position,
            scales,
            pixels,
            mask_bias=lambda queries: self.conditioner.mask_bias(queries, given.basis),
            region=given.region,
            every_layer=every_layer,
        )
        classes = self.classifier(queries, text)
        corrected = self.conditioner.correct(queries[:, -1], masks[:, -1], pixels, given, MASK_STRIDE)[:, None]
        if not every_layer:
            return Proposals(classes, corrected)
        return Proposals(torch.cat((classes, classes[:, -1:]), dim=1), torch.cat((masks, corrected), dim=1))


def _pixel_decoder(config: ModelConfig, channels: Sequence[int]) -> FPNPixelDecoder | DeformablePixelDecoder:
    if config.pixel_decoder == "fpn":
        return FPNPixelDecoder(channels, hidden_dim=config.hidden_dim, mask_dim=config.mask_dim)
    return DeformablePixelDecoder(
        channels,
        hidden_dim=config.hidden_dim,
        mask_dim=config.mask_dim,
        layers=config.encoder_layers,
        heads=config.heads,
        feedforward_dim=config.encoder_feedforward_dim,
    )


def build_model(config: ModelConfig) -> DataSeg:
    """A model with fresh weights (backbone weights as the configuration says)."""
    return DataSeg(config)
