"""`segkit predict`: images become a prediction set, pictures, and files that other programs
score."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segkit.errors import InputError
from segkit.storage import location, writable_local

from .common import JSON_OPTION, counted, counting, emit, note, stderr, table
from .scoring import SETTINGS_OPTION, TASKS, load_run_for, parse_choice

if TYPE_CHECKING:
    from segkit.shards.reader import ShardSet
    from segkit.sources.ledger import Tally
    from segkit.taxonomy import Taxonomy

_SHOWN = 5


def predict(
    checkpoint: str = typer.Option(..., "--checkpoint", metavar="RUN", help="The run whose model predicts."),
    images: Path = typer.Option(
        None, "--images", metavar="DIR|FILE", parser=location,
        help="Folder of images, searched with its subfolders, or one image.",
    ),
    data: str = typer.Option(None, "--data", metavar="SET", help="A shard set, in the place of --images."),
    vocabulary: str = typer.Option(
        None, "--vocabulary", metavar="NAME|FILE",
        help="Classes to look for: `segkit vocabulary list`, a JSON file, or a text file with one name a line.",
    ),
    classes: str = typer.Option(
        None, "--classes", metavar="NAMES", help="Or just their names, with commas; by default those of --data."
    ),
    task: str = typer.Option("panoptic", "--task", help="panoptic, semantic or instance."),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", parser=writable_local, help="Folder for `predictions`, `overlays` and `native`."
    ),
    overlays: bool = typer.Option(True, "--overlays/--no-overlays", help="Also draw a picture of each image."),
    native: bool = typer.Option(
        False, "--native", help="Also write COCO results (instance), COCO panoptic, or index PNGs (semantic)."
    ),
    on_error: str = typer.Option(
        "fail", "--on-error", metavar="fail|skip",
        help="Stop before the first prediction where a file of --images is no whole image, or leave such files out.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    as_json: bool = JSON_OPTION,
) -> None:  # fmt: skip
    """Segment images in any vocabulary.

    Names that the run's text encoder has not read yet are encoded first, as by `segkit vocabulary
    encode`.

    Example: segkit predict --checkpoint work/run --images photos --vocabulary coco-panoptic-133
    --out seen

    Example: segkit predict --checkpoint work/run --images photos --classes "cat, sofa, floor" --out
    seen
    """
    from segkit.runs.run_manifest import open_run
    from segkit.shards.reader import ShardSet

    chosen, skip = (
        parse_choice(task, TASKS, "--task"),
        parse_choice(on_error, ("fail", "skip"), "--on-error") == "skip",
    )
    if (images is None) == (data is None):
        raise InputError("give --images DIR or --data SET", hint="one of the two")
    open_run(checkpoint, settings, chosen)
    shards = ShardSet.open(data) if data else None
    taxonomy = _classes(vocabulary, classes, shards)
    if chosen == "instance" and all(category.kind == "stuff" for category in taxonomy.categories):
        hint = "name a thing as well, or give --task semantic or --task panoptic"
        raise InputError(
            f"no class is a thing: {', '.join(taxonomy.names[:5])}",
            record="--task instance",
            hint=hint,
        )
    root, files, tally = _files(images, skip)

    # Below what is refused at once: these take seconds to import.
    from segkit.export.prediction_files import write_native
    from segkit.inference.outputs import predict_files, predict_set, write_overlays

    run = load_run_for(taxonomy, checkpoint, device, settings)
    place = out / "predictions"
    with counting("predict", len(files) if shards is None else len(shards)) as advance:
        if shards:
            made = predict_set(run, shards, chosen, place, taxonomy=taxonomy, on_image=advance)
        else:
            made = predict_files(
                run, files, root, taxonomy, chosen, place, ledger=tally.ledger(), on_image=advance
            )
    more = {}
    if overlays:
        with counting("draw", len(made)) as advance:
            more["overlays"] = write_overlays(made, out / "overlays" / f"v{made.version}", advance)
    if native:
        more["native"] = write_native(made, out / "native" / f"v{made.version}")
    _show(made, {name: str(path) for name, path in more.items()}, tally, as_json)


def _files(images: Path | None, skip: bool) -> "tuple[Path, Sequence[Path], Tally]":
    """The images to predict with the folder of their names, and the account of those that are
    none."""
    from segkit.inference.input_files import check_files, image_files
    from segkit.sources.ledger import DROP_HINTS, Tally

    if images is None:
        return Path(), [], Tally()
    root, found = image_files(images)
    with counting("check", len(found)) as advance:
        files, tally = check_files(found, root, advance)
    if tally.offenders and not (skip and files):
        first = tally.defects[0]
        raise first.error(
            tally.offenders - 1,
            DROP_HINTS[first.code] + (", or give --on-error skip" if files else ""),
        )
    return root, files, tally


def _classes(vocabulary: str | None, classes: str | None, shards: "ShardSet | None") -> "Taxonomy":
    """The classes to look for, in whichever way they are given."""
    from segkit.text.vocabulary import open_vocabulary, taxonomy_from_names

    if vocabulary and classes:
        raise InputError("give --vocabulary or --classes", hint="one of the two")
    if vocabulary:
        return open_vocabulary(vocabulary)
    if classes:
        return taxonomy_from_names([name for name in classes.split(",") if name.strip()])
    if shards is None:
        raise InputError("no classes to look for", hint="give --vocabulary or --classes")
    return shards.taxonomy


def _show(made: "ShardSet", more: dict[str, str], tally: "Tally", as_json: bool) -> None:
    found = made.manifest.statistics
    classes = {name: counts.segments for name, counts in found.classes.items() if counts.segments}
    result = {
        "path": str(made.path),
        "version": made.version,
        "digest": made.manifest.digest,
        **more,
        "images": found.images,
        "left_out": tally.offenders,
        "defects": [defect.to_json() for defect in tally.defects],
        "segments": found.segments,
        "classes": classes,
    }
    ranked = sorted(classes.items(), key=lambda item: -item[1])[:20]
    title = f"{counted(found.segments, 'segment')} in {counted(found.images, 'image')}"
    shown = table(title, ("class", "segments"), ranked)
    emit(
        result,
        schema="segkit.predict/1",
        as_json=as_json,
        tables=[shown, f"{made.path}", *more.values()],
    )
    for defect in tally.defects[:_SHOWN]:
        line = f"left out: {defect.file}: {defect.message} [{defect.code}]"
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)
    if tally.offenders > _SHOWN:
        stderr.print(f"... and {tally.offenders - _SHOWN} more images left out", highlight=False)
    if turned := tally.image_warnings["exif-orientation"]:
        note(f"{turned} images ask viewers to turn them (EXIF); they were seen as they are stored")
