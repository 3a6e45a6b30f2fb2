"""A training from data sets to a published run version."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from segkit.data.batch import Batch
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.model.dataseg import DataSeg, build_model
from segkit.model.hf import init_from
from segkit.shards.publish import MANIFEST, Staging, interrupted, staging
from segkit.training import checkpoint, distributed
from segkit.training.config import TrainingConfig
from segkit.training.device import choose_device
from segkit.training.evaluation import evaluate_set
from segkit.training.job import Job, open_sets, refuse_other, with_pixel_statistics
from segkit.training.learner import Learner
from segkit.training.log import RunLog
from segkit.training.loop import StepRecord, Trainee, train_steps
from segkit.training.recipe import load_recipe
from segkit.training.run_manifest import CHECKPOINTS, PICTURES
from segkit.training.run_writer import publish, write_inputs, write_model
from segkit.training.stop import StoppedError, stop_on_signal


@dataclass(frozen=True)
class Watchers:
    """Who is told of what happens; by default nobody."""

    on_start: Callable[[int, int], None] = lambda step, steps: None
    """Steps taken already (by the run that is resumed) and steps in all."""
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_evaluation: Callable[[int, str, dict[str, Any]], None] = lambda step, name, metrics: None
    """Step, data set and metrics."""


def train(
    recipe: str | Path,
    data: Sequence[tuple[str, float]],
    out: Path,
    *,
    eval_data: Sequence[str] = (),
    steps: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    resume: bool = False,
    watchers: Watchers | None = None,
) -> Path:
    """Train a model and publish it as a new version of the run `out`.

    Args:
        recipe: a shipped recipe's name or a TOML file.
        data: shard sets (`DIR` or `DIR@v2`) and the rates at which steps draw them.
        out: directory of the run's versions.
        eval_data: shard sets on which the averaged weights are evaluated from time to time, and at the end.
        steps: replaces the recipe's.
        device: auto, cpu, cuda or cuda:N.
        overrides: `section.key=value`, applied to the recipe.
        resume: go on from the last checkpoint of an interrupted run with the same recipe and data; with none, start.
        watchers: are told of steps and evaluations.

    Returns:
        The path of the published version.

    Raises:
        InputError: a recipe, data set or device that cannot be used, or another recipe than that of the run to resume.
        SegkitError: a loss is not finite, or another process is writing to `out`.
        StoppedError: by SIGTERM or SIGINT, after a checkpoint has been saved.
    """
    overriding = overrides if steps is None else [*overrides, f"training.steps={steps}"]
    chosen = with_pixel_statistics(load_recipe(recipe, overriding))
    place = choose_device(device)
    arguments = {"recipe": str(recipe), "data": dict(data), "eval_data": list(eval_data), "set": list(overrides)}
    sets = open_sets(data, chosen)
    evaluation = open_sets([(spec, 1.0) for spec in eval_data], chosen)
    for named in evaluation:
        if named.shards.manifest.kind == "boxes":
            raise InputError("has boxes alone, masks cannot be evaluated", file=named.shards.path, mend="leave it out")
    job = Job(chosen, sets, evaluation, place, arguments)
    with distributed.process_group(place):
        mix, trainee = _mix(job), _trainee(job)  # first: what is refused here must not clear an interrupted run away
        with _staged(out, job, resume) as stage:
            return _train(job, mix, trainee, stage, watchers or Watchers())


@contextmanager
def _staged(out: Path, job: Job, resume: bool) -> Iterator[Staging]:
    """The run's staging directory, held by the first process and shared with the others."""
    fingerprint = job.fingerprint()
    if resume:
        refuse_other(interrupted(out), fingerprint, out)
    holding = distributed.rank() == 0
    with staging(out, fingerprint, resume=resume) if holding else nullcontext() as stage:
        shared: Staging | None = distributed.from_first(stage)
        assert shared is not None
        yield shared


def _train(job: Job, mix: DataMix, trainee: Trainee, stage: Staging, watchers: Watchers) -> Path:
    """Train from where the staging directory stands, and publish."""
    writes = distributed.rank() == 0
    if not (stage.path / MANIFEST).is_file():
        state = checkpoint.load_newest(stage.path / CHECKPOINTS, job.device)
        if state:
            trainee.restore(state)
        if writes:
            write_inputs(job, stage.path)
            watchers.on_start(trainee.step, job.recipe.training.steps)
        _steps(job, mix, trainee, stage.path, watchers)
        if writes:
            write_model(job, trainee, stage)
    distributed.barrier()
    return distributed.from_first(publish(stage) if writes else stage.path)


def _trainee(job: Job) -> Trainee:
    torch.manual_seed(job.recipe.training.seed)
    model = build_model(job.recipe.model)
    if job.recipe.model.init_from is not None:
        init_from(model, job.recipe.model.init_from)
    model = model.to(job.device)
    return Trainee(model, Learner(model, {named.name: named.table for named in job.data}, job.recipe.loss), job.recipe)


def _mix(job: Job) -> DataMix:
    return DataMix(
        [(named.name, named.shards, named.weight) for named in job.data],
        job.recipe.data,
        seed=job.recipe.training.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def _batches(mix: DataMix, training: TrainingConfig, step: int) -> Generator[Batch]:
    """The batches of steps from `step` on, for this process."""
    for _, batch in mix.batches(step * training.accumulate, training.steps * training.accumulate):
        yield batch


def _steps(job: Job, mix: DataMix, trainee: Trainee, folder: Path, watchers: Watchers) -> None:
    """All steps that are left, with their logs, checkpoints and evaluations."""
    training = job.recipe.training
    todo = _batches(mix, training, trainee.step)
    with _log(folder, trainee.step) as log, stop_on_signal() as wish, closing(todo) as batches:
        _evaluate_if_due(job, trainee, folder, log, watchers)  # one that an interruption has cut short
        for record in train_steps(trainee, batches):
            if log:
                log.step(record)
                watchers.on_step(record)
            stop = max(distributed.gather([wish.signal]))
            if stop or record.step % training.checkpoint_every == 0 or record.step == training.steps:
                _save(trainee, folder)
            if stop:
                raise StoppedError(stop, record.step)
            _evaluate_if_due(job, trainee, folder, log, watchers)


@contextmanager
def _log(folder: Path, step: int) -> Iterator[RunLog | None]:
    """The run's log in the first process, None in the others."""
    if distributed.rank() != 0:
        yield None
        return
    with closing(RunLog(folder, step)) as log:
        yield log


def _save(trainee: Trainee, folder: Path) -> None:
    if distributed.rank() == 0:
        keep_last = trainee.recipe.training.keep_last
        checkpoint.save(folder / CHECKPOINTS, trainee.step, trainee.state(), keep_last)


def _evaluate_if_due(job: Job, trainee: Trainee, folder: Path, log: RunLog | None, watchers: Watchers) -> None:
    """Evaluate the averaged weights on the sets that are not in the log for this step; the other processes wait."""
    step, training = trainee.step, job.recipe.training
    if step == 0 or (step % training.evaluate_every and step != training.steps):
        return
    if log:
        model = cast(DataSeg, trainee.average.module).eval()
        for named in job.evaluation:
            if (step, named.name) not in log.evaluated:
                picture = folder / PICTURES / f"step-{step:08d}-{named.name}.png"
                table = named.table.to(job.device)
                metrics = evaluate_set(model, table, named.shards, job.recipe.inference, picture)
                log.evaluation(step, named.name, metrics)
                watchers.on_evaluation(step, named.name, metrics)
    distributed.barrier()
