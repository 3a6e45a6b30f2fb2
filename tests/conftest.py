import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared-cores", deadline=None)  # a busy neighbour is no failure
settings.load_profile("shared-cores")


@pytest.fixture(scope="session", autouse=True)
def single_threaded_torch() -> None:
    """Two threads beside a busy neighbour can be 50x slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("SEGKIT_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SEGKIT_REAL_DATA)")
    return folder.resolve()
