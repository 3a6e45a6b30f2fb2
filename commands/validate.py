"""`segkit validate`: every checksum, every row, every mask of a shard set."""

from collections import Counter

import typer

from .common import JSON_OPTION, counted, counting, emit, table


def validate(
    spec: str = typer.Argument(
        metavar="SET", help="A shard set: DIR (its newest version) or DIR@v1."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check every file of a shard set against its checksum, and every row against the schema.

    Lists each violation, also of a row against itself, with a stable code; the exit code is then 1.

    Example: segkit validate work/coco-train
    """
    from segkit.shards.lineage import read_json
    from segkit.shards.publish import resolve
    from segkit.shards.reader import is_run
    from segkit.shards.validate import validate as check

    version = resolve(spec)
    manifest = read_json(version)
    if manifest.get("type") == "run":
        raise is_run(version)
    statistics = manifest.get("statistics")
    images = statistics.get("images") if isinstance(statistics, dict) else None
    with counting("validate", images) as advance:
        found = list(check(version, advance=advance))
    counts = dict(sorted(Counter(item.code for item in found).items()))
    result = {
        "path": str(version.resolve()),
        "version": int(version.name[1:]),
        "images": images,
        "valid": not found,
        "counts": counts,
        "violations": [
            {"code": item.code, "where": item.where, "detail": item.detail} for item in found
        ],
    }
    if found and not as_json:
        for item in found:
            print(f"{item.code}: {item.where}: {item.detail}")
    rows = list(counts.items()) or [("none", 0)]
    told = [counted(images, "image")] if isinstance(images, int) else []
    title = f"{version}: {', '.join([*told, counted(len(found), 'violation')])}"
    emit(
        result,
        schema="segkit.validate/1",
        as_json=as_json,
        tables=[table(title, ("violation", "count"), rows)],
    )
    if found:
        raise typer.Exit(1)
