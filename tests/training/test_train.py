import json
import multiprocessing
import signal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from segkit.distributed import choose_device
from segkit.errors import InputError, SegkitError
from segkit.model.dataseg import DataSeg, Outputs
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import RunManifest, read_run_manifest
from segkit.shards.manifest import Parent
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.stopping import StoppedError
from segkit.taxonomy import Category, Taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.training.logging import StepRecord
from segkit.training.train import train
from segkit.training.trainer import Callbacks
from tests.training.toy import write_toy_set


def steps_of(version: Path) -> list[dict[str, Any]]:
    """What must be the same of two runs: steps, data sets, losses and rates."""
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: row[key] for key in ("step", "dataset", "loss", "losses", "gradient_norm", "lr")}
        for row in rows
        if "loss" in row
    ]


@pytest.fixture(scope="module")
def trained(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    data = [(str(toy_set.path), 2.0), (str(box_set.path), 1.0)]
    return train(
        tiny,
        data,
        tmp_path_factory.mktemp("runs") / "run",
        eval_data=[str(toy_set.path)],
        device="cpu",
    )


def test_a_run_is_complete(trained: Path, toy_set: ShardSet, box_set: ShardSet, tiny: Path) -> None:
    assert trained.name == "v1" and not (trained / "checkpoints").exists()
    assert load_recipe(trained / "recipe.toml") == load_recipe(tiny)
    steps = steps_of(trained)
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert {row["dataset"] for row in steps} == {"toy", "boxes"}
    assert all(row["loss"] == pytest.approx(sum(row["losses"].values())) for row in steps)
    assert "projection" in next(row["losses"] for row in steps if row["dataset"] == "boxes")
    assert len(list((trained / "tensorboard").iterdir())) == 1
    assert (trained / "pictures" / "step-00000012-toy.png").read_bytes().startswith(b"\x89PNG")
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["evaluation"]) == (12, "toy") and 0 <= last["metrics"]["all"][
        "pq"
    ] <= 100
    manifest = read_run_manifest(trained)
    assert [parent.digest for parent in manifest.parents] == [
        toy_set.manifest.digest,
        box_set.manifest.digest,
    ]
    assert (trained / manifest.parents[0].path).resolve() == toy_set.path
    assert manifest.rates == {"toy": 2.0, "boxes": 1.0} and manifest.steps == 12


def test_the_manifest_fits_the_published_schema_and_so_does_its_class(trained: Path) -> None:
    published = json.loads(
        (resources.files("segkit.schemas") / "run.schema.json").read_text("utf-8")
    )
    Draft202012Validator.check_schema(published)
    schema = RunManifest.model_json_schema()
    assert {
        key for key in published.keys() | schema.keys() if published.get(key) != schema.get(key)
    } == {
        "$schema",
        "title",
    }
    manifest = json.loads((trained / "manifest.json").read_text("utf-8"))
    Draft202012Validator(published).validate(manifest)
    assert not Draft202012Validator(published).is_valid(manifest | {"type": "shards"})


def test_a_loaded_run_is_the_averaged_model_with_its_vocabulary(
    trained: Path, tmp_path: Path
) -> None:
    run = load_run(trained.parent)
    assert not run.model.training and run.path == trained.resolve()
    assert set(run.taxonomies) == {"toy", "boxes"} and run.taxonomies["toy"].names == ("sky", "cat")
    torch.testing.assert_close(
        run.text_embeddings["toy"], torch.from_numpy(EmbeddingStore().embed(run.taxonomies["toy"]))
    )
    parent = run.as_parent(tmp_path / "layer")
    assert (tmp_path / "layer" / "v3" / parent.path).resolve() == trained.resolve()
    assert parent == Parent(path=parent.path, version=1, digest=run.manifest.digest)


def test_classes_of_the_run_take_its_embeddings_and_new_ones_the_packages(
    trained: Path,
) -> None:
    run = load_run(trained)
    run.text_embeddings["toy"][1] = 0.5  # as if the package had another embedding of cat today
    run.text_embeddings["boxes"][1] = 0.5
    taxonomy = Taxonomy(
        "pets",
        (Category(5, "dog", "thing"), Category(9, "cat", "thing"), Category(11, "sky", "stuff")),
    )
    table = run.class_embeddings(taxonomy)
    assert torch.equal(table.text[1], torch.full((384,), 0.5))
    torch.testing.assert_close(table.text[0], torch.from_numpy(EmbeddingStore().embed(taxonomy))[0])
    assert table.is_thing.tolist() == [True, True, False]


def test_equal_runs_have_equal_digests_and_seeds_change_them(
    trained: Path, tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 2.0), (str(box_set.path), 1.0)]
    again = train(tiny, data, tmp_path / "again", device="cpu")
    assert steps_of(again) == steps_of(trained)
    assert read_run_manifest(again).digest == read_run_manifest(trained).digest
    reseeded = train(
        tiny, data, tmp_path / "again", device="cpu", overrides=["training.seed=1"], steps=2
    )
    assert reseeded.name == "v2" and steps_of(reseeded)[0]["loss"] != steps_of(again)[0]["loss"]


def stop_after(step: int) -> Callbacks:
    """Send this process a SIGTERM in a step, as a scheduler would."""

    def on_step(record: StepRecord) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGTERM)

    return Callbacks(on_step=on_step)


def test_a_stopped_run_resumes_to_the_same_losses_and_weights(
    trained: Path, tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data, out = [(str(toy_set.path), 2.0), (str(box_set.path), 1.0)], tmp_path / "run"
    with pytest.raises(StoppedError, match=r"SIGTERM after step 7; .*--resume") as caught:
        train(tiny, data, out, device="cpu", callbacks=stop_after(7))
    assert caught.value.exit_code == 128 + signal.SIGTERM and versions(out) == {}
    started: list[int] = []
    callbacks = Callbacks(on_start=lambda step, steps: started.append(step))
    version = train(
        tiny,
        data,
        out,
        eval_data=[str(toy_set.path)],
        device="cpu",
        resume=True,
        callbacks=callbacks,
    )
    assert started == [7]
    assert steps_of(version) == steps_of(trained)
    assert read_run_manifest(version).digest == read_run_manifest(trained).digest


def test_mixed_sets_take_part_in_every_step_and_resume(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data, mixed = [(str(toy_set.path), 2.0), (str(box_set.path), 1.0)], ["data.mixing=all"]
    uninterrupted = train(
        tiny, data, tmp_path / "uninterrupted", device="cpu", steps=3, overrides=mixed
    )
    assert [row["dataset"] for row in steps_of(uninterrupted)] == ["boxes+toy"] * 3
    with pytest.raises(StoppedError):
        train(
            tiny,
            data,
            tmp_path / "run",
            device="cpu",
            steps=3,
            overrides=mixed,
            callbacks=stop_after(2),
        )
    version = train(
        tiny, data, tmp_path / "run", device="cpu", steps=3, overrides=mixed, resume=True
    )
    assert steps_of(version) == steps_of(uninterrupted)
    assert read_run_manifest(version).digest == read_run_manifest(uninterrupted).digest


def test_nan_in_the_model_stops_the_run_with_sample_ids_and_publishes_nothing(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    forward = DataSeg.forward
    calls = iter(range(100))

    def poisoned(self: DataSeg, images: torch.Tensor, *arguments: Any, **options: Any) -> Outputs:
        """From the third step on the images are NaN, and so are features, costs and losses."""
        nan = images if next(calls) < 2 else images * float("nan")
        return forward(self, nan, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSeg, "forward", poisoned)
        with pytest.raises(
            SegkitError, match=r"not finite at step 3 .*dice nan.*toy: 00\d, 00\d"
        ) as caught:
            train(tiny, [(str(toy_set.path), 1.0)], tmp_path / "run", device="cpu")
    assert caught.value.exit_code == 1 and versions(tmp_path / "run") == {}


def test_unusable_input_is_refused_before_anything_is_written(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    toy, out = [(str(toy_set.path), 1.0)], tmp_path / "run"
    with pytest.raises(InputError, match="boxes but no masks"):
        train(tiny, toy, out, eval_data=[str(box_set.path)])
    with pytest.raises(InputError, match=r"model\.text_dim=384"):
        train(tiny, toy, out, overrides=["model.text_dim=512"])
    with pytest.raises(InputError, match=r"training\.publish: no evaluation to choose by"):
        train(tiny, toy, out, overrides=["training.publish=best"])
    with pytest.raises(InputError, match="holds no published version"):
        train(tiny, [(str(tmp_path / "absent"), 1.0)], out)
    with pytest.raises(InputError, match=r"invalid sampling weight -1\.0; give a positive number"):
        train(tiny, [(str(toy_set.path), -1.0)], out, device="cpu")
    for device in ("gpu", "cuda:99", "mps"):
        with pytest.raises(InputError, match=device):
            train(tiny, toy, out, device=device)
    with pytest.raises(InputError, match="unknown backbone 'resnet5000'"):
        train(tiny, toy, out, device="cpu", overrides=["model.backbone=resnet5000"])
    with pytest.raises(InputError, match="no such data set"):
        train(tiny, toy, out, device="cpu", overrides=["data.mask_policy.coco=box"])
    assert choose_device("cpu") == torch.device("cpu")
    assert not out.exists()


def test_sets_of_one_name_go_by_their_directories(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:

    twin = write_toy_set(tmp_path / "twin")
    data = [(str(toy_set.path), 1.0), (str(twin.path), 1.0)]
    version = train(tiny, data, tmp_path / "run", device="cpu", steps=1)
    assert set(load_run(version).taxonomies) == {"toy", "twin"}


def test_training_on_the_toy_set_learns_it(tiny: Path, toy_set: ShardSet, tmp_path: Path) -> None:
    pq: dict[int, float] = {}
    callbacks = Callbacks(
        on_evaluation=lambda step, name, metrics: pq.update({step: metrics["all"]["pq"]})
    )
    overrides = [
        "optimizer.warmup_steps=10",
        "training.evaluate_every=500",
        "data.scale_min=0.9",
        "data.scale_max=1.1",
    ]
    toy = str(toy_set.path)
    version = train(
        tiny,
        [(toy, 1.0)],
        tmp_path / "run",
        eval_data=[toy],
        device="cpu",
        overrides=overrides,
        steps=100,
        callbacks=callbacks,
    )
    losses = [row["losses"]["dice"] for row in steps_of(version)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert pq[100] > 80


def test_a_killed_loader_process_ends_the_training_in_one_line(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    def kill_loaders(record: StepRecord) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(SegkitError, match=r"loads data was killed.*lower data\.workers"):
        train(
            tiny,
            [(str(toy_set.path), 1.0)],
            tmp_path / "run",
            overrides=["data.workers=1"],
            device="cpu",
            callbacks=Callbacks(on_step=kill_loaders),
        )
