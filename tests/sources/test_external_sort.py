import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import SegkitError
from segkit.sources import external_sort as spool
from segkit.sources.external_sort import ExternalSort


@pytest.mark.parametrize("images", [0, 1, 25, 300])
def test_annotations_come_back_with_their_images_in_order(
    images: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spool, "SPAN", 10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rng = np.random.default_rng(images)
    owners = rng.integers(0, images, 5 * images).tolist() if images else []
    sorted_by_image = ExternalSort()
    for number in range(images):
        sorted_by_image.add_image(f"image\n{number}".encode())
    for number, owner in enumerate(owners):
        sorted_by_image.add_annotation(owner, b"x" * (number % 7) + str(number).encode())
    twice = list(zip(sorted_by_image, sorted_by_image, strict=True))  # two readers at a time
    expected = [
        (
            f"image\n{place}".encode(),
            [b"x" * (n % 7) + str(n).encode() for n, owner in enumerate(owners) if owner == place],
        )
        for place in range(images)
    ]
    assert twice == [(entry, entry) for entry in expected]
    del sorted_by_image
    assert not list(tmp_path.iterdir())


def test_records_are_complete_where_the_system_reads_less_than_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux reads at most 2,147,479,552 bytes at a time; what follows would be lost silently."""
    real = os.pread
    for limit in (24, 120, 130):  # between two records, and within one
        monkeypatch.setattr(os, "pread", lambda f, size, at, m=limit: real(f, min(size, m), at))
        records = ExternalSort()
        records.add_image(b"1234")
        for _ in range(20):
            records.add_annotation(0, b"1234")
        assert list(records) == [(b"1234", [b"1234"] * 20)]


FULL = """
import resource, sys
from segkit.sources.external_sort import ExternalSort, SpillFile
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk
try:
    if sys.argv[1] == "sort":
        records = ExternalSort()
        for _ in range(int(sys.argv[2])):
            records.add_image(bytes(1000))
    else:
        records = SpillFile()
        for _ in range(int(sys.argv[2])):
            records.add(0, bytes(1000))
    list(records)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("kind", ["sort", "spill"])
@pytest.mark.parametrize("records", [100, 1000])  # it is full at the last flush, or before
def test_a_full_temporary_folder_is_named_in_one_line(
    kind: str, records: int, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", FULL, kind, str(records)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    expected = f"SegkitError {tmp_path}: temporary files cannot be written (File too large); set "
    assert done.stdout.startswith(expected)
    assert done.stderr == ""


def test_a_machine_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/gone']")

    monkeypatch.setenv("TMPDIR", "/gone")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    with pytest.raises(SegkitError, match="/gone: temporary files cannot be written"):
        ExternalSort().add_image(b"")
