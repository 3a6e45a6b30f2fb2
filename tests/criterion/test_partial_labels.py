from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from segkit.criterion.partial_labels import (
    mask_unannotated_logits,
    merge_unannotated_into_background,
    mostly_void,
)
from segkit.data.batch import PackedMasks
from segkit.model.dataseg import Proposals
from tests.criterion.scenes import make_batch, perfect_proposals, query_losses, rectangles

ANNOTATED = [torch.tensor([True, False, True, False]), None]


def test_unannotated_classes_count_as_background() -> None:
    logits = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    merged = merge_unannotated_into_background(logits, ANNOTATED).softmax(-1)
    probability = logits.softmax(-1)
    torch.testing.assert_close(merged[0, ..., [0, 2]], probability[0, ..., [0, 2]])
    torch.testing.assert_close(merged[0, ..., -1], probability[0, ..., [1, 3, 4]].sum(-1))
    assert (merged[0, ..., [1, 3]] == 0).all()
    torch.testing.assert_close(merged[1], probability[1])
    masked = mask_unannotated_logits(logits, ANNOTATED).softmax(-1)
    torch.testing.assert_close(masked[0, ..., [0, 2, 4]], logits[0, ..., [0, 2, 4]].softmax(-1))
    assert (masked[0, ..., [1, 3]] == 0).all() and torch.equal(masked[1], probability[1])


@pytest.mark.parametrize("change", [merge_unannotated_into_background, mask_unannotated_logits])
def test_without_partial_labels_nothing_changes(change) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(2, 3, 4)
    assert change(logits, [None, None]) is logits


def test_gradients_of_merged_logits_are_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)

    def log_probability(logits: torch.Tensor) -> torch.Tensor:
        return merge_unannotated_into_background(logits, ANNOTATED).log_softmax(-1)[..., [0, -1]]

    assert gradcheck(log_probability, (logits,))


def test_nothing_pushes_an_unannotated_class_down() -> None:
    target = rectangles((4, 8, 32, 40), labels=(0,))
    partly = replace(target, annotated=torch.tensor([True, False, True]))
    perfect = perfect_proposals((partly,), extra=4)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(perfect.class_logits.shape, generator=generator).requires_grad_()
    query_losses(perfect._replace(class_logits=logits), make_batch(partly))["class"].backward()
    assert logits.grad is not None
    assert (logits.grad[..., 1] <= 0).all() and (logits.grad[0, 0, 1:, 1] < 0).all()
    assert (logits.grad[0, 0, 1:, 0] > 0).all(), "an annotated class is a negative"
    logits = logits.detach().clone().requires_grad_()
    query_losses(perfect._replace(class_logits=logits), make_batch(target))["class"].backward()
    assert logits.grad is not None and (logits.grad[0, 0, 1:, 1] > 0).all()


def test_unmatched_proposals_of_partial_images_cost_their_share_of_annotated_classes() -> None:
    empty = replace(rectangles(), annotated=torch.tensor([True, False, True]))
    perfect = perfect_proposals((rectangles((0, 0, 16, 16)),), extra=3)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(perfect.class_logits.shape, generator=generator)
    loss = query_losses(perfect._replace(class_logits=logits), make_batch(empty))["class"]
    probability = logits.softmax(-1)[0, 0]
    expected = -torch.log(probability[:, 1] + probability[:, 3]).mean()
    torch.testing.assert_close(loss, 2.0 * expected)


def test_only_proposals_on_void_do_not_count() -> None:
    image = rectangles((0, 0, 16, 16))
    void = image.void.clone()
    void[32:] = True
    perfect = perfect_proposals((image,), extra=3)
    masks = perfect.mask_logits.clone()
    masks[0, 0, 1, 9:, :] = 30.0  # on void
    masks[0, 0, 2, 4:12, :] = 30.0  # half and half
    masks[0, 0, 3, 6:12, :] = 30.0  # two thirds on void
    for unlabeled, counted in ((void, [True, False, True, False]), (image.void, [True] * 4)):
        logits = torch.zeros_like(perfect.class_logits).requires_grad_()
        batch = make_batch(replace(image, void=unlabeled))
        query_losses(Proposals(logits, masks), batch)["class"].backward()
        assert logits.grad is not None
        assert (logits.grad[0, 0] != 0).any(-1).tolist() == counted


def test_a_proposal_that_covers_a_crowd_is_not_taught_background() -> None:
    crowd = replace(rectangles(), void=torch.ones(64, 64, dtype=torch.bool))
    perfect = perfect_proposals((rectangles((0, 0, 64, 64)),), extra=0)
    logits = perfect.class_logits.clone().requires_grad_()
    losses = query_losses(perfect._replace(class_logits=logits), make_batch(crowd))
    assert losses["class"].item() == 0
    losses["class"].backward()
    assert logits.grad is not None and (logits.grad == 0).all()


def test_padding_is_not_void() -> None:
    image = rectangles((0, 0, 16, 16))
    beyond = torch.zeros_like(image.void)
    beyond[32:] = True
    perfect = perfect_proposals((image,), extra=2)
    masks = perfect.mask_logits.clone()
    masks[0, 0, 1, 7:] = 30.0  # one row of cells in the image, the others on padding
    masks[0, 0, 2, 8:] = 30.0
    logits = torch.zeros_like(perfect.class_logits).requires_grad_()
    padded = replace(image, void=beyond, padding=beyond)
    query_losses(Proposals(logits, masks), make_batch(padded))["class"].backward()
    assert logits.grad is not None and (logits.grad[0, 0] != 0).any(-1).all()


def test_void_is_weighed_against_labels() -> None:
    masks = torch.full((1, 2, 4, 8), -1.0)
    masks[0, :, 1, :4] = 1.0
    masks[0, :, 2, 3:6] = 1.0
    masks[0, :, 3, 2:8] = 1.0
    labeled, void = torch.zeros(1, 8), torch.zeros(1, 8)
    void[0, :4], labeled[0, 4:6] = 1.0, 1.0  # the last two cells are padding
    assert mostly_void(masks, labeled, void).tolist() == [[[False, True, False, False]] * 2]


@pytest.mark.parametrize("side", [256, 1024])
def test_a_crowd_is_found_anywhere_in_a_large_crop(side: int) -> None:
    crowd = slice(side // 32, side // 4 - side // 32)
    void = torch.zeros(side, side, dtype=torch.bool)
    void[crowd, crowd] = True
    image = replace(rectangles(), void=void, masks=PackedMasks.zeros(0, (side, side)))
    batch = replace(make_batch(image), images=torch.zeros(1, 3, side, side))
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    masks = F.avg_pool2d(void[None, None].float(), 4)[:, None] * 20 - 10
    loss = query_losses(Proposals(logits, masks), batch)["class"]
    assert loss.item() == 0, "the proposal on the crowd does not count"
