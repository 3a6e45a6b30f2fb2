"""Samples in another order than that of their set, as `diff` reads them."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import SegkitError
from segkit.shards import label_files, shard
from segkit.shards.diff import diff
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.sample_spill import SampleSpill
from segkit.shards.writer import write_set

from .conftest import TAXONOMY, toy_sample


def test_samples_come_back_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    samples = [toy_sample(seed) for seed in range(9)]
    spill = SampleSpill(iter(samples))
    order = [*range(9), *range(9)]
    random.Random(0).shuffle(order)
    assert [spill[index] for index in order] == [samples[index] for index in order]
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/gone")
    with pytest.raises(SegkitError, match="/gone: temporary files cannot be written"):
        SampleSpill([])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[int]], ShardSet]:
    def write(name: str, seeds: list[int]) -> ShardSet:
        samples = [toy_sample(seed) for seed in seeds]
        if name != "a":  # other labels in every third image
            samples = [
                replace(s, segments=s.segments[: None if int(s.id) % 3 else 1]) for s in samples
            ]
        header = Header(taxonomy=TAXONOMY, kind="panoptic", name="t", command="t", images_by="none")
        return write_set(tmp_path / name, ((sample, None) for sample in samples), header)

    return write


def test_the_order_of_the_second_set_changes_neither_result_nor_cost(
    write: Callable[[str, list[int]], ShardSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "ROW_GROUP", 2)
    seeds = list(range(80))
    shuffled = [*seeds[5:], 90, 91]
    random.Random(0).shuffle(shuffled)
    a, same, other = write("a", seeds), write("b", sorted(shuffled)), write("c", shuffled)
    groups, read_group = [], label_files.read_group

    def counted(*arguments: Any) -> Any:
        groups.append(arguments)
        return read_group(*arguments)

    expected = diff(a, same)
    monkeypatch.setattr(label_files, "read_group", counted)
    difference = diff(a, other)
    assert expected.only_a == difference.only_a == [f"{seed:03d}" for seed in seeds[:5]]
    assert set(expected.only_b) == set(difference.only_b) == {"090", "091"}
    assert expected.changed_labels == difference.changed_labels
    assert len(difference.changed_labels) == 25
    assert expected.classes == difference.classes
    assert len(groups) <= (len(a) + len(other)) / 2 + 1  # each group of two images once
