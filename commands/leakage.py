"""`segkit leakage`: images that occur in more than one shard set."""

import typer

from .common import JSON_OPTION, counted, counting, emit, table

_SHOWN = 20


def leakage(
    sets: list[str] = typer.Argument(
        metavar="SET SET...", help="Shard sets: DIR (its newest version) or DIR@v1."
    ),
    near: int = typer.Option(
        24, min=0, max=64, help="Bits of 256 in which perceptual hashes of one picture may differ."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Find images that two sets share: equal bytes, or one picture resized or re-encoded.

    The exit code is 1 if there are any, so that a script can reject an evaluation set.

    Example: segkit leakage work/train work/val
    """
    from segkit.errors import InputError
    from segkit.shards.leakage import leaks
    from segkit.shards.reader import ShardSet

    if len(sets) < 2:
        raise InputError("one set is nothing to compare", hint="give two or more")
    opened = [ShardSet.open(spec) for spec in sets]
    with counting("hash images", sum(map(len, opened))) as advance:
        found = list(leaks(opened, near=near, advance=advance))
    pairs = [
        {
            "a": sets[leak.a],
            "id_a": leak.id_a,
            "b": sets[leak.b],
            "id_b": leak.id_b,
            "distance": leak.distance,
        }
        for leak in found
    ]
    exact = sum(leak.distance is None for leak in found)
    result = {"sets": sets, "exact": exact, "near": len(found) - exact, "pairs": pairs}
    rows = [
        (*list(pair.values())[:4], "same bytes" if pair["distance"] is None else pair["distance"])
        for pair in pairs[:_SHOWN]
    ]
    title = f"{counted(exact, 'pair')} of the same bytes, {len(found) - exact} of the same picture ({len(rows)} shown)"
    shown = table(title, ("set", "image", "set", "image", "differing bits"), rows)
    emit(result, schema="segkit.leakage/1", as_json=as_json, tables=[shown])
    if found:
        raise typer.Exit(1)
