"""The training loop: batches -> model -> losses -> backward -> clip -> finite check -> step ->
average -> log."""

import itertools
import math
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from segkit import distributed
from segkit.data.batch import Batch
from segkit.distributed import autocast
from segkit.errors import SegkitError
from segkit.training.optimizer import lr_factor, set_lr
from segkit.training.sharding import whole
from segkit.training.trainee import Trainee


@dataclass(frozen=True)
class StepRecord:
    """What is logged of one step: a line of `metrics.jsonl`."""

    step: int
    """Steps taken, this one included: the first is 1."""
    dataset: str
    """Data sets of the step's batches, joined by + where accumulation mixed several."""
    loss: float
    """Sum of the weighted terms, mean over accumulated batches (by rate, where data sets are mixed)
    and processes."""
    losses: dict[str, float]
    gradient_norm: float
    """Before clipping."""
    lr: float
    samples_per_second: float
    memory_mib: float
    """Largest allocation on the GPU so far; on a CPU the largest resident size of the process."""


def train_step(
    trainee: Trainee,
    batches: Sequence[Batch],
    started: float,
    rates: Mapping[str, float] | None = None,
) -> StepRecord:
    """One optimizer step.

    Args:
        trainee: is changed.
        batches: the mean of their gradients is taken; on any device.
        rates: by which the batches of each data set count in that mean; None lets all count alike.
        started: `time.perf_counter()` when the batches were asked for: waiting for data counts in
            samples/s.

    Raises:
        SegkitError: a loss or gradient is not finite; names the sample ids. No weight has been
            changed by it.
    """
    recipe, optimizer, scaler = trainee.recipe, trainee.optimizer, trainee.scaler
    rate = recipe.optimizer.lr * lr_factor(trainee.step, recipe.training.steps, recipe.optimizer)
    set_lr(optimizer, rate)
    _seed_noise(recipe.training.seed, trainee.step)
    trainee.learner.train()
    optimizer.zero_grad(set_to_none=True)

    terms: list[dict[str, Tensor]] = []
    shares = _shares(batches, rates)
    for batch, share in zip(batches, shares, strict=True):
        with _synchronized(trainee.learner, batch is batches[-1]):
            with autocast(recipe.training.precision, trainee.device):
                losses = trainee.learner(batch.to(trainee.device, non_blocking=True), trainee.step)
            loss = torch.stack(list(losses.values())).sum() * share
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        terms.append({name: value.detach() for name, value in losses.items()})

    scaler.unscale_(optimizer)
    norm = float(whole(clip_grad_norm_(trainee.model.parameters(), recipe.optimizer.clip_norm)))
    records = distributed.all_gather_object(
        [_batch_record(*given, norm) for given in zip(batches, shares, terms, strict=True)]
    )
    require_finite(records, trainee.step, scaler)
    scaler.step(optimizer)
    scaler.update()
    trainee.average.update_parameters(trainee.model)
    trainee.step += 1
    return _step_record(trainee, records, rate, time.perf_counter() - started)


@dataclass(frozen=True)
class BatchRecord:
    """What one batch of a step gave."""

    dataset: str
    sample_ids: tuple[str, ...]
    share: float
    """Of the loss of the step in its process."""
    losses: dict[str, float]
    gradient_norm: float
    """Of the whole step, before clipping."""


def _shares(batches: Sequence[Batch], rates: Mapping[str, float] | None) -> list[float]:
    weights = [1.0 if rates is None else rates[batch.dataset] for batch in batches]
    return [weight / sum(weights) for weight in weights]


def _batch_record(
    batch: Batch, share: float, losses: dict[str, Tensor], norm: float
) -> BatchRecord:
    values = torch.stack(list(losses.values())).tolist()  # one transfer for all terms
    return BatchRecord(
        batch.dataset, batch.sample_ids, share, dict(zip(losses, values, strict=True)), norm
    )


def require_finite(records: Sequence[BatchRecord], step: int, scaler: torch.amp.GradScaler) -> None:
    """Stop where a loss, or else a gradient, is NaN or infinite, with the sample ids of the batches
    concerned.

    In fp16 an infinite gradient is the scaler's business (it leaves the step out and lowers its
    scale) until the scale is at 1 and can fall no further.
    """
    bad = [record for record in records if not all(map(math.isfinite, record.losses.values()))]
    what = "a loss"
    if not bad and (not scaler.is_enabled() or scaler.get_scale() <= 1):
        bad, what = (
            [record for record in records if not math.isfinite(record.gradient_norm)],
            "a gradient",
        )
    if bad:
        where = "; ".join(f"{record.dataset}: {', '.join(record.sample_ids)}" for record in bad)
        losses = ", ".join(f"{name} {value:.3g}" for name, value in bad[0].losses.items())
        raise SegkitError(
            f"{what} is not finite at step {step + 1} ({losses}); samples of the batch: {where}"
        )


def _step_record(
    trainee: Trainee, records: Sequence[BatchRecord], rate: float, seconds: float
) -> StepRecord:
    names = sorted({name for record in records for name in record.losses})
    # A term that a batch does not have counts as 0 there, so that the terms add up to the loss that
    # was minimised.
    total = sum(record.share for record in records)
    losses = {
        name: sum(record.share * record.losses.get(name, 0.0) for record in records) / total
        for name in names
    }
    return StepRecord(
        step=trainee.step,
        dataset="+".join(sorted({record.dataset for record in records})),
        loss=sum(losses.values()),
        losses=losses,
        gradient_norm=records[0].gradient_norm,
        lr=rate,
        samples_per_second=sum(len(record.sample_ids) for record in records) / seconds,
        memory_mib=_memory_mib(trainee.device),
    )


def _seed_noise(seed: int, step: int) -> None:
    """Make the noise of a step (sampled points, box noise, dropped paths) a function of seed, step
    and process.

    So a resumed run needs no stored random state, and an evaluation in between changes nothing.
    """
    torch.manual_seed(
        int(np.random.SeedSequence((seed, step, distributed.rank())).generate_state(1)[0])
    )


def _synchronized(learner: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged between processes in the last batch of a step only."""
    if isinstance(learner, FSDPModule):
        learner.set_requires_gradient_sync(last)
    if isinstance(learner, DistributedDataParallel) and not last:
        return learner.no_sync()
    return nullcontext()


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def train_steps(
    trainee: Trainee, batches: Iterable[Batch], rates: Mapping[str, float] | None = None
) -> Iterator[StepRecord]:
    """Steps until the recipe's last one or the end of `batches`; between two of them the caller
    evaluates and saves.

    With `rates` a step takes `training.accumulate` batches of every data set that has one, else so
    many in all.
    """
    source, recipe = iter(batches), trainee.recipe.training
    wanted = recipe.accumulate * (1 if rates is None else len(rates))
    while trainee.step < recipe.steps:
        started = time.perf_counter()
        taken = list(itertools.islice(source, wanted))
        if not taken:
            raise SegkitError(f"the data ended after {trainee.step} steps")
        yield train_step(trainee, taken, started, rates)
