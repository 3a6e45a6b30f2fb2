from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet
from tests.training.toy import write_recipe, write_sparse_set, write_toy_set


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def box_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "boxes", boxes_only=True, name="boxes")


@pytest.fixture(scope="session")
def sparse_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_sparse_set(tmp_path_factory.mktemp("data") / "sparse")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.toml")
