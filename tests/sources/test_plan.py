from pathlib import Path

import pytest

from segkit.shards.writer import SHARD_BYTES
from segkit.sources import plan
from segkit.sources.source import Record

from .builders import HEIGHT, WIDTH, picture


def test_shards_close_by_size_and_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.jpg", WIDTH, HEIGHT, seed=number)
    sizes = [(tmp_path / f"{number}.jpg").stat().st_size for number in range(5)]
    records = [Record(str(n), f"{n}.jpg", (f"{n}.jpg",)) for n in range(5)]

    def lengths(size: int = SHARD_BYTES, *, embed: bool = True) -> list[int]:
        return [len(shard) for shard in plan.plan(records, tmp_path, size, embed=embed)]

    assert max(sizes) < 2 * min(sizes)
    assert lengths(max(sizes) + 1) == [2, 2, 1]
    assert lengths(1) == [1] * 5
    assert lengths(1, embed=False) == [5]
    monkeypatch.setattr(plan, "SHARD_ROWS", 3)
    assert lengths() == [3, 2]
