from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkit.errors import InputError
from segkit.model.dataseg import build_model
from segkit.shards.reader import ShardSet
from segkit.training.recipe import load_recipe
from segkit.training.run import train
from segkit.training.start import init_from


@pytest.fixture(scope="module")
def trained(tiny: Path, toy_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny, [(str(toy_set.path), 1.0)], tmp_path_factory.mktemp("runs") / "run", steps=2, device="cpu")


def test_a_training_goes_on_from_the_weights_of_a_run(
    trained: Path, tiny: Path, box_set: ShardSet, tmp_path: Path
) -> None:
    still = ["optimiser.lr=1e-30", "optimiser.weight_decay=0.0", f"model.init_from={trained.parent}@v1"]
    after = train(tiny, [(str(box_set.path), 1.0)], tmp_path / "run", steps=1, overrides=still, device="cpu")
    before, found = (load_file(run / "model.safetensors") for run in (trained, after))
    learned = [name for name in before if "running_" not in name and "num_batches" not in name]
    for name in learned:
        torch.testing.assert_close(found[name], before[name], msg=name)
    other = build_model(load_recipe(tiny).model).state_dict()
    assert any(not torch.equal(other[name], before[name]) for name in learned)


def test_a_run_of_another_architecture_is_refused_with_what_to_set(trained: Path, tiny: Path) -> None:
    config = load_recipe(tiny, ["model.queries=3", "model.pixel_mean=[0.1, 0.2, 0.3]"]).model
    with pytest.raises(InputError) as caught:
        init_from(build_model(config), str(trained))
    queries = load_recipe(tiny).model.queries
    assert f"--set model.queries={queries}" in str(caught.value)
    assert "--set model.pixel_mean=[0.5, 0.5, 0.5]" in str(caught.value)


def test_what_is_no_run_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        init_from(build_model(load_recipe(tiny).model), str(tmp_path / "nothing"))
