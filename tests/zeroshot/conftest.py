"""A tiny split: blocks of three colors, of which the blue ones are unseen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.shards.zero_shot_split import ClassSplit, Policy, split_zero_shot
from segkit.taxonomy import Category, Taxonomy
from segkit.training.train import train

TAXONOMY = Taxonomy(
    "blocks",
    (
        Category(4, "dog", "thing"),
        Category(9, "cat", "thing"),
        Category(11, "sky", "stuff"),
        Category(2, "cow", "thing"),
    ),
)
COLORS = {4: (220, 40, 40), 9: (40, 200, 60), 2: (40, 60, 230), 11: (150, 160, 170)}
UNSEEN = "cow"


def run_json(*arguments: object) -> Any:
    """The JSON object on stdout of a command; raises its error."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sample(seed: int) -> tuple[Sample, np.ndarray]:
    """Two blocks on the sky; a cow in every third picture."""
    rng = np.random.default_rng(seed)
    ids = np.full((48, 64), 11, np.int64)
    second = 2 if seed % 3 == 0 else int(rng.choice([4, 9]))
    for place, class_id in enumerate((int(rng.choice([4, 9])), second)):
        x, y = rng.integers(2, 10, 2)
        ids[y : y + 30, 32 * place + x : 32 * place + x + 18] = 100 * (place + 1) + class_id
    picture = np.zeros((48, 64, 3), np.uint8)
    for class_id, color in COLORS.items():
        picture[ids % 100 == class_id] = color
    segments = tuple(
        Segment(
            value % 100,
            TAXONOMY.by_id[value % 100].kind,
            region.box,
            region.counts,
            float(region.area),
            mask_from="human",
        )
        for value, region in rle.regions(ids).items()
    )
    return Sample(f"{seed:03d}", f"{seed:03d}.png", 64, 48, segments), picture


def encode(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def write_blocks(folder: Path, count: int = 9, noise: int | None = None) -> ShardSet:
    """The pictures; with noise, cows are painted in random colors of a seed."""

    def records() -> Iterator[tuple[Sample, bytes]]:
        for seed in range(count):
            blocks, picture = sample(seed)
            if noise is not None:
                cow = np.zeros((48, 64), bool)
                for segment in blocks.segments:
                    if segment.class_id == 2:
                        cow |= rle.decode(segment.mask or b"", 48, 64)
                rng = np.random.default_rng((noise, seed))
                picture[cow] = rng.integers(0, 256, (int(cow.sum()), 3))
            yield blocks, encode(picture)

    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="blocks", command="test")
    return write_set(folder, records(), header)


def split_blocks(data: ShardSet, folder: Path, policy: Policy) -> dict[str, ShardSet]:
    return split_zero_shot(data, folder, ClassSplit("cows", (UNSEEN,)), policy, {})


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_blocks(tmp_path_factory.mktemp("blocks") / "set")


@pytest.fixture(scope="session")
def parts(blocks: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    return split_blocks(blocks, tmp_path_factory.mktemp("parts"), "drop-image")


@pytest.fixture(scope="session")
def seen_run(
    parts: dict[str, ShardSet], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of a few steps on the seen part."""
    out = tmp_path_factory.mktemp("run") / "run"
    data = [(str(parts["seen"].path), 1.0)]
    overrides = ["inference.score=0.1", "model.class_scale=20"]
    return train(tiny, data, out, steps=6, device="cpu", overrides=overrides)
