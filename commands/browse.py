"""`segkit browse`: look at a shard set, and at predictions beside it, in the FiftyOne App."""

import typer

from .common import JSON_OPTION, counting, emit, stderr, table


def browse(
    data: str = typer.Argument(metavar="SET", help="Shard set: DIR, or DIR@v1."),
    predictions: str = typer.Option(
        None, metavar="SET", help="Prediction shard set of the same images."
    ),
    name: str = typer.Option(
        None, help="Name of the FiftyOne dataset; by default the set's with split and version."
    ),
    app: bool = typer.Option(True, "--app/--no-app", help="Open the App, or only load."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Load a shard set into FiftyOne (extra `browse`) and open its App.

    Class maps become segmentations, things and boxes detections; images are copied out of the tars
    into $SEGKIT_CACHE (~/.cache/segkit). Loading a version again replaces its dataset.

    Example: segkit browse shards/coco-val --predictions runs/eval/predictions
    """
    from segkit.browse import dataset
    from segkit.shards.reader import ShardSet

    shards = ShardSet.open(data)
    guesses = ShardSet.open(predictions) if predictions else None
    with counting("load", len(shards)) as advance:
        loaded = dataset.load(shards, guesses, name=name, advance=advance)
    rows = [(key.replace("_", " "), value) for key, value in dataset.as_json(loaded).items()]
    emit(
        dataset.as_json(loaded),
        schema="segkit.browse/1",
        as_json=as_json,
        tables=[table("Loaded", ("", ""), rows)],
    )
    if app:
        hint = "until its last tab is closed, or Ctrl-C"
        dataset.open_app(loaded.dataset, lambda url: stderr.print(f"the App is at {url} {hint}"))
