"""`segkit pseudolabel`: replace boxes by masks, in a label layer over the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from segkit.errors import InputError
from segkit.storage import writable

from .common import (
    JSON_OPTION,
    PREVIEW_OPTION,
    emit,
    note,
    plural,
    progress_bar,
    table,
    write_preview,
)
from .scoring import SETTINGS_OPTION, parse_choice

if TYPE_CHECKING:
    from segkit.shards.reader import ShardSet

_OLD_BOX_PROMPTS = "conditioned"
"""Name of the strategy `box-prompts` in earlier versions."""


def pseudolabel(
    checkpoint: str = typer.Option(
        ..., "--checkpoint", metavar="RUN", help="The run whose model predicts the masks."
    ),
    data: str = typer.Option(
        ..., "--data", metavar="SET", help="A set in which some boxes have no mask."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Directory of the new set's versions."
    ),
    strategy: str = typer.Option(
        "box-prompts",
        "--strategy",
        help="box-prompts: segment each box; proposals: match the model's own proposals to the "
        "boxes.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    preview: bool = PREVIEW_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Replace the boxes of a set by the model's masks. Boxes without a confident mask stay boxes.

    Example: segkit pseudolabel --checkpoint work/run --data work/boxes --out work/pseudo

    Example: segkit pseudolabel --checkpoint work/run --data work/boxes --out work/pseudo
    --set inference.pseudo_score=0.5
    """
    from segkit.recipes.schema import Strategy
    from segkit.runs.open_run import check_run

    if strategy == _OLD_BOX_PROMPTS:
        note(f"--strategy {strategy} is now called box-prompts")
        strategy = "box-prompts"
    chosen_strategy = parse_choice(strategy, get_args(Strategy), "--strategy")
    check_run(checkpoint, settings, chosen_strategy)
    boxes = _open_boxes(data)

    # Everything that can be refused has been: these imports take seconds.
    from segkit import load_run
    from segkit import pseudolabel as label_boxes

    run = load_run(checkpoint, device, settings)
    with progress_bar("pseudolabel", len(boxes)) as advance:
        layer, transfer = label_boxes(run, boxes, out, strategy=chosen_strategy, on_image=advance)
    result = {
        "path": str(layer.path),
        "version": layer.version,
        "digest": layer.manifest.digest,
        "strategy": chosen_strategy,
        "boxes": transfer.boxes,
        "masked": transfer.masked,
        "kept_as_boxes": transfer.kept_as_boxes,
        "already_masked": transfer.already_masked,
        "left_alone": transfer.left_alone,
        "preview": write_preview(layer, preview),
    }
    rows = [
        ("prompted boxes", transfer.boxes),
        ("  replaced by a mask", transfer.masked),
        ("  kept as boxes", transfer.kept_as_boxes),
        ("segments with a mask before", transfer.already_masked),
        ("crowds and ignored, not prompted", transfer.left_alone),
    ]
    segments = plural(layer.manifest.statistics.segments, "segment")
    counts = table(f"Pseudo-labels of {data}: {segments}", ("segments", "count"), rows)
    emit(
        result,
        schema="segkit.pseudolabel/1",
        as_json=as_json,
        tables=[counts, *filter(None, (str(layer.path), result["preview"]))],
    )


def _open_boxes(data: str) -> "ShardSet":
    """The set to label; InputError where every segment has a mask."""
    from segkit.shards.reader import ShardSet

    opened = ShardSet.open(data)
    if not opened.manifest.statistics.boxes_only:
        hint = "give a set with boxes, such as one converted with --boxes-only"
        raise InputError("no segment lacks a mask", file=opened.path, hint=hint)
    return opened
