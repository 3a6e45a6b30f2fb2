"""`segkit validate`: check every checksum, row and mask of a shard set."""

from collections import Counter

import typer

from .common import JSON_OPTION, SET_HELP, emit, plural, progress_bar, table


def validate(
    spec: str = typer.Argument(metavar="SET", help=SET_HELP), as_json: bool = JSON_OPTION
) -> None:
    """Check the files of a shard set by their checksums, and its rows by the schema.

    Every violation is listed with a stable code; the exit code is 1 if there is one.

    Example: segkit validate work/coco-train
    """
    from segkit.shards.lineage import read_json
    from segkit.shards.publish import resolve
    from segkit.shards.reader import run_error
    from segkit.shards.validate import validate as find_violations

    version = resolve(spec)
    manifest = read_json(version)
    if manifest.get("type") == "run":
        raise run_error(version)
    statistics = manifest.get("statistics")
    images = statistics.get("images") if isinstance(statistics, dict) else None
    with progress_bar("validate", images) as advance:
        violations = list(find_violations(version, advance=advance))
    counts = dict(sorted(Counter(violation.code for violation in violations).items()))
    result = {
        "path": str(version.resolve()),
        "version": int(version.name[1:]),
        "images": images,
        "valid": not violations,
        "counts": counts,
        "violations": [
            {"code": violation.code, "where": violation.where, "detail": violation.detail}
            for violation in violations
        ],
    }
    lines = [f"{item.code}: {item.where}: {item.detail}" for item in violations]
    images_text = [plural(images, "image")] if isinstance(images, int) else []
    title = f"{version}: {', '.join([*images_text, plural(len(violations), 'violation')])}"
    rows = list(counts.items()) or [("none", 0)]
    emit(
        result,
        schema="segkit.validate/1",
        as_json=as_json,
        tables=[*lines, table(title, ("violation", "count"), rows)],
    )
    if violations:
        raise typer.Exit(1)
