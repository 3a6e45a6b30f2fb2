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
from segkit.model.dataseg import Proposals
from tests.criterion.test_set_criterion import batch, losses, proposals, targets

ANNOTATED = [torch.tensor([True, False, True, False]), None]


def test_classes_that_were_not_looked_for_count_as_background() -> None:
    logits = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found, probability = (
        merge_unannotated_into_background(logits, ANNOTATED).softmax(-1),
        logits.softmax(-1),
    )
    expected = probability[0, ..., [0, 2]]
    torch.testing.assert_close(found[0, ..., [0, 2]], expected)
    torch.testing.assert_close(found[0, ..., -1], probability[0, ..., [1, 3, 4]].sum(-1))
    assert (found[0, ..., [1, 3]] == 0).all()
    torch.testing.assert_close(found[1], probability[1])
    hidden = mask_unannotated_logits(logits, ANNOTATED).softmax(-1)
    torch.testing.assert_close(hidden[0, ..., [0, 2, 4]], logits[0, ..., [0, 2, 4]].softmax(-1))
    assert (hidden[0, ..., [1, 3]] == 0).all() and torch.equal(hidden[1], probability[1])


@pytest.mark.parametrize("change", [merge_unannotated_into_background, mask_unannotated_logits])
def test_without_partial_labels_nothing_changes(change) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(2, 3, 4)
    assert change(logits, [None, None]) is logits


def test_gradients_of_folded_logits_are_finite_differences() -> None:
    logits = torch.randn(
        2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    assert gradcheck(
        lambda x: merge_unannotated_into_background(x, ANNOTATED).log_softmax(-1)[..., [0, -1]],
        (logits,),
    )


def test_nothing_pushes_an_unannotated_class_down() -> None:
    target = replace(
        targets((4, 8, 32, 40), labels=(0,)), annotated=torch.tensor([True, False, True])
    )
    made = proposals((target,), extra=4)
    logits = torch.randn(
        made.class_logits.shape, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    losses(Proposals(logits, made.mask_logits), batch(target))["class"].backward()
    assert logits.grad is not None
    assert (logits.grad[..., 1] <= 0).all() and (logits.grad[0, 1:, 1] < 0).all()
    assert (logits.grad[0, 1:, 0] > 0).all(), "a class that was looked for is a negative"
    whole = logits.detach().clone().requires_grad_()
    losses(Proposals(whole, made.mask_logits), batch(replace(target, annotated=None)))[
        "class"
    ].backward()
    assert whole.grad is not None and (whole.grad[0, 1:, 1] > 0).all()


def test_unmatched_proposals_of_partial_images_cost_their_share_of_looked_for_classes() -> None:
    nothing = replace(targets(), annotated=torch.tensor([True, False, True]))
    made = proposals((targets((0, 0, 16, 16)),), extra=3)
    logits = torch.randn(made.class_logits.shape, generator=torch.Generator().manual_seed(3))
    found = losses(Proposals(logits, made.mask_logits), batch(nothing))["class"]
    probability = logits.softmax(-1)[0]
    expected = -torch.log(probability[:, 1] + probability[:, 3]).mean()
    torch.testing.assert_close(found, 2.0 * expected)


def test_proposals_on_void_are_not_asked_and_others_are() -> None:
    image = targets((0, 0, 16, 16))
    void = image.void.clone()
    void[32:] = True
    made = proposals((image,), extra=3)
    masks = made.mask_logits.clone()
    masks[0, 1, 9:, :] = 30.0  # in the void
    masks[0, 2, 4:12, :] = 30.0  # half and half
    masks[0, 3, 6:12, :] = 30.0  # two thirds in the void
    for unlabeled, asked in ((void, [True, False, True, False]), (image.void, [True] * 4)):
        logits = torch.zeros_like(made.class_logits).requires_grad_()
        losses(Proposals(logits, masks), batch(replace(image, void=unlabeled)))["class"].backward()
        assert logits.grad is not None
        assert (logits.grad[0] != 0).any(-1).tolist() == asked


def test_a_crowd_is_no_background_for_the_proposal_that_covers_it() -> None:
    crowd = replace(targets(), void=torch.ones(64, 64, dtype=torch.bool))
    made = proposals((targets((0, 0, 64, 64)),), extra=0)
    logits = made.class_logits.clone().requires_grad_()
    found = losses(Proposals(logits, made.mask_logits), batch(crowd))
    assert found["class"].item() == 0
    found["class"].backward()
    assert logits.grad is not None and (logits.grad == 0).all()


def test_only_void_within_the_image_is_left_out() -> None:
    image = targets((0, 0, 16, 16))
    beyond = torch.zeros_like(image.void)
    beyond[32:] = True
    made = proposals((image,), extra=2)
    masks = made.mask_logits.clone()
    masks[0, 1, 7:] = 30.0  # one row of cells in the image, the others on padding
    masks[0, 2, 8:] = 30.0
    logits = torch.zeros_like(made.class_logits).requires_grad_()
    padded = replace(image, void=beyond, padding=beyond)
    losses(Proposals(logits, masks), batch(padded))["class"].backward()
    assert logits.grad is not None and (logits.grad[0] != 0).any(-1).all()


def test_void_is_weighed_against_labels() -> None:
    masks = torch.full((1, 2, 4, 8), -1.0)
    masks[0, :, 1, :4] = 1.0
    masks[0, :, 2, 3:6] = 1.0
    masks[0, :, 3, 2:8] = 1.0
    labeled, unknown = torch.zeros(1, 8), torch.zeros(1, 8)
    unknown[0, :4], labeled[0, 4:6] = 1.0, 1.0  # the last two cells are padding
    assert mostly_void(masks, labeled, unknown).tolist() == [[[False, True, False, False]] * 2]


@pytest.mark.parametrize("side", [256, 1024])
def test_a_crowd_is_seen_wherever_it_lies_in_a_large_crop(side: int) -> None:
    crowd = slice(side // 32, side // 4 - side // 32)
    void = torch.zeros(side, side, dtype=torch.bool)
    void[crowd, crowd] = True
    nothing = targets()
    image = replace(nothing, void=void, masks=torch.zeros(0, side, side, dtype=torch.bool))
    given = replace(batch(image), images=torch.zeros(1, 3, side, side))
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    masks = F.avg_pool2d(void[None, None].float(), 4) * 20 - 10
    assert losses(Proposals(logits, masks), given)["class"].item() == 0, (
        "the proposal on the crowd is not asked"
    )
