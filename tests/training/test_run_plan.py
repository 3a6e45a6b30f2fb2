"""The plan of a run: the pace through its sets, and every kind of thing that is missing."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.data.check_sets import NamedDataset
from segkit.errors import InputError
from segkit.extras import install_command
from segkit.recipes.load import load_recipe
from segkit.runs.init_from import resolve_init_from
from segkit.shards.reader import ShardSet
from segkit.training import run_plan as planning
from segkit.training.memory import estimate_memory
from segkit.training.run_plan import TrainingPlan, plan_training
from segkit.training.train import train
from segkit.training.unit_costs import GPUS, gpu_hours
from tests.training.toy import write_recipe, write_sparse_set, write_toy_set

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    write_toy_set(root / "toy")
    write_toy_set(root / "boxes", boxes_only=True, name="boxes")
    write_recipe(root / "tiny.toml")
    return root


def plan(folder: Path, *overrides: str, weights: tuple[float, ...] = (3.0, 1.0)) -> TrainingPlan:
    recipe = resolve_init_from(load_recipe(folder / "tiny.toml", overrides))
    sets = zip(("toy", "boxes"), weights, strict=True)
    data = [NamedDataset(name, ShardSet.open(folder / name), weight) for name, weight in sets]
    return plan_training(recipe, data, folder / "run")


def test_the_pace_through_the_sets_is_that_of_training(folder: Path) -> None:
    one = plan(folder, "training.accumulate=2", "training.steps=30")
    assert (one.steps, one.samples_per_step, one.processes) == (30, 4, 1)
    toy, boxes = one.sets
    assert (toy.share, boxes.share) == (0.75, 0.25)
    assert (toy.samples_per_step, boxes.samples_per_step) == (3.0, 1.0)
    assert (toy.samples, boxes.samples) == (90, 30)
    assert (toy.epochs, toy.steps_per_epoch) == (15.0, 2.0)
    assert (boxes.epochs, boxes.steps_per_epoch) == (5.0, 6.0)
    assert one.missing == ()

    every = plan(folder, "data.mixing=all", "training.steps=30")
    assert every.samples_per_step == 4
    assert [entry.samples_per_step for entry in every.sets] == [2.0, 2.0]


def test_several_processes_draw_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plan(folder)
    monkeypatch.setenv("WORLD_SIZE", "8")
    joint = plan(folder)
    assert (joint.processes, joint.samples_per_step) == (8, 8 * alone.samples_per_step)
    assert joint.memory == alone.memory, "with ddp, each process holds everything"


@pytest.mark.parametrize(("sparse", "boxes"), [(True, 1), (False, 3)])
def test_boxes_of_a_crop_are_rounded_up(folder: Path, sparse: bool, boxes: int) -> None:
    """A recipe of box prompts runs no decoder without a box."""
    data = write_sparse_set(folder / "sparse") if sparse else ShardSet.open(str(folder / "toy"))
    statistics = data.manifest.statistics
    assert statistics.segments / statistics.images == (0.5 if sparse else 2.5)
    recipe = load_recipe(folder / "tiny.toml", ["loss.matching=false"])
    planned = plan_training(
        recipe, [NamedDataset("set", data, 1.0)], folder / "run", device="cpu"
    ).memory
    assert planned == estimate_memory(recipe, classes=2, boxes=boxes, cuda=False)
    assert planned.losses > 0


def missing(result: TrainingPlan) -> dict[str, tuple[str, str]]:
    return {item.name: (item.text, item.hint) for item in result.missing}


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.safetensors")
    gaps = missing(plan(folder, f"model.backbone_weights={absent}"))
    hint = "set model.backbone_weights to timm or to a safetensors file"
    assert gaps["weights"] == (f"{absent}: no such file", hint)
    gaps = missing(plan(folder, "model.init_from=hf:segkit-tests/none"))
    assert "segkit-tests/none is not in the cache" in gaps["weights"][0]
    assert "--init-from hf:FOLDER" in gaps["weights"][1]
    recipe = "model.backbone=resnet18.a1_in1k", "model.backbone_weights=timm"
    gaps = missing(plan(folder, *recipe))
    assert "timm/resnet18.a1_in1k" in gaps["weights"][0]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    gaps = missing(plan(folder, f"model.init_from=hf:{tmp_path}"))
    assert "not a mask2former" in gaps["weights"][0]


def test_a_run_of_another_architecture_is_missing_weights(folder: Path, tmp_path: Path) -> None:
    data = [(str(folder / "toy"), 1.0)]
    run = train(str(folder / "tiny.toml"), data, tmp_path / "run", steps=1)
    assert "weights" not in missing(plan(folder, f"model.init_from={run}"))
    gaps = missing(plan(folder, f"model.init_from={run}", "model.queries=7"))
    assert gaps["weights"][0] == "the checkpoint and the recipe differ in model.queries"


def test_missing_embeddings_name_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    gaps = missing(plan(folder, "text.encoder=hf:a/b"))
    assert "no text embedding by hf:a/b" in gaps["embeddings"][0]
    assert gaps["embeddings"][1] == (
        "run: segkit vocabulary encode --encoder hf:a/b sky cat, or the run encodes them at its "
        "start"
    )


def test_missing_memory_disk_and_extras_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "is_cached", lambda *_: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 20, 0, 1 << 10))
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    gaps = missing(plan(folder, "data.workers=2", 'training.loggers=["mlflow"]'))
    assert "GiB expected, the device has 0.0" in gaps["memory"][0]
    assert gaps["shared memory"][0].startswith("2 workers need about 0.0 GiB of /dev/shm")
    assert "--shm-size 8g" in gaps["shared memory"][1]
    assert f"are free in {folder}" in gaps["disk"][0]
    assert gaps["extra"][1] == f"run: {install_command('mlflow')}"
    assert "shared memory" not in missing(plan(folder, "data.workers=0"))


def test_without_torch_the_plan_has_no_memory_and_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planning.require_extra.__globals__["EXTRAS"], "train", ("no_such",))
    result = plan(folder)
    assert result.memory is None and len(result.sets) == 2
    assert missing(result)["extra"][1] == f"run: {install_command('train')}"


def run(folder: Path, *arguments: str) -> Any:
    common = ["train", "--recipe", str(folder / "tiny.toml"), "--data", str(folder / "toy")]
    return CliRunner().invoke(app, [*common, "--out", str(folder / "run"), "--plan", *arguments])


def test_the_command_prints_a_plan_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = run(folder, "--steps", "7", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["schema"] == "segkit.plan/1" and printed["steps"] == 7
    memory = printed["memory"]
    parts = ("weights", "gradients", "optimizer", "average", "activations", "losses", "cuda")
    assert memory["total"] == sum(memory[part] for part in parts)
    flops = 3 * memory["forward_flops"] / 2 * 7 * 2  # batches of 2
    hours = {gpu.name: gpu_hours(flops, gpu) for gpu in GPUS}
    assert printed["gpu_hours"] == pytest.approx(hours) and hours["V100"] > 0
    assert printed["missing"] == []
    text = run(folder).stdout
    assert "12 steps of 2 samples" in text and "nothing is missing" in text
    assert "of one H100" in text and "not measured" in text
    assert "samples a step" in text and "activations" in text
    assert sorted(folder.rglob("*")) == before


def test_wrong_usage_is_refused_as_in_training(folder: Path) -> None:
    assert isinstance(run(folder, "--set", "optimizer.lrr=1").exception, InputError)
    assert isinstance(run(folder, "--data", str(folder / "absent")).exception, InputError)
    assert isinstance(run(folder, "--device", "cuda:7").exception, InputError)
    assert isinstance(run(folder, "--resume").exception, InputError)


def test_one_of_several_processes_prints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(folder).stdout == ""
    monkeypatch.setenv("RANK", "0")
    assert "12 steps of 4 samples" in run(folder).stdout
