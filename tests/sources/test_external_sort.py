import tempfile
from pathlib import Path

import numpy as np
import pytest

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
