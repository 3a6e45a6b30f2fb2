"""`segkit demo`: every stage on generated scenes."""

from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress, TaskID

from segkit.atomic import folder_lock
from segkit.errors import plural
from segkit.extras import require_extra
from segkit.storage import writable_local

from .common import emit, print_line, table
from .progress import progress
from .shared_options import DEVICE_OPTION, is_quiet


def demo(
    out: Path = typer.Option(
        ...,
        "--out",
        metavar="DIR",
        parser=writable_local,
        help="Folder for all files of the demo.",
    ),
    steps: int | None = typer.Option(
        None, "--steps", min=1, help="Training steps; 1,600 by default."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the scenes and of training."),
    device: str = DEVICE_OPTION,
) -> None:
    """Generate scenes in three native layouts, convert, train, pseudolabel and evaluate.

    This takes 8 to 12 minutes on two cores.

    Example: segkit demo --out demo-out
    """
    require_extra("train", "segkit demo")
    from segkit.demo.demo import STEPS, run_demo
    from segkit.workers.devices import Workers

    Workers(device=device).require()
    with folder_lock(out), progress() as bar:
        result = run_demo(
            out, steps=steps or STEPS, seed=seed, device=device, progress=_Display(bar).show
        )
    files = {"run": str(result.run), "contact_sheet": str(result.sheet)}
    tables = [_figures(result.metrics), _pseudo(result.metrics["pseudo"]), f"{result.sheet}"]
    emit({**result.metrics, **files}, schema="segkit.demo/1", tables=tables)


def _figures(metrics: dict[str, Any]) -> Any:
    rows = [
        ("COCO layout (panoptic)", "PQ", metrics["panoptic"]["pq"]),
        ("ADE20K layout (semantic)", "mIoU", metrics["semantic"]["miou"]),
        ("Objects365 layout (boxes only)", "mask AP", metrics["instance"]["ap"]),
    ]
    return table(
        f"Validation sets, after {metrics['seconds']['total']:.0f} s",
        ("data set", "figure", "0-100"),
        rows,
    )


def _pseudo(pseudo: dict[str, Any]) -> Any:
    rows = [
        ("pseudo-masks", pseudo["mean_iou"]),
        ("filled boxes", pseudo["filled_box_iou"]),
        ("inscribed ellipses", pseudo["ellipse_iou"]),
    ]
    boxes = plural(pseudo["boxes"], "box", "boxes")
    title = f"Boxes to masks: {pseudo['masked']} of {boxes} got a mask"
    return table(title, ("", "mean IoU with the hidden masks"), rows)


class _Display:
    """A progress bar per stage on a terminal, else a line when a stage starts."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage, total=total)
            if self.bar.disable and not is_quiet():
                print_line(f"{stage} ...")
        self.bar.update(self.tasks[stage], completed=done, total=total)
