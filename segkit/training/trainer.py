"""Trainer: the training step, and all that changes from step to step."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from segkit import distributed
from segkit.criterion.box_assist import predict_assist_masks
from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.denoising import sample_denoising
from segkit.criterion.pooled_targets import AssistMasks
from segkit.criterion.query_groups import runs_learned_queries, supervises_boxes
from segkit.data.batch import Batch
from segkit.data.mix import DataMix, name_killed_workers
from segkit.distributed import autocast, full_tensor, gradient_sync
from segkit.errors import SegkitError
from segkit.file_names import safe_name
from segkit.model.dataseg import DataSeg
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import CHECKPOINTS, PICTURES
from segkit.stopping import StoppedError, StopSignal, stop_on_signal
from segkit.training import checkpoint, sharding
from segkit.training.evaluation import evaluate_set
from segkit.training.logging import BatchRecord, RunLog, StepRecord, collect_records, open_log
from segkit.training.optimizer import (
    ModelEma,
    build_optimizer,
    empty_state,
    freeze_backbone,
    load_named_state,
    lr_factor,
    named_state,
    set_lr,
)
from segkit.training.setup import TrainingSetup


@dataclass(frozen=True)
class Callbacks:
    """Functions that the first process calls while it trains."""

    on_start: Callable[[int, int], None] = lambda step, steps: None
    """Steps that the resumed run has taken, and steps in all."""
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_evaluation: Callable[[int, str, dict[str, Any]], None] = lambda step, name, metrics: None
    """Step, data set and metrics."""


def model_arguments(batch: Batch, recipe: Recipe, things: Tensor) -> dict[str, Any]:
    """Keyword arguments of the model in a training step: the outputs and queries that run.

    Args:
        batch: the images, on the device of the model.
        recipe: of the training.
        things: classes of the batch's data set that are things, as in `ClassEmbeddings.things`.
    """
    arguments: dict[str, Any] = {"dense": recipe.loss.dense > 0}
    if not recipe.model.foreground:
        return arguments | {"learned_queries": recipe.loss.matching}
    return arguments | {
        "learned_queries": runs_learned_queries(batch.task),
        "supervised_boxes": supervises_boxes(batch.task),
        "things": things,
        "padding": batch.padding(),
        "noised": sample_denoising(batch, recipe.loss, torch.default_generator),
    }


class Trainer:
    """Trains a model; holds all that a checkpoint holds: model, EMA, optimizer, loss scale, step.

    Args:
        model: moved to the device of the setup; with `training.parallel` = fsdp and several
            processes block by block, as it is sharded in place, and so is its EMA.
        criterion: SetCriterion, or another module of its signature.
        setup: recipe and data sets.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, setup: TrainingSetup) -> None:
        self.setup, self.recipe = setup, setup.recipe
        self.model, self.criterion = model, criterion
        self.device = setup.device
        self.text = {data.name: data.embeddings.text.to(self.device) for data in setup.datasets}
        self.things = {data.name: data.embeddings.things.to(self.device) for data in setup.datasets}
        freeze_backbone(model, self.recipe.optimizer)
        self.is_sharded = self.recipe.training.parallel == "fsdp" and distributed.world_size() > 1
        if not self.is_sharded:  # a device might not hold a whole one
            model.to(self.device)
        self.ema = ModelEma(model, self.recipe.optimizer.ema_decay)
        if self.is_sharded:
            self._unsharded = copy.deepcopy(model).to("meta")  # without weights
            sharding.shard(model, self.device)
            sharding.shard(self.ema.module, self.device)
            self.parallel_model = model
        else:
            self.parallel_model = distributed.wrap_ddp(model, self.device)
        self.optimizer = build_optimizer(model, self.recipe.optimizer)
        self.checkpoints = checkpoint.CheckpointWriter()
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.recipe.training.precision == "fp16"
        )
        self.step = 0

    def train(self, mix: DataMix, folder: Path, callbacks: Callbacks) -> int | None:
        """Take the remaining steps, with their logs, checkpoints and evaluations.

        Args:
            mix: the data sets of the setup.
            folder: of the run.
            callbacks: called in the first process.

        Returns:
            The step of the best evaluation; None without one.

        Raises:
            SegkitError: as `train_step`, or a checkpoint cannot be written, or a process that loads
                data was killed.
            StoppedError: by SIGTERM or SIGINT, after a checkpoint has been saved.
        """
        training = self.recipe.training
        start, stop = (step * self.batches_per_step for step in (self.step, training.steps))
        pinned = self.device.type == "cuda"
        with (
            name_killed_workers(),
            open_log(self.recipe, folder, self.step) as log,
            stop_on_signal() as stop_signal,
            closing(self.checkpoints),
            closing(batch for _, batch in mix.batches(start, stop, pinned=pinned)) as batches,
        ):
            self.evaluate(folder, log, callbacks, stop_signal)  # one that was cut short
            while self.step < training.steps:
                record = self.train_step(batches)
                if log:
                    log.step(record)
                    callbacks.on_step(record)
                state = stop_signal.signal, self.checkpoints.has_failed
                states = distributed.all_gather_object([state])
                signal, has_failed = (max(values) for values in zip(*states, strict=True))
                if has_failed:
                    self.checkpoints.wait()
                if signal or self._checkpoint_due():
                    self.save(folder / CHECKPOINTS, best=self._best(folder, log))
                if signal:
                    self.checkpoints.wait()
                    raise StoppedError(signal, self.step)
                self.evaluate(folder, log, callbacks, stop_signal)
            self.checkpoints.wait()
            return distributed.broadcast_object(self._best(folder, log))

    def train_step(self, batches: Iterator[Batch]) -> StepRecord:
        """Take one optimizer step on the gradients of the next batches.

        Raises:
            SegkitError: the data has ended, or a loss or gradient is not finite: no weight changes.
        """
        config, started = self.recipe, time.perf_counter()  # the wait for data counts as well
        step_batches = self._next_batches(batches)
        shares = self._loss_shares(step_batches)
        self._seed_noise()
        lr = config.optimizer.lr * lr_factor(self.step, config.training.steps, config.optimizer)
        set_lr(self.optimizer, lr)
        self.parallel_model.train()
        self.optimizer.zero_grad(set_to_none=True)
        terms: list[dict[str, Tensor]] = []
        for batch, share in zip(step_batches, shares, strict=True):
            with gradient_sync(self.parallel_model, enabled=batch is step_batches[-1]):
                with autocast(config.training.precision, self.device):
                    batch = batch.to(self.device, non_blocking=True)
                    prompts = sample_box_prompts(batch, config.loss, torch.default_generator)
                    text = self.text[batch.dataset]
                    assist = self._assist_masks(batch, text)
                    arguments = model_arguments(batch, config, self.things[batch.dataset])
                    noised = arguments.get("noised")
                    outputs = self.parallel_model(batch.images, text, prompts, **arguments)
                    losses = self.criterion(outputs, batch, prompts, self.step, assist, noised)
                del outputs  # all layers' mask logits, which the backward pass does not need
                loss = torch.stack(list(losses.values())).sum() * share
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            terms.append({name: value.detach() for name, value in losses.items()})
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        records = collect_records(step_batches, shares, terms, full_tensor(norm))
        require_finite(records, self.step, self.scaler)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_parameters(self.model)
        self.step += 1
        seconds = time.perf_counter() - started
        return StepRecord.from_batches(records, self.step, lr, seconds, self.device)

    def evaluate(
        self,
        folder: Path,
        log: RunLog | None,
        callbacks: Callbacks,
        stop_signal: StopSignal,
    ) -> None:
        """Evaluate the EMA weights where an evaluation is due and not in the log yet.

        Every process must call it: each predicts its share of the images.

        Args:
            folder: of the run, for pictures.
            log: receives the metrics; None in other processes than the first.
            callbacks: called with the metrics.
            stop_signal: ends the evaluation, which a resumed run starts anew, at once.
        """
        if not self._evaluation_due():
            return
        self.checkpoints.wait()
        model = cast(DataSeg, self.ema.module.eval())
        with stop_signal.raised_at_once(self.step):
            for data in self.setup.eval_datasets:
                done = log.has_evaluation(self.step, data.name) if log else None
                if distributed.broadcast_object(done):
                    continue
                picture = folder / PICTURES / f"step-{self.step:08d}-{safe_name(data.name)}.png"
                embeddings, inference = data.embeddings.to(self.device), self.recipe.inference
                metrics = evaluate_set(model, embeddings, data.shards, inference, picture)
                if log and metrics is not None:
                    log.evaluation(self.step, data.name, metrics, picture)
                    callbacks.on_evaluation(self.step, data.name, metrics)

    def _best(self, folder: Path, log: RunLog | None) -> int | None:
        """The step of the best evaluation whose checkpoint is still there."""
        names = [data.name for data in self.setup.eval_datasets]
        return log.best(names, checkpoint.steps(folder / CHECKPOINTS)) if log else None

    def ema_model(self) -> nn.Module | None:
        """The model with the EMA weights in rank 0, for its `state_dict`; None in other processes.

        Every process must call it. A sharded average is gathered on the CPU, tensor by tensor.
        """
        if not self.is_sharded:
            return self.ema.module if distributed.rank() == 0 else None
        state = sharding.full_state_dict(self.ema.module)
        if distributed.rank() > 0:
            return None
        model = copy.deepcopy(self._unsharded)
        model.load_state_dict(state, assign=True)
        return model

    def save(self, folder: Path, *, best: int | None) -> Path:
        """Start to write a checkpoint (`CheckpointWriter.start`); every process must call it.

        It is complete after `checkpoints.wait()`, and before the next save starts. It holds no
        random state: the noise of a step is a function of seed and step. Batch statistics, which
        differ between processes, become those of rank 0.
        """
        distributed.broadcast_tensors([*self.model.buffers(), *self.ema.buffers()])
        state = self._weights() | _prefixed("optimizer", named_state(self.model, self.optimizer))
        values = {"scaler": self.scaler.state_dict()}
        newest = self.recipe.training.keep_checkpoints
        return self.checkpoints.start(folder, self.step, state, values, newest=newest, best=best)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of any number of processes; every process must call it."""
        self.checkpoints.wait()
        sizes = {
            key.removeprefix("optimizer/"): size
            for key, size in checkpoint.sizes(path).items()
            if key.startswith("optimizer/")
        }
        state = empty_state(self.model, sizes)
        values = checkpoint.load(path, self._weights() | _prefixed("optimizer", state))
        load_named_state(self.model, self.optimizer, state)
        self.scaler.load_state_dict(values["scaler"])
        self.step = int(values["step"])

    @property
    def batches_per_step(self) -> int:
        """Batches that make one step in each process."""
        mixed = len(self.setup.datasets) if self.recipe.data.mixing == "all" else 1
        return self.recipe.training.accumulate * mixed

    def _next_batches(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of a step; fewer at the end of the data."""
        step_batches = list(itertools.islice(batches, self.batches_per_step))
        if not step_batches:
            raise SegkitError(f"the data ended after {self.step} steps")
        return step_batches

    def _loss_shares(self, batches: Sequence[Batch]) -> list[float]:
        """Share of each batch in the step's loss: equal, or by sampling weight in mixed steps."""
        weights = [1.0] * len(batches)
        if self.recipe.data.mixing == "all":
            weight_of = {data.name: data.weight for data in self.setup.datasets}
            weights = [weight_of[batch.dataset] for batch in batches]
        return [weight / sum(weights) for weight in weights]

    def _seed_noise(self) -> None:
        """Make the noise of a step (points, box noise) a function of seed, step and rank.

        So a resumed run needs no stored random state, and an evaluation in between changes nothing.
        """
        key = (self.recipe.training.seed, self.step, distributed.rank())
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def _assist_masks(self, batch: Batch, text: Tensor) -> list[AssistMasks] | None:
        """Masks that the EMA predicts for the boxes of a batch, where they assist its training."""
        config = self.recipe.loss
        if config.box_assist == "off" or self.step < config.box_assist_start:
            return None
        masks = predict_assist_masks(self.ema.module.eval(), batch, text, config)
        if self.is_sharded:
            sharding.reshard(self.ema.module)
        return masks

    def _evaluation_due(self) -> bool:
        training = self.recipe.training
        due = self.step % training.evaluate_every == 0 or self.step == training.steps
        return bool(self.setup.eval_datasets) and self.step > 0 and due

    def _checkpoint_due(self) -> bool:
        """Also before each evaluation, since the best one's checkpoint is kept."""
        training = self.recipe.training
        due = self.step % training.checkpoint_every == 0 or self.step == training.steps
        return due or self._evaluation_due()

    def _weights(self) -> dict[str, Tensor]:
        """The tensors of weights and buffers, of the model and of its EMA."""
        weights = _prefixed("model", self.model.state_dict())
        return weights | _prefixed("average", self.ema.state_dict())


def require_finite(records: Sequence[BatchRecord], step: int, scaler: torch.amp.GradScaler) -> None:
    """Raise where a loss or a gradient is NaN or infinite; the message names the samples.

    In fp16 the scaler handles infinite gradients (it skips the step and lowers its scale), until
    the scale is at 1 and can fall no further.
    """
    bad = [record for record in records if not all(map(math.isfinite, record.losses.values()))]
    quantity = "a loss"
    if not bad and (not scaler.is_enabled() or scaler.get_scale() <= 1):
        bad = [record for record in records if not math.isfinite(record.gradient_norm)]
        quantity = "a gradient"
    if bad:
        samples = "; ".join(f"{record.dataset}: {', '.join(record.sample_ids)}" for record in bad)
        losses = ", ".join(f"{name} {value:.3g}" for name, value in bad[0].losses.items())
        message = f"{quantity} is not finite at step {step + 1} ({losses})"
        raise SegkitError(f"{message}; samples of the batch: {samples}")


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
