"""`segkit merge`: several shard sets as one."""

from pathlib import Path

import typer

from segkit.storage import writable

from .common import JSON_OPTION, emit, table


def merge(
    sets: list[str] = typer.Argument(
        metavar="SET SET...", help="Shard sets of one kind: DIR or DIR@v1."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Shard set to write a version of."
    ),
    name: str = typer.Option(None, help="Name of the new set; by default the directory's."),
    rename: bool = typer.Option(
        False, "--rename", help="Put the set's number before every image id: 1-000139."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Merge shard sets into one that uses their images where they are; no image is copied.

    Classes must agree in id, name and kind wherever they meet; segkit relabel brings sets to one
    taxonomy.

    Example: segkit merge work/coco-train work/own-train --out work/both
    """
    from segkit.errors import InputError
    from segkit.shards.merge import merge as join
    from segkit.shards.reader import ShardSet

    if len(sets) < 2:
        raise InputError("one set is nothing to merge", hint="give two or more")
    arguments = {"sets": sets, "out": str(out), "name": name, "rename": rename}
    opened = [ShardSet.open(spec) for spec in sets]
    made = join(opened, out, name=name or out.name, rename=rename, arguments=arguments)
    counts = made.manifest.statistics
    result = {
        "path": str(made.path),
        "version": made.version,
        "images": counts.images,
        "segments": counts.segments,
        "classes": len(made.taxonomy.categories),
        "digest": made.manifest.digest,
    }
    emit(
        result,
        schema="segkit.merge/1",
        as_json=as_json,
        tables=[table(str(made.path), ("", ""), [*result.items()])],
    )
