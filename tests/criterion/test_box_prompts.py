from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torchvision.ops import sigmoid_focal_loss

from segkit import distributed
from segkit.criterion.box_prompts import MAX_BOXES, box_prompt_losses, sample_box_prompts
from segkit.criterion.denoising import sample_denoising
from segkit.criterion.pooled_targets import PooledTargets
from segkit.data.augment import CROP_FACTOR
from segkit.data.batch import Batch, PackedMasks
from segkit.inference.predict_boxes import View, crop_around
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import Proposals
from segkit.recipes.schema import LossConfig
from tests.criterion.scenes import CONFIG, make_batch, perfect_proposals, rectangles
from tests.pretend_gpu import pretend_gpu

EXACT = LossConfig(box_noise=0.0, label_dropout=0.0)


def sampled(batch: Batch, config: LossConfig) -> BoxPrompts:
    prompts = sample_box_prompts(batch, config, torch.Generator().manual_seed(0))
    assert prompts is not None
    return prompts


def losses(
    proposals: Proposals, prompts: BoxPrompts, batch: Batch, config: LossConfig
) -> dict[str, torch.Tensor]:
    targets = [PooledTargets.from_targets(target) for target in batch.targets]
    return box_prompt_losses(proposals, prompts, batch, targets, config)


def test_losses_vanish_at_the_truth_and_ignore_pixels_outside_the_box() -> None:
    batch = make_batch(rectangles((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1)))
    prompts = sampled(batch, EXACT)
    assert torch.equal(prompts.boxes[0], batch.targets[0].boxes)
    truth = perfect_proposals(batch.targets, extra=0)
    far = truth.mask_logits.clone()
    far[0, 0, 0, 14:, 14:] = 30.0
    for masks in (truth.mask_logits, far):
        terms = losses(truth._replace(mask_logits=masks), prompts, batch, EXACT)
        assert set(terms) == {"conditioned_mask", "conditioned_dice"}
        assert all(value.item() < 1e-3 for value in terms.values())


def test_an_error_on_the_outline_costs_more_and_one_elsewhere_less() -> None:
    batch = make_batch(rectangles((8, 8, 56, 56), labels=(0,)))
    prompts = sampled(batch, EXACT)
    truth = perfect_proposals(batch.targets, extra=0)

    def entropy(cell: tuple[int, int], weight: float) -> float:
        masks = truth.mask_logits.clone()
        masks[..., cell[0], cell[1]] *= -1
        config = EXACT.model_copy(update={"outline": weight})
        terms = losses(truth._replace(mask_logits=masks), prompts, batch, config)
        return terms["conditioned_mask"].item()

    edge, middle = (2, 7), (7, 7)  # cells of the mask: 2 to 13 in both directions
    assert entropy(edge, 0.0) == pytest.approx(entropy(middle, 0.0))
    assert entropy(edge, 4.0) == pytest.approx(5 * entropy(middle, 4.0)), "weights 1 + 4 and 1"
    assert entropy(middle, 4.0) < entropy(middle, 0.0), "the weights are normalized"


def test_prompts_without_a_label_are_classified() -> None:
    batch = make_batch(rectangles((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1)))
    prompts = sampled(batch, LossConfig(label_dropout=1.0))
    assert prompts.labels[0].tolist() == [-1, -1]
    terms = losses(perfect_proposals(batch.targets, extra=0), prompts, batch, CONFIG)
    assert terms["conditioned_class"] < 1e-3


def test_a_class_that_was_not_annotated_is_not_learned() -> None:
    """The second class has not been annotated: its logit gets no gradient, and is no mistake."""
    image = rectangles((8, 8, 40, 40), labels=(0,))
    partly = replace(image, annotated=torch.tensor([True, False, True]))
    for classes in ("softmax", "sigmoid"):
        config = LossConfig.model_validate({"label_dropout": 1.0, "classes": classes})
        for target, learned in ((image, True), (partly, False)):
            batch = make_batch(target)
            truth = perfect_proposals(batch.targets, extra=0)
            logits = torch.zeros_like(truth.class_logits).requires_grad_()
            terms = losses(
                truth._replace(class_logits=logits), sampled(batch, config), batch, config
            )
            terms["conditioned_class"].backward()
            assert bool((logits.grad[..., 1] != 0).any()) == learned
            assert (logits.grad[..., 0] < 0).all()


def test_sigmoid_classes_of_prompts_have_the_focal_loss() -> None:
    batch = make_batch(rectangles((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1)))
    config = LossConfig(box_noise=0.0, label_dropout=1.0, classes="sigmoid")
    truth = perfect_proposals(batch.targets, extra=0)
    logits = torch.randn(1, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    terms = losses(truth._replace(class_logits=logits), sampled(batch, config), batch, config)
    margins = logits[0, 0, :, :3] - logits[0, 0, :, 3:]
    expected = sigmoid_focal_loss(margins, torch.eye(3)[:2], alpha=0.25, gamma=2, reduction="sum")
    torch.testing.assert_close(terms["conditioned_class"], config.box_prompts * expected / 2)


def test_boxes_without_masks_teach_their_extent() -> None:
    batch = make_batch(rectangles((8, 8, 40, 40), masked=False), task="instance")
    prompts = sampled(batch, EXACT)

    def terms(x0: int, y0: int, x1: int, y1: int) -> dict[str, torch.Tensor]:
        masks = torch.full((1, 1, 1, 16, 16), -30.0)
        masks[..., y0:y1, x0:x1] = 30.0
        return losses(Proposals(torch.zeros(1, 1, 1, 4), masks), prompts, batch, EXACT)

    full, far, half = terms(2, 2, 10, 10), terms(2, 2, 16, 10), terms(2, 2, 6, 10)
    assert set(full) == {"conditioned_projection", "conditioned_pairwise"}
    assert full["conditioned_projection"] < 1e-3
    assert half["conditioned_projection"].item() == pytest.approx(1 - 2 * 4 / (4 + 8), abs=1e-4)
    beyond = terms(2, 2, 11, 10)["conditioned_projection"]
    assert far["conditioned_projection"] == beyond, (
        "pixels outside the region are cut off, so they cost nothing"
    )


def test_connected_parts_are_prompted_and_never_matched() -> None:
    union, part = (rectangles((0, 0, 20, 20), (40, 40, 60, 60)) for _ in range(2))
    region = replace(
        union,
        labels=torch.tensor([0, 0]),
        masks=PackedMasks.from_dense(
            torch.stack([union.masks.dense().any(0), union.masks.dense()[1]])
        ),
        boxes=torch.tensor([[0.0, 0.0, 60.0, 60.0], [40.0, 40.0, 60.0, 60.0]]),
        is_part=torch.tensor([False, True]),
    )
    prompts = sampled(make_batch(region, task="semantic"), LossConfig(box_noise=0.0))
    assert prompts.boxes[0].tolist() == [part.boxes[1].tolist()]
    assert prompts.targets[0].tolist() == [1]


def test_unions_and_stuff_are_not_prompted() -> None:
    generator = torch.Generator()
    union = make_batch(rectangles((0, 0, 9, 9)), task="semantic")
    assert sample_box_prompts(union, CONFIG, generator) is None
    stuff = make_batch(rectangles((0, 0, 9, 9), labels=(2,)))
    assert sample_box_prompts(stuff, CONFIG, generator) is None
    thing = make_batch(rectangles((0, 0, 9, 9)))
    assert sample_box_prompts(thing, LossConfig(box_prompts=0.0), generator) is None


def test_boxes_that_are_small_in_the_crop_are_not_prompted() -> None:
    batch = make_batch(rectangles((0, 0, 12, 12), (0, 0, 5, 14), (0, 0, 60, 9)))
    prompts = sampled(batch, LossConfig(box_noise=0.0))
    assert prompts.targets[0].tolist() == [1, 2], (
        "the longer side is a fifth of the crop's at least"
    )


def prompted_boxes(boxes: list[tuple[float, float, float, float]], crop_size: int) -> list[int]:
    """The rows of boxes x0, y0, x1, y1 in a crop of this size that train as prompts."""
    target = replace(rectangles(*[(0, 0, 9, 9)] * len(boxes)), boxes=torch.tensor(boxes))
    batch = replace(make_batch(target), images=torch.zeros(1, 3, crop_size, crop_size))
    prompts = sample_box_prompts(batch, EXACT, torch.Generator())
    return [] if prompts is None else prompts.targets[0].tolist()


@pytest.mark.parametrize("crop_size", [128, 256, 640, 1024])
@pytest.mark.parametrize("side", [8, 12, 40, 300])
def test_objects_train_as_large_as_inference_shows_them(crop_size: int, side: int) -> None:
    box = (200.0, 100.0, float(side), side / 2)
    crop = crop_around(box, 480, 640, crop_size, View(CROP_FACTOR, mirrored=False))
    assert prompted_boxes([crop.box(box)], crop_size) == [0]


@pytest.mark.parametrize(("crop_size", "least"), [(128, 25.6), (256, 51.2), (640, 64), (1024, 64)])
def test_the_least_side_of_a_prompt_is_a_fifth_of_the_crop_or_64_pixels(
    crop_size: int, least: float
) -> None:
    boxes = [(0.0, 0.0, 9.0, least + change) for change in (-0.25, 0.25)]
    assert prompted_boxes(boxes, crop_size) == [1]


def test_a_batch_without_boxes_gets_a_placeholder_where_the_model_needs_a_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = make_batch(rectangles(), rectangles())
    assert sample_box_prompts(empty, LossConfig(), torch.Generator()) is None

    def check(prompts: BoxPrompts) -> None:
        assert [len(boxes) for boxes in prompts.boxes] == [1, 0]
        assert prompts.boxes[0].tolist() == [[0.0, 0.0, 64.0, 64.0]]
        assert prompts.targets[0].tolist() == prompts.labels[0].tolist() == [-1]
        proposals = perfect_proposals(empty.targets, extra=1)
        assert losses(proposals, prompts, empty, LossConfig()) == {}

    check(sampled(empty, LossConfig(matching=False)))
    # another of two processes has boxes
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(1))
    check(sampled(empty, LossConfig()))
    # nor does its process wait for the GPU to learn this
    with pretend_gpu() as to_gpu:
        assert sample_box_prompts(
            replace(empty, images=to_gpu(empty.images)), LossConfig(), torch.default_generator
        )
    monkeypatch.setattr(dist, "all_reduce", lambda count: None)
    assert sample_box_prompts(empty, LossConfig(), torch.Generator()) is None


def test_one_prompt_of_a_crop_is_the_one_that_the_crop_shows_as_inference_does() -> None:
    small, zoomed, full = (0, 0, 16, 16), (14, 12, 54, 50), (0, 0, 64, 64)
    batch = make_batch(rectangles(small, zoomed, full, labels=(0, 1, 1)))
    every = sampled(batch, EXACT)
    assert len(every) == 3 and not every.neighbors
    prompts = sampled(batch, EXACT.model_copy(update={"max_box_prompts": 1}))
    assert prompts.targets[0].tolist() == [1] and prompts.labels[0].tolist() == [1]
    boxes = batch.targets[0].boxes
    assert torch.equal(prompts.boxes[0], boxes[1:2])
    assert torch.equal(prompts.neighbors[0], boxes[[0, 2]])
    two = sampled(batch, EXACT.model_copy(update={"max_box_prompts": 2}))
    assert len(two) == 2 and two.targets[0][0] == 1


@pytest.mark.parametrize("count", [MAX_BOXES, MAX_BOXES + 50])
def test_a_crop_with_hundreds_of_boxes_takes_bounded_memory(count: int) -> None:
    corners = [(i % 40, i // 40, i % 40 + 20, i // 40 + 20) for i in range(count)]
    target = rectangles(*corners, masked=False)
    batch = make_batch(target, rectangles((0, 0, 30, 30)), task="instance")
    quiet = CONFIG.model_copy(update={"box_noise": 0.0, "denoising": 1.0})
    prompts = sampled(batch, quiet)
    noised = sample_denoising(batch, quiet, torch.default_generator)
    assert noised is not None
    for boxes, targets in ((prompts.boxes, prompts.targets), (noised.boxes, noised.targets)):
        assert [len(part) for part in boxes] == [len(part) for part in targets] == [MAX_BOXES, 1]
    rows = prompts.targets[0]
    assert torch.equal(prompts.boxes[0], target.boxes[rows])
    if count == MAX_BOXES:
        assert torch.equal(rows, torch.arange(count)), "as without a maximum"
    else:
        distance = ((target.boxes[:, :2] + target.boxes[:, 2:]) / 2 - 32).norm(dim=1)
        left_out = torch.ones(count, dtype=torch.bool).index_fill(0, rows, False)
        assert distance[rows].max() <= distance[left_out].min()
    explicit = sampled(batch, quiet.model_copy(update={"max_box_prompts": 120}))
    assert len(explicit.targets[0]) == min(count, 120)


def trusting(trust: float | None, masked: bool = True) -> Batch:
    targets = rectangles((8, 8, 40, 40), (20, 0, 64, 28), labels=(0, 1), masked=masked)
    weights = None if trust is None else torch.tensor([trust, 1.0])
    return make_batch(replace(targets, trust=weights), task="instance")


def test_trust_divides_the_loss_between_mask_and_box() -> None:
    generator = torch.Generator().manual_seed(1)
    proposals = Proposals(
        torch.randn(1, 3, 2, 4, generator=generator),
        torch.randn(1, 3, 2, 16, 16, generator=generator),
    )

    def terms(trust: float | None) -> dict[str, float]:
        batch = trusting(trust)
        found = losses(proposals, sampled(batch, EXACT), batch, EXACT)
        return {name: value.item() for name, value in found.items()}

    full, none, part = terms(1.0), terms(0.0), terms(0.3)
    assert full == terms(None), "bit by bit"
    assert set(full) == {"conditioned_mask", "conditioned_dice"}
    assert set(none) == {*full, "conditioned_projection", "conditioned_pairwise"}
    for name, value in part.items():
        expected = 0.3 * full.get(name, 0.0) + 0.7 * none[name]
        assert value == pytest.approx(expected, rel=1e-5)
