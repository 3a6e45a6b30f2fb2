from dataclasses import replace
from pathlib import Path

import pytest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from segkit.data.check_sets import NamedDataset
from segkit.errors import InputError
from segkit.recipes.load import load_recipe, to_toml
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.taxonomy import Category, Taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.training.preflight import (
    check_eval_sets,
    check_inputs,
    encode_names,
    name_sets,
)
from segkit.training.run_plan import plan_training
from segkit.training.setup import open_datasets, resolve_pixel_statistics, weighted_sets
from segkit.training.train import train
from tests.training.toy import TAXONOMY, write_toy_set

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


def test_a_batch_of_one_pixel_is_refused_where_batch_norms_learn(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    data, small = [(str(toy_set.path), 1.0)], ["data.image_size=32", "data.batch_size=1"]
    hint = "set data.batch_size=2, or data.image_size=64, or model.freeze_norm=true"
    with pytest.raises(InputError, match=f"one crop of 32 pixels.*; {hint}"):
        train(tiny, data, tmp_path / "run", device="cpu", steps=1, overrides=small)
    with pytest.raises(InputError, match="one crop of 32 pixels"):  # --plan
        plan_training(
            load_recipe(tiny, small),
            name_sets([(str(toy_set.path), 1.0)]),
            tmp_path / "run",
            device="cpu",
        )
    assert not (tmp_path / "run").exists()
    for change in ("data.batch_size=2", "data.image_size=64", "model.freeze_norm=true"):
        train(tiny, data, tmp_path / "run", device="cpu", steps=1, overrides=[*small, change])


def test_processes_that_would_share_a_gpu_are_refused_from_python_too(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes of torchrun would share cuda:0"):
        train(tiny, [(str(toy_set.path), 1.0)], tmp_path / "run", device="cuda:0", steps=1)
    assert not (tmp_path / "run").exists()


def test_a_vitdet_is_normalized_as_its_vit_was() -> None:
    recipe = resolve_pixel_statistics(load_recipe("dataseg-vitdet-b"))
    assert pixel_statistics(recipe) == IMAGENET


def test_evaluation_sets_of_one_name_are_refused(toy_set: ShardSet) -> None:
    recipe = load_recipe("dataseg-mini")
    named = name_sets([(str(toy_set.path), 2.0)])
    (dataset,) = open_datasets(named, recipe)
    assert (dataset.name, dataset.weight) == ("toy", 2.0)
    assert dataset.embeddings.is_thing.tolist() == [False, True]
    check_eval_sets(named)
    with pytest.raises(InputError, match="two sets of --eval-data are called 'toy'"):
        check_eval_sets(named * 2)


def test_an_evaluation_set_with_a_box_without_a_mask_is_refused(
    tmp_path: Path, toy_set: ShardSet
) -> None:
    """Training would go through all of its steps, and fail in the first evaluation."""
    samples = list(toy_set.samples())
    first, *others = samples[-1].segments
    box = replace(first, mask=None, mask_from=None)
    samples[-1] = replace(samples[-1], segments=(box, *others))
    mixed = write_layer(tmp_path / "mixed", toy_set, samples, Header.from_set(toy_set, "test", {}))
    with pytest.raises(InputError, match=f"v1: image {samples[-1].id}: 1 of its"):
        check_eval_sets([NamedDataset("mixed", mixed, 1.0)])


def test_new_names_are_encoded_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = write_toy_set(tmp_path / "toy")
    names = Taxonomy("new", (Category(1, "a brand-new gadget", "stuff"), *TAXONOMY.categories[1:]))
    renamed = write_layer(
        tmp_path / "renamed",
        toy,
        toy.samples(),
        replace(Header.from_set(toy, "test", {}), taxonomy=names),
    )
    words: list[str] = []
    monkeypatch.setattr(EmbeddingStore, "add", lambda store, new: words.extend(new))
    with pytest.raises(InputError, match="a brand-new gadget"):
        recipe = load_recipe("dataseg-mini")
        inputs = check_inputs(recipe, [(str(renamed.path), 1.0)], [])
        encode_names(inputs)
        open_datasets(inputs.datasets, recipe)
    assert words == ["a brand-new gadget"]


def test_a_run_records_what_its_mask_policies_drop(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    """The file of a group is read once: the recipe holds its classes."""
    file = tmp_path / "boxes.txt"
    file.write_text("cat\n")
    overrides = [f'data.mask_policy={{"toy:@{file}" = "box"}}']
    data = [(str(toy_set.path), 1.0)]
    run = train(tiny, data, tmp_path / "run", steps=1, overrides=overrides, device="cpu")
    counts = read_run_manifest(run).arguments["mask_policy"]["toy"]
    segments = [segment for sample in toy_set.samples() for segment in sample.segments]
    cats = sum(segment.class_id == 2 for segment in segments)
    assert counts["box"] == {"classes": 1, "segments": cats, "masks": cats}
    assert counts["mask"]["masks"] == len(segments) - cats
    assert load_recipe(run / "recipe.toml").data.mask_policy == {"toy:cat": "box"}


def test_weights_are_1_unless_given_with_a_set() -> None:
    assert weighted_sets("a") == weighted_sets(Path("a")) == weighted_sets(["a"]) == [("a", 1.0)]
    assert weighted_sets(("a", 2.0)) == weighted_sets([(Path("a"), 2)]) == [("a", 2.0)]
    assert weighted_sets(("a", "b")) == [("a", 1.0), ("b", 1.0)]
    assert weighted_sets({"a": 2.0, "b": 1.0}) == [("a", 2.0), ("b", 1.0)]
    assert weighted_sets([("a", 2.0), "b"]) == [("a", 2.0), ("b", 1.0)]
