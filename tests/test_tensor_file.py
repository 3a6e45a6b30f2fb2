"""One error for every damaged file of tensors, and the bytes that safetensors itself writes."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_model
from torch import nn

from segkit.errors import InputError
from segkit.model.backbone import Backbone
from segkit.model.dataseg import DataSeg
from segkit.model.hf import load_checkpoint, read_class_head
from segkit.recipes.load import load_recipe
from segkit.runs.check_run import check_run
from segkit.runs.content_files import write_inputs, write_manifest, write_weights
from segkit.runs.init_from import read_encoding
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import RunManifest
from segkit.shards.manifest import Parent
from segkit.shards.publish import staging
from segkit.storage import file_sha256
from segkit.taxonomy import Category, Taxonomy
from segkit.tensor_file import read_metadata, read_tensors, write_tensors
from segkit.text.encoding import SHIPPED
from segkit.text.table import read_table
from segkit.zeroshot.bank import FeatureBank, open_bank
from tests.runs.seal import seal
from tests.shards.manifests import change_manifest
from tests.training.toy import TAXONOMY, write_recipe


def _file(header: object, body: bytes = b"") -> bytes:
    """A safetensors file, by its specification."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _one(dtype: str, shape: list[int], size: int) -> bytes:
    """A file of one tensor, whose name no reader looks for."""
    return _file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, bytes(size))


DAMAGED = {
    "empty": b"",
    "truncated": _one("F32", [4], 16)[:-1],
    "truncated header": _one("F32", [4], 16)[:20],
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "header beyond the end": (2**20).to_bytes(8, "little") + b"{}",
    "nested header": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "impossible shape": _one("F32", [2**40, 2**40], 4),
    "pickle": pickle.dumps({"a": [1.0, 2.0]}),
    "no tensor": _file({}),
    "foreign tensor": _one("F32", [4], 16),
    "scalar": _one("F32", [], 4),
    "bfloat16": _one("BF16", [2], 4),
    "8-bit floats": _one("F8_E4M3", [4], 4),
}
"""Name of a damage -> bytes that no reader of segkit accepts."""
UNREADABLE = list(DAMAGED)[:9]
"""Those that are not safetensors files."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DataSeg:
    return DataSeg(load_recipe(write_recipe(tmp_path_factory.mktemp("model") / "a.toml")).model)


@pytest.fixture(scope="module")
def run(model: DataSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without training."""
    folder = tmp_path_factory.mktemp("run") / "v1"
    folder.mkdir()
    recipe = load_recipe(write_recipe(folder.parent / "tiny.toml"))
    text = {"toy": torch.zeros(2, recipe.model.text_dim)}
    write_inputs(folder, recipe, {"toy": TAXONOMY}, text, SHIPPED.to_metadata(None))
    write_weights(folder, model)
    values = {"command": "test", "arguments": {}, "parents": (), "rates": {}, "steps": 0}
    write_manifest(folder, recipe, model, encoder=SHIPPED.name, **values)
    assert load_run(folder).path == folder and not [*check_run(folder)]
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = np.zeros((2, 4), np.float32), np.array([0, 2]), np.array([0, 0])
    content = FeatureBank(
        *columns, ("a",), TAXONOMY, Taxonomy("more", (Category(3, "cow", "thing"),))
    )
    parent = Parent(path="..", version=1, digest="0" * 64)
    with staging(
        tmp_path_factory.mktemp("banks"), {}, inputs=(), resume=False, content="bank"
    ) as stage:
        return content.write(stage, name="a", parents=(parent, parent), arguments={})


def _read(file: Path, read: Callable[[], object]) -> None:
    """Read a damaged file; AssertionError unless it is refused in one line that names it."""
    with pytest.raises(InputError) as caught:
        read()
    line = str(caught.value)
    assert file.name in line and "\n" not in line and len(line) < 600, line


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("content", ["model.safetensors", "vocabulary.safetensors"])
def test_a_damaged_file_of_a_run_is_refused(
    run: Path, tmp_path: Path, content: str, name: str
) -> None:
    version = Path(shutil.copytree(run, tmp_path / "v1"))
    (version / content).write_bytes(DAMAGED[name])
    seal(version)
    _read(version / content if name in UNREADABLE else version, lambda: load_run(version))
    codes = {content.partition(".")[0].replace("model", "weights")}
    violations = [*check_run(version)]
    if name in UNREADABLE or content == "vocabulary.safetensors":
        assert {violation.code for violation in violations} == codes
        assert all("\n" not in violation.detail for violation in violations)
    if name in UNREADABLE and content == "vocabulary.safetensors":
        _read(version / content, lambda: read_encoding(version))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_bank_is_refused(bank: Path, tmp_path: Path, name: str) -> None:
    version = Path(shutil.copytree(bank, tmp_path / "v1"))
    open_bank(version)
    file = version / "features.safetensors"
    file.write_bytes(DAMAGED[name])
    files = {name: file_sha256(version / name) for name in open_bank(bank)[1].files}
    change_manifest(version, files=files, digest=RunManifest.content_digest(files))
    _read(file, lambda: open_bank(version))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_weights_or_embeddings_is_refused(
    model: DataSeg, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(DAMAGED[name])
    _read(file, lambda: load_checkpoint(model, tmp_path))
    _read(file, lambda: read_class_head(tmp_path))
    _read(file, lambda: Backbone("test_efficientnet", weights=str(file)))
    _read(file, lambda: read_table(file))


def test_columns_and_class_heads_of_the_wrong_shape_are_refused(bank: Path, tmp_path: Path) -> None:
    version = Path(shutil.copytree(bank, tmp_path / "v1"))
    file = version / "features.safetensors"
    columns = load_file(file)
    for change in ({"labels": np.array(0)}, {"images": np.zeros((2, 1), int)}):
        write_tensors(file, {**columns, **change})
        files = {name: file_sha256(version / name) for name in open_bank(bank)[1].files}
        change_manifest(version, files=files, digest=RunManifest.content_digest(files))
        _read(file, lambda: open_bank(version))
    for weight, bias in (((), ()), ((3, 4), (2,)), ((3,), (3,))):
        head = {"weight": np.zeros(weight), "bias": np.zeros(bias)}
        file = tmp_path / "model.safetensors"
        write_tensors(file, {f"class_predictor.{name}": value for name, value in head.items()})
        _read(file, lambda: read_class_head(tmp_path))


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    """A FIFO would never end."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "absent", "."):
        for read in (read_tensors, read_metadata):
            with pytest.raises(InputError, match=r"^[^\n]*: not readable [^\n]*; a hint$"):
                read(tmp_path / name, hint="a hint")


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.array([1, 2], np.int64)}
    file = tmp_path / "a.safetensors"
    write_tensors(file, arrays, {"key": "value"})
    assert file.stat().st_mode & 0o777 == 0o644
    assert read_metadata(file) == {"key": "value"}
    for name, values in load_file(file).items():
        assert np.array_equal(values, arrays[name]) and values.dtype == arrays[name].dtype
        assert np.array_equal(read_tensors(file)[name], values)
        assert torch.equal(read_tensors(file, framework="pt")[name], torch.from_numpy(values))
    assert read_tensors(file, ("a",)).keys() == {"a"}
    write_tensors(file, arrays)
    assert read_metadata(file) == {}


def test_the_weights_are_those_of_save_model(tmp_path: Path, model: DataSeg) -> None:
    transposed = nn.Linear(3, 2)
    transposed.weight = nn.Parameter(torch.rand(3, 2).T)
    for module in (model, transposed, transposed.bfloat16()):
        write_weights(tmp_path, module)
        save_model(module, str(tmp_path / "expected"), {"format": "pt"})
        expected = (tmp_path / "expected").read_bytes()
        assert (tmp_path / "model.safetensors").read_bytes() == expected


def test_arrays_are_read_and_written_without_torch(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys, numpy
from segkit import tensor_file
assert "safetensors" not in sys.modules
file = pathlib.Path({str(tmp_path / "a.safetensors")!r})
tensor_file.write_tensors(file, {{"a": numpy.zeros(3)}}, {{"b": "c"}})
print(tensor_file.read_tensors(file), tensor_file.read_metadata(file), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'a': array([0., 0., 0.])} {'b': 'c'} False\n"
