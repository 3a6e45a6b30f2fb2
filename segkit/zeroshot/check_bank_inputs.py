"""Refuse a run and a set that a feature bank cannot be collected from. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.hub import is_hugging_face
from segkit.recipes.schema import Recipe
from segkit.runs.open_run import read_run_files
from segkit.shards.reader import ShardSet
from segkit.shards.zero_shot_split import ZeroShotRecord


def check_bank_inputs(
    checkpoint: str | Path, data: ShardSet, overrides: Sequence[str] = ()
) -> ZeroShotRecord:
    """The split of a seen set, if a run was trained on the same split.

    Args:
        checkpoint: the run.
        data: the seen part of a zero-shot split.
        overrides: `inference.key=value`.

    Raises:
        InputError: a set without images or masks or that is no seen part, or a run that may have
            seen an unseen class, be it by the runs that it started from.
    """
    require_extra("train", "a model")
    record = ZeroShotRecord.from_set(data)
    if record is None:
        hint = "give the `seen` set of `segkit split --zero-shot`"
        raise InputError("is not the seen part of a zero-shot split", file=data.path, hint=hint)
    if data.manifest.kind == "boxes" or not data.manifest.statistics.masked:
        hint = "queries are matched to masks: give a set with masks"
        raise InputError("the set has no masks", file=data.path, hint=hint)
    data.require_images()
    unseen = record.taxonomy
    ids = data.taxonomy.by_id.keys() & unseen.by_id.keys()
    shared = {*data.taxonomy.names} & {*unseen.names} | {unseen.by_id[i].name for i in ids}
    if shared:
        message = f"has the unseen class {min(shared)!r}, or another one with its id"
        raise InputError(message, file=data.path, hint="split the set again")
    if is_hugging_face(checkpoint):
        hint = "train a run on the seen set"
        raise InputError("a public model may have seen every class", file=checkpoint, hint=hint)
    recipe = read_run_files(checkpoint, overrides, "bank").recipe
    _check_split(recipe, record, checkpoint)
    _check_start(recipe, record, checkpoint)
    if recipe.model.weight_transfer.input != "off" or recipe.model.foreground:
        key = "foreground" if recipe.model.foreground else "weight_transfer"
        message = f"its masks depend on its class head (model.{key}), which the bank leaves out"
        raise InputError(message, file=checkpoint, hint="give a run that was trained without it")
    return record


def _check_split(recipe: Recipe, record: ZeroShotRecord, checkpoint: str | Path) -> None:
    """Raise InputError unless a run has the unseen classes of a split."""
    names = {*recipe.inference.unseen}
    if names == {*record.taxonomy.names}:
        return
    if not names:
        message = "was not trained on the seen part of a split: it may have seen every class"
    else:
        message = f"was trained on another split (unseen: {', '.join(sorted(names)[:5])})"
    hint = f"train a run on the seen set of {record.split}"
    raise InputError(message, file=checkpoint, hint=hint)


def _check_start(recipe: Recipe, record: ZeroShotRecord, checkpoint: str | Path) -> None:
    """Raise InputError where a run that a run started from may have seen an unseen class."""
    hint = f"train a run on the seen set of {record.split} without --init-from"
    while (source := recipe.model.init_from) is not None:
        if is_hugging_face(source):
            message = f"started from {source}, a public model that may have seen every class"
            raise InputError(message, file=checkpoint, hint=hint)
        try:
            recipe = read_run_files(source).recipe
            _check_split(recipe, record, source)
        except InputError as error:
            message = f"started from {source}, which may have seen every class ({error.message})"
            raise InputError(message, file=checkpoint, hint=hint) from error
