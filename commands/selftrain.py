"""`segkit selftrain`: masks for boxes, by rounds of training on the pseudo-masks of a run."""

import time
from pathlib import Path

import typer

from segkit.extras import require_extra
from segkit.storage import writable_local

from .common import emit, note, table
from .progress import progress_bar
from .shared_options import (
    DEVICE_OPTION,
    IMAGES_ROOT_OPTION,
    OVERRIDES_OPTION,
    complete_recipe,
    parse_data,
)


def selftrain(
    recipe: str = typer.Option(
        ...,
        "--recipe",
        metavar="NAME|FILE",
        help="A recipe that trains box prompts, such as box-labeler-mini, or a TOML file.",
        autocompletion=complete_recipe,
    ),
    data: list[str] = typer.Option(
        ...,
        "--data",
        metavar="SET[=WEIGHT]",
        help="A set with masks and its sampling weight; repeatable.",
    ),
    boxes: str = typer.Option(
        ...,
        "--boxes",
        metavar="SET[=WEIGHT]",
        help="The set whose boxes get masks, and its sampling weight.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", parser=writable_local, help="Folder of the rounds."
    ),
    rounds: int = typer.Option(3, "--rounds", help="Maximum number of rounds after the first run."),
    held_out: str | None = typer.Option(
        None,
        "--held-out",
        metavar="SET",
        help="A set with masks that scores the rounds, none of whose images are trained on; by "
        "default, a share of the images of each panoptic or instance set of --data.",
    ),
    share: float | None = typer.Option(
        None,
        "--held-out-share",
        metavar="0-1",
        help="That share of the images that no other set has, drawn by training.seed; by default "
        "0.1.",
    ),
    checkpoint: str | None = typer.Option(
        None, "--checkpoint", metavar="RUN", help="A run to start from, instead of training one."
    ),
    steps: int | None = typer.Option(
        None, "--steps", min=1, help="Steps of the first run, instead of the recipe's."
    ),
    round_steps: int | None = typer.Option(
        None,
        "--round-steps",
        min=1,
        help="Steps of each later round; by default a quarter of the recipe's or of --steps.",
    ),
    tta: bool = typer.Option(
        False,
        "--tta",
        help="Predict masks with test-time augmentation: better masks, six times the work.",
    ),
    device: str = DEVICE_OPTION,
    overrides: list[str] = OVERRIDES_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Train on masks and boxes, turn the boxes into masks, train on these as well; repeat.

    Each pseudo-mask counts by its score. The rounds end when the masks of the held-out images do
    not improve. The same command again, also with other --rounds, resumes an interrupted one.
    DIR/round-N/run and DIR/round-N/masks hold the run and the layer of each round.

    Example: segkit selftrain --recipe box-labeler-mini --data work/masks --boxes work/boxes --out
    work/rounds --rounds 2
    """
    started = time.monotonic()
    require_extra("train", "segkit selftrain")
    from segkit.training.options import SelfTrainOptions
    from segkit.training.selftrain_plan import encode_classes, plan_selftraining
    from segkit.training.selftrain_state import has_state, read_state
    from segkit.workers.devices import check_device

    check_device(device)
    plan = plan_selftraining(
        recipe,
        [parse_data(item) for item in data],
        parse_data(boxes),
        SelfTrainOptions(
            rounds=rounds,
            held_out=held_out,
            share=share,
            checkpoint=checkpoint,
            steps=steps,
            round_steps=round_steps,
            overrides=overrides,
            tta=tta,
        ),
        resume=has_state(out),
    )
    before = read_state(out, plan)
    for text in encode_classes(plan):
        note(text)

    # Everything that can be refused has been: models take seconds to load.
    from segkit.training.selftrain import run_rounds

    result = run_rounds(plan, out, before, device=device, progress=progress_bar)
    columns = ("round", "held-out IoU", "boxes", "masked", "masks")
    rows = [
        (
            str(entry["round"]),
            f"{entry['held_out_iou']:.3f}",
            *(str(entry.get(key, "-")) for key in ("boxes", "masked", "masks")),
        )
        for entry in result.rounds
    ]
    best = result.rounds[result.best]
    ending = f"round {len(rows) - 1} did not improve" if result.stopped else "all rounds improved"
    emit(
        {
            "out": str(out),
            "best": result.best,
            "stopped": result.stopped,
            "run": best["run"],
            "masks": best["masks"],
            "rounds": result.rounds,
            "seconds": round(time.monotonic() - started, 1),
        },
        schema="segkit.selftrain/1",
        tables=[table(f"Self-training: {ending}", columns, rows), best["run"], best["masks"]],
    )
