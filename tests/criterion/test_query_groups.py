from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from segkit.criterion.denoising import denoising_losses, sample_denoising
from segkit.criterion.losses import focal_terms
from segkit.criterion.pooled_targets import PooledTargets
from segkit.criterion.query_groups import (
    Foreground,
    allowed_pairs,
    box_cost,
    box_losses,
    generalized_iou_loss,
    runs_learned_queries,
)
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch, Targets
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.recipes.schema import LossConfig
from segkit.shards.manifest import Task
from tests.criterion.scenes import CELLS, IS_THING, MODEL, SIZE, make_batch, rectangles

CONFIG = LossConfig(pairwise=0.0)
TEXT = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)


def proposals(batch: Batch, learned: int, foreground: int, classes: int, seed: int) -> Proposals:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(batch), 2, learned + foreground)
    boxes = torch.rand(len(batch), 2, foreground, 4, generator=generator) * 0.5 + 0.1
    return Proposals(
        3 * torch.randn(*shape, classes + 1, generator=generator),
        torch.randn(*shape, CELLS, CELLS, generator=generator),
        boxes,
    )


def matched_pairs(
    outputs: Proposals, batch: Batch, is_thing: Tensor
) -> list[tuple[int, int, int, int]]:
    """Image, layer, query, target of all matches."""
    criterion = SetCriterion(CONFIG, {batch.dataset: is_thing})
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    matching = criterion._start_matching(outputs, batch, targets)
    indices = criterion.matcher.finish(matching.costs)
    fields = (indices.image, indices.layer, indices.query, indices.target)
    return list(zip(*(field.tolist() for field in fields), strict=True))


@settings(max_examples=40)
@given(
    flags=st.lists(st.booleans(), min_size=1, max_size=5),
    labels=st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=2),
    groups=st.tuples(st.integers(0, 4), st.integers(1, 4)),
    task=st.sampled_from(["panoptic", "semantic", "instance"]),
    seed=st.integers(0, 2**31),
)
def test_forbidden_pairs_never_match(
    flags: list[bool],
    labels: list[list[int]],
    groups: tuple[int, int],
    task: Task,
    seed: int,
) -> None:
    is_thing = torch.tensor(flags)
    images = []
    for row in labels:
        known = [label % len(flags) for label in row]
        boxes = [(4 * i, 4, 4 * i + 20, 40) for i in range(len(known))]
        image = rectangles(*boxes, labels=(0,) * len(known)) if known else rectangles()
        label = torch.tensor(known, dtype=torch.int64)
        images.append(replace(image, labels=label, is_thing=is_thing[label]))
    batch = make_batch(*images, task=task)
    learned, foreground = groups
    outputs = proposals(batch, learned, foreground, len(flags), seed)
    pairs = matched_pairs(outputs, batch, is_thing)
    for image, _, query, target in pairs:
        assert (query >= learned) == flags[int(images[image].labels[target])]
    if task == "instance":  # nothing merges: each group serves as many targets as it has queries
        for image, target in enumerate(images):
            things = int(target.is_thing.sum())
            expected = min(things, foreground) + min(len(target) - things, learned)
            assert sum(pair[0] == image and pair[1] == 0 for pair in pairs) == expected


def test_allowed_pairs_are_of_equal_kind() -> None:
    allowed = allowed_pairs(3, 1, torch.tensor([True, False]))
    assert allowed.tolist() == [[False, True], [False, True], [True, False]]


def test_learned_queries_do_not_run_where_no_stuff_is_annotated() -> None:
    runs = {task: runs_learned_queries(task) for task in ("panoptic", "semantic", "instance")}
    assert runs == {"panoptic": True, "semantic": True, "instance": False}


STUFF = rectangles((0, 0, 64, 32), labels=(2,))
THINGS = rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0))


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("image", [STUFF, THINGS, rectangles()])
def test_images_of_one_kind_and_empty_images_train(image: Targets, task: Task) -> None:
    torch.manual_seed(0)
    model, batch = DataSeg(MODEL).train(), make_batch(image, image, task=task)
    outputs = model(batch.images, TEXT, things=torch.tensor([0, 1]))
    losses = SetCriterion(CONFIG, {"set": IS_THING})(outputs, batch, None, step=0)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    boxes = losses["box_l1"].detach() if "box_l1" in losses else None
    assert (boxes is None) == (task == "semantic")
    assert boxes is None or (float(boxes) > 0) == (image is THINGS)


def test_stuff_alone_does_not_train_boxes_and_things_do() -> None:
    torch.manual_seed(0)
    model = DataSeg(MODEL).train()
    for image, trained in ((STUFF, False), (THINGS, True)):
        model.zero_grad(set_to_none=True)
        batch = make_batch(image)
        outputs = model(batch.images, TEXT, things=torch.tensor([0, 1]))
        losses = SetCriterion(CONFIG, {"set": IS_THING})(outputs, batch, None, step=0)
        torch.stack(list(losses.values())).sum().backward()
        gradient = model.foreground_head.cell_head[-1].weight.grad
        assert (gradient is not None and bool(gradient.any())) == trained


def test_merge_stays_within_a_group() -> None:
    """A learned query that claims a thing does not take the foreground query's mask along."""
    batch = make_batch(rectangles((4, 8, 32, 40), labels=(0,)), task="semantic")
    classes = torch.full((1, 1, 3, 4), -30.0)
    classes[..., -1] = 0.0
    classes[0, 0, 0, 0] = classes[0, 0, 2, 0] = 30.0  # a learned and the foreground query
    masks = torch.full((1, 1, 3, CELLS, CELLS), -30.0)
    masks[0, 0, 2, 2:10, 1:8] = 30.0
    outputs = Proposals(classes, masks, torch.full((1, 1, 1, 4), 0.3))
    assert matched_pairs(outputs, batch, IS_THING) == [(0, 0, 2, 0)]
    criterion = SetCriterion(CONFIG, {"set": IS_THING})
    assert float(criterion(Outputs(outputs, None), batch, None, step=0)["dice"]) < 1e-3


# --- boxes ---


@given(st.integers(0, 2**31))
def test_box_losses_and_costs_are_those_of_torchvision(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, targets = (torch.rand(6, 4, generator=generator) * 0.9 + 0.05 for _ in range(2))
    corners = [box_convert(x, "cxcywh", "xyxy") for x in (boxes, targets)]
    giou = generalized_box_iou(*corners)
    losses = box_losses(boxes, targets, CONFIG, torch.tensor(2.0))
    torch.testing.assert_close(losses["box_l1"], 5 * (boxes - targets).abs().sum() / 2)
    torch.testing.assert_close(losses["box_giou"], 2 * (1 - giou.diagonal()).sum() / 2)
    distance = (boxes[:, None] - targets[None]).abs().sum(-1)
    cost = box_cost(boxes.view(2, 3, 4), targets, CONFIG)
    torch.testing.assert_close(cost.flatten(0, 1), 5 * distance + 2 * (1 - giou))


def test_boxes_of_pairs_cost_and_lose_what_torchvision_says() -> None:
    """Random pairs of two images and three layers, one by one; learned queries have no box."""
    images = (
        rectangles(
            (4, 8, 32, 40), (9, 9, 40, 60), (0, 0, 64, 9), (36, 0, 64, 20), labels=(1, 0, 2, 0)
        ),
        rectangles((20, 10, 40, 50), (1, 2, 30, 64), labels=(0, 2)),
    )
    rows = [torch.tensor([0, 2, 3]), torch.tensor([0, 1])]  # the second row is a part, for example
    learned, foreground, layers, things = 3, 4, 3, 3
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, layers, foreground, 4, generator=generator) * 0.5 + 0.1
    group = Foreground.from_batch(boxes, make_batch(*images), rows, IS_THING)
    terms = [
        [
            [pair_terms(boxes[i, :, query], images[i].boxes[row]) for row in rows[i]]
            for query in range(foreground)
        ]
        for i in range(2)
    ]  # of image, query, target: two terms of (L,) each

    chosen = torch.rand(2, layers, learned + foreground, 3, generator=generator) < 0.3
    chosen[1, :, :, 2] = False  # the second image has two targets
    image, layer, query, target = pairs = torch.nonzero(chosen).T
    pairs = torch.stack((image, layer, query, target + 3 * image))
    losses = group.losses(pairs, learned + foreground, CONFIG)
    of_pairs = [
        (terms[i][q - learned][t][0][n], terms[i][q - learned][t][1][n])
        for i, n, q, t in zip(*(x.tolist() for x in (image, layer, query, target)), strict=True)
        if q >= learned
    ]
    assert 20 < len(of_pairs) < len(image)
    for name, values in zip(("box_l1", "box_giou"), zip(*of_pairs, strict=True), strict=True):
        expected = torch.stack(values).sum() / (layers * things)
        torch.testing.assert_close(losses[name], expected, rtol=1e-4, atol=0)

    zeros = [torch.zeros(layers, learned + foreground, len(kept)) for kept in rows]
    for i, cost in enumerate(group.add_costs(zeros, CONFIG, -1.0)):
        is_thing = IS_THING[images[i].labels[rows[i]]]
        assert (cost[:, :learned, is_thing] == -1).all()
        assert (cost[:, learned:, ~is_thing] == -1).all() and not cost[:, :learned, ~is_thing].any()
        for t in torch.nonzero(is_thing)[:, 0].tolist():
            expected = torch.stack([sum(terms[i][q][t]) for q in range(foreground)], dim=1)
            torch.testing.assert_close(cost[:, learned:, t], expected)


def pair_terms(boxes: Tensor, true_corners: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted L1 and GIoU losses of boxes (L, 4) with the box of one target in pixels."""
    true_box = box_convert(true_corners / SIZE, "xyxy", "cxcywh")
    corners = box_convert(boxes, "cxcywh", "xyxy")
    giou = generalized_box_iou_loss(corners, (true_corners / SIZE).expand_as(corners))
    return 5 * (boxes - true_box).abs().sum(-1), 2 * giou


def test_perfect_boxes_cost_nothing_however_small() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1 / 1024, 1 / 1024], [0.2, 0.3, 0.1, 0.2]])
    losses = box_losses(boxes, boxes, CONFIG, torch.tensor(1.0))
    assert all(float(loss) < 1e-4 for loss in losses.values())


def test_equal_proposals_are_matched_by_their_boxes() -> None:
    batch = make_batch(THINGS)
    outputs = proposals(batch, 2, 3, 3, seed=0)
    corners = torch.tensor([[36.0, 0.0, 64.0, 20.0], [0.0, 0.0, 9.0, 9.0], [4.0, 8.0, 32.0, 40.0]])
    boxes = box_convert(corners / SIZE, "xyxy", "cxcywh").expand(1, 2, -1, -1)
    equal = Proposals(
        torch.zeros_like(outputs.class_logits), torch.zeros_like(outputs.mask_logits), boxes
    )
    pairs = {(query, target) for _, _, query, target in matched_pairs(equal, batch, IS_THING)}
    assert pairs == {(2, 1), (4, 0)}


# --- background queries on sets of boxes ---


def test_boxes_give_learned_queries_no_gradient() -> None:
    torch.manual_seed(0)
    model = DataSeg(MODEL).train()
    batch = make_batch(rectangles((4, 8, 32, 40), (36, 0, 64, 20), masked=False), task="instance")
    outputs = model(
        batch.images,
        TEXT,
        things=torch.tensor([0, 1]),
        learned_queries=runs_learned_queries(batch.task),
    )
    assert outputs.queries.class_logits.shape[2] == MODEL.foreground
    losses = SetCriterion(CONFIG, {"set": IS_THING})(outputs, batch, None, step=0)
    torch.stack(list(losses.values())).sum().backward()
    for weight in (model.query_content.weight, model.query_position.weight):
        assert weight.grad is None or not bool(weight.grad.any())
    assert model.foreground_head.cell_head[-1].weight.grad.any()
    assert set(losses) == {"class", "projection", "box_l1", "box_giou"}


# --- sigmoid classes ---


def test_sigmoid_class_loss_is_the_focal_loss_of_each_class() -> None:
    image = rectangles((4, 8, 32, 40), labels=(1,))
    partly = replace(image, annotated=torch.tensor([True, True, False]))
    logits = torch.randn(1, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.full((1, 1, 2, CELLS, CELLS), -30.0)
    masks[0, 0, 0, 2:10, 1:8] = 30.0  # the first proposal is the target's mask
    config = LossConfig(classes="sigmoid", focal=1000.0)
    for target, classes in ((image, 3), (partly, 2)):
        criterion = SetCriterion(config, {"set": IS_THING})
        batch = make_batch(target)
        loss = criterion(Outputs(Proposals(logits, masks), None), batch, None, step=0)["class"]
        positive, negative = focal_terms(logits[0, 0, :, :3] - logits[0, 0, :, 3:])
        expected = negative.clone()
        expected[0, 1] = positive[0, 1]
        torch.testing.assert_close(loss, 2.0 * expected[:, :classes].sum())


# --- denoising ---


def test_denoising_takes_things_with_noise_within_bounds() -> None:
    config = LossConfig(denoising=1.0)
    image = rectangles((20, 10, 40, 50), (0, 0, 64, 64), labels=(0, 2))
    noised = sample_denoising(make_batch(image), config, torch.Generator().manual_seed(0))
    assert noised is not None and noised.targets[0].tolist() == [0]
    shift = (noised.boxes[0][0] - image.boxes[0]).abs()
    assert (shift <= 0.4 * torch.tensor([20.0, 40.0, 20.0, 40.0])).all() and shift.min() > 0
    assert noised.labels[0].tolist() == [-1]
    assert sample_denoising(make_batch(image, task="semantic"), config, torch.Generator()) is None
    assert sample_denoising(make_batch(STUFF), config, torch.Generator()) is None
    assert sample_denoising(make_batch(image), CONFIG, torch.Generator()) is None


@pytest.mark.parametrize("classes", ["softmax", "sigmoid"])
def test_denoised_boxes_and_masks_cost_nothing(classes: str) -> None:
    config = LossConfig.model_validate({"denoising": 1.0, "classes": classes})
    images = rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0)), rectangles()
    batch = make_batch(*images)
    noised = sample_denoising(batch, config, torch.Generator().manual_seed(0))
    assert noised is not None
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    logits = torch.full((2, 1, 2, 4), -30.0)
    logits[..., -1] = 0.0
    logits[0, 0, 0, 1] = logits[0, 0, 1, 0] = 30.0
    masks = torch.zeros(2, 1, 2, CELLS, CELLS)
    masks[0, 0] = targets[0].masks * 60 - 30
    boxes = torch.zeros(2, 1, 2, 4)
    boxes[0, 0] = box_convert(images[0].boxes / SIZE, "xyxy", "cxcywh")
    losses = denoising_losses(Proposals(logits, masks, boxes), noised, batch, targets, config)
    assert set(losses) == {
        f"denoising_{name}" for name in ("class", "box_l1", "box_giou", "focal", "dice")
    }
    assert all(float(loss) < 1e-3 for loss in losses.values()), losses
    wrong = Proposals(-logits, -masks, boxes.flip(2))
    worse = denoising_losses(wrong, noised, batch, targets, config)
    assert all(float(worse[name]) > 0.1 for name in worse), worse


def test_denoising_losses_are_means_over_layers_and_things() -> None:
    config = LossConfig(denoising=0.5)
    images = (
        rectangles((4, 8, 32, 40), (0, 0, 64, 64), (36, 0, 64, 20), labels=(1, 2, 0)),
        rectangles((20, 10, 40, 50)),
    )
    batch = make_batch(*images)
    noised = sample_denoising(batch, config, torch.Generator().manual_seed(0))
    assert noised is not None and [len(rows) for rows in noised.targets] == [2, 1]
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    outputs = proposals(batch, 0, 2, 3, seed=0)  # two layers

    def losses(layers: slice) -> dict[str, Tensor]:
        some = Proposals(*(field[:, layers] for field in outputs))
        return denoising_losses(some, noised, batch, targets, config)

    both, first, second = (losses(layers) for layers in (slice(2), slice(1), slice(1, 2)))
    for name in both:
        torch.testing.assert_close(both[name], (first[name] + second[name]) / 2)
    sums = torch.zeros(3)
    for i, rows in enumerate(noised.targets):
        for query, row in enumerate(rows.tolist()):
            l1, giou = pair_terms(outputs.boxes[i, :, query], images[i].boxes[row])
            logits = outputs.class_logits[i, :, query]
            name = 2 * F.cross_entropy(logits, images[i].labels[row].expand(2), reduction="sum")
            sums += torch.stack((name, l1.sum(), giou.sum()))
    for name, total in zip(("class", "box_l1", "box_giou"), sums, strict=True):
        expected = 0.5 * total / (2 * 3)  # two layers of three things
        torch.testing.assert_close(both[f"denoising_{name}"], expected, rtol=1e-4, atol=0)


def test_generalized_iou_loss_is_torchvisions_bit_by_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 200, 2, 2, generator=generator).sort(2).values.flatten(2) * 1000
    pairs = [corners.clone().requires_grad_() for _ in range(2)]
    losses = [
        function(*boxes.unbind())
        for function, boxes in zip(
            (generalized_iou_loss, generalized_box_iou_loss), pairs, strict=True
        )
    ]
    assert torch.equal(*losses)
    assert (losses[0] > 1).any(), "some boxes are apart"
    for loss in losses:
        loss.sum().backward()
    torch.testing.assert_close(pairs[0].grad, pairs[1].grad, rtol=1e-6, atol=1e-9)
