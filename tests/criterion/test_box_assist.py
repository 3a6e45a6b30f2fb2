from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segkit.criterion.box_assist import assist_masks, predict_assist_masks
from segkit.criterion.box_prompts import MAX_BOXES, sample_box_prompts
from segkit.criterion.pooled_targets import AssistMasks, PooledTargets, box_cover
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.masks.boxes import tightness
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.recipes.schema import LossConfig, ModelConfig
from tests.criterion.scenes import (
    CELLS,
    CONFIG,
    IS_THING,
    make_batch,
    perfect_proposals,
    rectangles,
)

MATCH = LossConfig(pairwise=0.0, box_assist="match")
PSEUDO = LossConfig(pairwise=0.0, box_assist="pseudo")
TEXT = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))


def small_model() -> DataSeg:
    torch.manual_seed(0)
    size = {"hidden_dim": 16, "mask_dim": 8, "queries": 4, "rounds": 1, "heads": 2}
    config = ModelConfig(backbone="test_efficientnet", text_dim=8, feedforward_dim=16, **size)
    return DataSeg(config).eval()


def losses(
    proposals: Proposals, batch: Batch, config: LossConfig, assist: Sequence[AssistMasks] | None
) -> dict[str, Tensor]:
    criterion = SetCriterion(config, {batch.dataset: IS_THING})
    terms: dict[str, Tensor] = criterion(Outputs(proposals, None), batch, None, 0, assist)
    return terms


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*(st.integers(0, CELLS - 2) for _ in "xy"), *(st.integers(2, CELLS) for _ in "wh")),
)
def test_quality_is_mean_probability_times_tightness(
    seed: int, box: tuple[int, int, int, int]
) -> None:
    x0, y0, width, height = box
    x1, y1 = min(CELLS, x0 + width), min(CELLS, y0 + height)
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(CELLS, CELLS, generator=generator) - 5
    corners = 4 * torch.tensor([[x0, y0, x1, y1]]).float()
    batch = make_batch(rectangles((x0 * 4, y0 * 4, x1 * 4, y1 * 4), masked=False), task="instance")
    prompts = BoxPrompts([corners], [torch.tensor([0])], [torch.tensor([0])])
    (result,) = assist_masks(Proposals(logits, logits[None, None, None]), prompts, batch)
    inside = (logits >= 0).numpy()[y0:y1, x0:x1]
    expected = np.zeros((CELLS, CELLS), np.float32)
    expected[y0:y1, x0:x1] = inside
    assert np.array_equal(result.masks[0].numpy(), expected)
    quality = 0.0
    if inside.any():
        probability = logits.sigmoid().numpy()[y0:y1, x0:x1]
        quality = float(probability[inside].mean()) * tightness(inside)
    assert float(result.weight[0]) == pytest.approx(quality, abs=1e-5)


def test_masks_of_a_model_end_at_their_boxes_and_carry_no_gradient() -> None:
    model = small_model()
    crooked = rectangles((3, 5, 37, 42), (22, 1, 63, 30), labels=(0, 1), masked=False)
    batch = make_batch(crooked, rectangles(), task="instance")
    masks, empty = predict_assist_masks(model, batch, TEXT, LossConfig()) or []
    cover = box_cover(crooked.boxes, (CELLS, CELLS), 4)
    assert torch.all(masks.masks <= cover) and masks.masks.sum() > 0
    assert torch.all((masks.weight > 0) & (masks.weight <= 1))
    assert empty.masks.shape == (0, CELLS, CELLS) and empty.weight.shape == (0,)
    assert not masks.masks.requires_grad and not masks.weight.requires_grad
    again, _ = predict_assist_masks(model, batch, TEXT, LossConfig()) or []
    assert torch.equal(again.masks, masks.masks), "nothing is drawn at random"


def test_a_mask_is_that_of_the_exact_box_with_its_label() -> None:
    model = small_model()
    batch = make_batch(rectangles((3, 5, 37, 42), labels=(1,), masked=False), task="instance")
    (masks,) = predict_assist_masks(model, batch, TEXT, LossConfig()) or []
    prompts = BoxPrompts([batch.targets[0].boxes], [torch.tensor([1])])
    with torch.no_grad():
        logits = model(batch.images, TEXT, prompts).box_prompts.mask_logits[0, -1, 0]
    assert torch.equal(
        masks.masks[0] > 0, (logits >= 0) & (box_cover(prompts.boxes[0], (16, 16), 4)[0] > 0)
    )


def test_only_large_things_without_a_mask_get_one() -> None:
    targets = rectangles(
        *((0, 0, 32, 32), (0, 0, 32, 32), (0, 0, 12, 12), (0, 0, 32, 32), (8, 8, 64, 64)),
        labels=(0, 1, 0, 2, 1),
        masked=False,
    )
    targets = replace(targets, has_mask=torch.tensor([False, True, False, False, False]))
    (masks,) = predict_assist_masks(small_model(), make_batch(targets), TEXT, LossConfig()) or []
    assert (masks.weight > 0).tolist() == [True, False, False, False, True]
    assert not masks.masks[1:4].any()


def test_no_more_boxes_get_one_than_become_prompts() -> None:
    targets = rectangles((0, 0, 32, 32), (16, 16, 48, 48), (32, 32, 64, 64), labels=(0, 0, 1))
    targets = replace(targets, has_mask=torch.zeros(3, dtype=torch.bool))
    config = LossConfig(max_box_prompts=1)
    (masks,) = predict_assist_masks(small_model(), make_batch(targets), TEXT, config) or []
    assert (masks.weight > 0).tolist() == [False, True, False], "the most central"


def test_a_crop_with_hundreds_of_boxes_gets_as_many_masks_as_it_has_prompts() -> None:
    boxes = [(i % 40, i // 40, i % 40 + 20, i // 40 + 20) for i in range(MAX_BOXES + 50)]
    batch = make_batch(rectangles(*boxes, masked=False), task="instance")
    (masks,) = predict_assist_masks(small_model(), batch, TEXT, CONFIG) or []
    prompts = sample_box_prompts(batch, CONFIG, torch.Generator())
    assert prompts is not None
    assisted = masks.masks.flatten(1).any(1)  # some masks may be empty
    assert assisted.any() and set(assisted.nonzero()[:, 0].tolist()) <= set(
        prompts.targets[0].tolist()
    )


def test_batches_without_such_a_box_run_no_model() -> None:
    def no_model(*_: object, **__: object) -> None:
        raise AssertionError

    boxes = rectangles((0, 0, 32, 32), masked=False)
    parts = replace(boxes, is_part=torch.tensor([True]))
    for batch in (
        make_batch(rectangles(), task="instance"),
        make_batch(rectangles((0, 0, 32, 32))),
        make_batch(parts, task="semantic"),
        make_batch(boxes, task="semantic"),
    ):
        assert predict_assist_masks(no_model, batch, TEXT, CONFIG) is None  # type: ignore


def ring_and_disc() -> tuple[Batch, Proposals, AssistMasks]:
    """A box, two proposals with its projections, and the predicted mask, which is the second."""
    batch = make_batch(rectangles((8, 8, 40, 40), masked=False), task="instance")
    proposals = perfect_proposals(batch.targets, extra=1)
    classes, masks = proposals.class_logits.clone(), proposals.mask_logits.clone()
    classes[0, 0, 1] = classes[0, 0, 0]
    masks[0, 0, 1] = masks[0, 0, 0]
    masks[0, 0, 1, 4:8, 4:8] = -30.0  # a ring
    ring = (masks[0, 0, 1] > 0).float()[None]
    return batch, Proposals(classes, masks), AssistMasks(ring, torch.tensor([0.5]))


@pytest.mark.parametrize("points", [0, 64])
def test_the_predicted_mask_decides_between_equal_projections(points: int) -> None:
    batch, proposals, assist = ring_and_disc()

    def matched(masks: AssistMasks | None) -> int:
        criterion = SetCriterion(MATCH.model_copy(update={"points": points}), {"set": IS_THING})
        targets = [replace(PooledTargets.from_targets(batch.targets[0]), assist=masks)]
        pending = criterion._start_matching(proposals, batch, targets).costs
        return int(criterion.matcher.finish(pending).query)

    assert matched(None) == 0 and matched(assist) == 1
    disc = AssistMasks((proposals.mask_logits[0, 0, :1] > 0).float(), assist.weight)
    assert matched(disc) == 0


def test_the_cost_is_the_weighted_loss_of_the_pair() -> None:
    batch, proposals, assist = ring_and_disc()
    criterion = SetCriterion(PSEUDO, {"set": IS_THING})
    plain = PooledTargets.from_targets(batch.targets[0])
    costs = [
        criterion._start_matching(proposals, batch, [replace(plain, assist=masks)]).costs.values
        for masks in (None, assist)
    ]
    for query in range(2):
        only = Proposals(*(x[:, :, query : query + 1] for x in proposals[:2]))
        terms = losses(only, batch, PSEUDO, [assist])
        expected = float(terms["pseudo_focal"] + terms["pseudo_dice"])
        assert float((costs[1] - costs[0])[query]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_pseudo_targets_weigh_as_much_as_their_quality() -> None:
    batch, proposals, assist = ring_and_disc()
    disc = Proposals(*(x[:, :, :1] for x in proposals[:2]))
    terms = losses(disc, batch, PSEUDO, [assist])
    assert set(terms) == {"class", "projection", "pseudo_focal", "pseudo_dice"}
    # the disc has 64 cells, the ring 48 of them
    assert float(terms["pseudo_dice"]) == pytest.approx(
        5 * 0.5 * (1 - (2 * 48 + 1) / 113), rel=1e-4
    )
    ring = Proposals(*(x[:, :, 1:2] for x in proposals[:2]))
    exact = losses(ring, batch, PSEUDO, [assist])
    assert exact["pseudo_focal"] < 1e-3 and exact["pseudo_dice"] < 1e-3
    assert set(losses(disc, batch, MATCH, [assist])) == {"class", "projection"}


def test_masks_without_weight_change_nothing() -> None:
    batch, proposals, assist = ring_and_disc()
    off = losses(proposals, batch, LossConfig(), None)
    nothing = [AssistMasks(assist.masks, torch.zeros(1))]
    assert losses(proposals, batch, LossConfig(box_assist="match"), nothing) == off
    pseudo = losses(proposals, batch, LossConfig(box_assist="pseudo"), nothing)
    assert pseudo == off | {"pseudo_focal": 0.0, "pseudo_dice": 0.0}


def test_images_without_targets_and_void_are_safe() -> None:
    batch, proposals, assist = ring_and_disc()
    empty = rectangles()
    void = replace(batch.targets[0], void=torch.ones(64, 64, dtype=torch.bool))
    double = make_batch(void, empty, task="instance")
    pair = Proposals(*(torch.cat((x, x)).requires_grad_() for x in proposals[:2]))
    none = AssistMasks(torch.zeros(0, CELLS, CELLS), torch.zeros(0))
    terms = losses(pair, double, PSEUDO, [assist, none])
    assert all(torch.isfinite(value) for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in pair[:2] if x.grad is not None)
    assert set(losses(pair, make_batch(empty, empty, task="instance"), PSEUDO, [none, none])) == {
        "class"
    }
