"""`segkit browse`: show a shard set, with predictions beside it, in the FiftyOne App."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.sample import MIN_DRAWN_SCORE
from segkit.storage import writable

from .common import emit, note, print_line, table
from .progress import progress_bar
from .shared_options import IMAGES_ROOT_OPTION, parse_choice, reject_unused

if TYPE_CHECKING:
    from segkit.shards.reader import ShardSet

LOCALHOST = "localhost"


def browse(
    data: str = typer.Argument(metavar="SET", help="Shard set: DIR, or DIR@v1."),
    predictions: list[str] = typer.Option(
        [],
        metavar="[NAME=]SET",
        help="Prediction shard set over the same images, in fields of its own; repeatable.",
    ),
    min_score: float = typer.Option(
        MIN_DRAWN_SCORE, min=0, max=1, help="The App opens without instances of a lower score."
    ),
    leaks: list[str] = typer.Option(
        [], "--leaks", metavar="SET", help="Tag images that this set contains too; repeatable."
    ),
    write_back: list[str] = typer.Option(
        [],
        metavar="TAG=ACTION",
        help="Publish a layer in which tagged images and labels are dropped (drop), ignored "
        "(ignore) or kept as boxes (keep-as-box); opens no App. Repeatable.",
    ),
    out: Path | None = typer.Option(
        None, parser=writable, metavar="SET", help="Of --write-back; by default the set itself."
    ),
    name: str | None = typer.Option(
        None, help="Name of the FiftyOne dataset; the default is the set's folder and digest."
    ),
    app: bool = typer.Option(True, "--app/--no-app", help="Open the App after loading."),
    host: str = typer.Option(
        LOCALHOST, help="Address that the App listens on; 0.0.0.0 lets other machines connect."
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Load a shard set into FiftyOne (extra `browse`) and open its App.

    Class maps become segmentations; things and boxes become detections, in one color per class
    name. Images are copied from the tars to $SEGKIT_CACHE (~/.cache/segkit). Loading a version
    again updates its dataset and keeps your tags, views and fields; a dataset of another set is
    never replaced. Saved views: confident, worst, lowest score, disagreement, boxes without a mask,
    quarantined, leaks.

    Example: segkit browse work/coco-val --predictions baseline=work/a --predictions new=work/b

    Example: segkit browse work/masks --write-back bad=keep-as-box --write-back blurred=drop
    """
    require_extra("browse", "segkit browse")
    from segkit.browse import dataset
    from segkit.browse.labels import DETECTIONS
    from segkit.shards.reader import ShardSet

    shards = ShardSet.open(data)
    browses = "a call without --write-back"
    reject_unused(
        ("--out", out is not None and not write_back, "--write-back"),
        ("--predictions", bool(predictions and write_back), browses),
        ("--leaks", bool(leaks and write_back), browses),
        ("--min-score", min_score != MIN_DRAWN_SCORE and bool(write_back), browses),
        ("--host", host != LOCALHOST and bool(write_back or not app), f"{browses} and with --app"),
    )
    if write_back:
        _write_back(shards, data, name, write_back, out)
        return
    prediction_sets = _prediction_sets(predictions)
    kinds = {opened.manifest.kind for opened in (shards, *prediction_sets.values())}
    unused = min_score != MIN_DRAWN_SCORE and DETECTIONS.isdisjoint(kinds)
    reject_unused(("--min-score", unused, "a set of instances, boxes or things"))
    with progress_bar(f"load {shards.path.parent.name}", len(shards)) as advance:
        result = dataset.load(
            shards,
            prediction_sets,
            name=name,
            min_score=min_score,
            leaks=[ShardSet.open(spec) for spec in leaks],
            advance=advance,
        )
    summary = asdict(result)
    for prefix, reason in summary["without_figures"].items():
        note(f"{prefix} has no figures: {reason}")
    printed = summary | {"views": ", ".join(result.views)}
    keys = [key for key in printed if key != "without_figures"]
    rows = [(key.replace("_", " "), printed[key]) for key in keys]
    emit(
        summary | {"set": str(shards.path)},
        schema="segkit.browse/1",
        tables=[table("Loaded", ("", ""), rows)],
    )
    if app:

        def announce(url: str) -> None:
            note = "until you close its last tab or press Ctrl-C"
            print_line(f"the App runs at {url} {note}")

        confident = (view for view in result.views if "confident" in view)
        dataset.open_app(result.dataset, announce, host=host, view=next(confident, None))


def _prediction_sets(options: Sequence[str]) -> "dict[str, ShardSet]":
    """Name -> set, for `--predictions [NAME=]SET`."""
    from segkit.shards.reader import ShardSet

    sets: dict[str, ShardSet] = {}
    for option in options:
        name, equals, spec = option.partition("=")
        if not equals:
            name, spec = "predictions", option
        if name in sets:
            hint = "give each a name of its own: --predictions NAME=SET"
            raise InputError(f"two prediction sets are called {name!r}", hint=hint)
        sets[name] = ShardSet.open(spec)
    return sets


def _write_back(
    shards: "ShardSet", data: str, name: str | None, options: Sequence[str], out: Path | None
) -> None:
    """Publish the layer of the tags and print its ledger."""
    from segkit.browse import dataset, review
    from segkit.metrics.output import origin

    actions: dict[str, review.Action] = {}
    for option in options:
        tag, _, action = option.rpartition("=")
        if not tag:
            hint = f"give TAG=ACTION, with one of {', '.join(review.ACTIONS)}"
            raise InputError(f"no tag in {option!r}", record="--write-back", hint=hint)
        if tag in actions:
            message, hint = f"tag {tag!r} has two actions", "give each tag one"
            raise InputError(message, record="--write-back", hint=hint)
        actions[tag] = parse_choice(action, review.ACTIONS, "--write-back")
    tags = review.read_tags(name or dataset.default_name(shards), shards)
    arguments = {"data": data, "write_back": list(options)}
    layer = review.write_back(shards, out or shards.path.parent, tags, actions, arguments)
    ledger = layer.manifest.ledger
    result = {
        **origin(layer),
        "images": ledger.images.model_dump(),
        "ledger": ledger.annotations.model_dump(),
    }
    rows = [
        (noun, count.input, count.kept, sum(count.dropped.values()), sum(count.warnings.values()))
        for noun, count in (("images", ledger.images), ("labels", ledger.annotations))
    ]
    emit(
        result,
        schema="segkit.review/1",
        tables=[
            table("Review", ("", "input", "kept", "dropped", "altered"), rows),
            str(layer.path),
        ],
    )
