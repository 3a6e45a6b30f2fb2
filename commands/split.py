"""`segkit split`: parts of a shard set, by share or by list."""

from pathlib import Path

import typer

from segkit.storage import writable

from .common import JSON_OPTION, counted, emit, table


def split(
    spec: str = typer.Argument(
        metavar="SET", help="A shard set: DIR (its newest version) or DIR@v1."
    ),
    out: Path = typer.Option(
        ...,
        "--out",
        metavar="DIR",
        parser=writable,
        help="Directory that gets a shard set for each part.",
    ),
    part: list[str] = typer.Option(
        [], "--part", metavar="NAME=SHARE", help="A part and its share of the images."
    ),
    listed: list[str] = typer.Option(
        [], "--list", metavar="NAME=FILE", help="A part and a file of image ids."
    ),
    seed: int = typer.Option(0, help="Which images go where; only with --part."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Split a shard set into parts that use its images where they are; no image is copied.

    Example: segkit split work/own --part train=0.9 --part val=0.1 --out work/own-split
    """
    from segkit.errors import InputError
    from segkit.shards.reader import ShardSet
    from segkit.shards.split import by_chance, by_list
    from segkit.shards.split import split as cut

    if bool(part) == bool(listed):
        raise InputError(
            "parts are given by shares or by lists", hint="use either --part or --list"
        )
    data = ShardSet.open(spec)
    pairs = _pairs(part or listed)
    if part:
        parts = by_chance(data, {name: _share(name, text) for name, text in pairs.items()}, seed)
    else:
        parts = by_list(data, {name: Path(text) for name, text in pairs.items()})
    arguments = {"set": spec, "out": str(out), "part": part, "list": listed, "seed": seed}
    made = cut(data, out, parts, arguments)
    keys = ("path", "version", "images", "segments", "digest")
    rows = {
        name: (
            str(one.path),
            one.version,
            len(one),
            one.manifest.statistics.segments,
            one.manifest.digest,
        )
        for name, one in made.items()
    }
    left = len(data) - len(parts)
    result = {
        "parts": {name: dict(zip(keys, row, strict=True)) for name, row in rows.items()},
        "in_no_part": left,
    }
    title = f"{counted(len(data), 'image')}, {left} in no part"
    shown = table(title, ("part", *keys[:4]), [(n, *r[:4]) for n, r in rows.items()])
    emit(result, schema="segkit.split/1", as_json=as_json, tables=[shown])


def _pairs(texts: list[str]) -> dict[str, str]:
    from segkit.errors import InputError

    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if (
            not (equals and value)
            or name in pairs
            or not name.replace("-", "").replace("_", "").isalnum()
        ):
            raise InputError(
                f"{text!r} is no part", hint="give each part once, as NAME=SHARE or NAME=FILE"
            )
        pairs[name] = value
    return pairs


def _share(name: str, text: str) -> float:
    from segkit.errors import InputError

    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"{text!r} is no share", record=f"part {name}", hint="give a number such as 0.9"
        ) from None
