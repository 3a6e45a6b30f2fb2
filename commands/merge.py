"""`segkit merge`: combine several shard sets into one."""

from pathlib import Path

import typer

from segkit.storage import writable

from .common import emit, note, table
from .progress import progress_bar
from .shared_options import FORCE_OPTION, IMAGES_ROOT_OPTION, VERIFY_OPTION


def merge(
    sets: list[str] = typer.Argument(
        metavar="SET SET...", help="Shard sets of one kind: DIR or DIR@v1."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Shard set to write a version of."
    ),
    name: str | None = typer.Option(None, help="Name of the new set; by default the directory's."),
    rename: bool = typer.Option(
        False, "--rename", help="Put the set's number before every image id: 1-000139."
    ),
    verify_images: bool = VERIFY_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Merge shard sets into one that refers to their images; no image is copied.

    Classes that sets share must agree in id, name and kind; segkit relabel brings sets to one
    taxonomy.

    Example: segkit merge work/coco-train work/own-train --out work/both
    """
    from segkit.shards.merge_sets import differing_words, merge_sets
    from segkit.shards.reader import ShardSet

    arguments = {"sets": sets, "out": str(out), "name": name, "rename": rename}
    shard_sets = [ShardSet.open(spec) for spec in sets]
    with progress_bar(f"merge {out.name}", sum(map(len, shard_sets))) as advance:
        merged = merge_sets(
            shard_sets,
            out,
            name=name or out.name or out.resolve().name,
            rename=rename,
            arguments=arguments,
            verify_images=verify_images,
            force=force,
            on_image=advance,
        )
    if differing := dict.fromkeys(differing_words([data.taxonomy for data in shard_sets])):
        names = ", ".join(map(repr, list(differing)[:5]))
        note(f"the words of {names} differ between the sets: those of the first set are kept")
    counts = merged.manifest.statistics
    result = {
        "path": str(merged.path),
        "version": merged.version,
        "images": counts.images,
        "segments": counts.segments,
        "classes": len(merged.taxonomy.categories),
        "digest": merged.manifest.digest,
    }
    summary = table(str(merged.path), ("", ""), [*result.items()])
    emit(result, schema="segkit.merge/1", tables=[summary])
