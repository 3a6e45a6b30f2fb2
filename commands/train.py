"""`segkit train`: a recipe and shard sets become a run."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import Progress, TaskID

from segkit.errors import InputError
from segkit.storage import writable_local

from .common import JSON_OPTION, counted, emit, note, progress, stderr, table

if TYPE_CHECKING:
    from segkit.recipes.schema import Recipe
    from segkit.training.logging import StepRecord

_LINE_EVERY = 30.0
"""Seconds between lines where stderr is no terminal."""


def train(
    recipe: str = typer.Option(
        ..., "--recipe", metavar="NAME|FILE", help="A shipped recipe, or a TOML file."
    ),
    data: list[str] = typer.Option(
        ...,
        "--data",
        metavar="SET[=WEIGHT]",
        help="A shard set and the rate at which steps draw it; repeatable.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", parser=writable_local, help="Directory of the run's versions."
    ),
    eval_data: list[str] = typer.Option(
        [],
        "--eval-data",
        metavar="SET",
        help="A shard set to evaluate on, from time to time and at the end.",
    ),
    steps: int = typer.Option(
        None, "--steps", min=1, help="Optimiser steps, in the place of the recipe's."
    ),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    overrides: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as optimizer.lr=3e-4; repeatable.",
    ),
    init_from: str = typer.Option(
        None,
        "--init-from",
        metavar="RUN|hf:NAME",
        help="Start from a trained run, or from a Mask2Former of Hugging Face or in a folder (model.init_from).",
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Go on where a run that was killed had its last checkpoint."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Train a model on one or several shard sets; a step draws one of them.

    Several processes: torchrun --nproc-per-node 8 --no-python segkit train ...

    Example: segkit train --recipe dataseg-mini --data work/coco=2 --data work/camvid --out work/run
    --steps 2000
    """
    started = time.monotonic()
    if init_from is not None:
        overrides = [*overrides, f"model.init_from={json.dumps(init_from)}"]
    sets = [parse_data(item) for item in data]
    notes = _notes(
        _checked(recipe, [*(spec for spec, _ in sets), *eval_data], overrides), out, resume
    )

    # Below what is refused at once: these take seconds to import.
    from segkit import distributed
    from segkit.runs.run_manifest import read_run_manifest
    from segkit.training.evaluation import headline
    from segkit.training.logging import evaluations
    from segkit.training.train import train as run_training
    from segkit.training.trainer import Callbacks

    with progress() as bar:
        show = _Display(bar, notes)
        callbacks = Callbacks(show.start, show.step, show.evaluation)
        path = run_training(
            recipe,
            sets,
            out,
            eval_data=eval_data,
            steps=steps,
            device=device,
            overrides=overrides,
            resume=resume,
            callbacks=callbacks,
        )
    if distributed.torchrun_rank() != 0:
        return
    manifest = read_run_manifest(path)
    evaluated = evaluations(
        path, manifest.steps
    )  # of the weights that are published, which need not be the last
    result = {
        "path": str(path.resolve()),
        "version": int(path.name[1:]),
        "digest": manifest.digest,
        "steps": manifest.steps,
        "loss": show.loss,
        "seconds": round(time.monotonic() - started, 1),
        "evaluation": evaluated,
    }
    rows = [(name, *headline(metrics)) for name, metrics in evaluated.items()]
    tables = [table("Evaluation", ("data set", "figure", "value"), rows)] if rows else []
    loss = "" if show.loss is None else f", running loss {show.loss:.3f}"
    line = f"{counted(manifest.steps, 'step')}{loss}, {result['seconds']:.0f} s"
    emit(
        result,
        schema="segkit.train/1",
        as_json=as_json,
        tables=[*tables, line, f"{path.resolve()}"],
    )


def _checked(recipe: str, sets: Sequence[str], overrides: Sequence[str]) -> "Recipe":
    """The recipe; InputError where it, one of the sets, an override or what to start from is of no
    use to training."""
    from segkit.recipes.load import load_recipe
    from segkit.runs.init_from import resolve_init_from
    from segkit.shards.reader import ShardSet

    chosen = resolve_init_from(load_recipe(recipe, overrides))
    for spec in sets:
        ShardSet.open(spec)
    return chosen


def _notes(recipe: "Recipe", out: Path, resume: bool) -> list[str]:
    """What the user might not expect of a training that begins at its first step."""
    notes = (
        [f"nothing to resume in {out}: the training starts from its first step"] if resume else []
    )
    if recipe.model.backbone_weights is None and recipe.model.init_from is None:
        hint = (
            "--set model.backbone_weights=timm downloads trained ones, or give a safetensors file"
        )
        notes.append(f"the backbone starts from random weights; {hint}")
    return notes


def parse_data(item: str) -> tuple[str, float]:
    """`SET` or `SET=WEIGHT`; the weight is 1 where none is given."""
    spec, equals, weight = item.rpartition("=")
    if not equals:
        return item, 1.0
    try:
        return spec, float(weight)
    except ValueError:
        raise InputError(
            f"no number after = in {item!r}", record="--data", hint="write SET or SET=WEIGHT"
        ) from None


class _Display:
    """Progress on stderr: a bar on a terminal, else a line from time to time."""

    def __init__(self, bar: Progress, notes: Sequence[str]) -> None:
        self.bar, self.notes = bar, notes
        self.task: TaskID | None = None
        self.steps = 0
        self.loss: float | None = None
        self._last = time.monotonic()

    def start(self, step: int, steps: int) -> None:
        self.steps = steps
        self.task = self.bar.add_task("train", total=steps, completed=step)
        if step:
            stderr.print(f"resumed after step {step} of {steps}")
            return
        for text in self.notes:
            note(text)

    def step(self, record: "StepRecord") -> None:
        # A running mean: single steps draw single data sets, whose losses differ.
        self.loss = record.loss if self.loss is None else 0.95 * self.loss + 0.05 * record.loss
        what = (
            f"loss {self.loss:.3f}  {record.dataset} {record.loss:.3f}  lr {record.lr:.1e}  "
            f"{record.samples_per_second:.1f} img/s  {record.memory_mib / 1024:.1f} GiB"
        )
        assert self.task is not None
        self.bar.update(self.task, completed=record.step, description=what)
        if self.bar.disable and (
            time.monotonic() - self._last > _LINE_EVERY or record.step == self.steps
        ):
            self._last = time.monotonic()
            left = self.bar.tasks[0].time_remaining
            eta = "" if left is None else f"  ETA {left / 60:.0f} min"
            stderr.print(
                f"step {record.step}/{self.steps}  {what}{eta}", highlight=False, soft_wrap=True
            )

    def evaluation(self, step: int, name: str, metrics: dict[str, Any]) -> None:
        from segkit.training.evaluation import headline

        figure, value = headline(metrics)
        shown = "-" if value is None else f"{value:.2f}"
        stderr.print(f"step {step}  {name}: {figure} {shown}", highlight=False)
