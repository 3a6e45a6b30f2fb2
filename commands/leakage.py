"""`segkit leakage`: find images that occur in more than one shard set."""

import typer

from segkit.errors import plural

from .common import emit, table
from .progress import progress_bar
from .shared_options import IMAGES_ROOT_OPTION

_MAX_PAIRS = 20


def leakage(
    sets: list[str] = typer.Argument(
        metavar="SET SET...", help="Shard sets: DIR (its newest version) or DIR@v1."
    ),
    near: int = typer.Option(
        24, min=0, max=64, help="Bits of 256 in which perceptual hashes of one picture may differ."
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Find images that two sets share: the same bytes, or the same picture scaled or re-encoded.

    The exit code is 1 if there is one, so that a script can stop before it uses the sets.

    Example: segkit leakage work/train work/val
    """
    from segkit.shards.leakage import find_leaks
    from segkit.shards.reader import ShardSet

    shard_sets = [ShardSet.open(spec) for spec in sets]
    with progress_bar("hash images", sum(map(len, shard_sets))) as advance:
        leaks = list(find_leaks(shard_sets, near=near, advance=advance))
    pairs = [
        {
            "a": sets[leak.a],
            "id_a": leak.id_a,
            "b": sets[leak.b],
            "id_b": leak.id_b,
            "distance": leak.distance,
        }
        for leak in leaks
    ]
    exact = sum(leak.distance is None for leak in leaks)
    result = {"sets": sets, "exact": exact, "near": len(leaks) - exact, "pairs": pairs}
    rows = [
        (*list(pair.values())[:4], "same bytes" if pair["distance"] is None else pair["distance"])
        for pair in pairs[:_MAX_PAIRS]
    ]
    same_picture = f"{len(leaks) - exact} of the same picture"
    title = f"{plural(exact, 'pair')} of the same bytes, {same_picture} ({len(rows)} shown)"
    columns = ("set", "image", "set", "image", "differing bits")
    emit(result, schema="segkit.leakage/1", tables=[table(title, columns, rows)])
    if leaks:
        raise typer.Exit(1)
