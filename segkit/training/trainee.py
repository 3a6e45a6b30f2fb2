"""All that changes while a model is trained."""

import copy
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segkit import distributed
from segkit.recipes.schema import Recipe
from segkit.training import checkpoint, sharding
from segkit.training.moments import blank_moments, moments, restore_moments
from segkit.training.optimizer import build_ema, build_optimizer


class Trainee:
    """Model, averaged copy, optimizer and loss scale, and so all that a checkpoint holds.

    Args:
        model: the model, on its device; its averaged copy is `average`. With `training.parallel` =
            fsdp and several processes it is sharded in place, and so is the copy.
        learner: a module around `model` whose forward takes (batch, step) and returns the weighted
            loss terms. Model and losses are one module so that DistributedDataParallel and FSDP see
            one forward.
        recipe: optimizer and training sections are used.
    """

    def __init__(self, model: nn.Module, learner: nn.Module, recipe: Recipe) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.recipe = recipe
        self.average: AveragedModel = build_ema(model, recipe.optimizer.ema_decay)
        self._sharded = recipe.training.parallel == "fsdp" and distributed.world_size() > 1
        if self._sharded:
            # What evaluation and export fill with whole weights; the first process alone has them.
            self._unsharded = copy.deepcopy(model).cpu() if distributed.rank() == 0 else None
            sharding.shard(learner, self.device)
            sharding.shard(self.average.module, self.device)
            self.learner = learner
        else:
            self.learner = distributed.wrap_ddp(learner, self.device)
        self.optimizer = build_optimizer(model, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=recipe.training.precision == "fp16"
        )
        self.step = 0

    def averaged_model(self) -> nn.Module | None:
        """The model with the averaged weights, whole and on the device, in the first process; None
        in the others.

        Every process must call it. It is for reading: it may share its weights with the average.
        """
        if not self._sharded:
            return self.average.module if distributed.rank() == 0 else None
        state = sharding.full_state_dict(self.average.module)
        if self._unsharded is None:
            return None
        model = copy.deepcopy(self._unsharded)
        model.load_state_dict(state)
        return model.to(self.device)

    def save(self, folder: Path, *, best: int | None) -> Path:
        """Write a checkpoint, as `checkpoint.save` does; every process must call it.

        No random state is in it: the noise of a step is a function of seed and step. Batch
        statistics, which every process has its own of, become those of the first.
        """
        for buffer in itertools.chain(self.model.buffers(), self.average.buffers()):
            distributed.broadcast_tensor(buffer)
        state = self._weights() | _prefixed("optimizer", moments(self.model, self.optimizer))
        values = {"scaler": self.scaler.state_dict()}
        newest = self.recipe.training.keep_checkpoints
        return checkpoint.save(folder, self.step, state, values, newest=newest, best=best)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, whichever processes wrote it; every process must call it."""
        sizes = checkpoint.sizes(path)
        held = {
            key.partition("/")[2]: size
            for key, size in sizes.items()
            if key.startswith("optimizer/")
        }
        blank = blank_moments(self.model, held)
        values = checkpoint.load(path, self._weights() | _prefixed("optimizer", blank))
        restore_moments(self.model, self.optimizer, blank)
        self.scaler.load_state_dict(values["scaler"])
        self.step = int(values["step"])

    def _weights(self) -> dict[str, Tensor]:
        """Weights and buffers, averaged and not: the tensors themselves."""
        return _prefixed("model", self.model.state_dict()) | _prefixed(
            "average", self.average.state_dict()
        )


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
