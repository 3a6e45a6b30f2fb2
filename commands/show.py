"""`segkit show`: a picture of a set, in a PNG file and in the terminal."""

from pathlib import Path

import typer

from segkit.atomic import require_writable
from segkit.errors import InputError, SegkitError
from segkit.sample import MIN_DRAWN_SCORE
from segkit.storage import local_path

from .common import emit, note, stdout
from .shared_options import IMAGES_ROOT_OPTION, SET_HELP, is_json, reject_unused

_GRID = 9


def show(
    spec: str = typer.Argument(metavar="SET", help=SET_HELP),
    sample_id: str | None = typer.Option(None, "--id", metavar="ID", help="Show this image only."),
    grid: int | None = typer.Option(
        None, "--grid", min=1, metavar="N", help=f"Number of images; {_GRID} by default."
    ),
    worst: bool = typer.Option(
        False,
        "--worst",
        help="Show the images with the lowest mean score or, with --predictions, with the lowest "
        "PQ, mIoU or IoU; without it, images are spread evenly over the set.",
    ),
    predictions: str | None = typer.Option(
        None,
        "--predictions",
        metavar="SET",
        help="Draw these predictions on the right of each image.",
    ),
    min_score: float = typer.Option(
        MIN_DRAWN_SCORE,
        "--min-score",
        min=0,
        max=1,
        help="Leave out instances with a lower score; not for panoptic and semantic sets.",
    ),
    out: Path | None = typer.Option(
        None,
        "--out",
        metavar="FILE",
        parser=local_path,
        help="PNG file to write; by default, SET-v1.png in the current folder.",
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Draw images of a set with their segments: write a PNG, and show it in a terminal.

    Every class name has the same color in all pictures, reports and FiftyOne.

    Example: segkit show work/coco-val --grid 16

    Example: segkit show work/coco-val --predictions work/predicted/predictions --worst
    """
    from segkit.shards.reader import ShardSet

    if sample_id is not None and (grid is not None or worst):
        option = "--worst" if worst else "--grid"
        raise InputError(f"give --id or {option}, not both", hint="leave one of the two out")
    shards = ShardSet.open(spec)
    if not len(shards):
        raise InputError("the set has no images", file=shards.path, hint="give another set")
    predicted = None if predictions is None else ShardSet.open(predictions)
    from segkit.report.preview import SCORED

    kinds = {data.manifest.kind for data in (shards, predicted) if data is not None}
    unused = min_score != MIN_DRAWN_SCORE and SCORED.isdisjoint(kinds)
    reject_unused(("--min-score", unused, "a set of instances or boxes"))
    name = f"{shards.path.parent.name}-{shards.path.name}.png"
    file = Path(name) if out is None else out
    require_writable(file)
    if file.suffix.lower() not in ("", ".png"):
        raise InputError("the picture is a PNG", file=file, hint="give a name that ends in .png")

    from segkit.images.draw import save_png
    from segkit.report.preview import draw_samples, index_of, predicted_images, spread

    count, captions = grid or _GRID, list[str]()
    images = range(len(shards)) if predicted is None else predicted_images(shards, predicted)
    if sample_id is not None:
        indices = [index_of(shards, sample_id)]
        if predicted is not None and indices[0] not in images:
            hint = f"{len(images)} of the images have one: leave --id out to see some of them"
            raise InputError(
                f"no prediction of image {sample_id!r}", file=predicted.path, hint=hint
            )
    elif worst:
        from segkit.report.ranking import worst_images

        ranked = worst_images(shards, count, predicted)
        indices, captions = [index for index, _ in ranked], [caption for _, caption in ranked]
    else:
        indices = [images[number] for number in spread(len(images), count)]
    for index in indices:
        try:
            shards.verify_image(shards.sample(index))
        except SegkitError as error:
            note(f"drawn on gray: {error}")
            break
    drawing = draw_samples(
        shards, indices, min_score=min_score, predictions=predicted, captions=captions
    )
    save_png(drawing.picture, file)
    if stdout.is_terminal and not is_json():
        # asks the terminal which kinds of pictures it shows: kitty's, sixels or colored blocks
        from textual_image.renderable import Image

        stdout.print(Image(file))
    result = {
        "path": str(file),
        "set": str(shards.path),
        "predictions": None if predicted is None else str(predicted.path),
        "images_by": shards.manifest.images_by,
        "images": [shards.sample(index).id for index in indices],
        "segments": drawing.segments,
        "drawn": drawing.drawn,
        "min_score": min_score,
    }
    emit(result, schema="segkit.show/1", tables=[str(drawing), str(file)])
