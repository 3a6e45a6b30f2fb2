"""A training from data sets to a published run version."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file, save_model

from segkit import __version__
from segkit.data.batch import Batch
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.model.class_table import ClassTable
from segkit.model.dataseg import DataSeg, build_model
from segkit.shards.publish import MANIFEST, Staging, interrupted, staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import parent_of
from segkit.training import checkpoint, distributed
from segkit.training.device import choose_device
from segkit.training.evaluation import evaluate_set
from segkit.training.learner import Learner
from segkit.training.log import RunLog
from segkit.training.loop import StepRecord, Trainee, train_steps
from segkit.training.recipe import Recipe, load_recipe, to_toml
from segkit.training.run_manifest import (
    PICTURES,
    RECIPE,
    TAXONOMIES,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    file_digests,
)
from segkit.training.stop import StoppedError, stop_on_signal
from segkit.vocabulary import DIM, ENCODER, embed

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Watchers:
    """Who is told of what happens; by default nobody."""

    on_start: Callable[[int, int], None] = lambda step, steps: None
    """Steps taken already (by the run that is resumed) and steps in all."""
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_evaluation: Callable[[int, str, dict[str, Any]], None] = lambda step, name, metrics: None
    """Step, data set and metrics."""


@dataclass(frozen=True)
class _NamedSet:
    """A data set under the name that logs and mask policies use, with its classifier table."""

    name: str
    shards: ShardSet
    weight: float
    table: ClassTable


@dataclass(frozen=True)
class _Job:
    """All that decides a training."""

    recipe: Recipe
    data: list[_NamedSet]
    evaluation: list[_NamedSet]
    device: torch.device
    arguments: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        data = {named.name: [named.shards.manifest.digest, named.weight] for named in self.data}
        recipe = self.recipe.model_dump(mode="json")
        return {"command": "train", "recipe": recipe, "data": data, "processes": distributed.world_size()}


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
    chosen = load_recipe(recipe, overrides if steps is None else [*overrides, f"training.steps={steps}"])
    place = choose_device(device)
    arguments = {"recipe": str(recipe), "data": dict(data), "eval_data": list(eval_data), "set": list(overrides)}
    sets = _open(data, chosen)
    evaluation = _open([(spec, 1.0) for spec in eval_data], chosen)
    for named in evaluation:
        if named.shards.manifest.kind == "boxes":
            raise InputError("has boxes alone, masks cannot be evaluated", file=named.shards.path, mend="leave it out")
    job = _Job(chosen, sets, evaluation, place, arguments)
    with distributed.process_group(place), _staged(out, job, resume) as stage:
        return _train(job, stage, watchers or Watchers())


def _open(data: Sequence[tuple[str, float]], recipe: Recipe) -> list[_NamedSet]:
    """Open data sets; one is called by its own name, or by its directory's where two share a name."""
    opened = [(ShardSet.open(spec), weight) for spec, weight in data]
    count = Counter(shards.manifest.name for shards, _ in opened)
    made = []
    for shards, weight in opened:
        name = shards.manifest.name if count[shards.manifest.name] == 1 else shards.path.parent.name
        made.append(_NamedSet(name, shards, weight, ClassTable.of(shards.taxonomy, _text(shards, recipe))))
    return made


def _text(shards: ShardSet, recipe: Recipe) -> torch.Tensor:
    if recipe.model.text_dim != DIM:
        problem = f"model.text_dim is {recipe.model.text_dim}, the embeddings of {ENCODER} have {DIM}"
        raise InputError(problem, record=recipe.name, mend=f"set model.text_dim={DIM}")
    return torch.from_numpy(embed(shards.taxonomy))


@contextmanager
def _staged(out: Path, job: _Job, resume: bool) -> Iterator[Staging]:
    """The run's staging directory, held by the first process and shared with the others."""
    fingerprint = job.fingerprint()
    if resume:
        _refuse_other(interrupted(out), fingerprint, out)
    holding = distributed.rank() == 0
    with staging(out, fingerprint, resume=resume) if holding else nullcontext() as stage:
        shared: Staging | None = distributed.from_first(stage)
        assert shared is not None
        yield shared


def _refuse_other(left: dict[str, Any] | None, fingerprint: dict[str, Any], out: Path) -> None:
    """Raise where what is to be resumed was trained otherwise: starting anew would throw it away."""
    if left is None or left == json.loads(json.dumps(fingerprint)):
        return
    other = next(key for key in ("command", "data", "recipe", "processes") if left.get(key) != fingerprint[key])
    problem = f"the interrupted run has another {other}"
    if other == "recipe":
        differing = sorted(_differences(left["recipe"], json.loads(json.dumps(fingerprint["recipe"]))))
        problem += f" ({', '.join(differing)})"
    raise InputError(problem, file=out, mend="give the same, or leave --resume out to start anew")


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key


def _train(job: _Job, stage: Staging, watchers: Watchers) -> Path:
    """Train from where the staging directory stands, and publish."""
    if not (stage.path / MANIFEST).is_file():
        trainee = _trainee(job)
        state = checkpoint.load_newest(stage.path / CHECKPOINTS, job.device)
        if state:
            trainee.restore(state)
        _write_inputs(job, stage.path)
        watchers.on_start(trainee.step, job.recipe.training.steps)
        _steps(job, trainee, stage.path, watchers)
        _write_model(job, trainee, stage)
    distributed.barrier()
    return distributed.from_first(_publish(stage) if distributed.rank() == 0 else stage.path)


def _trainee(job: _Job) -> Trainee:
    torch.manual_seed(job.recipe.training.seed)
    model = build_model(job.recipe.model).to(job.device)
    return Trainee(model, Learner(model, {named.name: named.table for named in job.data}, job.recipe.loss), job.recipe)


def _batches(job: _Job, step: int) -> Generator[Batch]:
    """The batches of steps from `step` on, for this process."""
    training = job.recipe.training
    mix = DataMix(
        [(named.name, named.shards, named.weight) for named in job.data],
        job.recipe.data,
        seed=training.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    for _, batch in mix.batches(step * training.accumulate, training.steps * training.accumulate):
        yield batch


def _steps(job: _Job, trainee: Trainee, folder: Path, watchers: Watchers) -> None:
    """All steps that are left, with their logs, checkpoints and evaluations."""
    training = job.recipe.training
    with _log(folder, trainee.step) as log, stop_on_signal() as wish, closing(_batches(job, trainee.step)) as batches:
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


def _evaluate_if_due(job: _Job, trainee: Trainee, folder: Path, log: RunLog | None, watchers: Watchers) -> None:
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


def _write_inputs(job: _Job, folder: Path) -> None:
    """What decides the run and travels with it: recipe, taxonomies, text embeddings."""
    if distributed.rank() != 0:
        return
    (folder / RECIPE).write_text(to_toml(job.recipe), "utf-8")
    taxonomies = {named.name: named.shards.taxonomy.to_json() for named in job.data}
    (folder / TAXONOMIES).write_text(json.dumps(taxonomies, indent=1, ensure_ascii=False) + "\n", "utf-8")
    text = {named.name: named.table.text.contiguous() for named in job.data}
    save_file(text, folder / VOCABULARY, {"encoder": ENCODER})


def _write_model(job: _Job, trainee: Trainee, stage: Staging) -> None:
    """The averaged weights, then the manifest, whose presence says that all is there."""
    if distributed.rank() != 0:
        return
    save_model(trainee.average.module, str(stage.path / WEIGHTS), {"format": "pt"})
    digests = file_digests(stage.path)
    manifest = RunManifest(
        segkit_version=__version__,
        name=job.recipe.name,
        command="train",
        arguments=job.arguments,
        parents=tuple(parent_of(named.shards, stage.path) for named in job.data),
        rates={named.name: named.weight for named in job.data},
        steps=trainee.step,
        parameters=sum(parameter.numel() for parameter in trainee.model.parameters()),
        encoder=ENCODER,
        files=digests,
        digest=RunManifest.content_digest(digests),
    )
    partial = stage.path / f"{MANIFEST}.partial"
    partial.write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    partial.replace(stage.path / MANIFEST)


def _publish(stage: Staging) -> Path:
    shutil.rmtree(stage.path / CHECKPOINTS, ignore_errors=True)
    return stage.publish()
