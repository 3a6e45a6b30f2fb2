import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.runs.check_run import check_run
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import CONTENT, METRICS, damage, is_complete, read_run_manifest
from segkit.shards.check_manifest import check_digest
from segkit.shards.reader import ShardSet
from segkit.shards.versions import MANIFEST
from segkit.training import checkpoint
from segkit.training.train import train
from tests.shards.manifests import change_manifest, leaves, other_values, unprotect, with_leaf

from .seal import seal

runner = CliRunner()


@pytest.fixture(scope="module")
def published(tiny: Path, toy_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny, [(str(toy_set.path), 1.0)], folder, steps=1, device="cpu")


@pytest.fixture
def version(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "run" / "v1"))


def test_an_intact_run_has_no_damage(version: Path) -> None:
    assert damage(version, read_run_manifest(version)) == []


@pytest.mark.parametrize("name", CONTENT)
def test_one_flipped_bit_in_any_file_of_a_run_is_noticed(version: Path, name: str) -> None:
    """At 20 random places, the first and the last byte among them."""
    file, draw = version / name, random.Random(0)
    intact = file.read_bytes()
    for place in [0, len(intact) - 1, *(draw.randrange(len(intact)) for _ in range(18))]:
        flipped = bytearray(intact)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        assert len(damage(version, read_run_manifest(version))) == 1
    with pytest.raises(InputError, match=name):
        load_run(version)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_of_a_run_is_named(version: Path, name: str) -> None:
    (version / name).unlink()
    assert [item.where for item in damage(version, read_run_manifest(version))] == [name]
    with pytest.raises(InputError, match=name):
        load_run(version)


def test_files_that_were_exchanged_together_with_their_digests_are_noticed(version: Path) -> None:
    files = read_run_manifest(version).files | {"model.safetensors": "0" * 64}
    change_manifest(version, files=files)
    with pytest.raises(InputError, match=r"manifest\.json: the digest is not that of the files"):
        load_run(version)
    assert {item.code for item in check_run(version)} == {"digest", "checksum"}


def test_every_damaged_part_of_a_run_is_reported(version: Path) -> None:
    assert list(check_run(version)) == []
    names = (*CONTENT, *read_run_manifest(version).logs)
    assert METRICS in names and any(name.startswith("tensorboard/") for name in names)
    for name in names:
        data = bytearray((version / name).read_bytes())
        data[len(data) // 2] ^= 1
        (version / name).write_bytes(data)
    checksums = [item.where for item in check_run(version) if item.code == "checksum"]
    assert set(checksums) == set(names) and len(checksums) == len(set(names))


def test_any_changed_leaf_of_a_runs_manifest_is_found(version: Path) -> None:
    file = version / MANIFEST
    content = json.loads(file.read_text())
    for place, value in leaves(content):
        for changed in other_values(value):
            file.write_text(json.dumps(with_leaf(content, place, changed)))
            codes = {item.code for item in check_digest(version)}
            assert codes == {"manifest-digest"}, (place, changed)
            with pytest.raises(InputError, match="manifest"):
                read_run_manifest(version)


def test_a_run_of_an_earlier_segkit_loads_and_is_unprotected(version: Path) -> None:
    content = json.loads((version / MANIFEST).read_text())
    del content["logs"]
    (version / MANIFEST).write_text(json.dumps(content))
    unprotect(version)
    assert load_run(version).manifest.logs == {}
    assert list(check_run(version)) == []
    result = runner.invoke(app, ["validate", str(version.parent), "--json"])
    assert result.exit_code == 0 and "unprotected" in json.loads(result.stdout)["notes"][0]


def test_validate_recognizes_a_run(version: Path) -> None:
    result = runner.invoke(app, ["validate", str(version.parent), "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["type"], report["valid"], report["notes"]) == (
        0,
        "run",
        True,
        [],
    )
    (version / "model.safetensors").write_bytes(b"")
    result = runner.invoke(app, ["validate", str(version.parent), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["counts"] == {"checksum": 1, "weights": 1}


def test_the_encoder_of_a_run_is_that_of_its_embeddings(version: Path) -> None:
    change_manifest(version, encoder="clip")
    assert [item.code for item in check_run(version)] == ["vocabulary"]


def test_a_run_that_a_killed_process_left_is_published_only_if_it_is_intact(version: Path) -> None:
    assert is_complete(version)
    weights = version / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_complete(version)
    assert not is_complete(version / "nothing")


def test_inspect_says_that_a_run_is_damaged(version: Path) -> None:
    command = ["inspect", str(version.parent), "--json"]
    assert json.loads(runner.invoke(app, command).stdout)["damage"] == []
    with (version / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    result = runner.invoke(app, command)
    assert json.loads(result.stdout)["damage"][0].startswith("model.safetensors: ")
    assert "the run is damaged" in result.stderr


FOREIGN = {
    "recipe.toml": ('name = "other"\nextends = "dataseg-mini"\n', "recipe"),
    "taxonomies.json": ("{}", "vocabulary"),
    "vocabulary.safetensors": ("", "vocabulary"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_runs_are_found_even_with_digests_that_fit(version: Path, name: str) -> None:
    text, code = FOREIGN[name]
    (version / name).write_text(text)
    seal(version)
    assert {item.code for item in check_run(version)} == {code}


def test_names_of_files_stay_inside_the_run(version: Path) -> None:
    change_manifest(version, logs={"../../secret": "0", "/etc/hostname": "0"})
    assert [item.where for item in check_run(version)] == ["../../secret", "/etc/hostname"]


def test_checkpoints_of_an_interrupted_run_are_checked(version: Path) -> None:
    run = version.parent.parent / "stopped"
    folder = run / ".v1.partial" / "checkpoints"
    writer = checkpoint.CheckpointWriter()
    for step in (5, 10):
        writer.start(folder, step, {"w": torch.ones(3)}, {}, newest=2, best=None)
    writer.wait()
    result = runner.invoke(app, ["validate", str(run), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["checkpoints"] == ["step-00000005", "step-00000010"]
    file = folder / "step-00000010" / "values.json"
    file.write_text(file.read_text().replace("10", "11"))
    (folder / "step-00000005" / ".metadata").unlink()
    result = runner.invoke(app, ["validate", str(run), "--json"])
    places = [item["where"] for item in json.loads(result.stdout)["violations"]]
    assert result.exit_code == 1
    assert places == ["step-00000005/.metadata", "step-00000010/values.json"]
    (folder / "step-00000010" / "digests.json").unlink()
    (folder / "step-00000005" / "digests.json").write_text("[")
    report = json.loads(runner.invoke(app, ["validate", str(run), "--json"]).stdout)
    assert [item["where"] for item in report["violations"]] == ["step-00000005/digests.json"]
    assert report["notes"][0].startswith("step-00000010 is unprotected")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(version: Path, value: float) -> None:
    state = load_file(version / "model.safetensors")
    name = "text_classifier.background"
    state[name] = torch.full_like(state[name], value)
    save_file(state, version / "model.safetensors", {"format": "pt"})
    seal(version)
    with pytest.raises(InputError, match=r"text_classifier\.background are not finite"):
        load_run(version)
    assert [item.code for item in check_run(version)] == ["weights"]
