from pathlib import Path

import pytest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from segkit.recipes.load import load_recipe, to_toml
from segkit.recipes.schema import Recipe
from segkit.training.setup import resolve_pixel_statistics

IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def pixel_statistics(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return recipe.model.pixel_mean, recipe.model.pixel_std


def test_images_are_normalized_as_timms_weights_were_trained(tmp_path: Path) -> None:
    recipe = resolve_pixel_statistics(load_recipe("dataseg-mini", ["model.backbone_weights=timm"]))
    assert pixel_statistics(recipe) == IMAGENET
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    assert load_recipe(tmp_path / "recipe.toml") == recipe, (
        "a loaded run normalizes in the same way"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.backbone_weights=timm", "model.pixel_mean=[0.5, 0.5, 0.5]"],
        [],
        ["model.backbone_weights=w.st"],
    ],
)
def test_statistics_of_the_recipe_and_of_unknown_weights_do_not_change(
    overrides: list[str],
) -> None:
    recipe = load_recipe("dataseg-mini", overrides)
    assert resolve_pixel_statistics(recipe) is recipe


@pytest.mark.parametrize("backbone", ["resnet50", "swin_tiny_patch4_window7_224"])
def test_images_are_normalized_as_public_mask2formers_were_trained(backbone: str) -> None:
    """Their processors have ImageNet's statistics."""
    overrides = [
        f"model.backbone={backbone}",
        "model.init_from=hf:facebook/mask2former-swin-tiny-coco-panoptic",
    ]
    recipe = resolve_pixel_statistics(load_recipe("dataseg-mini", overrides))
    assert pixel_statistics(recipe) == IMAGENET
    run = load_recipe("dataseg-mini", ["model.init_from=work/run"])
    assert resolve_pixel_statistics(run) is run


def test_a_vitdet_is_normalized_as_its_vit_was() -> None:
    recipe = resolve_pixel_statistics(load_recipe("dataseg-vitdet-b"))
    assert pixel_statistics(recipe) == IMAGENET
