"""The environment variables by which torchrun numbers its processes."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from segkit import torchrun

FIGURES = {
    "RANK": (torchrun.rank, 0),
    "WORLD_SIZE": (torchrun.world_size, 1),
    "LOCAL_RANK": (torchrun.local_rank, 0),
    "LOCAL_WORLD_SIZE": (torchrun.local_world_size, 1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_variable_is_a_number_or_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure: Callable[[], int]
    figure, default = FIGURES[name]
    for variable in FIGURES:
        monkeypatch.delenv(variable, raising=False)
    assert figure() == default
    monkeypatch.setenv(name, "3")
    assert figure() == 3
    assert [FIGURES[key][0]() for key in FIGURES if key != name] == [
        FIGURES[key][1] for key in FIGURES if key != name
    ]
    monkeypatch.setenv(name, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        figure()


def test_one_process_of_several_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, rank, first, several in (("1", "0", True, False), ("2", "1", False, True)):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.setenv("RANK", rank)
        assert (torchrun.is_first(), torchrun.is_distributed()) == (first, several)


def test_torch_is_not_imported() -> None:
    code = "import sys; import segkit.torchrun; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
