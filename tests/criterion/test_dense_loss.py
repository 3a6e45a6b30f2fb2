from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from segkit.criterion.dense_loss import box_core, dense_loss
from segkit.criterion.pooled_targets import PooledTargets
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch, PackedMasks
from segkit.model.dataseg import DataSeg, Outputs
from segkit.recipes.schema import LossConfig, ModelConfig
from tests.criterion.scenes import IS_THING, SIZE, make_batch, perfect_proposals, rectangles

CLASSES = len(IS_THING)
STRIDE = 8
SMALL = ModelConfig(
    text_dim=16, hidden_dim=32, mask_dim=16, queries=6, rounds=1, heads=2, feedforward_dim=32
)


def cells(batch: Batch, stride: int = STRIDE, seed: int = 0) -> torch.Tensor:
    shape = (len(batch), SIZE // stride, SIZE // stride, CLASSES + 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss(batch: Batch, *logits: torch.Tensor, background: float = 0.1) -> torch.Tensor:
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    return dense_loss(logits, batch, targets, background)


def pixel_map(values: torch.Tensor) -> torch.Tensor:
    """Repeat the values (h, w, C) of cells at each of their pixels: (H, W, C)."""
    return values.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)


def test_on_masks_it_is_the_cross_entropy_of_all_labeled_pixels() -> None:
    # the edges lie within cells: both classes share cells with each other and with void
    target = rectangles((0, 0, 30, 64), (30, 0, 64, 61), labels=(1, 2))
    target = replace(target, void=~target.masks.dense().any(0))
    batch = make_batch(target)
    logits = cells(batch)
    classes = torch.full((SIZE, SIZE), -100)
    classes[target.masks.dense()[0]], classes[target.masks.dense()[1]] = 1, 2
    expected = F.cross_entropy(pixel_map(logits[0]).flatten(0, 1), classes.flatten())
    torch.testing.assert_close(loss(batch, logits), expected)


def test_the_scales_count_equally() -> None:
    batch = make_batch(rectangles((0, 0, 64, 64)))
    fine, coarse = cells(batch), cells(batch, 32)
    each = loss(batch, fine), loss(batch, coarse)
    torch.testing.assert_close(loss(batch, fine, coarse), (each[0] + each[1]) / 2)


def test_outside_all_instances_it_is_weighted_background() -> None:
    target = rectangles((4, 8, 32, 40), labels=(1,))
    batch = make_batch(target, task="instance")
    logits = cells(batch)
    classes = torch.where(target.masks.dense()[0], 1, CLASSES)
    weight = torch.ones(CLASSES + 1)
    weight[-1] = 0.1
    flat = pixel_map(logits[0]).flatten(0, 1)
    expected = F.cross_entropy(flat, classes.flatten(), weight=weight)
    torch.testing.assert_close(loss(batch, logits), expected)
    # without exhaustive labels, the loader makes these pixels void
    void = make_batch(replace(target, void=~target.masks.dense()[0]), task="instance")
    expected = F.cross_entropy(
        flat[target.masks.dense().flatten()], classes.flatten()[classes.ravel() < 3]
    )
    torch.testing.assert_close(loss(void, logits), expected)


def test_a_box_is_its_class_in_the_core_and_class_or_background_around_it() -> None:
    box = (0, 0, 32, 32)  # 4 x 4 cells, of which the middle 2 x 2 are the core
    batch = make_batch(rectangles(box, labels=(1,), masked=False), task="instance")
    logits = cells(batch)
    probability = logits[0].softmax(-1)
    core, ring = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    ring[:4, :4], core[1:3, 1:3] = True, True
    ring &= ~core
    terms = torch.where(
        core,
        -probability[..., 1].log(),
        torch.where(
            ring,
            -(probability[..., 1] + probability[..., -1]).log(),
            -0.1 * probability[..., -1].log(),
        ),
    )
    expected = terms.sum() / (16 + 0.1 * 48)
    torch.testing.assert_close(loss(batch, logits), expected)


def test_where_boxes_overlap_any_of_their_classes_will_do() -> None:
    boxes = ((0, 0, 64, 64), (0, 0, 64, 64), (0, 0, 64, 64))
    target = rectangles(*boxes, labels=(0, 1, 0), masked=False)
    batch = make_batch(target, task="instance")
    probability = cells(batch)[0].softmax(-1)
    core = torch.zeros(8, 8, dtype=torch.bool)
    core[2:6, 2:6] = True
    allowed = probability[..., :2].sum(-1)  # class 0 counts once
    allowed = torch.where(core, allowed, allowed + probability[..., -1])
    torch.testing.assert_close(loss(batch, cells(batch)), -allowed.log().mean())


def test_a_smaller_box_may_be_in_front_of_the_core_of_a_larger_one() -> None:
    batch = make_batch(
        rectangles((0, 0, 64, 64), (16, 16, 48, 48), labels=(0, 1), masked=False), task="instance"
    )
    small = torch.zeros(8, 8, dtype=torch.bool)
    small[2:6, 2:6] = True  # the smaller box, and the core of the larger one
    probability = cells(batch)[0].softmax(-1)
    either = probability[..., :2].sum(-1)
    terms = torch.where(small, either, probability[..., [0, -1]].sum(-1))
    torch.testing.assert_close(loss(batch, cells(batch)), -terms.log().mean())

    shifted = make_batch(
        rectangles((0, 0, 64, 64), (0, 0, 32, 32), labels=(0, 1), masked=False), task="instance"
    )
    named = torch.zeros(1, 8, 8, CLASSES + 1)
    named[..., 0] = 20.0
    named[0, :4, :4, :2] = torch.tensor([0.0, 20.0])
    assert loss(shifted, named) < 1e-6, "the smaller box in front of the larger one"
    named[0, 1, 1, :2] = torch.tensor([20.0, 0.0])
    assert loss(shifted, named) > 0.1, "its core, beyond that of the larger one, is its class"


@pytest.mark.parametrize("masked", [True, False])
def test_an_unannotated_class_is_not_a_negative(masked: bool) -> None:
    target = rectangles((4, 8, 32, 40), labels=(0,), masked=masked)
    partly = replace(target, annotated=torch.tensor([True, False, True]))
    batch = make_batch(partly, task="instance")
    logits = cells(batch).requires_grad_()
    loss(batch, logits).backward()
    gradient = logits.grad
    assert gradient is not None
    assert (gradient[..., 1] <= 0).all(), "nothing pushes class 1 down"
    assert (gradient[0, 6:, :, 1] < 0).all(), "it counts as background"
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(1, 8, 8), atol=1e-6, rtol=0)


def test_the_masks_of_boxes_are_never_read() -> None:
    honest = rectangles((4, 8, 32, 40), masked=False)
    noise = replace(honest, masks=PackedMasks.from_dense(torch.rand(1, SIZE, SIZE) > 0.5))
    first, second = (
        loss(make_batch(target, task="instance"), cells(make_batch(target)))
        for target in (honest, noise)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_box_has_a_core_where_it_fills_a_cell(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 128
    side = stride * (1.5 + torch.rand(200, 2, generator=generator) * 3)
    boxes = torch.cat((corner, corner + side), 1)
    core = box_core(boxes, (256 // stride, 256 // stride), stride)
    assert core.flatten(1).any(1).all()
    x = (torch.arange(256 // stride) + 0.5) * stride
    for box, cover in zip(boxes, core, strict=True):
        for row, column in cover.nonzero().tolist():
            assert box[0] <= x[column] <= box[2]
            assert box[1] <= x[row] <= box[3]
    small = torch.tensor([[1.0, 1.0, 1.0 + stride / 4, 1.0 + stride / 4]])
    assert not box_core(small, (4, 4), stride).any()


def test_empty_and_void_images_give_zero() -> None:
    void = replace(rectangles(), void=torch.ones(SIZE, SIZE, dtype=torch.bool))
    batch = make_batch(void, void)
    logits = cells(batch).requires_grad_()
    value = loss(batch, logits)
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_it_is_off_by_default_and_adds_nothing_to_the_other_terms() -> None:
    torch.manual_seed(0)
    model, text = DataSeg(SMALL), F.normalize(torch.randn(CLASSES, 16), dim=1)
    batch = make_batch(rectangles((4, 8, 32, 40)))
    plain, dense = model(batch.images, text), model(batch.images, text, dense=True)
    assert plain.cells is None
    assert torch.equal(plain.queries.class_logits, dense.queries.class_logits)
    assert torch.equal(plain.queries.mask_logits, dense.queries.mask_logits)
    assert [x.shape for x in dense.cells] == [(1, n, n, CLASSES + 1) for n in (2, 4, 8)]
    criterion = SetCriterion(LossConfig(dense=2.0), {"set": IS_THING})
    before = criterion(plain, batch, None, step=0)
    after = criterion(dense, batch, None, step=0)
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    value = dense_loss(dense.cells, batch, targets, LossConfig().background)
    torch.testing.assert_close(after.pop("dense"), 2 * value)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_its_gradient_reaches_the_pixel_decoder() -> None:
    torch.manual_seed(0)
    model, text = DataSeg(SMALL), F.normalize(torch.randn(CLASSES, 16), dim=1)
    batch = make_batch(rectangles((4, 8, 32, 40)))
    outputs = model(batch.images, text, learned_queries=False, dense=True)
    criterion = SetCriterion(LossConfig(dense=1.0, matching=False), {"set": IS_THING})
    losses = criterion(Outputs(None, None, outputs.cells), batch, None, step=0)
    assert set(losses) == {"dense"}
    losses["dense"].backward()
    gradient = model.pixel_decoder.outputs[-1][0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_perfect_cells_cost_nothing() -> None:
    target = rectangles((0, 0, 32, 64), (32, 0, 64, 64), labels=(1, 2))
    batch = make_batch(target)
    logits = torch.full((1, 8, 8, CLASSES + 1), -30.0)
    logits[0, :, :4, 1], logits[0, :, 4:, 2] = 30.0, 30.0
    assert loss(batch, logits) < 1e-6
    queries = perfect_proposals((target,))
    criterion = SetCriterion(LossConfig(dense=1.0, pairwise=0.0), {"set": IS_THING})
    losses = criterion(Outputs(queries, None, (logits,)), batch, None, step=0)
    assert all(value < 1e-3 for value in losses.values())


@pytest.mark.parametrize("trust", [0.0, 0.2, 1.0])
def test_trust_divides_it_between_mask_and_box(trust: float) -> None:
    """Sums of losses and of weights are those of the mask, by trust, and those of the box."""
    exact = rectangles((8, 8, 40, 48), labels=(1,))
    masks = exact.masks.dense()
    masks[0, 24:, 24:] = False  # of 20 cells 14 are on the mask
    exact = replace(exact, masks=PackedMasks.from_dense(masks))
    background = 0.1
    logits = cells(make_batch(exact))

    def sums(has_mask: bool, trust: float, on_mask: float, in_box: float) -> torch.Tensor:
        """Loss and weight; the weight of the cells, counted here, turns the mean into a sum."""
        weights = {"has_mask": torch.tensor([has_mask]), "trust": torch.tensor([trust])}
        batch = make_batch(replace(exact, **weights), task="instance")
        count = on_mask + in_box + background * (64 - on_mask - in_box)
        return torch.stack((loss(batch, logits) * count, torch.tensor(count)))

    by_mask, by_box = sums(True, 1.0, 14, 0), sums(False, 0.0, 0, 20)
    divided = sums(True, trust, trust * 14, (1 - trust) * 20)
    torch.testing.assert_close(divided, trust * by_mask + (1 - trust) * by_box)


def test_half_precision_holds_the_sum_of_all_cells() -> None:
    batch = make_batch(rectangles((0, 0, 64, 64), labels=(1,)))
    logits = cells(batch)
    logits[..., 1] -= 2000.0  # 64 cells: 128,000 in all, above the 65,504 of fp16
    expected = loss(batch, logits)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(loss(batch, logits), expected)
    assert expected > 1900


def test_a_mask_that_is_all_but_trusted_does_not_name_the_boxes_of_others() -> None:
    """Object 0 has a box in the middle; the mask of object 1 around it leaves the box out."""
    pair = rectangles((16, 16, 48, 48), (0, 0, 64, 64), labels=(0, 1))
    masks = pair.masks.dense()
    masks[1, 16:48, 16:48] = False
    pair = replace(pair, masks=PackedMasks.from_dense(masks), has_mask=torch.tensor([False, True]))

    def gradient(trust: float) -> torch.Tensor:
        logits = torch.zeros(1, 8, 8, CLASSES + 1, requires_grad=True)
        batch = make_batch(replace(pair, trust=torch.tensor([0.0, trust])), task="instance")
        loss(batch, logits).backward()
        assert logits.grad is not None
        return logits.grad

    torch.testing.assert_close(gradient(0.999), gradient(1.0), rtol=0.05, atol=1e-4)
