"""Model and losses as one module, which is what the loop trains."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segkit.criterion.forward import training_forward
from segkit.data.batch import Batch
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig


class Learner(nn.Module):
    """A model, the class tables of its data sets and the weights of its losses.

    One module, so that DistributedDataParallel sees one forward call.
    """

    def __init__(
        self, model: DataSeg, tables: Mapping[str, ClassEmbeddings], config: LossConfig
    ) -> None:
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.tables = {name: table.to(device) for name, table in tables.items()}
        self.config = config

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Weighted loss terms of a batch at a training step, whose noise comes from torch's global
        generator."""
        table = self.tables[batch.dataset]
        noise = torch.default_generator
        return training_forward(self.model, batch, table, self.config, step=step, generator=noise)
