from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.recipes.load import load_recipe, to_toml
from segkit.recipes.old_names import KEYS, SETTLED, OldNameWarning, update_weights
from segkit.recipes.schema import Recipe

OLD_RUN = Path(__file__).parents[1] / "runs" / "old_run"
"""Files of a run trained by the version before the names changed."""
EXPECTED = [
    "name=tiny",
    "model.backbone=test_efficientnet",
    "model.hidden_dim=16",
    "model.mask_dim=8",
    "model.queries=4",
    "model.rounds=1",
    "model.heads=2",
    "model.feedforward_dim=16",
    "model.pixel_decoder=deformable",
    "data.image_size=64",
    "data.batch_size=2",
    "data.color_jitter=0.0",
    "optimizer.lr=0.003",
    "optimizer.backbone_lr_factor=1.0",
    "training.steps=12",
    "training.evaluate_every=12",
    "training.checkpoint_every=4",
    "inference.image_size=64",
]


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text)
    return file


def test_the_recipe_of_an_old_run_loads_to_the_equal_object(tmp_path: Path) -> None:
    with pytest.warns(OldNameWarning) as caught:
        old = load_recipe(OLD_RUN / "recipe.toml")
    assert old == load_recipe(write(tmp_path, ""), EXPECTED)
    assert len(caught) == len(KEYS)
    assert load_recipe(write(tmp_path, to_toml(old))) == old


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("optimiser.lr", "optimizer.lr", "0.5"),
        ("optimiser.schedule", "optimizer.schedule", '"cosine"'),
        ("data.colour_jitter", "data.color_jitter", "0.7"),
        ("loss.conditioned", "loss.box_prompts", "0.3"),
        ("loss.merge_sure", "loss.merge_threshold", "0.9"),
        ("training.track", "training.loggers", '["wandb"]'),
    ],
)
def test_an_old_key_sets_the_new_one_and_warns(
    tmp_path: Path, old: str, new: str, value: str
) -> None:
    section, _, key = old.partition(".")
    file = write(tmp_path, f"[{section}]\n{key} = {value}\n")
    expected = load_recipe(write(tmp_path / "..", ""), ["name=mine", f"{new}={value}"])
    assert expected != Recipe(name="mine")
    with pytest.warns(OldNameWarning, match=rf"{file}: {old.split('.')[0]}.* is now called"):
        assert load_recipe(file) == expected
    with pytest.warns(OldNameWarning, match=f"--set: {old} is now called {new}"):
        assert load_recipe("dataseg-mini", [f"{old}={value}"]) == load_recipe(
            "dataseg-mini", [f"{new}={value}"]
        )


def test_an_old_key_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "[optimiser]\nlr = 0.1\n[optimizer]\nlr = 0.2\n")
    with pytest.raises(InputError, match="'optimiser' is the old name of 'optimizer'"):
        load_recipe(file)


def test_an_unknown_key_in_an_old_section_names_the_nearest_valid_one() -> None:
    with (
        pytest.warns(OldNameWarning),
        pytest.raises(InputError, match=r"the nearest valid key is 'optimizer.lr'"),
    ):
        load_recipe("dataseg-mini", ["optimiser.lrr=1"])


@pytest.mark.parametrize("key", SETTLED)
def test_a_settled_key_loads_at_the_value_that_is_built_in(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    file = write(tmp_path, f'[{section}]\n{name} = "{SETTLED[key]}"\n')
    assert load_recipe(file) == Recipe(name="mine")
    file = write(tmp_path, f'[{section}]\n{name} = "noisy-or"\n')
    message = rf"{file}: {key}: 'noisy-or' is no longer supported; remove the key: .* is built in"
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"--set: '{key}' is no longer a key"):
        load_recipe("dataseg-mini", [f"{key}={SETTLED[key]}"])


def test_old_weight_names_become_new_ones_and_new_ones_stay() -> None:
    names = {
        "query_decoder.layers.0.cross_norm.bias": "transformer_decoder.layers.0.cross_norm.bias",
        "query_decoder.level_embedding.weight": "transformer_decoder.level_embed.weight",
        "pixel_decoder.level_embedding.weight": "pixel_decoder.level_embed.weight",
        "pixel_decoder.projections.0.0.bias": "pixel_decoder.projections.0.0.bias",
        "classifier.background": "text_classifier.background",
        "conditioner.no_label": "box_prompt_encoder.no_label",
        "query_content.weight": "query_content.weight",
    }
    assert list(update_weights(names)) == list(names.values())
    assert list(update_weights({new: new for new in names.values()})) == list(names.values())
