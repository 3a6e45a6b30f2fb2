"""A network of a few weights in the place of the model and its losses, so that the engine is tested
alone."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.data.batch import Batch
from segkit.recipes.schema import Recipe

NOTHING: tuple[()] = ()


class StandIn(nn.Module):
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

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.backbone(images).mean((2, 3)) + self.query.weight.sum(0) + self.background
        noise = torch.rand(len(images), 1, device=images.device) if self.training else 0.0
        return self.head(self.norm(pooled)).squeeze(-1) + 0.1 * torch.as_tensor(noise).reshape(-1)


class Learner(nn.Module):
    """Two terms, both means over images; the target of an image is its mean red."""

    def __init__(self, model: StandIn) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        found, wanted = self.model(batch.images), batch.images[:, 0].mean((1, 2))
        return {"square": F.mse_loss(found, wanted), "size": 0.1 * F.l1_loss(found, wanted)}


def batches(size: int = 4, start: int = 0) -> Iterator[Batch]:
    """Batch k is a function of k alone, as the data mix promises."""
    step = start
    while True:
        images = torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        ids = tuple(f"image-{step}-{i}" for i in range(size))
        yield Batch(images, NOTHING, "toy", "semantic", ids)
        step += 1


def recipe(**sections: dict[str, object]) -> Recipe:
    return Recipe.model_validate({"name": "toy", "optimizer": {"lr": 0.01}, **sections})
