"""`segkit predict`: predict images, draw the predictions, and write them for other programs."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

from segkit.atomic import folder_lock
from segkit.errors import InputError, plural
from segkit.storage import location, writable_local

from .common import emit, note, print_line, table, write_preview
from .progress import progress_bar
from .scoring import load_run_for
from .shared_options import (
    ADDRESS_OPTION,
    DEVICE_OPTION,
    DEVICES_OPTION,
    ENGINE_OPTION,
    FORCE_OPTION,
    IMAGES_ROOT_OPTION,
    PREVIEW_OPTION,
    SETTINGS_OPTION,
    TASKS,
    complete_task,
    complete_vocabulary,
    parse_choice,
    parse_workers,
    reject_unused,
)

if TYPE_CHECKING:
    from segkit.shards.reader import ShardSet
    from segkit.sources.ledger import Tally
    from segkit.taxonomy import Taxonomy

_MAX_DEFECTS = 5
"""Files left out that are printed."""
_TURNED = "the file asks viewers to turn it; it is predicted as stored"
_MAX_CLASSES = 20
"""Classes in the table."""


def predict(
    checkpoint: str = typer.Option(
        ..., "--checkpoint", metavar="RUN", help="The run whose model predicts."
    ),
    images: Path | None = typer.Option(
        None,
        "--images",
        metavar="DIR|FILE",
        parser=location,
        help="Folder of images, searched with its subfolders, or one image.",
    ),
    data: str | None = typer.Option(
        None, "--data", metavar="SET", help="A shard set, instead of --images."
    ),
    vocabulary: str | None = typer.Option(
        None,
        "--vocabulary",
        metavar="NAME|FILE|SET",
        autocompletion=complete_vocabulary,
        help="Classes to predict: a name of `segkit vocabulary list`, a taxonomy in JSON, a text "
        "file with one class name a line, or a shard set, whose classes are taken.",
    ),
    classes: str | None = typer.Option(
        None,
        "--classes",
        metavar="NAMES",
        help="Classes to predict, separated by commas; by default those of --data or, with "
        "--images, those that the run was trained with.",
    ),
    task: str = typer.Option(
        "panoptic",
        "--task",
        help="panoptic, semantic or instance.",
        autocompletion=complete_task,
    ),
    out: Path = typer.Option(
        ...,
        "--out",
        metavar="DIR",
        parser=writable_local,
        help="Folder for `predictions`, `overlays` and `native`.",
    ),
    overlays: bool = typer.Option(
        True, "--overlays/--no-overlays", help="Draw the predictions over each image."
    ),
    overlay_score: float | None = typer.Option(
        None,
        "--overlay-score",
        min=0,
        max=1,
        help="Instances with a lower score are not drawn; by default 0.3.",
    ),
    preview: bool = PREVIEW_OPTION,
    native: bool = typer.Option(
        False,
        "--native",
        help="Also write COCO results (instance), COCO panoptic, or index PNGs (semantic).",
    ),
    on_error: str = typer.Option(
        "fail",
        "--on-error",
        metavar="fail|skip",
        help="What to do with a file of --images that is damaged or not an image: stop before the "
        "first prediction, or leave it out.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = DEVICE_OPTION,
    engine: str = ENGINE_OPTION,
    devices: str = DEVICES_OPTION,
    address: str | None = ADDRESS_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Segment images in any vocabulary.

    Names that the run's text encoder has not encoded yet are encoded first, as by `segkit
    vocabulary encode`.

    Example: segkit predict --checkpoint work/run --images photos --vocabulary coco-panoptic-133
    --out work/photos

    Example: segkit predict --checkpoint work/run --images photos --classes "cat, sofa, floor"
    --out work/photos
    """
    from segkit.hub import is_hugging_face
    from segkit.runs.open_run import check_inference, trained_classes
    from segkit.shards.reader import ShardSet

    chosen_task = parse_choice(task, TASKS, "--task")
    skip = parse_choice(on_error, ("fail", "skip"), "--on-error") == "skip"
    if (images is None) == (data is None):
        raise InputError("give --images DIR or --data SET", hint="give one of the two")
    draws = chosen_task == "instance" and (overlays or preview)
    reject_unused(
        ("--on-error skip", skip and images is None, "--images"),
        (
            "--overlay-score",
            overlay_score is not None and not draws,
            "--task instance with --overlays or --preview",
        ),
    )
    workers = parse_workers(engine, devices, device, address)
    check_inference(checkpoint, settings, chosen_task)
    shards = ShardSet.open(data) if data else None
    if shards is not None:
        shards.require_images()
    taxonomy = _taxonomy(vocabulary, classes, shards)
    if taxonomy is None and not is_hugging_face(checkpoint):
        taxonomy = trained_classes(checkpoint)
    if taxonomy is not None:
        _check_task(chosen_task, taxonomy, native)
    root, files, tally = _files(images, skip)
    if taxonomy is None:
        # Only now: a public model may have to be fetched.
        taxonomy = trained_classes(checkpoint)
        _check_task(chosen_task, taxonomy, native)

    # Everything that can be refused has been: these imports take seconds.
    from segkit.export.prediction_files import write_native
    from segkit.inference.outputs import predict_files, predict_set, write_overlays
    from segkit.sample import MIN_DRAWN_SCORE

    least = MIN_DRAWN_SCORE if overlay_score is None else overlay_score
    with folder_lock(out):
        run = load_run_for(taxonomy, checkpoint, workers.caller_device, settings)
        destination = out / "predictions"
        with progress_bar(
            f"predict {out.name}", len(files) if shards is None else len(shards)
        ) as advance:
            if shards is not None:
                predictions = predict_set(
                    run,
                    shards,
                    chosen_task,
                    destination,
                    taxonomy=taxonomy,
                    workers=workers,
                    force=force,
                    on_images=advance,
                    on_resume=advance.resume,
                )
            else:
                predictions = predict_files(
                    run,
                    files,
                    root,
                    taxonomy,
                    chosen_task,
                    destination,
                    ledger=tally.ledger(),
                    workers=workers,
                    force=force,
                    on_images=advance,
                    on_resume=advance.resume,
                )
        version = f"v{predictions.version}"
        folders = {}
        if overlays:
            with progress_bar("draw", len(predictions)) as advance:
                folder = out / "overlays" / version
                drawn = write_overlays(predictions, folder, min_score=least, on_image=advance)
            folders["overlays"] = str(folder.resolve())
            segments = predictions.manifest.statistics.segments
            if drawn < segments:
                note(f"{segments} found, {drawn} of them with a score of {least:g} or more")
        if picture := write_preview(predictions, preview, least):
            folders["preview"] = picture
        if native:
            native_folder = write_native(predictions, out / "native" / version, shards)
            folders["native"] = str(native_folder.resolve())
    _report(predictions, folders, tally)


def _check_task(task: str, taxonomy: "Taxonomy", native: bool) -> None:
    """Refuse instance segmentation without things, and class ids that no native PNG can hold."""
    if native and task == "semantic":
        from segkit.export.semantic_png import free_index

        free_index(taxonomy)
    if task == "instance" and all(category.kind == "stuff" for category in taxonomy.categories):
        raise InputError(
            f"no class is a thing: {', '.join(taxonomy.names[:5])}",
            record="--task instance",
            hint="add a thing, or give --task semantic or --task panoptic",
        )


def _files(images: Path | None, skip: bool) -> "tuple[Path, Sequence[Path], Tally]":
    """The folder of --images, its intact files and the tally of all files."""
    from segkit.inference.input_files import check_files, image_files
    from segkit.sources.ledger import DROP_HINTS, Tally

    if images is None:
        return Path(), [], Tally()
    root, candidates, passed_over = image_files(images)
    if passed_over:
        listed = ", ".join(f"{extension} {number}" for extension, number in passed_over.items())
        note(f"other files than images are left out: {listed}")
    with progress_bar("check", len(candidates)) as advance:
        files, tally = check_files(candidates, root, advance)
    if tally.offenders and not (skip and files):
        first = tally.defects[0]
        hint = DROP_HINTS[first.code] + (", or give --on-error skip" if files else "")
        raise first.error(tally.offenders - 1, hint)
    return root, files, tally


def _taxonomy(
    vocabulary: str | None, classes: str | None, shards: "ShardSet | None"
) -> "Taxonomy | None":
    """The classes to predict, from the option that names them; None without one."""
    from segkit.sources.vocabulary_file import open_vocabulary
    from segkit.text.vocabulary import require_classes, taxonomy_from_names

    if vocabulary is not None and classes is not None:
        raise InputError("give --vocabulary or --classes", hint="give one of the two")
    if vocabulary is not None:
        return open_vocabulary(vocabulary)
    if classes is not None:
        if classes.endswith((".txt", ".json")):
            hint = f"give --vocabulary {quote(classes)}"
            raise InputError(f"{classes} is a file name", record="--classes", hint=hint)
        return taxonomy_from_names([name for name in classes.split(",") if name.strip()])
    return None if shards is None else require_classes(shards.taxonomy, shards.path)


def _report(predictions: "ShardSet", folders: dict[str, str], tally: "Tally") -> None:
    """Print the counts, the paths and the files left out."""
    from segkit.metrics.output import origin
    from segkit.sources.ledger import WARNINGS

    statistics = predictions.manifest.statistics
    classes = {
        name: counts.segments for name, counts in statistics.classes.items() if counts.segments
    }
    result = {
        **origin(predictions),
        **folders,
        "images": statistics.images,
        "left_out": tally.offenders,
        "defects": [defect.to_json() for defect in tally.defects],
        "segments": statistics.segments,
        "classes": classes,
    }
    segments, images = plural(statistics.segments, "segment"), plural(statistics.images, "image")
    most_frequent = sorted(classes.items(), key=lambda item: -item[1])[:_MAX_CLASSES]
    class_table = table(f"{segments} in {images}", ("class", "segments"), most_frequent)
    emit(
        result,
        schema="segkit.predict/1",
        tables=[class_table, str(predictions.path), *folders.values()],
    )
    for defect in tally.defects[:_MAX_DEFECTS]:
        print_line(f"left out: {defect.file}: {defect.message} [{defect.code}]")
    if tally.offenders > _MAX_DEFECTS:
        more = plural(tally.offenders - _MAX_DEFECTS, "more image", "more images")
        print_line(f"... and {more} left out")
    for code, count in sorted(tally.image_warnings.items()):
        text = _TURNED if code == "exif-orientation" else WARNINGS[code]
        note(f"{plural(count, 'image')}: {text}")
