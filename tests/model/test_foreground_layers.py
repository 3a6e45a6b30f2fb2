"""Foreground queries, layer by layer: their boxes, and what moves with them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.model.box_coding import decode_boxes, to_pixels
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.model.transformer_decoder import attention_mask
from tests.model.test_foreground import FOREGROUND, THINGS, build, embeddings

SIZE = (64, 96)
IMAGES = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
TEXT = embeddings(4)


def box_prompt(model: DataSeg, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content and position of box prompts at boxes (B, k, 4) in 0-1, and the basis of their masks,
    which is limited as that of `mask_prior`."""
    encoder = model.box_prompt_encoder
    prompts = BoxPrompts.without_labels(list(to_pixels(boxes, SIZE)))
    encoded = encoder(prompts, TEXT, SIZE, 4)
    u, v = encoded.basis[:, :, 1:3].clamp(-2, 2).unbind(2)
    basis = torch.stack((torch.ones_like(u), u, v, u * u, v * v, u * v), dim=2)
    return encoded.content, encoded.position, basis


def decode(model: DataSeg, boxes: Tensor, *, refine: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, masks and queries before the first layer and after each: a second implementation.

    In each layer the queries are those of box prompts: at the box of the layer before with
    `refine`, else at the first one.
    """
    decoder = model.transformer_decoder
    scales, pixels = model.pixel_decoder(model.backbone(IMAGES))
    queries, _, _ = box_prompt(model, boxes)
    reference, outputs = boxes, list[tuple[Tensor, Tensor, Tensor]]()
    for number in range(len(decoder.layers) + 1):
        normalized = decoder.norm(queries)
        if number:
            boxes = decode_boxes(model.foreground_head.query_head(normalized), reference)
            reference = boxes if refine else reference
        _, position, basis = box_prompt(model, reference)
        masks = torch.einsum("bqd,bdhw->bqhw", decoder.mask_head(normalized), pixels)
        masks = masks + model.box_prompt_encoder.mask_bias(normalized, basis)
        outputs.append((boxes, masks, normalized))
        if number == len(decoder.layers):
            break
        scale = scales[number]  # one round: the layers visit the three scales in turn
        memory = scale.flatten(2).transpose(1, 2) + decoder.level_embed.weight[number]
        grid = decoder.positions(*scale.shape[2:], scale.shape[1], scale.device, scale.dtype)
        small = F.interpolate(masks, tuple(scale.shape[2:]), mode="bilinear")
        allowed = attention_mask(small, None)
        layer = decoder.layers[number]
        queries = layer(queries, position, memory, grid, allowed, independent=False)
    return outputs


@pytest.mark.parametrize("refine", [False, True])
@torch.no_grad()
def test_each_layer_is_that_of_box_prompts_at_the_boxes_so_far(refine: bool) -> None:
    model = build(FOREGROUND.model_copy(update={"refine_boxes": refine}))
    queries = model(IMAGES, TEXT, things=THINGS, learned_queries=False).queries
    expected = decode(model, queries.boxes[:, 0], refine=refine)
    assert queries.boxes.shape[1] == len(expected) == 4
    for layer, (boxes, masks, normalized) in enumerate(expected):
        torch.testing.assert_close(queries.boxes[:, layer], boxes, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(queries.mask_logits[:, layer], masks, rtol=1e-3, atol=1e-3)
        if layer:  # before the first layer, the classes are those of the cells
            classes = model.text_classifier(normalized, TEXT)
            torch.testing.assert_close(
                queries.class_logits[:, layer], classes, rtol=1e-3, atol=1e-3
            )


@torch.no_grad()
def test_foreground_queries_see_each_other_and_learned_queries_none_of_them() -> None:
    """Moving one box changes what the others, of the same content, become."""
    model = build(FOREGROUND.model_copy(update={"foreground_boxes": "learned"}))
    before = model(IMAGES, TEXT, things=THINGS).queries
    model.foreground_head.boxes.weight[0] += torch.tensor([1.0, -1.0, 0.5, 0.5])
    after = model(IMAGES, TEXT, things=THINGS).queries
    learned = FOREGROUND.queries
    for old, new in zip(before[:2], after[:2], strict=True):  # class and mask logits
        assert torch.equal(old[:, :, :learned], new[:, :, :learned])
        assert torch.equal(old[:, 0, learned + 1 :], new[:, 0, learned + 1 :]), "before any layer"
        change = (new - old)[:, 1:, learned + 1 :].abs().flatten(3).amax(3)  # (B, L - 1, k - 1)
        assert (change > 1e-4).all()
    assert not torch.equal(before.boxes[:, 1:, 1:], after.boxes[:, 1:, 1:])
