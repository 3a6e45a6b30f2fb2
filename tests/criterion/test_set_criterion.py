from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from segkit.criterion.box_prompts import conditioned_losses, count_given, sample_box_prompts
from segkit.criterion.forward import training_forward
from segkit.criterion.losses import dice_loss, focal_loss, projection_loss
from segkit.criterion.set_criterion import (
    PooledTargets,
    box_cover,
    matching_losses,
    prepare_matching,
)
from segkit.data.batch import Batch, Targets
from segkit.model.dataseg import DataSeg, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig, ModelConfig
from segkit.shards.manifest import Task

SIZE = 64
IS_THING = torch.tensor([True, True, False])
CONFIG = LossConfig(pairwise=0.0)


def targets(
    *boxes: tuple[int, int, int, int], labels: tuple[int, ...] | None = None, masked: bool = True
) -> Targets:
    """Rectangles x0, y0, x1, y1 as instances."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
    label = torch.tensor(labels or [0] * len(boxes), dtype=torch.int64)
    return Targets(
        label,
        IS_THING[label],
        torch.full((len(boxes),), masked),
        masks,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.bool),
        torch.zeros(SIZE, SIZE, dtype=torch.bool),
    )


def batch(*images: Targets, task: Task = "panoptic") -> Batch:
    pixels = torch.rand(len(images), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, images, "set", task, tuple(f"image {i}" for i in range(len(images))))


def proposals(images: tuple[Targets, ...], extra: int = 2) -> Proposals:
    """Perfect proposals (B, N, ...): every target as a confident mask of its class, then some
    confident background."""
    count = max(len(t) for t in images) + extra
    classes = torch.full((len(images), count, len(IS_THING) + 1), -30.0)
    classes[..., -1] = 30.0
    masks = torch.full((len(images), count, SIZE // 4, SIZE // 4), -30.0)
    for i, target in enumerate(images):
        for row, (label, mask) in enumerate(zip(target.labels, target.masks, strict=True)):
            classes[i, row, -1], classes[i, row, label] = -30.0, 30.0
            masks[i, row] = F.max_pool2d(mask[None].float(), 4)[0] * 60 - 30
    return Proposals(classes, masks)


def one_layer(made: Proposals) -> Proposals:
    """(B, N, ...) -> (B, 1, N, ...)."""
    return Proposals(made.class_logits[:, None], made.mask_logits[:, None])


def losses(
    made: Proposals, given: Batch, config: LossConfig = CONFIG, is_thing: torch.Tensor = IS_THING
) -> dict[str, torch.Tensor]:
    cells = [PooledTargets.of(target) for target in given.targets]
    candidates = prepare_matching(
        one_layer(made), given, cells, is_thing, config, torch.Generator()
    )
    return matching_losses(candidates, given, cells, config, step=0)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_perfect_proposals_cost_nothing(task: Task, masked: bool) -> None:
    images = (
        targets((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0), masked=masked),
        targets((0, 0, 64, 64)),
    )
    found = losses(proposals(images), batch(*images, task=task))
    assert all(value.item() < 1e-3 for value in found.values()), found


def test_the_annotation_kind_decides_the_terms() -> None:
    masks, boxes, nothing = (
        targets((4, 8, 32, 40)),
        targets((4, 8, 32, 40), masked=False),
        targets(),
    )
    made = proposals((masks,))
    assert set(losses(made, batch(masks))) == {"class", "focal", "dice"}
    assert set(losses(made, batch(boxes, task="instance"))) == {"class", "projection"}
    assert set(losses(made, batch(boxes, task="instance"), LossConfig())) == {
        "class",
        "projection",
        "pairwise",
    }
    assert set(losses(made, batch(nothing))) == {"class"}


def test_parts_of_one_stuff_region_are_one_proposal_after_merge() -> None:
    whole = targets((0, 0, 64, 32), labels=(2,))
    made = proposals((whole,))
    halves = made.mask_logits.clone()
    halves[0, 0, :, 8:] = -30.0
    halves[0, 1] = made.mask_logits[0, 0]
    halves[0, 1, :, :8] = -30.0
    classes = made.class_logits.clone()
    classes[0, 1] = classes[0, 0]
    split = losses(Proposals(classes, halves), batch(whole))
    assert all(value.item() < 1e-3 for value in split.values()), split
    as_thing = losses(Proposals(classes, halves), batch(whole), is_thing=~IS_THING)
    assert as_thing["dice"] > 0.5, "unmerged, half of the region is missing"


def test_void_cells_do_not_matter() -> None:
    clean = targets((0, 0, 32, 32))
    dirty = replace(clean, void=clean.void.clone())
    dirty.void[48:] = True
    made = proposals((clean,))
    spoilt = made.mask_logits.clone()
    spoilt[..., 12:, :] = 30.0
    assert losses(Proposals(made.class_logits, spoilt), batch(dirty))["dice"] < 1e-3
    assert losses(Proposals(made.class_logits, spoilt), batch(clean))["dice"] > 0.5


def test_a_class_that_was_not_looked_for_is_no_negative() -> None:
    target = targets((4, 8, 32, 40), labels=(0,))
    made = proposals((target,))
    sure = made.class_logits.clone()
    sure[0, 1, 1], sure[0, 1, -1] = 30.0, 0.0  # a proposal that claims class 1
    partly = replace(target, annotated=torch.tensor([True, False, True]))
    punished = losses(Proposals(sure, made.mask_logits), batch(target))["class"]
    assert punished > 1.0
    assert losses(Proposals(sure, made.mask_logits), batch(partly))["class"] < punished / 100
    logits = sure.clone().requires_grad_()
    losses(Proposals(logits, made.mask_logits), batch(partly))["class"].backward()
    assert logits.grad is not None and (logits.grad[..., 1] == 0).all()


def test_a_pair_costs_its_losses_by_what_is_known_of_the_target() -> None:
    boxes = (4, 8, 32, 40), (36, 0, 64, 20), (0, 32, 30, 64)
    image = replace(targets(*boxes, labels=(1, 0, 2)), has_mask=torch.tensor([True, False, True]))
    generator = torch.Generator().manual_seed(0)
    made = Proposals(
        torch.randn(1, 5, 4, generator=generator), torch.randn(1, 5, 16, 16, generator=generator)
    )
    cells = PooledTargets.of(image)
    candidates = prepare_matching(
        one_layer(made), batch(image, task="instance"), [cells], IS_THING, CONFIG, generator
    )
    found = candidates.costs.values.reshape(5, 3)
    for row, (classes, mask) in enumerate(
        zip(made.class_logits[0], made.mask_logits[0], strict=True)
    ):
        for column, label in enumerate((1, 0, 2)):
            flat = mask.flatten()[None], cells.masks[column].flatten()[None], torch.ones(1, 256)
            expected = -2.0 * classes.softmax(0)[label]
            if column == 1:
                expected += 5.0 * projection_loss(mask[None], cells.boxes[column][None])[0]
            else:
                expected += 20.0 * focal_loss(*flat)[0] + 5.0 * dice_loss(*flat)[0]
            assert found[row, column].item() == pytest.approx(expected.item(), rel=1e-4)


def test_class_loss_is_the_weighted_cross_entropy_of_all_proposals() -> None:
    image = targets((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0))
    perfect = proposals((image,), extra=3)
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    found = losses(Proposals(logits, perfect.mask_logits), batch(image, task="instance"))["class"]
    wanted, weight = [1, 0, 3, 3, 3], [1.0, 1.0, 0.1, 0.1, 0.1]  # masks decide the matching
    terms = [
        -w * logits[0, row].log_softmax(0)[label]
        for row, (label, w) in enumerate(zip(wanted, weight, strict=True))
    ]
    torch.testing.assert_close(found, 2.0 * torch.stack(terms).sum() / sum(weight))


def test_masks_of_box_only_targets_are_never_read() -> None:
    honest = targets((4, 8, 32, 40), masked=False)
    noise = replace(honest, masks=torch.rand(honest.masks.shape) > 0.5)
    made = proposals((targets((0, 4, 40, 44)),))
    first, second = (losses(made, batch(t, task="instance"), LossConfig()) for t in (honest, noise))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_cells_hold_the_share_of_their_labeled_pixels() -> None:
    target = targets((2, 0, 10, 4))
    target.void[0:4, 8:10] = True
    cells = PooledTargets.of(replace(target, masks=target.masks & ~target.void))
    assert cells.masks[0, 0, :3].tolist() == [0.5, 1.0, 0.0]
    assert cells.weight[0, :4].tolist() == [1.0, 1.0, 0.5, 1.0]
    assert cells.boxes[0, 0, :4].tolist() == [0.5, 1.0, 0.5, 0.0]


def test_box_cover_is_the_area_of_the_box() -> None:
    boxes = torch.tensor([[3.3, 1.5, 20.75, 17.0], [0.0, 0.0, 64.0, 64.0], [70.0, 0.0, 80.0, 5.0]])
    cover = box_cover(boxes, (16, 16), 4).sum((1, 2)) * 16
    torch.testing.assert_close(cover, torch.tensor([(20.75 - 3.3) * 15.5, 4096.0, 0.0]))


def test_conditioned_losses_vanish_at_the_truth_and_ignore_what_lies_outside_the_box() -> None:
    given = batch(targets((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1)))
    config = LossConfig(box_noise=0.0, label_dropout=0.0)
    asked = sample_box_prompts(given, config, torch.Generator().manual_seed(0))
    assert asked is not None
    assert torch.equal(asked.boxes[0], given.targets[0].boxes)
    cells = [PooledTargets.of(target) for target in given.targets]
    truth = proposals(given.targets, extra=0)
    far = truth.mask_logits.clone()
    far[0, 0, 14:, 14:] = 30.0
    for masks in (truth.mask_logits, far):
        found = conditioned_losses(
            one_layer(Proposals(truth.class_logits, masks)),
            asked,
            given,
            cells,
            config,
            count_given(asked, masks.device),
        )
        assert set(found) == {"conditioned_mask", "conditioned_dice"}
        assert all(value.item() < 1e-3 for value in found.values())


def test_withheld_labels_are_asked_for() -> None:
    given = batch(targets((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1)))
    asked = sample_box_prompts(
        given, LossConfig(label_dropout=1.0), torch.Generator().manual_seed(0)
    )
    assert asked is not None
    assert asked.labels[0].tolist() == [-1, -1]
    cells = [PooledTargets.of(target) for target in given.targets]
    truth = proposals(given.targets, extra=0)
    assert (
        conditioned_losses(one_layer(truth), asked, given, cells, CONFIG, torch.full((2,), 2.0))[
            "conditioned_class"
        ]
        < 1e-3
    )


def test_boxes_without_masks_teach_conditioned_queries_their_extent() -> None:
    given = batch(targets((8, 8, 40, 40), masked=False), task="instance")
    config = LossConfig(box_noise=0.0, label_dropout=0.0)
    asked = sample_box_prompts(given, config, torch.Generator().manual_seed(0))
    assert asked is not None
    cells = [PooledTargets.of(target) for target in given.targets]

    def found(x0: int, y0: int, x1: int, y1: int) -> dict[str, torch.Tensor]:
        masks = torch.full((1, 1, 16, 16), -30.0)
        masks[0, 0, y0:y1, x0:x1] = 30.0
        made = Proposals(torch.zeros(1, 1, 4), masks)
        return conditioned_losses(one_layer(made), asked, given, cells, config, torch.ones(2))

    full, far, half = found(2, 2, 10, 10), found(2, 2, 16, 10), found(2, 2, 6, 10)
    assert set(full) == {"conditioned_projection", "conditioned_pairwise"}
    assert full["conditioned_projection"] < 1e-3
    assert half["conditioned_projection"].item() == pytest.approx(1 - 2 * 4 / (4 + 8), abs=1e-4)
    beyond = found(2, 2, 11, 10)["conditioned_projection"]
    assert far["conditioned_projection"] == beyond, (
        "what lies outside the region is cut off, so it costs nothing"
    )


def test_connected_parts_are_given_and_never_matched() -> None:
    union, part = (
        targets((0, 0, 20, 20), (40, 40, 60, 60)),
        targets((0, 0, 20, 20), (40, 40, 60, 60)),
    )
    whole = replace(
        union,
        labels=torch.tensor([0, 0]),
        masks=torch.stack([union.masks.any(0), union.masks[1]]),
        boxes=torch.tensor([[0.0, 0.0, 60.0, 60.0], [40.0, 40.0, 60.0, 60.0]]),
        is_part=torch.tensor([False, True]),
    )
    given = batch(whole, task="semantic")
    asked = sample_box_prompts(given, LossConfig(box_noise=0.0), torch.Generator().manual_seed(0))
    assert asked is not None
    assert asked.boxes[0].tolist() == [part.boxes[1].tolist()]
    assert asked.targets[0].tolist() == [1]


def test_no_boxes_are_given_of_unions_and_stuff() -> None:
    generator = torch.Generator()
    assert (
        sample_box_prompts(batch(targets((0, 0, 9, 9)), task="semantic"), CONFIG, generator) is None
    )
    assert sample_box_prompts(batch(targets((0, 0, 9, 9), labels=(2,))), CONFIG, generator) is None
    assert (
        sample_box_prompts(batch(targets((0, 0, 9, 9))), LossConfig(conditioned=0.0), generator)
        is None
    )


def test_boxes_that_a_crop_shows_small_are_not_asked_for() -> None:
    given = batch(targets((0, 0, 12, 12), (0, 0, 5, 14), (0, 0, 60, 9)))
    asked = sample_box_prompts(given, LossConfig(box_noise=0.0), torch.Generator())
    assert asked is not None
    assert asked.targets[0].tolist() == [1, 2], "the longer side is a fifth of the crop's, at least"


POINTS = LossConfig(points=32, merge_threshold=0.0)


@pytest.mark.parametrize("losses", [LossConfig(), LossConfig(matching=False), POINTS])
@pytest.mark.parametrize(
    "case", ["empty", "all void", "boxes", "masks beside nothing", "semantic", "partly looked for"]
)
def test_every_batch_gives_finite_gradients(case: str, losses: LossConfig) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        text_dim=16, hidden_dim=32, mask_dim=16, queries=6, rounds=1, heads=2, feedforward_dim=32
    )
    model = DataSeg(config).train()
    table = ClassEmbeddings(F.normalize(torch.randn(3, 16), dim=1), IS_THING)
    nothing, full = targets(), targets((4, 4, 30, 30), (20, 20, 60, 60), labels=(0, 2))
    void = replace(nothing, void=torch.ones_like(nothing.void))
    given = {
        "empty": batch(nothing, nothing),
        "all void": batch(void, void),
        "boxes": batch(targets((4, 4, 30, 30), masked=False), nothing, task="instance"),
        "masks beside nothing": batch(full, nothing),
        "semantic": batch(full, void, task="semantic"),
        "partly looked for": batch(
            replace(full, annotated=torch.tensor([True, False, True])), nothing
        ),
    }[case]
    found = training_forward(
        model, given, table, losses, step=0, generator=torch.Generator().manual_seed(0)
    )
    assert losses.matching or all(name.startswith("conditioned") for name in found)
    total = torch.stack(list(found.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
