"""Train a model on shard sets and publish it as a run: the library behind `segkit train`."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from segkit import distributed
from segkit.data.mix import DataMix
from segkit.errors import InputError, Notice
from segkit.file_names import path_text
from segkit.runs.run_manifest import (
    CHECKPOINTS,
    interrupted_training,
    is_complete,
    read_taxonomies,
)
from segkit.shards.publish import Staging, staging, unfinished
from segkit.storage import StrPath, is_remote, location
from segkit.training import checkpoint
from segkit.training.builders import build_mix, build_trainer
from segkit.training.interrupted import check_resumable, require_no_interrupted_run
from segkit.training.options import TrainOptions
from segkit.training.publish_run import publish, write_inputs, write_model
from segkit.training.setup import TrainingSetup, WeightedSets, weighted_sets
from segkit.training.trainer import Callbacks, Trainer


def train(
    recipe: StrPath,
    data: WeightedSets,
    out: StrPath,
    *,
    eval_data: StrPath | Sequence[StrPath] = (),
    steps: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    names: Sequence[str] | None = None,
    resume: bool = False,
    restart: bool = False,
    callbacks: Callbacks | None = None,
) -> Path:
    """Train a model and publish it as a new version of the run `out`.

    Args:
        recipe: a shipped recipe's name or a TOML file.
        data: a shard set (`DIR` or `DIR@v2`), or several; `(SET, WEIGHT)` or `{SET: WEIGHT}` gives
            a sampling weight other than 1.
        out: directory of the run's versions.
        eval_data: shard set, or several, on which the EMA weights are evaluated at intervals and at
            the end.
        steps: replaces the recipe's.
        device: auto, cpu, cuda or cuda:N.
        overrides: `section.key=value`, applied to the recipe.
        names: of the sets in logs and mask policies, in the order of `data`; None takes their own,
            or their directories' where two share one.
        resume: continue from the last checkpoint of an interrupted run with the same recipe and
            data, which may be in another order; start anew where there is none.
        restart: delete the checkpoints of an interrupted run and start anew.
        callbacks: called as the training proceeds.

    Returns:
        The path of the published version.

    Raises:
        InputError: a recipe, data set or device that cannot be used, another recipe than that of
            the run to resume, or an interrupted run with neither `resume` nor `restart`.
        SegkitError: a loss is not finite, or another process is writing to `out`.
        StoppedError: by SIGTERM or SIGINT, after a checkpoint has been saved.
    """
    return run_training(
        path_text(recipe),
        weighted_sets(data),
        out,
        TrainOptions(
            eval_data=[spec for spec, _ in weighted_sets(eval_data)],
            steps=steps,
            device=device,
            overrides=overrides,
            names=names,
            resume=resume,
            restart=restart,
        ),
        callbacks or Callbacks(),
    )


def run_training(
    recipe: str,
    data: Sequence[tuple[str, float]],
    out: StrPath,
    options: TrainOptions,
    callbacks: Callbacks,
) -> Path:
    """Do what `train` describes, with its options as one object."""
    setup = TrainingSetup.open(recipe, data, options)
    with distributed.process_group(setup.device):
        if options.resume:
            order = _interrupted_order(location(out)) if distributed.rank() == 0 else []
            setup = setup.in_order(distributed.broadcast_object(order))
        # Before staging: an error here must not remove an interrupted run.
        mix, trainer = build_mix(setup), build_trainer(setup)
        if not options.resume and not is_remote(folder := location(out)):
            checkpoint.require_space(folder, list(trainer.model.parameters()))
        resume, restart = options.resume, options.restart
        with open_stage(location(out), setup, resume=resume, restart=restart) as stage:
            return _train(trainer, mix, stage, callbacks)


def _interrupted_order(out: Path) -> list[str]:
    """The names of an interrupted run's data sets in their order; none where they are unknown."""
    left = interrupted_training(out) or {}
    if "order" in left:
        return list(map(str, left["order"]))
    for partial in unfinished(out) if left else ():  # of an earlier segkit
        with suppress(InputError):  # missing, or cut by a kill
            return list(read_taxonomies(partial))
    return []


@contextmanager
def open_stage(
    out: Path, setup: TrainingSetup, *, resume: bool, restart: bool
) -> Iterator[Staging]:
    """The run's staging directory: the first process holds it, the others share its path.

    Raises:
        InputError: what is to be resumed has another fingerprint, or an interrupted run with
            neither `resume` nor `restart`.
        SegkitError: another process is writing to `out`.
    """
    fingerprint, is_first = setup.fingerprint(), distributed.rank() == 0
    left = None
    if resume:
        # Only the first process reads: others could read files that the first is writing.
        left = distributed.broadcast_object(interrupted_training(out) if is_first else None)
    if left is not None:
        check_resumable(left, fingerprint, out)
        fingerprint = left  # of the first start, with its number of processes
    elif not restart:
        error = _interrupted_run(out) if is_first else None
        if error := distributed.broadcast_object(error):
            raise error
    with (
        staging(
            out, fingerprint, inputs=setup.inputs(), resume=resume, content="run", precious=True
        )
        if is_first
        else nullcontext()
    ) as stage:
        shared: Staging | None = distributed.broadcast_object(stage)
        assert shared is not None
        yield shared


def _interrupted_run(out: Path) -> InputError | None:
    try:
        require_no_interrupted_run(out)
    except InputError as error:
        return error
    return None


def _train(trainer: Trainer, mix: DataMix, stage: Staging, callbacks: Callbacks) -> Path:
    """Train from the newest checkpoint of the staging directory, and publish."""
    setup, training = trainer.setup, trainer.recipe.training
    is_first, checkpoints = distributed.rank() == 0, stage.path / CHECKPOINTS
    # a run that was interrupted while publishing is complete, unless the disk lost some of it
    if not distributed.broadcast_object(is_complete(stage.path) if is_first else None):
        newest = checkpoint.newest(checkpoints)
        if newest:
            trainer.load(newest)
        if is_first:
            write_inputs(setup, stage.path)
            callbacks.on_start(trainer.step, training.steps)
        best = trainer.train(mix, stage.path, callbacks)
        if training.publish == "best" and best is not None and best != trainer.step:
            trainer.load(checkpoint.of_step(checkpoints, best))
        if training.publish == "best" and best is None and is_first:
            message = (
                "no evaluation has a figure for each evaluation set: the last step is published"
            )
            warnings.warn(f"training.publish: {message}", Notice, stacklevel=2)
        model = trainer.ema_model()
        if model:
            write_model(setup, model, trainer.step, stage)
    distributed.barrier()
    return distributed.broadcast_object(publish(stage) if is_first else stage.path)
