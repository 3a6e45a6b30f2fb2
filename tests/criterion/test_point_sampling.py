from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.losses import cross_entropy_loss, dice_loss, focal_loss
from segkit.criterion.point_sampling import (
    IMPORTANCE,
    MATCHING_CELLS,
    device_generator,
    logits_at,
    random_points,
    strided_samples,
    uncertain_points,
)
from segkit.data.batch import Targets
from segkit.model.dataseg import Proposals
from segkit.recipes.schema import LossConfig
from tests.criterion.scenes import (
    CELLS,
    SIZE,
    make_batch,
    perfect_proposals,
    query_losses,
    rectangles,
)

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


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
def test_all_points_give_the_dense_loss(loss: LossFunction, generator: torch.Generator) -> None:
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
    (expected,) = torch.autograd.grad(dense.sum(), logits, retain_graph=True)
    (gradient,) = torch.autograd.grad(sampled.sum(), logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loss", [focal_loss, cross_entropy_loss])
def test_uniform_points_give_the_dense_loss_in_expectation(
    loss: LossFunction, generator: torch.Generator
) -> None:
    logits = torch.randn(1, 8, 8, generator=generator) * 2
    target = (torch.rand(1, 32 * 32, generator=generator) > 0.6).float()
    full = enlarged(logits, 32, 32).flatten(1)
    dense = loss(full, target, torch.ones_like(target))
    points = random_points(1, 200_000, (32, 32), generator)
    sampled = loss(
        logits_at(logits, points, (32, 32)), target.gather(1, points), torch.ones(points.shape)
    )
    of_pixels = torch.stack(
        [loss(full[:, i : i + 1], target[:, i : i + 1], torch.ones(1, 1)) for i in range(32 * 32)]
    )
    assert (sampled - dense).abs().item() < 5 * of_pixels.std().item() / len(points[0]) ** 0.5


def test_random_points_are_uniform(generator: torch.Generator) -> None:
    counts = torch.bincount(random_points(4, 20_000, (8, 10), generator).flatten(), minlength=80)
    assert len(counts) == 80
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum().item()
    assert chi_squared < 130, "79 degrees of freedom: beyond once in 4000 draws"


def test_points_gather_where_a_map_is_uncertain(generator: torch.Generator) -> None:
    columns = torch.linspace(-12, 12, 16).expand(2, 16, 16).clone()  # uncertain in the middle
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
    assert (points[:, : int(IMPORTANCE * 400)] % 64 < 24).all(), "void pixels are chosen last"


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 24), (56, 56), (64, 96), (160, 256)])
def test_no_object_of_three_cells_is_missed_by_strided_samples(size: tuple[int, int]) -> None:
    height, width = size
    cells = torch.arange(height * width).reshape(1, height, width)
    chosen = strided_samples(cells).flatten()
    assert len(chosen.unique()) == len(chosen)
    small = height * width < 4 * MATCHING_CELLS
    assert len(chosen) == height * width // (1 if small else 4)
    assert len(chosen) >= min(MATCHING_CELLS, height * width)
    hit = torch.zeros(height * width).index_fill(0, chosen, 1.0).reshape(1, 1, height, width)
    assert torch.nn.functional.max_pool2d(hit, 3, stride=1).min() == 1
    pairs = torch.nn.functional.max_pool2d(hit, 2, stride=1)
    assert pairs.mean() > 0.86, "objects of two cells are mostly found"
    slanted = hit[..., :-1, :] + hit[..., 1:, :]  # a slanted object, two cells wide
    assert all(slanted[0, 0].diagonal(offset).any() for offset in range(8 - height, width - 8))
    flipped = slanted[0, 0].flip(-1)
    assert all(flipped.diagonal(offset).any() for offset in range(8 - height, width - 8))


def test_a_device_generator_follows_from_its_source(generator: torch.Generator) -> None:
    first, second = (
        device_generator(generator, torch.device("cpu")).initial_seed() for _ in range(2)
    )
    again = device_generator(torch.Generator().manual_seed(5), torch.device("cpu")).initial_seed()
    assert first == again != second


def losses(proposals: Proposals, *images: Targets, points: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return query_losses(proposals, make_batch(*images), LossConfig(pairwise=0.0, points=points))


def test_perfect_proposals_cost_nothing_at_points() -> None:
    images = (
        rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0)),
        rectangles((0, 0, 64, 64)),
    )
    terms = losses(perfect_proposals(images), *images, points=256)
    assert set(terms) == {"class", "focal", "dice"}
    assert terms["class"] < 1e-3, "each target matches its own proposal"
    # between the last cell inside and the first outside, the enlarged mask is uncertain, unlike the
    # target's pixels
    assert terms["dice"] < 5 * 0.2


def test_void_pixels_do_not_matter_at_points() -> None:
    clean = rectangles((0, 0, 32, 32))
    void = clean.void.clone()
    void[40:] = True
    dirty = replace(clean, void=void)
    perfect = perfect_proposals((clean,))
    masks = perfect.mask_logits.clone()
    masks[..., 11:, :] = 30.0
    spoilt = perfect._replace(mask_logits=masks)
    good, bad = (losses(p, dirty, points=512)["dice"] for p in (perfect, spoilt))
    assert bad < good + 0.2
    assert losses(spoilt, clean, points=512)["dice"] > good + 1.0


def test_points_teach_the_mask_and_follow_the_generator() -> None:
    image = rectangles((8, 8, 40, 40))
    perfect = perfect_proposals((image,), extra=0)
    logits = torch.zeros_like(perfect.mask_logits, requires_grad=True)
    first, again, different = (
        losses(perfect._replace(mask_logits=logits), image, points=2048, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first["focal"], again["focal"])
    assert not torch.equal(first["focal"], different["focal"])
    (gradient,) = torch.autograd.grad(first["dice"], logits)
    down = (gradient[0, 0, 0] < 0).numpy()
    assert down[3:9, 3:9].mean() > 0.95 and not down[12:].any() and not down[:, 12:].any()


@pytest.mark.parametrize("case", ["nothing", "all void", "only boxes"])
def test_images_without_masks_are_safe_at_points(case: str) -> None:
    box = (8, 8, 40, 40)
    image = {
        "nothing": rectangles(),
        "all void": replace(rectangles(box), void=torch.ones(SIZE, SIZE, dtype=torch.bool)),
        "only boxes": rectangles(box, masked=False),
    }[case]
    perfect = perfect_proposals((rectangles(box),))
    classes = perfect.class_logits.clone().requires_grad_()
    masks = perfect.mask_logits.clone().requires_grad_()
    terms = losses(Proposals(classes, masks), image, points=64)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert torch.isfinite(total) and (masks.grad is None or torch.isfinite(masks.grad).all())


@pytest.mark.parametrize("points", [0, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_losses_only_by_its_rounding(
    dtype: torch.dtype, points: int, generator: torch.Generator
) -> None:
    images = (
        rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0)),
        rectangles((0, 0, 64, 64), labels=(2,)),
    )
    classes = torch.randn(2, 1, 6, 4, generator=generator)
    masks = torch.randn(2, 1, 6, CELLS, CELLS, generator=generator) * 3
    with torch.autocast("cpu", dtype=dtype):
        terms = losses(Proposals(classes.to(dtype), masks.to(dtype)), *images, points=points)
    rounded = Proposals(classes.to(dtype).float(), masks.to(dtype).float())
    for name, value in losses(rounded, *images, points=points).items():
        assert terms[name].item() == pytest.approx(value.item(), rel=0.01)
