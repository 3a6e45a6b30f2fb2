"""A network of a few weights and its losses, to test the trainer without the real model."""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.data.batch import Batch
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import Recipe
from segkit.shards.reader import ShardSet
from segkit.training.logging import StepRecord
from segkit.training.setup import Dataset, TrainingSetup
from segkit.training.trainer import Trainer


class StandIn(nn.Module):
    """Predicts one number per image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.query = nn.Embedding(2, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 1)
        self.background = nn.Parameter(torch.zeros(4))
        self.table = nn.Parameter(torch.zeros(2, 2))

    def no_weight_decay(self) -> set[str]:
        return {"table"}

    def forward(
        self, images: Tensor, text: Tensor, prompts: None, *, learned_queries: bool, dense: bool
    ) -> Tensor:
        pooled = self.backbone(images).mean((2, 3)) + self.query.weight.sum(0) + self.background
        noise = torch.rand(len(images), 1, device=images.device) if self.training else 0.0
        return self.head(self.norm(pooled)).squeeze(-1) + 0.1 * torch.as_tensor(noise).reshape(-1)


class StandInCriterion(nn.Module):
    """Two terms, both means over images; the target of an image is its mean red."""

    def forward(
        self, outputs: Tensor, batch: Batch, prompts: None, step: int, *_: None
    ) -> dict[str, Tensor]:
        target = batch.images[:, 0].mean((1, 2))
        return {"square": F.mse_loss(outputs, target), "size": 0.1 * F.l1_loss(outputs, target)}


def make_trainer(weights: dict[str, float] | None = None, **sections: dict[str, object]) -> Trainer:
    """A trainer of the stand-in.

    Args:
        weights: sampling weight of each data set; one set `toy` by default.
        sections: of the recipe.
    """
    torch.manual_seed(0)
    recipe = Recipe.model_validate({"name": "toy", "optimizer": {"lr": 0.01}, **sections})
    no_shards = cast(ShardSet, None)
    embeddings = ClassEmbeddings(torch.zeros(2, 4), torch.tensor([True, False]))
    datasets = [
        Dataset(name, no_shards, weight, embeddings)
        for name, weight in (weights or {"toy": 1.0}).items()
    ]
    setup = TrainingSetup(recipe, datasets, [], torch.device("cpu"), {})
    return Trainer(StandIn(), StandInCriterion(), setup)


def freeze_mode(trainer: Trainer) -> Trainer:
    """Keep the model in evaluation mode: no noise, no batch statistics, so a batch may be split."""
    model = trainer.parallel_model
    model.eval()
    model.train = lambda mode=True: model  # type: ignore[method-assign,assignment]
    return trainer


def take_steps(trainer: Trainer, data: Iterable[Batch]) -> Iterator[StepRecord]:
    """Steps until the recipe's last one."""
    source = iter(data)
    while trainer.step < trainer.recipe.training.steps:
        yield trainer.train_step(source)


def batches(size: int = 4, start: int = 0) -> Iterator[Batch]:
    """Batch k is a function of only k, as in a data mix."""
    step = start
    while True:
        images = torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        ids = tuple(f"image-{step}-{i}" for i in range(size))
        yield Batch(images, (), "toy", "semantic", ids)
        step += 1
