import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkit.errors import InputError
from segkit.runs.run import load_run
from segkit.runs.run_manifest import CONTENT, RunManifest, damage, read_run_manifest
from segkit.shards.publish import MANIFEST
from segkit.shards.reader import ShardSet
from segkit.training.train import train

from .seal import seal


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
    assert damage(version, read_run_manifest(version))[0].startswith(f"{name}: ")
    with pytest.raises(InputError, match=name):
        load_run(version)


def test_files_that_were_exchanged_together_with_their_digests_are_noticed(version: Path) -> None:
    manifest = json.loads((version / MANIFEST).read_text())
    manifest["files"]["model.safetensors"] = "0" * 64
    (version / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: the digest is not that of the files"):
        load_run(version)
    assert RunManifest.content_digest(manifest["files"]) != manifest["digest"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(version: Path, value: float) -> None:
    state = load_file(version / "model.safetensors")
    name = "text_classifier.background"
    state[name] = torch.full_like(state[name], value)
    save_file(state, version / "model.safetensors", {"format": "pt"})
    seal(version)
    with pytest.raises(InputError, match=r"text_classifier\.background are not finite"):
        load_run(version)
