"""Six small pictures of green blocks, and a model small enough to learn them in a test."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy("toy", (Category(1, "sky", "stuff"), Category(2, "cat", "thing")))
RECIPE = """
name = "tiny"
[model]
backbone = "test_efficientnet"
hidden_dim = 16
mask_dim = 8
queries = 4
rounds = 1
heads = 2
feedforward_dim = 16
[data]
image_size = 64
batch_size = 2
color_jitter = 0.0
[optimizer]
lr = 0.003
backbone_lr_factor = 1.0
[training]
steps = 12
evaluate_every = 12
checkpoint_every = 1000
[inference]
image_size = 64
"""


def write_toy_set(
    folder: Path,
    *,
    boxes_only: bool = False,
    kind: SetKind = "panoptic",
    name: str = "toy",
    seeds: Iterable[int] = range(6),
    taxonomy: Taxonomy = TAXONOMY,
) -> ShardSet:
    """Publish pictures as a set of a kind, or only the blocks' boxes as a boxes set.

    Each seed makes another picture.
    """
    kind = "boxes" if boxes_only else kind
    records = ((_sample(seed, boxes_only), _picture(seed)) for seed in seeds)
    return write_set(
        folder,
        records,
        Header(taxonomy=taxonomy, kind=kind, name=name, split="train", command="test"),
    )


def write_sparse_set(folder: Path) -> ShardSet:
    """Four pictures, of which only one has labels.

    One of two processes that share them gets no labels.
    """
    samples = (_sample(seed, boxes_only=False) for seed in range(4))
    records = (
        (sample if not seed else replace(sample, segments=()), _picture(seed))
        for seed, sample in enumerate(samples)
    )
    return write_set(
        folder,
        records,
        Header(taxonomy=TAXONOMY, kind="panoptic", name="sparse", split="train", command="test"),
    )


def write_recipe(file: Path) -> Path:
    file.write_text(RECIPE)
    return file


def _ids(seed: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    x, y = np.random.default_rng(seed).integers(2, 20, 2)
    ids = np.full((48, 64), 1, np.int64)
    ids[y : y + 22, x : x + 30] = 2
    if seed % 2:
        ids[2:14, 51:63] = 3
    return ids


def _picture(seed: int) -> bytes:
    colors = np.where(_ids(seed)[..., None] > 1, (40, 200, 60), (220, 160, 130)).astype(np.uint8)
    return cv2.imencode(".png", colors)[1].tobytes()


def _sample(seed: int, boxes_only: bool) -> Sample:
    return Sample(f"{seed:03d}", f"{seed:03d}.png", 64, 48, tuple(_segments(seed, boxes_only)))


def _segments(seed: int, boxes_only: bool) -> Iterator[Segment]:
    for number, region in rle.regions(_ids(seed)).items():
        class_id = min(number, 2)
        if not boxes_only:
            kind = TAXONOMY.by_id[class_id].kind
            yield Segment(class_id, kind, region.box, region.counts, region.area, mask_from="human")
        elif class_id == 2:
            yield Segment(class_id, "thing", region.box, None, region.area)
