"""`segkit split`: divide a shard set into parts, by share, by list or by class."""

from pathlib import Path
from typing import Any

import typer

from segkit.errors import InputError, plural
from segkit.storage import writable

from .common import emit, table
from .progress import progress_bar
from .shared_options import (
    FORCE_OPTION,
    IMAGES_ROOT_OPTION,
    SET_HELP,
    VERIFY_OPTION,
    parse_choice,
    reject_unused,
)


def _complete_split(incomplete: str) -> list[str]:
    """Return the shipped zero-shot splits that begin like this."""
    from segkit.shards.zero_shot_split import known_splits

    return [name for name in known_splits() if name.startswith(incomplete)]


def split(
    spec: str = typer.Argument(metavar="SET", help=SET_HELP),
    out: Path = typer.Option(
        ...,
        "--out",
        metavar="DIR",
        parser=writable,
        help="Directory in which to write a shard set for each part.",
    ),
    part: list[str] = typer.Option(
        [], "--part", metavar="NAME=SHARE", help="A part and its share of the images; repeatable."
    ),
    listed: list[str] = typer.Option(
        [], "--list", metavar="NAME=FILE", help="A part and a file of image ids; repeatable."
    ),
    seed: int | None = typer.Option(
        None, help="Seed of the assignment of images to --part; by default 0."
    ),
    zero_shot: str | None = typer.Option(
        None,
        "--zero-shot",
        metavar="SPLIT",
        autocompletion=_complete_split,
        help="Split into `seen` and `unseen`: a shipped split such as coco-panoptic-119-14, or a"
        " text file of the unseen classes, one a line.",
    ),
    policy: str = typer.Option(
        "drop-image",
        help="An image with a segment of an unseen class: drop-image keeps it out of `seen`,"
        " ignore-pixels makes the segment's pixels void there.",
    ),
    verify_images: bool = VERIFY_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Split a shard set into parts that refer to its images; no image is copied.

    Example: segkit split work/own --part train=0.9 --part val=0.1 --out work/own-split
    """
    from segkit.shards.reader import ShardSet
    from segkit.shards.split import assign_by_list, assign_by_share
    from segkit.shards.split import split as write_parts
    from segkit.shards.zero_shot_split import POLICIES, load_split, split_zero_shot

    if (bool(part), bool(listed), zero_shot is not None).count(True) != 1:
        message = "parts are given by shares, by lists or by classes"
        raise InputError(message, hint="use either --part, --list or --zero-shot")
    chosen = parse_choice(policy, POLICIES, "--policy")
    reject_unused(
        ("--policy", policy != POLICIES[0] and zero_shot is None, "--zero-shot"),
        ("--seed", seed is not None and not part, "--part"),
    )
    options = {"verify_images": verify_images, "force": force}
    arguments: dict[str, Any] = {"set": spec, "out": str(out)}
    if zero_shot is not None:
        classes, data = load_split(zero_shot), ShardSet.open(spec)
        arguments |= {"zero_shot": zero_shot, "policy": policy}
        with progress_bar(f"split {data.path.parent.name}", 3 * len(data), "reads") as advance:
            written = split_zero_shot(
                data, out, classes, chosen, arguments, on_image=advance, **options
            )
        left = 0
    else:
        data = ShardSet.open(spec)
        pairs = _pairs(part or listed)
        if part:
            shares = {name: _share(name, text) for name, text in pairs.items()}
            parts = assign_by_share(data, shares, seed or 0)
        else:
            parts = assign_by_list(data, {name: Path(text) for name, text in pairs.items()})
        arguments |= {"part": part, "list": listed, "seed": seed or 0}
        passes = len(pairs) + verify_images
        with progress_bar(f"split {data.path.parent.name}", passes * len(data), "reads") as advance:
            written = write_parts(data, out, parts, arguments, on_image=advance, **options)
        left = len(data) - len(parts)
    results = {
        name: {
            "path": str(shards.path),
            "version": shards.version,
            "images": len(shards),
            "segments": shards.manifest.statistics.segments,
            "digest": shards.manifest.digest,
        }
        for name, shards in written.items()
    }
    columns = ("path", "version", "images", "segments")
    rows = [(name, *(result[key] for key in columns)) for name, result in results.items()]
    title = f"{plural(len(data), 'image')}, {left} in no part"
    emit(
        {"parts": results, "in_no_part": left},
        schema="segkit.split/1",
        tables=[table(title, ("part", *columns), rows)],
    )


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        plain = name.replace("-", "").replace("_", "").isalnum()
        if not value or not plain or name in pairs:
            hint = "give each part once, as NAME=SHARE or NAME=FILE"
            raise InputError(f"invalid part {text!r}", hint=hint)
        pairs[name] = value
    return pairs


def _share(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        hint = "give a number such as 0.9"
        raise InputError(f"invalid share {text!r}", record=f"part {name}", hint=hint) from None
