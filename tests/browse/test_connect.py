"""A FiftyOne without a database."""

import importlib.util
import sys
from types import ModuleType

import pytest

from segkit.browse.connect import fiftyone
from segkit.errors import SegkitError


def test_a_missing_mongodb_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne can be imported without one, and fails at the first use of its database."""

    def fail() -> None:
        raise RuntimeError("MongoDB could not be installed on your system.\nDefine a uri")

    module = ModuleType("fiftyone")
    module.__spec__ = importlib.util.find_spec("fiftyone")
    if module.__spec__ is None:
        pytest.skip("FiftyOne is not installed")
    module.list_datasets = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    with pytest.raises(SegkitError, match="could not be installed on your system") as error:
        fiftyone()
    assert "FIFTYONE_DATABASE_URI" in str(error.value) and "\n" not in str(error.value)
