"""Runs of schema version 1, trained before names changed, load and predict as before."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkit.errors import InputError
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.recipes.load import load_recipe
from segkit.recipes.old_names import WEIGHTS, OldNameWarning
from segkit.runs.init_from import init_from
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.runs.run_manifest import MANIFEST, RECIPE, read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.training.train import train
from tests.shards.manifests import change_manifest

from .seal import seal

FILES = Path(__file__).parent / "old_run"
"""Manifest, recipe and weight names of a run that the earlier version trained on the toy set."""


@pytest.fixture(scope="module")
def new(toy_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of today with the recipe of the old one."""
    folder = tmp_path_factory.mktemp("runs") / "new"
    with pytest.warns(OldNameWarning):
        return train(FILES / RECIPE, [(str(toy_set.path), 1.0)], folder, steps=2, device="cpu")


@pytest.fixture
def old(new: Path, tmp_path: Path) -> Path:
    """The same weights as the earlier version would have published them."""
    version = tmp_path / "run" / "v1"
    shutil.copytree(new, version)
    for name in (MANIFEST, RECIPE):
        shutil.copy(FILES / name, version / name)
    state = load_file(new / "model.safetensors")
    for name in sorted(state):
        for before, now in WEIGHTS.items():
            if name.startswith(now):
                state[before + name.removeprefix(now)] = state.pop(name)
                break
    assert sorted(state) == (FILES / "weights.txt").read_text().split()
    save_file(state, version / "model.safetensors")
    seal(version)
    return version


def predict(run: Run) -> list[torch.Tensor]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]]), torch.zeros(0, 4)]
    text = run.class_embeddings(run.taxonomies["toy"]).text
    with torch.inference_mode():
        outputs = run.model(images, text, BoxPrompts.without_labels(boxes))
    proposals = (outputs.queries, outputs.box_prompts)
    return [logits for p in proposals if p for logits in (p.class_logits, p.mask_logits)]


def test_an_old_run_predicts_the_same_masks(
    old: Path, new: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert read_run_manifest(old).schema_version == "1"
    assert read_run_manifest(new).schema_version == "2"
    expected = predict(load_run(new))
    actual = predict(load_run(old))
    assert len(actual) == len(expected) == 4
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert not [warning for warning in recwarn if warning.category is OldNameWarning]


def test_training_starts_from_an_old_run(old: Path, new: Path) -> None:
    model = load_run(new).model
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    init_from(model, str(old), load_run(old).encoding)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_old_weight_names_in_a_run_of_today_are_refused(old: Path) -> None:
    change_manifest(old, schema_version="2")
    with (
        pytest.warns(OldNameWarning),
        pytest.raises(InputError, match="the run cannot be read"),
    ):
        load_run(old)


def test_a_run_of_a_newer_version_is_refused(old: Path) -> None:
    change_manifest(old, schema_version="3")
    with pytest.raises(InputError, match=r"schema_version.*a newer version of segkit may read it"):
        load_run(old)


def test_an_old_run_has_todays_recipe(old: Path, new: Path) -> None:
    steps = ["training.steps=2"]
    assert load_recipe(old / RECIPE, steps, warn=False) == load_recipe(new / RECIPE)
