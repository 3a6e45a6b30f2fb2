from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.losses import cross_entropy_loss, dice_loss, focal_loss
from segkit.criterion.point_sampling import (
    ENOUGH,
    IMPORTANCE,
    logits_at,
    on_device,
    random_points,
    strided_samples,
    uncertain_points,
)
from segkit.criterion.set_criterion import PooledTargets, matching_losses, prepare_matching
from segkit.data.batch import Targets
from segkit.model.dataseg import Proposals
from segkit.recipes.schema import LossConfig
from tests.criterion.test_set_criterion import IS_THING, SIZE, batch, one_layer, proposals, targets

CELLS = SIZE // 4


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def enlarged(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(
        logits[:, None], size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]


@pytest.mark.parametrize(("height", "width"), [(24, 40), (23, 37)])
def test_logits_at_points_are_those_of_the_enlarged_map(
    height: int, width: int, generator: torch.Generator
) -> None:
    logits = torch.randn(3, 6, 10, generator=generator)
    every = torch.arange(height * width).expand(3, -1)
    expected = enlarged(logits, height, width).flatten(1)
    torch.testing.assert_close(
        logits_at(logits, every, (height, width)), expected, atol=1e-5, rtol=1e-5
    )
    together = logits_at(logits[None], every[:1], (height, width))
    torch.testing.assert_close(together[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, cross_entropy_loss])
def test_all_points_give_the_dense_loss(loss, generator: torch.Generator) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    target, weight = (torch.rand(2, 32 * 32, generator=generator) > 0.4 for _ in range(2))
    shuffled = torch.stack([torch.randperm(32 * 32, generator=generator) for _ in range(2)])
    dense = loss(enlarged(logits, 32, 32).flatten(1), target.double(), weight.double())
    sampled = loss(
        logits_at(logits, shuffled, (32, 32)),
        target.gather(1, shuffled).double(),
        weight.gather(1, shuffled).double(),
    )
    torch.testing.assert_close(sampled, dense)
    (wanted,) = torch.autograd.grad(dense.sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad(sampled.sum(), logits)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("loss", [focal_loss, cross_entropy_loss])
def test_uniform_points_give_the_dense_loss_in_expectation(
    loss, generator: torch.Generator
) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(1, 8, 8, generator=generator) * 2
    target = (torch.rand(1, 32 * 32, generator=generator) > 0.6).float()
    every = enlarged(logits, 32, 32).flatten(1)
    dense = loss(every, target, torch.ones_like(target))
    points = random_points(1, 200_000, (32, 32), generator)
    sampled = loss(
        logits_at(logits, points, (32, 32)), target.gather(1, points), torch.ones(points.shape)
    )
    each = torch.stack(
        [loss(every[:, i : i + 1], target[:, i : i + 1], torch.ones(1, 1)) for i in range(32 * 32)]
    )
    assert (sampled - dense).abs().item() < 5 * each.std().item() / len(points[0]) ** 0.5


def test_random_points_are_uniform(generator: torch.Generator) -> None:
    counts = torch.bincount(random_points(4, 20_000, (8, 10), generator).flatten(), minlength=80)
    assert len(counts) == 80
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum().item()
    assert chi_squared < 130, "79 degrees of freedom: beyond once in 4000 draws"


def test_points_gather_where_a_map_is_unsure(generator: torch.Generator) -> None:
    columns = torch.linspace(-12, 12, 16).expand(2, 16, 16).clone()  # unsure in the middle columns
    labeled = torch.ones(1, 64, 64, dtype=torch.bool)
    image = torch.zeros(2, dtype=torch.int64)
    points = uncertain_points(columns, labeled, image, 400, generator)
    assert points.shape == (2, 400)
    near = ((points % 64) - 31.5).abs()
    chosen, uniform = near[:, : int(IMPORTANCE * 400)], near[:, int(IMPORTANCE * 400) :]
    # a quarter of three times 400 candidates are taken: those of the 16 middle columns
    assert chosen.max() <= 12 and chosen.mean() < 6
    assert 13 < uniform.mean() < 19
    half = labeled.clone()
    half[..., 24:] = False
    points = uncertain_points(columns, half, image, 400, generator)
    assert (points[:, : int(IMPORTANCE * 400)] % 64 < 24).all(), (
        "void is left alone where there is enough else"
    )


@pytest.mark.parametrize("side", [16, 32, 56, 64, 96, 128, 256, 320])
def test_some_cells_lie_close_together_in_rows_and_columns(side: int) -> None:
    """A region of a sixteenth of the side, anywhere, is seen: on maps of 256 cells, squares of 64
    pixels."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rows, columns = strided_samples(torch.stack((y, x))).unique(dim=1)
    for places in (rows.unique(), columns.unique()):
        assert places.diff().max() <= max(4, side // 16) and places[0] == 0
    assert min(ENOUGH, side * side) <= rows.numel() <= 1.6 * ENOUGH


def test_a_generator_on_a_device_follows_from_the_one_given(generator: torch.Generator) -> None:
    first, second = (on_device(generator, torch.device("cpu")).initial_seed() for _ in range(2))
    again = on_device(torch.Generator().manual_seed(5), torch.device("cpu")).initial_seed()
    assert first == again != second


def losses(made: Proposals, *images: Targets, points: int, seed: int = 0) -> dict[str, Tensor]:
    cells = [PooledTargets.of(target) for target in images]
    noise = torch.Generator().manual_seed(seed)
    config = LossConfig(pairwise=0.0, points=points)
    given = batch(*images)
    return matching_losses(
        prepare_matching(one_layer(made), given, cells, IS_THING, config, noise),
        given,
        cells,
        config,
        step=0,
    )


def test_perfect_proposals_cost_nothing_at_points() -> None:
    images = (targets((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0)), targets((0, 0, 64, 64)))
    made = proposals(images)
    far = Proposals(made.class_logits, made.mask_logits)
    points = losses(far, *images, points=256)
    assert set(points) == {"class", "focal", "dice"}
    assert points["class"] < 1e-3, "each target found its own proposal"
    # between the last cell inside and the first outside the enlarged mask is unsure, unlike the
    # target's pixels
    assert points["dice"] < 5 * 0.2


def test_void_pixels_do_not_matter_at_points() -> None:
    clean = targets((0, 0, 32, 32))
    void = clean.void.clone()
    void[40:] = True
    dirty = replace(clean, void=void)
    made = proposals((clean,))
    spoilt = made.mask_logits.clone()
    spoilt[..., 11:, :] = 30.0
    good, bad = (
        losses(Proposals(made.class_logits, m), dirty, points=512)
        for m in (made.mask_logits, spoilt)
    )
    assert bad["dice"] < good["dice"] + 0.2
    assert (
        losses(Proposals(made.class_logits, spoilt), clean, points=512)["dice"] > good["dice"] + 1.0
    )


def test_points_teach_the_mask_and_follow_the_generator() -> None:
    image = targets((8, 8, 40, 40))
    made = proposals((image,), extra=0)
    logits = torch.zeros_like(made.mask_logits, requires_grad=True)
    found = [
        losses(Proposals(made.class_logits, logits), image, points=2048, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0]["focal"], found[1]["focal"]) and not torch.equal(
        found[0]["focal"], found[2]["focal"]
    )
    (gradient,) = torch.autograd.grad(found[0]["dice"], logits)
    inside = np.zeros((CELLS, CELLS), bool)
    inside[2:10, 2:10] = True
    down = (gradient[0, 0] < 0).numpy()
    assert down[3:9, 3:9].mean() > 0.95 and not down[12:].any() and not down[:, 12:].any()


@pytest.mark.parametrize("case", ["nothing", "all void", "boxes alone"])
def test_images_without_masks_are_safe_at_points(case: str) -> None:
    nothing = targets()
    image = {
        "nothing": nothing,
        "all void": replace(targets((8, 8, 40, 40)), void=torch.ones(SIZE, SIZE, dtype=torch.bool)),
        "boxes alone": targets((8, 8, 40, 40), masked=False),
    }[case]
    made = proposals((targets((8, 8, 40, 40)),))
    logits = made.mask_logits.clone().requires_grad_()
    found = losses(Proposals(made.class_logits.clone().requires_grad_(), logits), image, points=64)
    total = torch.stack(list(found.values())).sum()
    total.backward()
    assert torch.isfinite(total) and (logits.grad is None or torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("points", [0, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_losses_by_its_rounding_alone(
    dtype: torch.dtype, points: int, generator: torch.Generator
) -> None:
    images = (
        targets((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0)),
        targets((0, 0, 64, 64), labels=(2,)),
    )
    classes = torch.randn(2, 6, 4, generator=generator)
    masks = torch.randn(2, 6, CELLS, CELLS, generator=generator) * 3
    with torch.autocast("cpu", dtype=dtype):
        found = losses(Proposals(classes.to(dtype), masks.to(dtype)), *images, points=points)
    rounded = Proposals(classes.to(dtype).float(), masks.to(dtype).float())
    for name, value in losses(rounded, *images, points=points).items():
        assert found[name].item() == pytest.approx(value.item(), rel=0.01)
