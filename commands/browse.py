"""`segkit browse`: show a shard set, with predictions beside it, in the FiftyOne App."""

import typer

from segkit.extras import require_extra

from .common import IMAGES_ROOT_OPTION, JSON_OPTION, emit, print_line, progress_bar, table


def browse(
    data: str = typer.Argument(metavar="SET", help="Shard set: DIR, or DIR@v1."),
    predictions: str = typer.Option(
        None, metavar="SET", help="Prediction shard set over the same images."
    ),
    name: str = typer.Option(
        None, help="Name of the FiftyOne dataset; the default is the set's name, split and version."
    ),
    app: bool = typer.Option(True, "--app/--no-app", help="Open the App after loading."),
    host: str = typer.Option(
        "localhost", help="Address that the App listens on; 0.0.0.0 lets other machines connect."
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Load a shard set into FiftyOne (extra `browse`) and open its App.

    Class maps become segmentations; things and boxes become detections. Images are copied from the
    tars to $SEGKIT_CACHE (~/.cache/segkit). Loading a version again replaces its dataset;
    a dataset of another set is never replaced.

    Example: segkit browse shards/coco-val --predictions runs/eval/predictions
    """
    require_extra("browse", "segkit browse")
    from segkit.browse import dataset
    from segkit.shards.reader import ShardSet

    shards = ShardSet.open(data)
    prediction_set = ShardSet.open(predictions) if predictions else None
    with progress_bar("load", len(shards)) as advance:
        result = dataset.load(shards, prediction_set, name=name, advance=advance)
    rows = [(key.replace("_", " "), value) for key, value in dataset.as_json(result).items()]
    emit(
        dataset.as_json(result),
        schema="segkit.browse/1",
        as_json=as_json,
        tables=[table("Loaded", ("", ""), rows)],
    )
    if app:

        def announce(url: str) -> None:
            note = "until you close its last tab or press Ctrl-C"
            print_line(f"the App runs at {url} {note}")

        dataset.open_app(result.dataset, announce, host=host)
