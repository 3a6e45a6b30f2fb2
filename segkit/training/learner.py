"""Model and losses as one module, which is what the loop trains."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig


class Learner(nn.Module):
    def __init__(
        self, model: DataSeg, tables: Mapping[str, ClassEmbeddings], config: LossConfig
    ) -> None:
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.tables = {name: table.to(device) for name, table in tables.items()}
        self.config = config
        is_thing = {name: table.is_thing for name, table in self.tables.items()}
        self.criterion = SetCriterion(config, is_thing)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        prompts = sample_box_prompts(batch, self.config, torch.default_generator)
        text = self.tables[batch.dataset].text
        outputs = self.model(batch.images, text, prompts, learned_queries=self.config.matching)
        losses: dict[str, Tensor] = self.criterion(outputs, batch, prompts, step)
        return losses
