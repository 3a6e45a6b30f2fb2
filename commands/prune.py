"""`segkit prune`: delete old versions of a set or a run."""

from pathlib import Path

import typer

from segkit.errors import plural
from segkit.storage import local_path

from .common import emit, table

_MIB = 2**20


def prune(
    directory: Path = typer.Argument(
        metavar="SET|RUN", parser=local_path, help="Directory of the versions."
    ),
    keep: int = typer.Option(1, "--keep", min=1, metavar="N", help="Newest versions to keep."),
    within: Path | None = typer.Option(
        None,
        "--within",
        metavar="DIR",
        parser=local_path,
        help="Keep what any set or run in this folder refers to; by default, the folder that "
        "contains SET.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="List the versions, delete none."),
) -> None:
    """Delete old versions. The newest stay, and so do parents of other sets and runs.

    Layers (predictions, pseudo-labels, merged sets) read the images of their parents: such parents
    are found by the manifests in `--within`, so name a folder that contains all of them. What an
    unfinished version or a self-training there reads stays as well.

    Example: segkit prune work/coco-train --keep 2 --within work
    """
    from segkit.shards.prune import plan_pruning
    from segkit.shards.prune import prune as delete_versions

    pruning = plan_pruning(directory, keep, within or directory.resolve().parent)
    if not dry_run:
        delete_versions(directory, pruning)
    result = {
        "path": str(directory),
        "deleted": [path.name for path in pruning.delete],
        "needed": {path.name: str(child) for path, child in pruning.needed.items()},
        "kept": [path.name for path in pruning.newest],
        "bytes": pruning.size,
        "dry_run": dry_run,
    }
    rows = [
        *((path.name, "would be deleted" if dry_run else "deleted") for path in pruning.delete),
        *((path.name, f"kept: {child} refers to it") for path, child in pruning.needed.items()),
        *((path.name, "kept") for path in pruning.newest),
    ]
    title = f"{directory}: {plural(len(pruning.delete), 'version')}, {pruning.size / _MIB:.1f} MiB"
    emit(result, schema="segkit.prune/1", tables=[table(title, ("version", ""), rows)])
