from pathlib import Path

import pytest

from segkit.cache import cache_root
from segkit.errors import InputError


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEGKIT_CACHE", "")
    assert cache_root() == tmp_path / ".cache" / "segkit"
    monkeypatch.setenv("SEGKIT_CACHE", "relative/cache")
    assert cache_root() == Path("relative/cache")


def test_a_user_without_a_home_needs_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("SEGKIT_CACHE")
    with pytest.raises(InputError, match="no home directory; set SEGKIT_CACHE to a folder"):
        cache_root()
