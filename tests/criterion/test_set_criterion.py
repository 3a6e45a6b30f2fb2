from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion import matcher, set_criterion
from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.matcher import HungarianMatcher, PendingCosts
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch, PackedMasks
from segkit.model.dataseg import DataSeg, Proposals
from segkit.recipes.schema import LossConfig, ModelConfig
from segkit.shards.manifest import Task
from tests.criterion.scenes import (
    IS_THING,
    SIZE,
    make_batch,
    perfect_proposals,
    query_losses,
    rectangles,
)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_perfect_proposals_cost_nothing(task: Task, masked: bool) -> None:
    images = (
        rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0), masked=masked),
        rectangles((0, 0, 64, 64)),
    )
    losses = query_losses(perfect_proposals(images), make_batch(*images, task=task))
    assert all(value.item() < 1e-3 for value in losses.values()), losses


def test_the_annotation_kind_decides_the_terms() -> None:
    masks = rectangles((4, 8, 32, 40))
    boxes = make_batch(rectangles((4, 8, 32, 40), masked=False), task="instance")
    proposals = perfect_proposals((masks,))
    assert set(query_losses(proposals, make_batch(masks))) == {"class", "focal", "dice"}
    assert set(query_losses(proposals, boxes)) == {"class", "projection"}
    assert set(query_losses(proposals, boxes, LossConfig())) == {"class", "projection", "pairwise"}
    assert set(query_losses(proposals, make_batch(rectangles()))) == {"class"}


def test_parts_of_one_stuff_region_are_one_proposal_after_merge() -> None:
    region = rectangles((0, 0, 64, 32), labels=(2,))
    proposals = perfect_proposals((region,))
    halves = proposals.mask_logits.clone()
    halves[0, 0, 0, :, 8:] = -30.0
    halves[0, 0, 1] = proposals.mask_logits[0, 0, 0]
    halves[0, 0, 1, :, :8] = -30.0
    classes = proposals.class_logits.clone()
    classes[0, 0, 1] = classes[0, 0, 0]
    split = Proposals(classes, halves)
    losses = query_losses(split, make_batch(region))
    assert all(value.item() < 1e-3 for value in losses.values()), losses
    as_thing = query_losses(split, make_batch(region), is_thing=~IS_THING)
    assert as_thing["dice"] > 0.5, "unmerged, half of the region is missing"


def test_void_cells_do_not_matter() -> None:
    clean = rectangles((0, 0, 32, 32))
    dirty = replace(clean, void=clean.void.clone())
    dirty.void[48:] = True
    proposals = perfect_proposals((clean,))
    masks = proposals.mask_logits.clone()
    masks[..., 12:, :] = 30.0
    spoilt = proposals._replace(mask_logits=masks)
    assert query_losses(spoilt, make_batch(dirty))["dice"] < 1e-3
    assert query_losses(spoilt, make_batch(clean))["dice"] > 0.5


def test_an_unannotated_class_is_not_a_negative() -> None:
    target = rectangles((4, 8, 32, 40), labels=(0,))
    proposals = perfect_proposals((target,))
    classes = proposals.class_logits.clone()
    classes[0, 0, 1, 1], classes[0, 0, 1, -1] = 30.0, 0.0  # a proposal that claims class 1
    partly = replace(target, annotated=torch.tensor([True, False, True]))
    confident = proposals._replace(class_logits=classes)
    punished = query_losses(confident, make_batch(target))["class"]
    assert punished > 1.0
    assert query_losses(confident, make_batch(partly))["class"] < punished / 100
    logits = classes.clone().requires_grad_()
    query_losses(proposals._replace(class_logits=logits), make_batch(partly))["class"].backward()
    assert logits.grad is not None and (logits.grad[..., 1] == 0).all()


def test_class_loss_is_the_weighted_cross_entropy_of_all_proposals() -> None:
    image = rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0))
    perfect = perfect_proposals((image,), extra=3)
    logits = torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    proposals = perfect._replace(class_logits=logits)
    loss = query_losses(proposals, make_batch(image, task="instance"))["class"]
    classes, weight = [1, 0, 3, 3, 3], [1.0, 1.0, 0.1, 0.1, 0.1]  # masks decide the matching
    terms = [
        -w * logits[0, 0, row].log_softmax(0)[label]
        for row, (label, w) in enumerate(zip(classes, weight, strict=True))
    ]
    torch.testing.assert_close(loss, 2.0 * torch.stack(terms).sum() / sum(weight))


def test_masks_of_box_only_targets_are_never_read() -> None:
    honest = rectangles((4, 8, 32, 40), masked=False)
    noise = replace(honest, masks=PackedMasks.from_dense(torch.rand(1, SIZE, SIZE) > 0.5))
    proposals = perfect_proposals((rectangles((0, 4, 40, 44)),))
    first, second = (
        query_losses(proposals, make_batch(target, task="instance"), LossConfig())
        for target in (honest, noise)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


MASKED = rectangles((4, 4, 30, 30), (20, 20, 60, 60), labels=(0, 2))
BOXED = rectangles((4, 4, 30, 30), (10, 10, 50, 40), masked=False)
PARTLY = torch.tensor([True, False, True])


def model_losses(
    model: DataSeg, batch: Batch, text: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """The losses of a training step."""
    prompts = sample_box_prompts(batch, config, torch.default_generator)
    outputs = model(batch.images, text, prompts, learned_queries=config.matching)
    criterion = SetCriterion(config, {batch.dataset: IS_THING.to(text.device)})
    losses: dict[str, Tensor] = criterion(outputs, batch, prompts, step=0)
    return losses


POINTS = LossConfig(points=32, merge_threshold=0.0)
VOID = replace(rectangles(), void=torch.ones_like(rectangles().void))
FINITE = {
    "empty": make_batch(rectangles(), rectangles()),
    "all void": make_batch(VOID, VOID),
    "boxes": make_batch(rectangles((4, 4, 30, 30), masked=False), rectangles(), task="instance"),
    "masks beside nothing": make_batch(MASKED, rectangles()),
    "semantic": make_batch(MASKED, VOID, task="semantic"),
    "partly annotated": make_batch(replace(MASKED, annotated=PARTLY), rectangles()),
}


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(matching=False), POINTS])
@pytest.mark.parametrize("batch", FINITE.values(), ids=FINITE)
def test_every_batch_gives_finite_gradients(batch: Batch, config: LossConfig) -> None:
    torch.manual_seed(0)
    shape = ModelConfig(
        text_dim=16, hidden_dim=32, mask_dim=16, queries=6, rounds=1, heads=2, feedforward_dim=32
    )
    model = DataSeg(shape).train()
    losses = model_losses(model, batch, F.normalize(torch.randn(3, 16), dim=1), config)
    assert config.matching or all(name.startswith("conditioned") for name in losses)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


ASYNCHRONOUS = {
    "masks beside nothing": make_batch(MASKED, rectangles()),
    "boxes": make_batch(BOXED, rectangles(), task="instance"),
    "both": make_batch(MASKED, BOXED),
    "parts": make_batch(replace(MASKED, is_part=torch.tensor([False, True])), task="semantic"),
    "partly annotated": make_batch(replace(MASKED, annotated=PARTLY), BOXED),
    "padding": make_batch(replace(MASKED, padding=torch.zeros(64, 64, dtype=torch.bool))),
}


class MatchingReached(Exception):  # noqa: N818
    """Costs have been sent, and nothing has waited for them yet."""


@pytest.mark.parametrize("points", [0, 32])
@pytest.mark.parametrize("batch", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
@pytest.mark.parametrize("pixel_decoder", ["fpn", "deformable"])
def test_nothing_waits_for_the_device_before_the_matching(
    batch: Batch,
    points: int,
    pixel_decoder: Literal["fpn", "deformable"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The meta device holds no values: code that runs on it cannot wait for a device."""
    config = ModelConfig(
        text_dim=16,
        hidden_dim=32,
        mask_dim=16,
        queries=6,
        rounds=1,
        heads=2,
        encoder_layers=1,
        pixel_decoder=pixel_decoder,
    )
    model = DataSeg(config).train().to("meta")
    text = F.normalize(torch.randn(3, 16), dim=1).to("meta")

    def reached(costs: PendingCosts) -> None:
        assert costs.values.is_meta
        raise MatchingReached

    def random_points(maps: int, count: int, size: tuple[int, int], _: torch.Generator) -> Tensor:
        return torch.empty(maps, count, dtype=torch.int64, device="meta")

    # the meta device has neither autocast nor generators
    monkeypatch.setattr(torch, "autocast", lambda device, **_: nullcontext())
    monkeypatch.setattr(set_criterion, "device_generator", lambda generator, device: generator)
    monkeypatch.setattr(matcher, "random_points", random_points)
    monkeypatch.setattr(HungarianMatcher, "finish", staticmethod(reached))
    torch.manual_seed(0)
    with pytest.raises(MatchingReached):
        model_losses(model, batch.to("meta"), text, LossConfig(points=points))


def test_trust_divides_the_losses_of_matched_queries() -> None:
    exact = rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0))
    proposals = perfect_proposals((exact,))
    proposals = proposals._replace(mask_logits=0.05 * proposals.mask_logits)

    def terms(trust: float | None) -> dict[str, float]:
        weights = None if trust is None else torch.tensor([trust, 1.0])
        batch = make_batch(replace(exact, trust=weights), task="instance")
        return {name: value.item() for name, value in query_losses(proposals, batch).items()}

    full, none, part = terms(1.0), terms(0.0), terms(0.3)
    assert full == terms(None), "bit by bit"
    assert set(none) - set(full) == {"projection"}
    for name, value in part.items():
        expected = 0.3 * full.get(name, 0.0) + 0.7 * none[name]
        assert value == pytest.approx(expected, rel=1e-5)
