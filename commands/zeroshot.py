"""`segkit zeroshot`: collect a feature bank, and train a class head for unseen classes on it."""

from pathlib import Path

import typer

from segkit.storage import writable_local

from .common import emit, table
from .progress import progress_bar
from .scoring import load_run_for
from .shared_options import DEVICE_OPTION, IMAGES_ROOT_OPTION, SETTINGS_OPTION

app = typer.Typer(
    help="Train a class head for classes without examples, on the features of a frozen run.\n\n"
    "Example: segkit zeroshot bank --checkpoint work/run --data work/seen --out work/bank",
    no_args_is_help=True,
)


@app.command("bank")
def bank(
    checkpoint: str = typer.Option(
        metavar="RUN", help="A run that was trained on the seen part of a zero-shot split."
    ),
    data: str = typer.Option(metavar="SET", help="The seen set of `segkit split --zero-shot`."),
    out: Path = typer.Option(
        metavar="DIR", parser=writable_local, help="Directory of the bank's versions."
    ),
    no_object: int = typer.Option(
        20, min=0, help="Queries without a target to keep of each image, at most."
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = DEVICE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Collect the query embeddings of a frozen run on images of seen classes.

    Example: segkit zeroshot bank --checkpoint work/run --data work/zero-shot/seen --out work/bank
    """
    from segkit.shards.reader import ShardSet
    from segkit.zeroshot.check_bank_inputs import check_bank_inputs

    shards = ShardSet.open(data)
    record = check_bank_inputs(checkpoint, shards, settings)
    from segkit.zeroshot.bank import read_bank
    from segkit.zeroshot.collect_bank import write_bank

    run = load_run_for(shards.taxonomy, checkpoint, device, settings)
    with progress_bar(f"bank {shards.manifest.name}", len(shards)) as advance:
        path = write_bank(run, shards, record, out, no_object=no_object, on_image=advance)
    manifest, content = read_bank(path)
    result = {
        "path": str(path),
        "images": len(content.image_ids),
        "width": manifest.width,
        "rows": manifest.rows,
        "no_object": manifest.no_object,
        "unseen": list(content.unseen_classes.names),
        "digest": manifest.digest,
    }
    rows = [*manifest.rows.items(), ("no-object", manifest.no_object)]
    title = f"Feature bank {path}"
    emit(result, schema="segkit.zeroshot-bank/1", tables=[table(title, ("class", "queries"), rows)])


@app.command("train")
def train(
    bank: str = typer.Option(metavar="BANK", help="A bank of `segkit zeroshot bank`."),
    out: Path = typer.Option(
        metavar="DIR", parser=writable_local, help="Directory of the new run's versions."
    ),
    checkpoint: str | None = typer.Option(
        None, metavar="RUN", help="The bank's run, where it is no longer in its place."
    ),
    settings: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the second stage, such as generator=mlp or head=text_residual.",
    ),
) -> None:
    """Train a generator and a class head, and publish the run with the new head.

    Example: segkit zeroshot train --bank work/bank --out work/run-zero-shot
    """
    from segkit.extras import require_extra
    from segkit.shards.manifest import Parent
    from segkit.zeroshot.bank import bank_run, open_bank
    from segkit.zeroshot.settings import ZeroShotSettings

    require_extra("train", "a model")
    chosen = ZeroShotSettings.from_overrides(settings)
    folder, manifest, content = open_bank(bank)
    path = bank_run(folder, manifest, checkpoint)
    from segkit.zeroshot.class_heads import write_head
    from segkit.zeroshot.second_stage import LOG_EVERY

    run = load_run_for(content.classes, str(path), "cpu", ())
    arguments = {"bank": str(folder), "settings": chosen.model_dump(mode="json")}
    steps = chosen.generator_steps + chosen.head_steps
    with progress_bar("second stage", steps, "steps") as advance:
        written = write_head(
            run,
            content,
            Parent.from_version(folder, manifest.digest, out),
            chosen,
            out,
            arguments,
            on_log=lambda part, step: advance(LOG_EVERY),
        )
    result = {
        "path": str(written),
        "seen": list(content.seen_classes.names),
        "unseen": list(content.unseen_classes.names),
        "settings": arguments["settings"],
    }
    rows = [
        ("seen classes", len(content.seen_classes.names)),
        ("unseen classes", len(content.unseen_classes.names)),
    ]
    emit(result, schema="segkit.zeroshot-train/1", tables=[table(f"Run {written}", ("", ""), rows)])
