"""`segkit predict`: a folder of images becomes a prediction set and overlay pictures."""

from pathlib import Path

import typer

from .common import JSON_OPTION, emit, progress, table
from .scoring import TASKS, one_of


def predict(
    checkpoint: str = typer.Option(..., "--checkpoint", metavar="RUN", help="The run whose model predicts."),
    images: Path = typer.Option(..., "--images", metavar="DIR", help="Folder of images, searched with its subfolders."),
    vocabulary: str = typer.Option(
        ..., "--vocabulary", metavar="NAME|FILE", help="Classes to look for: `segkit vocabulary list`, or a JSON file."
    ),
    task: str = typer.Option("panoptic", "--task", help="panoptic, semantic or instance."),
    out: Path = typer.Option(..., "--out", metavar="DIR", help="Folder for `predictions` and `overlays`."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Segment images in any vocabulary.

    Example: segkit predict --checkpoint work/run --images photos --vocabulary coco-panoptic-133 --out seen
    """
    from segkit.inference.overlays import write_overlays
    from segkit.inference.predict import image_files, predict_folder
    from segkit.taxonomy import load_taxonomy
    from segkit.training.run_reader import load_run

    chosen, taxonomy = one_of(task, TASKS, "--task"), load_taxonomy(vocabulary)
    files, run = image_files(images), load_run(checkpoint, device)
    with progress() as bar:
        row = bar.add_task("predict", total=2 * len(files))
        made = predict_folder(run, images, taxonomy, chosen, out / "predictions", lambda: bar.advance(row))
        pictures = write_overlays(made, out / "overlays" / f"v{made.version}", lambda: bar.advance(row))
    found = made.manifest.statistics
    classes = {name: counts.segments for name, counts in found.classes.items() if counts.segments}
    result = {
        "path": str(made.path),
        "version": made.version,
        "digest": made.manifest.digest,
        "overlays": str(pictures),
        "images": found.images,
        "segments": found.segments,
        "classes": classes,
    }
    ranked = sorted(classes.items(), key=lambda item: -item[1])[:20]
    tables = [table(f"{found.segments} segments in {found.images} images", ("class", "segments"), ranked)]
    emit(result, schema="segkit.predict/1", as_json=as_json, tables=[*tables, f"{made.path}", f"{pictures}"])
