"""`segkit diff`: compare two shard sets."""

import typer

from .common import emit, table
from .progress import progress_bar
from .shared_options import SET_HELP

_MAX_CLASSES = 20


def diff(
    a: str = typer.Argument(metavar="A", help=SET_HELP),
    b: str = typer.Argument(metavar="B", help="Another shard set, or another version of the same."),
) -> None:
    """Compare two shard sets: images by id, labels by class and by pixels.

    The exit code is 0, whether or not they differ.

    Example: segkit diff work/o365@v1 work/o365-pseudo
    """
    from segkit.shards.diff import diff as compare
    from segkit.shards.reader import ShardSet

    sets = ShardSet.open(a), ShardSet.open(b)
    with progress_bar(f"diff {sets[0].path.parent.name}", len(sets[0])) as advance:
        difference = compare(*sets, on_image=advance)
    classes = {name: counts.to_json() for name, counts in difference.classes.items()}
    images = {
        "common": difference.common,
        "only_a": difference.only_a,
        "only_b": difference.only_b,
        "changed_labels": difference.changed_labels,
        "changed_images": difference.changed_images,
    }
    identical = difference.identical
    result = {"a": a, "b": b, "identical": identical, "images": images, "classes": classes}
    counts = [
        (key, len(value) if isinstance(value, list) else value) for key, value in images.items()
    ]
    verdict = "identical" if identical else "different"
    names = sorted(classes, key=lambda k: (classes[k]["iou"] is None, classes[k]["iou"], k))
    names = names[:_MAX_CLASSES]
    rows = [
        (name, *classes[name]["segments"], *classes[name]["pixels"], classes[name]["iou"])
        for name in names
    ]
    columns = ("class", "segments A", "segments B", "pixels A", "pixels B", "IoU")
    title = f"Classes of common images, least agreement first ({len(names)} of {len(classes)})"
    tables = [table(f"{a} and {b}: {verdict}", ("images", ""), counts), table(title, columns, rows)]
    emit(result, schema="segkit.diff/1", tables=tables)
