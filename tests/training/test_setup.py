from pathlib import Path

import pytest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from segkit.recipes.load import load_recipe, to_toml
from segkit.training.setup import resolve_pixel_statistics


def test_images_are_normalized_as_timms_weights_were_trained(tmp_path: Path) -> None:
    found = resolve_pixel_statistics(load_recipe("dataseg-mini", ["model.backbone_weights=timm"]))
    assert (found.model.pixel_mean, found.model.pixel_std) == (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
    )
    (tmp_path / "recipe.toml").write_text(to_toml(found))
    assert load_recipe(tmp_path / "recipe.toml") == found, (
        "a run that is read again normalises in the same way"
    )


def test_the_recipes_own_statistics_and_other_weights_are_left_alone() -> None:
    own = load_recipe(
        "dataseg-mini", ["model.backbone_weights=timm", "model.pixel_mean=[0.5, 0.5, 0.5]"]
    )
    for recipe in (
        own,
        load_recipe("dataseg-mini"),
        load_recipe("dataseg-mini", ["model.backbone_weights=w.st"]),
    ):
        assert resolve_pixel_statistics(recipe) is recipe


@pytest.mark.parametrize("backbone", ["resnet50", "swin_tiny_patch4_window7_224"])
def test_images_are_normalized_as_public_mask2formers_were_trained(backbone: str) -> None:
    """Their processors have ImageNet's statistics."""
    given = [
        f"model.backbone={backbone}",
        "model.init_from=hf:facebook/mask2former-swin-tiny-coco-panoptic",
    ]
    found = resolve_pixel_statistics(load_recipe("dataseg-mini", given))
    assert (found.model.pixel_mean, found.model.pixel_std) == (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
    )
    run = load_recipe("dataseg-mini", ["model.init_from=work/run"])
    assert resolve_pixel_statistics(run) is run


def test_a_vitdet_is_normalized_as_its_vit_was() -> None:
    found = resolve_pixel_statistics(load_recipe("dataseg-vitdet-b"))
    assert (found.model.pixel_mean, found.model.pixel_std) == (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
    )
