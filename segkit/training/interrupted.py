"""Interrupted runs: what a run must have in common with one that it resumes; imports no PyTorch."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from segkit.data.check_sets import NamedDataset
from segkit.errors import InputError
from segkit.recipes.effects import drop_needless_freeze_norm
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import RESOLVED_KEYS
from segkit.runs.run_manifest import CHECKPOINTS, RECIPE, interrupted_training
from segkit.shards.publish import unfinished
from segkit.shards.unfinished import is_pruned, read_fingerprint
from segkit.shards.versions import MANIFEST, versions
from segkit.text.embeddings import EmbeddingStore

_FREE_KEYS: dict[str, tuple[str, ...]] = {
    "data": ("workers", "verify_images"),
    "training": ("checkpoint_every", "evaluate_every", "keep_checkpoints", "loggers"),
}
"""Keys that a resumed run may change, by section: they have no influence on the weights."""
_LATER_PARTS = ("order", "text")
"""Parts of a fingerprint that an interrupted run of an earlier segkit lacks."""


class OtherRunError(InputError):
    """An interrupted run has another recipe or other data."""


def training_fingerprint(
    recipe: Recipe,
    datasets: Sequence[NamedDataset],
    eval_datasets: Sequence[NamedDataset],
    processes: int,
) -> dict[str, Any]:
    """What a run that resumes must have in common with the interrupted one.

    Except for `eval_data`, which an earlier segkit recorded only here for `segkit prune`.
    """
    encoding = recipe.text.encoding
    return {
        "command": "train",
        "recipe": recipe.model_dump(mode="json"),
        "data": {data.name: [data.shards.manifest.digest, data.weight] for data in datasets},
        "order": [data.name for data in datasets],
        "eval_data": [data.shards.manifest.digest for data in eval_datasets],
        # What determines the embedding of a word: the templates that `text.templates` stands for,
        # and the digest of the text encoder's weights; None while no word is encoded.
        "text": {
            "templates": list(encoding.templates),
            "encoder": EmbeddingStore(encoding).encoder_digest(),
        },
        "processes": processes,
    }


def complete_fingerprint(early: dict[str, Any], left: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint from before PyTorch is imported; what is not known yet is as it was left.

    That is what a start resolves in a recipe, the order of the data sets, which a resumed run
    restores, and the digest of a text encoder that has encoded no word.
    """
    model = left.get("recipe", {}).get("model", {})
    resolved = {key: model[key] for key in RESOLVED_KEYS if key in model}
    recipe = early["recipe"] | {"model": early["recipe"]["model"] | resolved}
    text = early["text"]
    if text["encoder"] is None:
        text = text | {"encoder": left.get("text", {}).get("encoder")}
    return early | {"recipe": recipe, "order": left.get("order", []), "text": text}


def require_no_interrupted_run(out: Path) -> None:
    """Raise InputError where a run was interrupted while it trained or was published."""
    newest = max(versions(out), default=0)
    for partial in unfinished(out):
        left = read_fingerprint(partial)
        if left is not None and left.get("command") != "train":
            continue  # what a killed import or calibration left is made anew by the same command
        is_run = (partial / MANIFEST).is_file() and not is_pruned(partial, newest)
        if is_run or any(partial.glob(f"{CHECKPOINTS}/step-*")):
            message = "holds an interrupted run"
            hint = "give --resume to continue it, or --restart to delete its checkpoints"
            if interrupted_training(out) is None:  # damaged, or its number is no longer the next
                message += ", which cannot be resumed"
                hint = "give --restart to delete its checkpoints"
            raise InputError(message, file=out, hint=hint)


def check_resumable(interrupted: dict[str, Any], fingerprint: dict[str, Any], out: Path) -> None:
    """Raise OtherRunError where an interrupted run differs: starting anew would discard it.

    The number of processes may differ if their joint batch is the same, and so may keys that have
    no influence on the weights.
    """
    before, now = _comparable(interrupted), _comparable(fingerprint)
    for part in _LATER_PARTS:
        if part not in before:
            now.pop(part, None)
    if before == now:
        return
    differing = [key for key, value in now.items() if before.get(key) != value]
    part = differing[0] if differing else "command"
    message, hint = f"the interrupted run and this one differ in their {part}", "give the same"
    if part == "text":
        message += f" ({', '.join(sorted(differences(before['text'], now['text'])))})"
    if part == "recipe":
        keys = sorted(differences(before["recipe"], now["recipe"]))
        message += f" ({', '.join(keys)})"
        files = (partial / RECIPE for partial in unfinished(out))
        if file := next(filter(Path.is_file, files), None):
            hint = f"give the same, such as --recipe {quote(str(file))}"
        if keys == ["model.init_from"]:  # a run that has another version since
            hint = f"give --init-from {before['recipe']['model']['init_from']}"
        if keys == ["data.batch_size"]:
            joint, processes = before["recipe"]["data"]["batch_size"], fingerprint["processes"]
            message += f": its processes had a joint batch of {joint}"
            if joint % processes == 0:
                hint = f"set data.batch_size={joint // processes} for {processes} processes"
    raise OtherRunError(message, file=out, hint=f"{hint}, or --restart to start anew")


def _comparable(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint with the batch size of all processes together, without what may change: the
    evaluation sets and `_FREE_KEYS`.

    Keys that the segkit of the interrupted run did not know have their defaults.
    """
    # as the file has it: tuples as lists
    copy: dict[str, Any] = json.loads(json.dumps(fingerprint))
    with suppress(ValidationError):
        copy["recipe"] = Recipe.model_validate(copy.get("recipe")).model_dump(mode="json")
    processes, recipe = copy.pop("processes", 1), copy.get("recipe", {})
    copy.pop("eval_data", None)
    for section, keys in _FREE_KEYS.items():
        for key in keys:
            recipe.get(section, {}).pop(key, None)
    drop_needless_freeze_norm(recipe)
    if isinstance(data := recipe.get("data"), dict) and "batch_size" in data:
        data["batch_size"] *= processes
    return copy


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys in which two nested tables differ, dotted."""
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            yield from differences(x, y, f"{prefix}{key}.")
        elif x != y:
            yield prefix + key
