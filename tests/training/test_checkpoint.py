from pathlib import Path

import pytest
import torch

from segkit.errors import InputError
from segkit.training import checkpoint

CPU = torch.device("cpu")


def test_the_newest_of_the_last_k_is_loaded(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        checkpoint.save(tmp_path, step, {"model": {"w": torch.full((2,), float(step))}}, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010.pt", "step-00000100.pt"]
    state = checkpoint.load_newest(tmp_path, CPU)
    assert state is not None and state["step"] == 100
    assert torch.equal(state["model"]["w"], torch.full((2,), 100.0))


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, {}, keep_last=2)
    (tmp_path / "step-00000010.partial").write_bytes(b"half")
    state = checkpoint.load_newest(tmp_path, CPU)
    assert state is not None and state["step"] == 5


def test_no_checkpoint_is_none_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "absent", CPU) is None
    (tmp_path / "step-00000010.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"step-00000010\.pt"):
        checkpoint.load_newest(tmp_path, CPU)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 10, "model": Evil()}, tmp_path / "step-00000010.pt")
    with pytest.raises(InputError):
        checkpoint.load_newest(tmp_path, CPU)
    assert not Path("executed").exists()
