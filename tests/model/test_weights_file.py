"""Files that `model.backbone_weights` may name, and what the messages on others say."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkit.errors import InputError
from segkit.model.weights_file import weights_file


def error_of(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        weights_file(str(path))
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.safetensors").touch()
    assert weights_file("~/w.safetensors") == tmp_path / "w.safetensors"


def test_a_folder_names_the_file_in_it(tmp_path: Path) -> None:
    error = error_of(tmp_path)
    assert error.message == "is a folder, not a file of weights"
    assert error.hint == "it holds no safetensors file; give another"
    (tmp_path / "pytorch_model.bin").touch()
    assert "pytorch_model.safetensors once" in str(error_of(tmp_path).hint)
    for name in ("extra.safetensors", "model.safetensors"):
        (tmp_path / name).touch()
    assert str(error_of(tmp_path).hint).endswith(f"such as {tmp_path / 'model.safetensors'}")


@pytest.mark.parametrize("name", ["weights.pth", "weights.BIN", "weights"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_hint_on_a_pickle_converts_it(tmp_path: Path, name: str, nested: bool) -> None:
    state = {"stem.weight": torch.arange(3.0)}
    torch.save({"model": state} if nested else state, tmp_path / name)
    error = error_of(tmp_path / name)
    assert error.message.startswith("is a pickle of PyTorch, which is never read")
    exec(str(error.hint).partition("by Python: ")[2])
    converted = load_file(weights_file(str(tmp_path / "weights.safetensors")))
    assert torch.equal(converted["stem.weight"], state["stem.weight"])
