"""`segkit train`: train a model on shard sets and publish it as a run."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.tree import Tree

from segkit import torchrun
from segkit.errors import InputError, plural
from segkit.extras import require_extra
from segkit.storage import writable_local
from segkit.text.printable import printable

from .common import emit, note, print_line, table
from .progress import LINE_SECONDS, progress
from .shared_options import (
    DEVICE_OPTION,
    IMAGES_ROOT_OPTION,
    OVERRIDES_OPTION,
    complete_recipe,
    is_quiet,
    parse_data,
)

if TYPE_CHECKING:
    from segkit.recipes.schema import Recipe
    from segkit.training.logging import StepRecord
    from segkit.training.options import TrainOptions


def train(
    recipe: str = typer.Option(
        ...,
        "--recipe",
        metavar="NAME|FILE",
        help="A shipped recipe (`segkit recipes` lists them), or a TOML file.",
        autocompletion=complete_recipe,
    ),
    data: list[str] = typer.Option(
        ...,
        "--data",
        metavar="SET[=WEIGHT]",
        help="A shard set and its sampling weight; repeatable.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", parser=writable_local, help="Directory of the run's versions."
    ),
    eval_data: list[str] = typer.Option(
        [],
        "--eval-data",
        metavar="SET",
        help="A shard set to evaluate on, at intervals and at the end; repeatable.",
    ),
    steps: int | None = typer.Option(
        None, "--steps", min=1, help="Number of optimizer steps, instead of the recipe's."
    ),
    device: str = DEVICE_OPTION,
    overrides: list[str] = OVERRIDES_OPTION,
    init_from: str | None = typer.Option(
        None,
        "--init-from",
        metavar="RUN|hf:NAME",
        help="Start from the weights of a run, or of a Hugging Face Mask2Former or its folder.",
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Resume an interrupted run from its last checkpoint."
    ),
    restart: bool = typer.Option(
        False, "--restart", help="Delete the checkpoints of an interrupted run and start anew."
    ),
    plan: bool = typer.Option(
        False,
        "--plan",
        help="Train nothing: print parameters, memory, samples a step and an epoch, and what is "
        "missing.",
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Train a model on one or several shard sets; each batch is of one of them.

    On several GPUs: torchrun --nproc-per-node 8 --no-python segkit train ...

    Example: segkit train --recipe dataseg-mini --data work/coco=2 --data work/camvid --out work/run
    --steps 2000

    Example: segkit train --recipe dataseg-swin-t --data work/own --out work/run --plan
    """
    started = time.monotonic()
    if not plan:
        require_extra("train", "segkit train")
    if resume and restart:
        raise InputError("--resume and --restart exclude each other", hint="give one of them")
    if plan and (resume or restart):
        raise InputError("--plan trains nothing", hint="leave --resume and --restart out")
    if init_from is not None:
        overrides = [*overrides, f"model.init_from={json.dumps(init_from)}"]
    sets = [parse_data(item) for item in data]
    from segkit.training.options import TrainOptions

    options = TrainOptions(
        eval_data=eval_data,
        steps=steps,
        device=device,
        overrides=overrides,
        resume=resume,
        restart=restart,
    )
    if plan:
        _plan(recipe, sets, out, options)
        return
    from segkit.training.preflight import check_training, encode_names, mask_policy_notes

    inputs = check_training(recipe, sets, out, options)
    notes = [*_notes(inputs.recipe, out, resume), *mask_policy_notes(inputs)]
    notes += encode_names(inputs)

    # These take seconds to import, so wrong usage is refused above.
    from segkit.metrics.output import headline
    from segkit.runs.run_manifest import read_run_manifest
    from segkit.shards.versions import version_number
    from segkit.training.logging import evaluations
    from segkit.training.train import run_training
    from segkit.training.trainer import Callbacks

    with progress() as bar:
        display = _Display(bar, notes)
        callbacks = Callbacks(display.start, display.step, display.evaluation)
        path = run_training(recipe, sets, out, options, callbacks)
    if not torchrun.is_first():
        return
    manifest = read_run_manifest(path)
    # The evaluation of the published weights, which are not always those of the last step.
    evaluation = evaluations(path, manifest.steps)
    result = {
        "path": str(path.resolve()),
        "version": version_number(path),
        "digest": manifest.digest,
        "steps": manifest.steps,
        "loss": display.loss,
        "seconds": round(time.monotonic() - started, 1),
        "evaluation": evaluation,
        "trains_queries": inputs.recipe.loss.matching,
    }
    rows = [(name, *headline(metrics)) for name, metrics in evaluation.items()]
    tables = [table("Evaluation", ("data set", "figure", "value"), rows)] if rows else []
    loss = "" if display.loss is None else f", running loss {display.loss:.3f}"
    line = f"{plural(manifest.steps, 'step')}{loss}, {result['seconds']:.0f} s"
    lines = line, f"{path.resolve()}"
    emit(result, schema="segkit.train/1", tables=[*tables, *lines])


def _plan(
    recipe: str,
    sets: Sequence[tuple[str, float]],
    out: Path,
    options: "TrainOptions",
) -> None:
    """Print the plan of a run.

    Raises InputError for what the training would refuse.
    """
    from segkit.training.preflight import check_inputs
    from segkit.training.run_plan import plan_training
    from segkit.workers.devices import check_device

    check_device(options.device)
    inputs = check_inputs(options.load_recipe(recipe), sets, options.eval_data)
    if not torchrun.is_first():
        return
    plan = plan_training(inputs.recipe, inputs.datasets, out, device=options.device)
    paces = [
        (pace.name, pace.images, pace.samples_per_step, pace.steps_per_epoch, pace.epochs)
        for pace in plan.sets
    ]
    columns = ("set", "images", "samples a step", "steps an epoch", "epochs")
    title = f"{plural(plan.steps, 'step')} of {plural(plan.samples_per_step, 'sample')}"
    samples = plan.steps * plan.samples_per_step
    duration = f"{samples:,} samples: {samples / 3600:.1f} hours at one a second"
    tables: list[Table | Tree | str] = [table(title, columns, paces), duration]
    if plan.gpu_hours:
        hours = ", ".join(f"{hours:,.3g} of one {gpu}" for gpu, hours in plan.gpu_hours.items())
        tables.append(f"hours expected from counted operations, not measured: {hours}")
    if plan.memory is not None:
        parts = ("weights", "gradients", "optimizer", "average", "activations", "losses", "cuda")
        rows = [(part, getattr(plan.memory, part) / 2**30) for part in (*parts, "total")]
        parameters = f"{plan.memory.parameters / 1e6:.1f} M parameters"
        tables.append(table(f"{parameters}; expected memory", ("of each process", "GiB"), rows))
    lacks = [f"missing {item.name}: {item.text}; {item.hint}" for item in plan.missing]
    emit(
        plan.to_json(), schema="segkit.plan/1", tables=[*tables, *(lacks or ["nothing is missing"])]
    )


def _notes(recipe: "Recipe", out: Path, resume: bool) -> list[str]:
    """Notes for the start of a run at step 0: what the user might not expect."""
    from segkit.recipes.effects import effect_notes

    notes = effect_notes(recipe)
    if resume:
        notes.append(f"nothing to resume in {out}: training starts from its first step")
    if recipe.model.backbone_weights is None and recipe.model.init_from is None:
        notes.append(
            "the backbone starts from random weights; --set model.backbone_weights=timm downloads "
            "pretrained ones, or set it to a safetensors file"
        )
    return notes


class _Display:
    """Progress on stderr: a bar on a terminal, otherwise a line at intervals."""

    def __init__(self, bar: Progress, notes: Sequence[str]) -> None:
        self.bar, self.notes = bar, notes
        self.task: TaskID | None = None
        self.steps = 0
        self.loss: float | None = None
        self._last_line = time.monotonic()

    def start(self, step: int, steps: int) -> None:
        self.steps = steps
        self.task = self.bar.add_task("train", total=steps, completed=step)
        if step:
            print_line(f"resumed after step {step} of {steps}")
            return
        for text in self.notes:
            note(text)

    def step(self, record: "StepRecord") -> None:
        # A running mean, since the losses of different data sets differ.
        self.loss = record.loss if self.loss is None else 0.95 * self.loss + 0.05 * record.loss
        figures = (
            f"loss {self.loss:.3f}  {record.dataset} {record.loss:.3f}  lr {record.lr:.1e}  "
            f"{record.samples_per_second:.1f} img/s  {record.memory_mib / 1024:.1f} GiB"
        )
        assert self.task is not None
        self.bar.update(self.task, completed=record.step, description=printable(figures))
        due = time.monotonic() - self._last_line > LINE_SECONDS or record.step == self.steps
        if self.bar.disable and due and not is_quiet():
            self._last_line = time.monotonic()
            seconds = self.bar.tasks[0].time_remaining
            eta = "" if seconds is None else f"  ETA {seconds / 60:.0f} min"
            print_line(f"step {record.step}/{self.steps}  {figures}{eta}")

    def evaluation(self, step: int, name: str, metrics: dict[str, Any]) -> None:
        from segkit.metrics.output import headline

        figure, value = headline(metrics)
        text = "-" if value is None else f"{value:.2f}"
        print_line(f"step {step}  {name}: {figure} {text}")
