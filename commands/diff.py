"""`segkit diff`: what differs between two shard sets."""

import typer

from .common import JSON_OPTION, emit, table

_SHOWN = 20


def diff(
    a: str = typer.Argument(metavar="A", help="A shard set: DIR (its newest version) or DIR@v1."),
    b: str = typer.Argument(metavar="B", help="Another shard set, or another version of the same."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Compare two shard sets: images by id, labels by class and by pixels.

    The exit code is 0 also if they differ.

    Example: segkit diff work/o365@v1 work/o365-pseudo
    """
    from segkit.shards.diff import diff as compare
    from segkit.shards.reader import ShardSet

    found = compare(ShardSet.open(a), ShardSet.open(b))
    classes = {name: one.to_json() for name, one in found.classes.items()}
    images = {
        "common": found.common,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "changed_labels": found.changed_labels,
        "changed_images": found.changed_images,
    }
    result = {"a": a, "b": b, "identical": found.identical, "images": images, "classes": classes}
    counts = [
        (key, len(value) if isinstance(value, list) else value) for key, value in images.items()
    ]
    verdict = "identical" if found.identical else "different"
    order = sorted(
        classes, key=lambda name: (classes[name]["iou"] is None, classes[name]["iou"], name)
    )[:_SHOWN]
    rows = [
        (name, *classes[name]["segments"], *classes[name]["pixels"], classes[name]["iou"])
        for name in order
    ]
    columns = ("class", "segments A", "segments B", "pixels A", "pixels B", "IoU")
    title = f"Classes of common images, least agreement first ({len(order)} of {len(classes)})"
    tables = [table(f"{a} and {b}: {verdict}", ("images", ""), counts), table(title, columns, rows)]
    emit(result, schema="segkit.diff/1", as_json=as_json, tables=tables)
