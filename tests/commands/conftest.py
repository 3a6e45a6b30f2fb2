"""A toy set, a run that was trained on it for two steps, and the set's boxes without masks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.training.train import train
from tests.training.toy import write_recipe, write_toy_set


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def run(toy: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "tiny.toml")
    return train(str(recipe), [(str(toy.path), 1.0)], folder / "run", steps=2, device="cpu")


@pytest.fixture(scope="session")
def boxes(toy: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The toy set without masks; the first segment of the first image is a crowd."""

    def records() -> Iterator[tuple[Sample, bytes]]:
        for number, sample in enumerate(toy.samples()):
            bare = [replace(s, mask=None, mask_from=None, kind="thing") for s in sample.segments]
            if number == 0:
                bare[0] = replace(bare[0], is_crowd=True)
            yield replace(sample, segments=tuple(bare)), toy.image_bytes(sample)

    header = Header(taxonomy=toy.taxonomy, kind="boxes", name="boxes", command="test")
    return write_set(tmp_path_factory.mktemp("boxes") / "boxes", records(), header)
