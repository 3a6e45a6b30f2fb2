"""DataSeg: the model of DaTaSeg, whose output is N pairs of mask proposal and class prediction.

The image passes through the backbone and the pixel decoder; the transformer decoder turns queries
into masks; the text classifier names them. Queries form groups, which share all weights of the
decoder and never attend to each other: learned queries, foreground queries (`model.foreground`),
box prompts and, in training, denoising queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from segkit.model.backbone import STRIDES, Backbone
from segkit.model.box_coding import cell_references, from_pixels
from segkit.model.box_prompt_encoder import BoxPromptEncoder, BoxPrompts
from segkit.model.cell_classifier import cell_logits
from segkit.model.foreground import BoxTrack, ForegroundHead
from segkit.model.layers import Stack, detr_position_grid, position_grid
from segkit.model.pixel_decoder import DeformablePixelDecoder, FPNPixelDecoder
from segkit.model.prompt_maps import draw_prompt_maps
from segkit.model.query_selection import select_cells
from segkit.model.text_classifier import build_classifier
from segkit.model.transformer_decoder import MaskAddition, TransformerDecoder
from segkit.model.weight_transfer import WeightTransfer, expected_addition, labels_addition
from segkit.recipes.schema import ModelConfig

MASK_STRIDE = STRIDES[0]
"""Pixels per cell of the mask logits."""


class Proposals(NamedTuple):
    """Mask proposals with their class predictions, of L decoder layers; the last is the output."""

    class_logits: Tensor
    """(B, L, N, K + 1); the last column is background."""
    mask_logits: Tensor
    """(B, L, N, H/4, W/4)."""
    boxes: Tensor | None = None
    """(B, L, F, 4) cx, cy, w, h in 0-1 across the image: of the foreground queries, which are the
    last F of the N; None without any."""


class Outputs(NamedTuple):
    """Proposals of a forward pass: of every decoder layer, or of the last only.

    A tuple, since FSDP and DDP find the tensors in tuples.
    """

    queries: Proposals | None
    """Of the learned queries, followed by the foreground queries; None if neither were run."""
    box_prompts: Proposals | None
    """Of the box prompts in their order, padded to the most prompts of an image. One more layer
    than the decoder's: the last holds the masks refined in each box's frame. None without
    prompts."""
    cells: tuple[Tensor, ...] | None = None
    """Class logits of the cells at strides 32, 16 and 8, (B, h, w, K + 1); None unless
    requested."""
    denoising: Proposals | None = None
    """Of the denoising queries in their order, padded to the most of an image, after each decoder
    layer, with a box for each. None without any."""


class DataSeg(nn.Module):
    """The universal segmentation model.

    No part belongs to one data set: each call brings the vocabulary as text embeddings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            weights=config.backbone_weights,
            freeze_norm=config.freeze_norm,
            drop_path=config.drop_path,
            pixel_mean=config.pixel_mean,
            pixel_std=config.pixel_std,
            prompt_maps=config.prompt_maps,
        )
        self.pixel_decoder = _pixel_decoder(config, self.backbone.channels)
        self.transformer_decoder = TransformerDecoder(
            hidden_dim=config.hidden_dim,
            mask_dim=config.mask_dim,
            rounds=config.rounds,
            heads=config.heads,
            feedforward_dim=config.feedforward_dim,
            positions=detr_position_grid if config.pixel_decoder == "deformable" else position_grid,
        )
        self.text_classifier = build_classifier(config)
        self.query_content = nn.Embedding(config.queries, config.hidden_dim)
        self.query_position = nn.Embedding(config.queries, config.hidden_dim)
        # Small, so that from the first layer on the attended features outweigh the initial content.
        nn.init.normal_(self.query_content.weight, std=0.02)
        self.box_prompt_encoder = BoxPromptEncoder(
            hidden_dim=config.hidden_dim,
            mask_dim=config.mask_dim,
            text_dim=config.text_dim,
            label_content=config.label_content,
            mlp=config.box_mlp,
        )
        # Created last: all other weights of a seed are those of the model without them.
        transfer = config.weight_transfer.input != "off"
        self.weight_transfer = WeightTransfer(config) if transfer else None
        if config.foreground:
            self.foreground_head = ForegroundHead(
                config.hidden_dim,
                learned=config.foreground if config.foreground_boxes == "learned" else 0,
                refine=config.refine_boxes,
            )

    def forward(
        self,
        images: Tensor,
        text: Tensor,
        prompts: BoxPrompts | None = None,
        *,
        things: Tensor | None = None,
        padding: Tensor | None = None,
        noised: BoxPrompts | None = None,
        learned_queries: bool = True,
        supervised_boxes: bool = True,
        aux_outputs: bool = True,
        dense: bool = False,
    ) -> Outputs:
        """Propose masks.

        Args:
            images: (B, 3, H, W), RGB in 0-1; H and W multiples of 32.
            text: (K, D_T), unit rows, one per class.
            prompts: boxes to segment, on any device.
            things: (T,) int64, rows of `text` that name things: foreground queries look for them.
                None, no rows, or `model.foreground` = 0: no foreground queries.
            padding: (B, H, W) bool, pixels beyond the images: no foreground query starts there.
                None where there are none.
            noised: true boxes with noise, for denoising queries; on any device.
            learned_queries: run the learned queries. They attend to no other group: their
                proposals are bit-identical with and without the others.
            supervised_boxes: whether the boxes of foreground queries have a loss; without, their
                heads get no gradient, not even one of zeros.
            aux_outputs: return the proposals of all layers, for deep supervision, or only the last.
            dense: classify the cells of the three scales as well.
        """
        size = images.shape[-2:]
        maps = None
        if self.config.prompt_maps and prompts is not None:
            prompts = prompts.to(images.device, non_blocking=True)
            maps = draw_prompt_maps(prompts, size)
        scales, pixels = self.pixel_decoder(self.backbone(images, maps))
        queries = self._run_queries(scales, pixels, text, aux_outputs) if learned_queries else None
        if self.config.foreground and things is not None and len(things) > 0:
            foreground = self._run_foreground(
                scales, pixels, text, text[things], padding, size, aux_outputs
            )
            if not supervised_boxes and foreground.boxes is not None:
                foreground = foreground._replace(boxes=foreground.boxes.detach())
            queries = foreground if queries is None else _concatenate(queries, foreground)
        prompted = denoised = None
        if prompts is not None and len(prompts) > 0:
            prompted = self._run_box_prompts(scales, pixels, text, prompts, size, aux_outputs)
        if noised is not None and len(noised) > 0:
            denoised = self._run_denoising(scales, pixels, text, noised, size)
        cells = None
        if dense:
            decoder = self.transformer_decoder
            cells = cell_logits(scales, text, norm=decoder.norm, classifier=self.text_classifier)
        return Outputs(queries, prompted, cells, denoised)

    def recompute_activations(self) -> None:
        """Keep only the inputs of layers for the backward pass, and run the layers again there.

        This trades time for memory. A backbone with trainable batch norms is left out: running it
        twice would count each batch twice.
        """
        self.backbone.recompute_activations()
        for module in self.modules():
            if isinstance(module, Stack):
                module.recompute = True

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile the parts whose shapes stay the same: backbone and pixel decoder."""
        self.backbone.compile(backend=backend)
        self.pixel_decoder.compile(backend=backend)

    def _run_queries(
        self, scales: list[Tensor], pixels: Tensor, text: Tensor, aux_outputs: bool
    ) -> Proposals:
        content = self.query_content.weight.expand(len(pixels), -1, -1)  # (B, N, hidden_dim)
        position = self.query_position.weight.expand(len(pixels), -1, -1)
        queries, masks = self.transformer_decoder(
            content,
            position,
            scales,
            pixels,
            mask_addition=self._query_addition(text),
            aux_outputs=aux_outputs,
        )
        return Proposals(self.text_classifier(queries, text), masks)

    def _run_box_prompts(
        self,
        scales: list[Tensor],
        pixels: Tensor,
        text: Tensor,
        prompts: BoxPrompts,
        image_size: Sequence[int],
        aux_outputs: bool,
    ) -> Proposals:
        encoder = self.box_prompt_encoder
        prompts = prompts.to(pixels.device, non_blocking=True)
        encoded = encoder(prompts, text, image_size, MASK_STRIDE)
        basis = encoded.basis.to(pixels.dtype)  # once, which autocast would do in each layer
        queries, masks = self.transformer_decoder(
            encoded.content,
            encoded.position,
            scales,
            pixels,
            mask_bias=lambda queries: encoder.mask_bias(queries, basis),
            mask_addition=self._label_addition(text, encoded.labels),
            region=encoded.region,
            independent=True,
            aux_outputs=aux_outputs,
        )
        classes = self.text_classifier(queries, text)  # (B, L, Q, K + 1)
        refined = encoder.refine(queries[:, -1], masks[:, -1], pixels, encoded, MASK_STRIDE)
        refined = refined[:, None]  # (B, 1, Q, h, w)
        if not aux_outputs:
            return Proposals(classes, refined)
        # The refined masks are one more layer, with the classes of the last.
        classes = torch.cat((classes, classes[:, -1:]), dim=1)
        return Proposals(classes, torch.cat((masks, refined), dim=1))

    def _class_additions(self, text: Tensor) -> Tensor | None:
        """Addition of each class to mask embeddings (K, mask_dim), None without weight transfer."""
        if self.weight_transfer is None:
            return None
        label_encoder = self.box_prompt_encoder.label_encoder
        additions: Tensor = self.weight_transfer(text, self.text_classifier, label_encoder)
        return additions

    def _query_addition(self, text: Tensor) -> MaskAddition | None:
        """Weight transfer by the predicted classes of learned queries."""
        additions = self._class_additions(text)
        if additions is None:
            return None
        return lambda queries: expected_addition(self.text_classifier(queries, text), additions)

    def _label_addition(self, text: Tensor, labels: Tensor) -> MaskAddition | None:
        """Weight transfer by the labels (B, Q) of box prompts."""
        additions = self._class_additions(text)
        if additions is None:
            return None
        addition = labels_addition(labels, additions)  # (B, Q, mask_dim)
        return lambda queries: addition

    def _run_foreground(
        self,
        scales: list[Tensor],
        pixels: Tensor,
        text: Tensor,
        names: Tensor,
        padding: Tensor | None,
        image_size: Sequence[int],
        aux_outputs: bool,
    ) -> Proposals:
        """Foreground queries for the cells that resemble names (T, D_T) of things, or learned ones.

        The first layer has the classes and boxes of the cells themselves: so they are trained.
        """
        if self.config.foreground_boxes == "cells":
            cells, references = self._select_cells(scales, names, padding)
            boxes = self.foreground_head.cell_boxes(cells, references)  # (B, k, 4)
        else:
            cells, boxes = None, self.foreground_head.learned_boxes(len(pixels))
        track = self._track_boxes(boxes, text, image_size)
        queries, masks = self._run_track(track, scales, pixels, text, aux_outputs=aux_outputs)
        if cells is not None and aux_outputs:
            queries = torch.cat((cells[:, None], queries[:, 1:]), dim=1)  # (B, L, k, hidden_dim)
        boxes = track.boxes()[:, -queries.shape[1] :]
        return Proposals(self.text_classifier(queries, text), masks, boxes)

    def _run_denoising(
        self,
        scales: list[Tensor],
        pixels: Tensor,
        text: Tensor,
        noised: BoxPrompts,
        image_size: Sequence[int],
    ) -> Proposals:
        """Foreground queries at noised true boxes, each by itself, after each decoder layer."""
        noised = noised.to(pixels.device, non_blocking=True)
        corners = pad_sequence(noised.boxes, batch_first=True)  # (B, Q, 4) in pixels
        track = self._track_boxes(from_pixels(corners, image_size), text, image_size)
        queries, masks = self._run_track(track, scales, pixels, text, independent=True)
        classes = self.text_classifier(queries[:, 1:], text)  # (B, L - 1, Q, K + 1)
        return Proposals(classes, masks[:, 1:], track.boxes()[:, 1:])

    def _run_track(
        self,
        track: BoxTrack,
        scales: list[Tensor],
        pixels: Tensor,
        text: Tensor,
        *,
        independent: bool = False,
        aux_outputs: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Queries and masks of boxes, as the transformer decoder returns them."""
        queries, masks = self.transformer_decoder(
            track.content,
            track.position,
            scales,
            pixels,
            # of the masks' type, lest under autocast the masks of all queries become float32
            mask_bias=lambda queries: track.mask_bias(queries).to(pixels.dtype),
            mask_addition=self._query_addition(text),
            independent=independent,
            aux_outputs=aux_outputs,
        )
        return queries, masks

    def _select_cells(
        self, scales: list[Tensor], names: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Normalized cells (B, k, hidden_dim) that resemble names, and their reference boxes."""
        norm = self.transformer_decoder.norm
        chosen = select_cells(
            scales,
            names,
            lambda cells, rows: self.text_classifier(norm(cells), rows),
            self.config.foreground,
            padding,
        )  # (B, k)
        cells = torch.cat([scale.flatten(2) for scale in scales], dim=2).transpose(1, 2)
        index = chosen[..., None].expand(-1, -1, cells.shape[2])
        references = cell_references([scale.shape[-2:] for scale in scales], cells.device)
        return norm(cells.gather(1, index)), references[chosen]

    def _track_boxes(self, boxes: Tensor, text: Tensor, image_size: Sequence[int]) -> BoxTrack:
        """Queries at boxes (B, k, 4), which the decoder's layers correct."""
        head, encoder = self.foreground_head, self.box_prompt_encoder
        return BoxTrack(head, encoder, boxes, text, image_size, MASK_STRIDE)


def _concatenate(learned: Proposals, foreground: Proposals) -> Proposals:
    classes = torch.cat((learned.class_logits, foreground.class_logits), dim=2)
    masks = torch.cat((learned.mask_logits, foreground.mask_logits), dim=2)
    return Proposals(classes, masks, foreground.boxes)


def _pixel_decoder(
    config: ModelConfig, channels: Sequence[int]
) -> FPNPixelDecoder | DeformablePixelDecoder:
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
