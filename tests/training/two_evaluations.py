"""Run in two processes by test_evaluation: evaluate a model, sharded and not."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from segkit import distributed
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import InferenceConfig
from segkit.shards.reader import ShardSet
from segkit.training import evaluation, sharding
from segkit.training.evaluation import evaluate_set

CONFIG = InferenceConfig(image_size=64, batch_size=1, score=0.0, overlap=0.0)
PART = 4
"""Images of a part: one process has four batches, the other two."""


def evaluate_toys(toys: ShardSet, recipe: Path, out: Path, *, shard: bool) -> dict[str, Any] | None:
    """The metrics of a random model."""
    torch.manual_seed(0)
    model = DataSeg(load_recipe(recipe).model).eval()
    is_thing = torch.tensor([c.kind == "thing" for c in toys.taxonomy.categories])
    embeddings = ClassEmbeddings(torch.randn(len(is_thing), model.config.text_dim), is_thing)
    if shard:
        sharding.shard(model, torch.device("cpu"))
    evaluation.rows_per_shard = lambda images: PART
    metrics = evaluate_set(model, embeddings, toys, CONFIG, out / "picture.png")
    for weight in model.parameters():
        assert isinstance(weight, DTensor) == shard, "a gathered weight remains"
    return metrics


def main(toys: str, recipe: str, folder: str) -> None:
    out = Path(folder)
    with distributed.process_group(torch.device("cpu")):
        data = ShardSet.open(toys)
        results = [evaluate_toys(data, Path(recipe), out, shard=shard) for shard in (False, True)]
        (out / f"rank-{distributed.rank()}.json").write_text(json.dumps(results))
