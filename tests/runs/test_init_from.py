import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkit.errors import InputError, SegkitError
from segkit.model.dataseg import DataSeg
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import ModelConfig
from segkit.runs.init_from import init_from
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.text.encoding import Encoding
from segkit.training.train import train

from .seal import seal


@pytest.fixture(scope="module")
def trained(tiny: Path, toy_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tiny,
        [(str(toy_set.path), 1.0)],
        tmp_path_factory.mktemp("runs") / "run",
        steps=2,
        device="cpu",
    )


def test_training_starts_from_the_weights_of_a_run(
    trained: Path, tiny: Path, box_set: ShardSet, tmp_path: Path
) -> None:
    still = [
        "optimizer.lr=1e-30",
        "optimizer.weight_decay=0.0",
        f"model.init_from={trained.parent}@v1",
    ]
    still.append("model.backbone_weights=weights-that-are-not-needed.safetensors")
    after = train(
        tiny, [(str(box_set.path), 1.0)], tmp_path / "run", steps=1, overrides=still, device="cpu"
    )
    before, after_training = (load_file(run / "model.safetensors") for run in (trained, after))
    learned = [name for name in before if "running_" not in name and "num_batches" not in name]
    for name in learned:
        torch.testing.assert_close(after_training[name], before[name], msg=name)
    parents = read_run_manifest(after).parents
    assert [parent.digest for parent in parents] == [
        box_set.manifest.digest,
        read_run_manifest(trained).digest,
    ]
    assert (after / parents[1].path).resolve() == trained.resolve()
    assert load_recipe(after / "recipe.toml").model.init_from == str(trained.resolve())
    untrained = DataSeg(load_recipe(tiny).model).state_dict()
    assert any(not torch.equal(untrained[name], before[name]) for name in learned)


def test_a_run_of_another_architecture_is_refused_with_the_settings_to_use(
    trained: Path, tiny: Path
) -> None:
    config = load_recipe(tiny, ["model.queries=3", "model.pixel_mean=[0.1, 0.2, 0.3]"]).model
    with pytest.raises(InputError) as caught:
        init_from(DataSeg(config), str(trained), Encoding())
    queries = load_recipe(tiny).model.queries
    assert f"--set model.queries={queries}" in str(caught.value)
    assert "--set 'model.pixel_mean=[0.5, 0.5, 0.5]'" in str(caught.value)


def test_weight_transfer_is_added_to_a_run_without_it(
    trained: Path, tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    """The transferred model starts as the run does; a run that has T needs the same T."""
    settings = ["model.weight_transfer.input=cls+box", "model.box_mlp=true"]
    config = load_recipe(tiny, settings).model
    model, before = DataSeg(config), load_file(trained / "model.safetensors")
    init_from(model, str(trained), Encoding())
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert not model.weight_transfer.mlp[-1].weight.any()
    data = [(str(toy_set.path), 1.0)]
    run = train(tiny, data, tmp_path / "run", steps=1, overrides=settings, device="cpu")
    with pytest.raises(InputError, match=r"--set model.weight_transfer.input=cls\+box"):
        init_from(DataSeg(load_recipe(tiny).model), str(run), Encoding())
    init_from(model, str(run), Encoding())
    after = load_file(run / "model.safetensors")
    assert torch.equal(
        model.state_dict()["weight_transfer.mlp.2.bias"], after["weight_transfer.mlp.2.bias"]
    )
    assert after["weight_transfer.mlp.2.bias"].any()


def test_a_backbone_with_the_tag_of_its_weights_is_the_same_architecture(
    trained: Path, tiny: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run" / "v1"
    shutil.copytree(trained, copy)
    name = load_recipe(tiny).model.backbone
    text = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(
        text.replace(f'backbone = "{name}"', f'backbone = "{name}.r160_in1k"')
    )
    seal(copy)
    for backbone in (name, f"{name}.r160_in1k"):
        model = DataSeg(load_recipe(tiny, [f"model.backbone={backbone}"]).model)
        init_from(model, str(copy), Encoding())


def test_a_run_of_another_text_encoder_is_refused(trained: Path, tiny: Path) -> None:
    with pytest.raises(InputError, match=r"text.encoder=minilm --set text.templates=photo"):
        init_from(DataSeg(load_recipe(tiny).model), str(trained), Encoding(templates=("{}",)))


def test_a_missing_run_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        init_from(DataSeg(load_recipe(tiny).model), str(tmp_path / "nothing"), Encoding())


def test_two_evaluation_sets_of_one_name_are_refused(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    data, again = (
        str(toy_set.path),
        shutil.copytree(toy_set.path, tmp_path / toy_set.path.parent.name / "v1"),
    )
    with pytest.raises(InputError, match="two sets of --eval-data are called"):
        train(tiny, [(data, 1.0)], tmp_path / "run", eval_data=[data, str(again)], device="cpu")


@pytest.mark.parametrize("source", ["facebook/mask2former", "hf:", "hf:no-such-folder"])
def test_an_unknown_source_is_refused(source: str) -> None:
    model = DataSeg(ModelConfig(backbone="test_efficientnet", hidden_dim=16))
    with pytest.raises(InputError, match=r"unknown source|no such folder|no such directory"):
        init_from(model, source, Encoding())


def test_an_unreachable_public_model_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = DataSeg(ModelConfig(backbone="test_efficientnet", hidden_dim=16))
    message = "owner/name is not a local folder and could not be fetched"
    with pytest.raises(SegkitError, match=message) as caught:
        init_from(model, "hf:owner/name", Encoding())
    assert "\n" not in str(caught.value)


def test_foreground_queries_and_drop_path_are_added_to_a_run_without_them(
    trained: Path, tiny: Path
) -> None:
    model = DataSeg(load_recipe(tiny, ["model.foreground=3", "model.drop_path=0.2"]).model)
    init_from(model, str(trained), Encoding())
    state, before = model.state_dict(), load_file(trained / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert state.keys() - before.keys() == {
        name for name in state if name.startswith("foreground_head.")
    }


def test_any_number_of_cells_serves_the_weights_of_a_run(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 1.0)]
    train(tiny, data, tmp_path / "run", device="cpu", steps=1, overrides=["model.foreground=3"])
    more = ["model.foreground=5", "model.refine_boxes=true"]
    model = DataSeg(load_recipe(tiny, more).model)
    init_from(model, str(tmp_path / "run"), Encoding())
    before = load_file(tmp_path / "run" / "v1" / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    learned = load_recipe(tiny, ["model.foreground=3", "model.foreground_boxes=learned"]).model
    with pytest.raises(InputError, match=r"differ in model\.foreground_boxes"):
        init_from(DataSeg(learned), str(tmp_path / "run"), Encoding())


def test_learned_boxes_are_added_to_a_run_without_foreground(trained: Path, tiny: Path) -> None:
    learned = load_recipe(tiny, ["model.foreground=3", "model.foreground_boxes=learned"]).model
    model = DataSeg(learned)
    init_from(model, str(trained), Encoding())
    state, before = model.state_dict(), load_file(trained / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_prompt_maps_are_added_to_a_run_without_them(trained: Path, tiny: Path) -> None:
    settings = ["model.prompt_maps=true", "loss.matching=false", "loss.max_box_prompts=1"]
    model = DataSeg(load_recipe(tiny, settings).model)
    init_from(model, str(trained), Encoding())
    state, before = model.state_dict(), load_file(trained / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in before.items())
    (added,) = state.keys() - before.keys()
    assert added.endswith(".prompt_weight") and not state[added].any()
