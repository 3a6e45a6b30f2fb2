from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    "toy", (Category(7, "sky", "stuff"), Category(3, "cat", "thing", ("cat", "kitty")))
)


def picture(seed: int, height: int = 24, width: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def toy_sample(seed: int) -> Sample:
    """A panoptic sample: a cat with a hole, sky, void.

    Over the seeds, every optional field is set.
    """
    ids = np.full((24, 32), 7, np.int64)
    ids[4 + seed % 5 : 20, 6:15] = 3
    ids[10:12, 8:10] = 0
    regions = rle.regions(ids)
    cat, sky = regions[3], regions[7]
    return Sample(
        id=f"{seed:03d}",
        file_name=f"some/folder/{seed:03d}.png",
        width=32,
        height=24,
        segments=(
            Segment(
                3,
                "thing",
                cat.box,
                cat.counts,
                cat.area,
                mask_from="human",
                source_id=str(seed),
                score=0.25,
            ),
            Segment(
                7,
                "stuff",
                sky.box,
                sky.counts,
                sky.area,
                mask_from="derived",
                source_polygon="[[1, 2.50]]",
            ),
            Segment(
                3,
                "thing",
                (-1.5, 0.1, 40.0, 8.0),
                None,
                320.0,
                is_crowd=True,
                ignore=bool(seed % 2),
            ),
        ),
        annotated=(3, 7) if seed % 2 else None,
        exhaustive=bool(seed % 3),
        void=regions[0].counts,
        source='{"license": 3, "name": "é"}' if seed % 2 else None,
    )


def toy_records(count: int) -> Iterator[tuple[Sample, bytes | None]]:
    return ((toy_sample(seed), picture(seed)) for seed in range(count))


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., ShardSet]:
    def make(name: str = "toy", count: int = 5, shard_size: int = 4000) -> ShardSet:
        return write_set(
            tmp_path / name,
            toy_records(count),
            Header(
                taxonomy=TAXONOMY,
                kind="panoptic",
                name="toy",
                split="train",
                command="test",
                arguments={"out": name},
            ),
            shard_size=shard_size,
        )

    return make
