"""Held-out images of a self-training: no round trains on them, their masks score the rounds.

They are a set of their own, or drawn from the sets with masks. Images count as the same where their
bytes are, whatever their ids: then a round that trains on one has seen the other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.errors import InputError, plural, short
from segkit.inference.calibration_set import has_objects
from segkit.shards.leakage import image_digests
from segkit.shards.reader import ShardSet
from segkit.shards.split import rank_ids, split
from segkit.shards.versions import versions

TRAIN_PART, HELD_OUT_PART = "train", "held-out"
Parts = Mapping[str, str]
"""Image id -> part, of each image of a set."""


def check_held_out(held_out: ShardSet, trained: Sequence[ShardSet]) -> None:
    """Raise InputError where a set holds labels only, has no thing with a mask, or has images that
    are trained on."""
    held_out.require_images()
    scored = image_digests(held_out)
    for shards in trained:
        digests = set(image_digests(shards).values())
        common = [key for key, digest in scored.items() if digest in digests]
        if common:
            message = (
                f"shares {len(common)} of its {plural(len(scored), 'image')} with {shards.path}, "
                f"which is trained on, such as {short(common[0], 40)}"
            )
            hint = (
                "`segkit leakage` lists them, `segkit split --list` makes a set without them; or "
                "leave --held-out out to hold a share of --data back"
            )
            raise InputError(message, file=held_out.path, record="--held-out", hint=hint)
    if not has_objects(held_out):
        hint = "give a panoptic or instance set with masks"
        raise InputError("has no masks of things to score with", file=held_out.path, hint=hint)


def draw_parts(
    data: Sequence[ShardSet], boxes: ShardSet, share: float, seed: int
) -> list[Parts | None]:
    """Draw the images of sets with masks that are held back.

    They are a share of the images that occur once in all sets: another copy would be trained on.

    Args:
        data: sets with masks, of which panoptic and instance sets with things can hold images back.
        boxes: the set that is trained on as a whole.
        share: of the images of a set that occur once, 0-1.
        seed: another seed draws other images.

    Returns:
        For each set of `data` its parts, or None where it is trained on as a whole.

    Raises:
        InputError: no set can hold images back, a share is too small or too large for a single
            image, or no image that is held back has a thing with a mask.
    """
    usable = [has_objects(shards) for shards in data]
    if not any(usable):
        hint = "add a set with masks of things, or give --held-out"
        raise InputError("no set of --data can hold images back", record="--data", hint=hint)
    digests = [image_digests(shards) for shards in data]
    count = Counter(image_digests(boxes).values())
    for by_id in digests:
        count.update(by_id.values())
    parts: list[Parts | None] = []
    for shards, by_id, is_usable in zip(data, digests, usable, strict=True):
        single = [key for key, digest in by_id.items() if count[digest] == 1]
        if not (is_usable and single):
            parts.append(None)
            continue
        drawn = _draw(shards, single, share, seed)
        parts.append({key: HELD_OUT_PART if key in drawn else TRAIN_PART for key in by_id})
    if not any(parts):
        message = "every image of --data with masks of things is in another set too, or twice"
        hint = "give --held-out SET with other images"
        raise InputError(message, record="--held-out-share", hint=hint)
    held_out = [_held_out_ids(part) for part in parts]
    if not any(has_objects(shards, ids) for shards, ids in zip(data, held_out, strict=True)):
        images = plural(sum(map(len, held_out)), "image that is", "images that are")
        message = f"no thing with a mask in the {images} held back"
        hint = "give a larger share, another training.seed, or --held-out SET"
        raise InputError(message, record="--held-out-share", hint=hint)
    return parts


def hold_out(
    data: Sequence[ShardSet],
    parts: Sequence[Parts | None],
    out: Path,
    arguments: Mapping[str, Any],
) -> tuple[list[ShardSet], list[ShardSet]]:
    """Publish the parts of sets, unless an earlier call did.

    Args:
        data: sets with masks.
        parts: of each, see `draw_parts`.
        out: folder of the self-training; the parts of a set are written under `held-out/`.
        arguments: share and seed, for the manifests.

    Returns:
        The sets to train on, in the order of `data`, and those to score with.

    Raises:
        InputError: an earlier call, of another version of segkit, drew other images.
    """
    trained, held_out = [], []
    for number, (shards, part_of) in enumerate(zip(data, parts, strict=True)):
        folder = out / "held-out" / f"{number}-{shards.path.parent.name}"
        if part_of is None:
            _require(not versions(folder / HELD_OUT_PART), folder)
            trained.append(shards)
            continue
        if any(not versions(folder / part) for part in (TRAIN_PART, HELD_OUT_PART)):
            values = {"set": str(shards.path), **arguments}
            split(shards, folder, part_of, values, verify_images=False, force=False)
        train_part, held_out_part = (ShardSet.open(folder / p) for p in (TRAIN_PART, HELD_OUT_PART))
        _require({*held_out_part.image_ids()} == _held_out_ids(part_of), folder)
        trained.append(train_part)
        held_out.append(held_out_part)
    return trained, held_out


def _draw(shards: ShardSet, ids: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of some images of a set."""
    drawn = {*rank_ids(ids, seed)[round((1 - share) * len(ids)) :]}
    if not drawn or len(drawn) == len(shards):
        which = "" if len(ids) == len(shards) else " that no other set has"
        message = f"cannot hold {share:g} of {len(ids)} images{which} back"
        hint = "give another --held-out-share, or --held-out SET"
        raise InputError(message, file=shards.path, hint=hint)
    return drawn


def _held_out_ids(parts: Parts | None) -> set[str]:
    return {key for key, part in (parts or {}).items() if part == HELD_OUT_PART}


def _require(same: bool, folder: Path) -> None:
    if not same:
        message = "holds other images back: --data or --boxes may have one of them too"
        raise InputError(message, file=folder, hint="give another --out")
