import pytest
import torch
from torch.nn import functional as F

from segkit.data.augment import full_image_crop
from segkit.errors import InputError
from segkit.inference.dense import MIN_STUFF_SHARE, dense_masks, penalize_seen_cells
from segkit.inference.postprocess import panoptic, semantic
from segkit.inference.upscale import to_image
from segkit.model.cell_classifier import cell_probability
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import InferenceConfig

CROP = full_image_crop(48, 64, size=64)
IS_THING = torch.tensor([True, False, False, False])
GENERATOR = torch.Generator().manual_seed(0)


def random_output() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    classes = 2 * torch.randn(6, 5, generator=GENERATOR)
    masks = F.interpolate(
        8 * torch.randn(1, 6, 4, 4, generator=GENERATOR), size=(16, 16), mode="bilinear"
    )[0]
    cells = (3 * torch.randn(4, 8, 8, generator=GENERATOR)).softmax(0)
    return classes, masks, cells


def label_map(masks: list) -> torch.Tensor:
    labels = torch.full((48, 64), -1)
    for mask in masks:
        inside = torch.from_numpy(mask.mask)
        assert (labels[inside] == -1).all(), "masks overlap"
        labels[inside] = mask.class_index
    return labels


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_semantic_output_is_the_best_mixture_at_each_pixel(share: float) -> None:
    classes, masks, cells = random_output()
    config = InferenceConfig(dense=share)
    result = dense_masks("semantic", classes, masks, cells, CROP, IS_THING, config)
    soft, probability = to_image(masks, CROP).sigmoid(), classes.softmax(-1)[:, :-1]
    of_queries = torch.einsum("nk,nhw->khw", probability, soft)
    of_queries = of_queries / of_queries.sum(0)
    score, winner = ((1 - share) * of_queries + share * to_image(cells, CROP)).max(0)
    assert (label_map(result) == winner).float().mean() > 0.999
    for mask in result:
        mean = score[torch.from_numpy(mask.mask)].mean()
        assert mask.score == pytest.approx(float(mean), abs=1e-4)


def test_a_small_share_of_the_cells_gives_the_queries_semantic_output() -> None:
    classes, masks, cells = random_output()
    config = InferenceConfig(dense=1e-9)
    result = dense_masks("semantic", classes, masks, cells, CROP, IS_THING, config)
    assert (label_map(result) == label_map(semantic(classes, masks, CROP))).float().mean() > 0.99


def test_panoptic_output_keeps_the_queries_things_and_takes_stuff_from_the_cells() -> None:
    classes, masks = torch.full((1, 5), -9.0), torch.full((1, 16, 16), -9.0)
    classes[0, 0], masks[0, 4:8, 4:8] = 9.0, 9.0  # one thing
    cells = torch.full((4, 8, 8), 0.01)
    cells[1], cells[2, :, 4:], cells[0, 5:] = 0.5, 0.9, 0.99  # thing cells at the bottom
    cells[3, 0, 0] = 0.6  # a piece of stuff that is too small
    config = InferenceConfig(dense=1.0, score=0.5, overlap=0.5)
    result = dense_masks("panoptic", classes, masks, cells, CROP, IS_THING, config)
    labels = label_map(result)
    things = panoptic(classes, masks, CROP, IS_THING, config)
    assert [mask.class_index for mask in things] == [0]
    assert torch.equal(labels == 0, torch.from_numpy(things[0].mask))
    assert {mask.class_index for mask in result} == {0, 1, 2}, "class 3 is too small"
    assert (labels[33:38, :26] == 1).all()
    assert (labels[:38, 38:] == 2).all()
    assert (labels[44:] == -1).all(), "cells of a thing without a query are void"
    small = [mask.region.area for mask in result if mask.class_index]
    assert min(small) >= MIN_STUFF_SHARE * 48 * 64


def test_cells_of_all_scales_vote_without_background() -> None:
    fine, coarse = torch.randn(1, 4, 4, 5), torch.randn(1, 2, 2, 5)
    resized = F.interpolate(coarse.permute(0, 3, 1, 2), size=(4, 4), mode="bilinear")
    mean = (fine.permute(0, 3, 1, 2) + resized)[:, :-1] / 2
    result = cell_probability((coarse, fine))
    torch.testing.assert_close(result, mean.softmax(1))
    fine[..., -1] += 100
    assert torch.equal(cell_probability((coarse, fine)), result)


def test_the_penalty_on_seen_classes_is_that_of_logits() -> None:
    logits, is_unseen = torch.randn(4, 3, 5), torch.tensor([True, False, False, True])
    cells = logits.softmax(0)
    expected = torch.where(is_unseen[:, None, None], logits, logits - 1.5).softmax(0)
    torch.testing.assert_close(penalize_seen_cells(cells, is_unseen, 1.5), expected)
    assert penalize_seen_cells(cells, is_unseen, 0.0) is cells
    assert penalize_seen_cells(cells, None, 1.5) is cells


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inference.dense=0.5"], "loss.dense above 0"),
        (
            ["inference.dense=0.5", "loss.dense=1", 'inference.postprocess="mask2former"'],
            "does not read inference.dense",
        ),
    ],
)
def test_a_share_that_would_do_nothing_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("dataseg-r50", overrides)
