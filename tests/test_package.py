"""What `import segkit` offers, and how little it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import segkit
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from tests.training.toy import write_toy_set


def test_importing_segkit_imports_no_heavy_package() -> None:
    heavy = ("torch", "torchvision", "cv2", "numpy", "pyarrow", "scipy", "pydantic")
    code = f"import sys, segkit; dir(segkit); print([n for n in {heavy} if n in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout == "[]\n", output.stderr


@pytest.mark.parametrize("name", segkit.__all__)
def test_every_export_resolves_and_is_listed(name: str) -> None:
    assert getattr(segkit, name) is not None
    assert name in dir(segkit)


def test_open_opens_a_shard_set() -> None:
    assert segkit.open == ShardSet.open


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segkit' has no attribute 'magic'"):
        _ = segkit.magic


def test_sets_can_be_written_to_a_path_given_as_text(tmp_path: Path) -> None:
    toy = write_toy_set(tmp_path / "toy")
    header = Header.from_set(toy, "test", {})
    layer = write_layer(f"{tmp_path}/layer", toy, toy.samples(), header)
    assert layer.path == tmp_path.resolve() / "layer" / "v1"
    assert [s.segments for s in layer.samples()] == [s.segments for s in toy.samples()]
    assert layer.manifest.parents[0].path == "../../toy/v1"
