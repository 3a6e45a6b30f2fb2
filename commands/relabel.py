"""`segkit relabel`: a shard set in another taxonomy."""

from pathlib import Path

import typer

from segkit.storage import writable

from .common import JSON_OPTION, emit, table


def relabel(
    spec: str = typer.Argument(
        metavar="SET", help="A shard set: DIR (its newest version) or DIR@v1."
    ),
    taxonomy: str = typer.Option(
        ..., help="The new classes: a known vocabulary or a taxonomy JSON file."
    ),
    mapping: Path = typer.Option(
        ...,
        "--map",
        metavar="FILE",
        help="CSV with columns from and to (names or ids); a blank to drops the class.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Shard set to write a version of."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Map a shard set's classes to those of another taxonomy by a table; no image is copied.

    Every class of the set needs a line in the table. Pixels of dropped classes become void where
    labels cover the whole image.

    Example: segkit relabel work/ade --taxonomy coco-panoptic-133 --map ade-to-coco.csv --out
    work/ade-in-coco
    """
    from segkit.shards.reader import ShardSet
    from segkit.shards.relabel import read_table
    from segkit.shards.relabel import relabel as change
    from segkit.taxonomy import load_taxonomy

    data, new = ShardSet.open(spec), load_taxonomy(taxonomy)
    pairs = read_table(mapping, data.taxonomy, new)
    arguments = {"set": spec, "taxonomy": taxonomy, "map": str(mapping), "out": str(out)}
    made = change(data, out, new, pairs, arguments)
    ledger = made.manifest.ledger
    result = {
        "path": str(made.path),
        "version": made.version,
        "ledger": ledger.annotations.model_dump(),
        "per_class": {name: count.model_dump() for name, count in ledger.per_class.items()},
        "images": ledger.images.model_dump(),
        "digest": made.manifest.digest,
    }
    rows = [
        (name, count.input, count.kept, count.input - count.kept)
        for name, count in ledger.per_class.items()
    ]
    shown = table(str(made.path), ("class before", "segments", "kept", "dropped"), rows)
    emit(result, schema="segkit.relabel/1", as_json=as_json, tables=[shown])
