"""DataSeg: the model of DaTaSeg, whose output is N pairs of mask proposal and class prediction.

The image passes through the backbone and the pixel decoder; the transformer decoder turns queries,
learned ones or box prompts, into masks; the text classifier names them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkit.model.backbone import STRIDES, Backbone
from segkit.model.box_prompt_encoder import BoxPromptEncoder, BoxPrompts
from segkit.model.cell_classifier import cell_logits
from segkit.model.layers import Stack, detr_position_grid, position_grid
from segkit.model.pixel_decoder import DeformablePixelDecoder, FPNPixelDecoder
from segkit.model.prompt_maps import draw_prompt_maps
from segkit.model.text_classifier import CLASS_HEADS
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


class Outputs(NamedTuple):
    """Proposals of a forward pass: of every decoder layer, or of the last only.

    A tuple, since FSDP and DDP find the tensors in tuples.
    """

    queries: Proposals | None
    """Of the N learned queries; None if they were not run."""
    box_prompts: Proposals | None
    """Of the box prompts in their order, padded to the most prompts of an image. One more layer
    than the decoder's: the last holds the masks refined in each box's frame. None without
    prompts."""
    cells: tuple[Tensor, ...] | None = None
    """Class logits of the cells at strides 32, 16 and 8, (B, h, w, K + 1); None where they were not
    asked for."""


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
        self.text_classifier = CLASS_HEADS[config.class_head](config.hidden_dim, config.text_dim)
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
        # Created last: all other weights of a seed are those of the model without it.
        transfer = config.weight_transfer.input != "off"
        self.weight_transfer = WeightTransfer(config) if transfer else None

    def forward(
        self,
        images: Tensor,
        text: Tensor,
        prompts: BoxPrompts | None = None,
        *,
        learned_queries: bool = True,
        aux_outputs: bool = True,
        dense: bool = False,
    ) -> Outputs:
        """Propose masks.

        Args:
            images: (B, 3, H, W), RGB in 0-1; H and W multiples of 32.
            text: (K, D_T), unit rows, one per class.
            prompts: boxes to segment, on any device.
            learned_queries: run the learned queries. They do not attend to the box prompts: with
                and without prompts their proposals are bit-identical.
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
        prompted = None
        if prompts is not None and len(prompts) > 0:
            prompted = self._run_box_prompts(scales, pixels, text, prompts, size, aux_outputs)
        cells = None
        if dense:
            decoder = self.transformer_decoder
            cells = cell_logits(scales, text, norm=decoder.norm, classifier=self.text_classifier)
        return Outputs(queries, prompted, cells)

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
        queries, masks = self.transformer_decoder(
            encoded.content,
            encoded.position,
            scales,
            pixels,
            mask_bias=lambda queries: encoder.mask_bias(queries, encoded.basis),
            mask_addition=self._label_addition(text, encoded.labels),
            region=encoded.region,
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
