"""What `import segkit` offers, and how little it imports."""

import subprocess
import sys

import pytest

import segkit
from segkit.shards.reader import ShardSet


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
