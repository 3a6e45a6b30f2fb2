"""A training from data sets to a published run version."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from segkit import distributed
from segkit.data.batch import Batch
from segkit.data.mix import DataMix
from segkit.distributed import choose_device
from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import init_from, resolve_init_from
from segkit.runs.run_manifest import CHECKPOINTS, PICTURES
from segkit.shards.publish import MANIFEST, Staging, interrupted, staging
from segkit.training import checkpoint
from segkit.training.evaluation import evaluate_set
from segkit.training.learner import Learner
from segkit.training.logging import RunLog
from segkit.training.loop import StepRecord, train_steps
from segkit.training.publish_run import publish, write_inputs, write_model
from segkit.training.setup import (
    Job,
    encoding_of,
    open_sets,
    refuse_other,
    refuse_twins,
    with_pixel_statistics,
    with_text_dim,
)
from segkit.training.signals import StoppedError, stop_on_signal
from segkit.training.trackers import TRACKERS, require
from segkit.training.trainee import Trainee


@dataclass(frozen=True)
class Callbacks:
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
    callbacks: Callbacks | None = None,
) -> Path:
    """Train a model and publish it as a new version of the run `out`.

    Args:
        recipe: a shipped recipe's name or a TOML file.
        data: shard sets (`DIR` or `DIR@v2`) and the rates at which steps draw them.
        out: directory of the run's versions.
        eval_data: shard sets on which the averaged weights are evaluated from time to time, and at
            the end.
        steps: replaces the recipe's.
        device: auto, cpu, cuda or cuda:N.
        overrides: `section.key=value`, applied to the recipe.
        resume: go on from the last checkpoint of an interrupted run with the same recipe and data;
            with none, start.
        callbacks: are told of steps and evaluations.

    Returns:
        The path of the published version.

    Raises:
        InputError: a recipe, data set or device that cannot be used, or another recipe than that of
            the run to resume.
        SegkitError: a loss is not finite, or another process is writing to `out`.
        StoppedError: by SIGTERM or SIGINT, after a checkpoint has been saved.
    """
    overriding = overrides if steps is None else [*overrides, f"training.steps={steps}"]
    chosen = resolve_init_from(
        with_text_dim(with_pixel_statistics(load_recipe(recipe, overriding)))
    )
    require(chosen.training.loggers)
    place = choose_device(device)
    arguments = {
        "recipe": str(recipe),
        "data": dict(data),
        "eval_data": list(eval_data),
        "set": list(overrides),
    }
    sets = open_sets(data, chosen)
    evaluation = open_sets([(spec, 1.0) for spec in eval_data], chosen)
    refuse_twins(evaluation)
    for named in evaluation:
        if named.shards.manifest.kind == "boxes":
            raise InputError(
                "has boxes alone, masks cannot be evaluated",
                file=named.shards.path,
                hint="leave it out",
            )
    if chosen.training.publish == "best" and not evaluation:
        raise InputError(
            "no evaluation to choose by",
            record="training.publish",
            hint="give --eval-data, or set it to last",
        )
    job = Job(chosen, sets, evaluation, place, arguments)
    with distributed.process_group(place):
        mix, trainee = (
            _mix(job),
            _trainee(job),
        )  # first: what is refused here must not clear an interrupted run away
        with _staged(out, job, resume) as stage:
            return _train(job, mix, trainee, stage, callbacks or Callbacks())


@contextmanager
def _staged(out: Path, job: Job, resume: bool) -> Iterator[Staging]:
    """The run's staging directory, held by the first process and shared with the others."""
    fingerprint, holding = job.fingerprint(), distributed.rank() == 0
    if (
        resume
    ):  # the first process looks for all: another might read what that one has begun to write
        refuse_other(
            distributed.broadcast_object(interrupted(out) if holding else None), fingerprint, out
        )
    with (
        staging(out, fingerprint, resume=resume, content="run")
        if holding
        else nullcontext() as stage
    ):
        shared: Staging | None = distributed.broadcast_object(stage)
        assert shared is not None
        yield shared


def _train(job: Job, mix: DataMix, trainee: Trainee, stage: Staging, callbacks: Callbacks) -> Path:
    """Train from where the staging directory stands, and publish."""
    writes, checkpoints = distributed.rank() == 0, stage.path / CHECKPOINTS
    if not (stage.path / MANIFEST).is_file():
        newest = checkpoint.newest(checkpoints)
        if newest:
            trainee.restore(newest)
        if writes:
            write_inputs(job, stage.path)
            callbacks.on_start(trainee.step, job.recipe.training.steps)
        best = _steps(job, mix, trainee, stage.path, callbacks)
        if job.recipe.training.publish == "best" and best not in (None, trainee.step):
            trainee.restore(checkpoint.of_step(checkpoints, best))
        model = trainee.averaged_model()
        if model:
            write_model(job, model, trainee.step, stage)
    distributed.barrier()
    return distributed.broadcast_object(publish(stage) if writes else stage.path)


def _trainee(job: Job) -> Trainee:
    torch.manual_seed(job.recipe.training.seed)
    model = DataSeg(job.recipe.model)
    if job.recipe.model.init_from is not None:
        init_from(model, job.recipe.model.init_from, encoding_of(job.recipe))
    model = model.to(job.device)
    if job.recipe.training.activation_checkpointing:
        model.recompute_activations()
    if job.recipe.training.compile:
        model.compile_parts()
    return Trainee(
        model,
        Learner(model, {named.name: named.table for named in job.data}, job.recipe.loss),
        job.recipe,
    )


def _mix(job: Job) -> DataMix:
    return DataMix(
        [(named.name, named.shards, named.weight) for named in job.data],
        job.recipe.data,
        seed=job.recipe.training.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def _batches(job: Job, mix: DataMix, step: int) -> Generator[Batch]:
    """The batches of steps from `step` on, for this process."""
    training = job.recipe.training
    each = training.accumulate * (len(mix.sets) if mix.config.mixing == "all" else 1)
    for _, batch in mix.batches(
        step * each, training.steps * each, pinned=job.device.type == "cuda"
    ):
        yield batch


def _steps(
    job: Job, mix: DataMix, trainee: Trainee, folder: Path, callbacks: Callbacks
) -> int | None:
    """All steps that are left, with their logs, checkpoints and evaluations; returns the step of
    the best of these."""
    training = job.recipe.training
    todo = _batches(job, mix, trainee.step)
    rates = (
        {named.name: named.weight for named in job.data}
        if job.recipe.data.mixing == "all"
        else None
    )
    names = [named.name for named in job.evaluation]
    with (
        _log(job.recipe, folder, trainee.step) as log,
        stop_on_signal() as wish,
        closing(todo) as batches,
    ):
        _evaluate_if_due(
            job, trainee, folder, log, callbacks
        )  # one that an interruption has cut short
        for record in train_steps(trainee, batches, rates):
            if log:
                log.step(record)
                callbacks.on_step(record)
            stop = max(distributed.all_gather_object([wish.signal]))
            due = record.step % training.checkpoint_every == 0 or record.step == training.steps
            if (
                stop or due or _evaluation_due(job, record.step)
            ):  # what turns out the best has its checkpoint then
                trainee.save(folder / CHECKPOINTS, best=log.best(names) if log else None)
            if stop:
                raise StoppedError(stop, record.step)
            _evaluate_if_due(job, trainee, folder, log, callbacks)
        return distributed.broadcast_object(log.best(names) if log else None)


@contextmanager
def _log(recipe: Recipe, folder: Path, step: int) -> Iterator[RunLog | None]:
    """The run's log in the first process, None in the others."""
    if distributed.rank() != 0:
        yield None
        return
    settings = recipe.model_dump(mode="json", exclude={"name"})
    with ExitStack() as stack:
        runs = (TRACKERS[name](recipe.name, settings, folder) for name in recipe.training.loggers)
        sends = [stack.enter_context(run) for run in runs]
        yield stack.enter_context(closing(RunLog(folder, step, sends)))


def _evaluation_due(job: Job, step: int) -> bool:
    training = job.recipe.training
    return (
        bool(job.evaluation)
        and step > 0
        and (step % training.evaluate_every == 0 or step == training.steps)
    )


def _evaluate_if_due(
    job: Job, trainee: Trainee, folder: Path, log: RunLog | None, callbacks: Callbacks
) -> None:
    """Evaluate the averaged weights on the sets that are not in the log for this step; the other
    processes wait."""
    step = trainee.step
    if not _evaluation_due(job, step):
        return
    model = cast(DataSeg | None, trainee.averaged_model())
    if log and model:
        for named in job.evaluation:
            if not log.evaluated(step, named.name):
                picture = folder / PICTURES / f"step-{step:08d}-{named.name}.png"
                table = named.table.to(job.device)
                metrics = evaluate_set(
                    model.eval(), table, named.shards, job.recipe.inference, picture
                )
                log.evaluation(step, named.name, metrics)
                callbacks.on_evaluation(step, named.name, metrics)
    distributed.barrier()
